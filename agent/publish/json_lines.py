"""A sink that writes each message as a JSON line, for ``agent run --print``."""

from __future__ import annotations

import threading
from typing import BinaryIO

import orjson

from agent.mqtt.base import LineStatistics, Packet, SinkListener, SinkState, SinkStatistics
from agent.runtime.clock import Clock, SystemClock


class JsonLinesSink:
    """Writes ``{"topic": ..., "retain": ..., "message": {...}}`` lines to ``stream``, which the caller closes.

    Each line begins with ``prefix``. After a write error (a closed pipe) the sink is disconnected and refuses packets.
    """

    def __init__(self, stream: BinaryIO, *, prefix: str = "", clock: Clock | None = None) -> None:
        self._stream = stream
        self._prefix = prefix.encode("ascii")
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._listener: SinkListener | None = None
        self._state: SinkState = "disconnected"
        self._since_utc_ns = self._clock.utc_ns()
        self._reason: str | None = "not started"

    def start(self, listener: SinkListener) -> None:
        """See Sink."""
        self._listener = listener
        self._set_state("connected", None)
        listener.on_connected()

    def send(self, packet: Packet, key: int | None = None) -> str | None:
        """See Sink; a packet is confirmed as soon as it is written."""
        problem: str | None = None
        with self._lock:
            if self._listener is None or self._state != "connected":
                return "disconnected"
            try:
                self._stream.write(self._prefix + line_from_packet(packet))
                self._stream.flush()
            except (OSError, ValueError) as exc:  # ValueError: the stream was closed in this process
                problem = f"cannot write to the output: {exc}"
        # The listener is called without the lock, because it may send again.
        if problem is not None:
            self._set_state("disconnected", problem)
            self._listener.on_disconnected(problem)
            return "disconnected"
        if key is not None:
            self._listener.on_confirmed(key, None)
        return None

    def stop(self, timeout_s: float) -> bool:  # noqa: ARG002 (nothing here blocks)
        """See Sink."""
        self._set_state("stopped", None)
        return True

    def statistics(self) -> SinkStatistics:
        """See Sink."""
        with self._lock:
            return SinkStatistics(
                state=self._state,
                address="stream",
                protocol="json-lines",
                since_utc_ns=self._since_utc_ns,
                reason=self._reason,
                reconnects=0,
                unconfirmed=0,
            )

    def line(self) -> LineStatistics:
        """See Sink; nothing ever waits."""
        return LineStatistics(None, 0)

    def _set_state(self, state: SinkState, reason: str | None) -> None:
        with self._lock:
            if self._state != "stopped":
                self._state, self._reason, self._since_utc_ns = state, reason, self._clock.utc_ns()


def line_from_packet(packet: Packet) -> bytes:
    """The line for ``packet``; its payload must be JSON, or empty, which clears a retained topic and becomes null."""
    retain = b"true" if packet.retain else b"false"
    return b'{"topic":%b,"retain":%b,"message":%b}\n' % (
        orjson.dumps(packet.topic),
        retain,
        packet.payload or b"null",
    )
