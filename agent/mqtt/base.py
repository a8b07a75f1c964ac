"""The seam between the publisher and whatever carries its messages away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

SinkState = Literal["connecting", "connected", "disconnected", "stopped"]


@dataclass(frozen=True, slots=True)
class Packet:
    """One encoded message. ``expiry_s`` is None where it never grows old.

    ``content_type`` and ``correlation`` (what a request wants to find in its reply) travel with MQTT 5 alone.
    """

    topic: str
    payload: bytes
    qos: Literal[0, 1] = 0
    retain: bool = False
    expiry_s: int | None = None
    content_type: str = "application/json"
    correlation: bytes | None = None


@dataclass(frozen=True, slots=True)
class SinkStatistics:
    """A sink at one moment; ``address`` and ``reason`` never hold a credential.

    ``since_utc_ns`` is when the state began. ``reason`` says why it is not connected, ``failure`` that its thread
    ended by an exception. ``reconnects`` counts connections after the first, ``unconfirmed`` packets on their way.
    """

    state: SinkState
    address: str
    protocol: str | None
    since_utc_ns: int
    reason: str | None
    reconnects: int
    unconfirmed: int
    failure: str | None = None


class SinkListener(Protocol):
    """Who is told what becomes of the packets; called on a thread of the sink's choice, and must not wait."""

    def on_connected(self) -> None:
        """Packets are taken from now on; nothing of an earlier connection is on its way any more."""
        ...

    def on_disconnected(self, reason: str) -> None:
        """No packet is taken until the next ``on_connected``; unconfirmed ones may or may not have arrived."""
        ...

    def on_confirmed(self, key: int, problem: str | None) -> None:
        """The packet sent with ``key`` has arrived, or was refused for good with ``problem`` (a short reason)."""
        ...

    def on_failed(self, error: BaseException) -> None:
        """The sink's own thread ended by an exception."""
        ...


class NullListener:
    """Ignores what a sink reports."""

    def on_connected(self) -> None:
        """See SinkListener."""

    def on_disconnected(self, reason: str) -> None:
        """See SinkListener."""

    def on_confirmed(self, key: int, problem: str | None) -> None:
        """See SinkListener."""

    def on_failed(self, error: BaseException) -> None:
        """See SinkListener."""


class Sink(Protocol):
    """Carries packets away. ``start`` and ``stop`` are called once, by its owner."""

    def start(self, listener: SinkListener) -> None:
        """Begin to connect; does not wait for it."""
        ...

    def send(self, packet: Packet, key: int | None = None) -> str | None:
        """Take ``packet`` and return None, or refuse it and return a short reason (``disconnected``, ``backlog`` ...).

        Never waits. With ``key`` the packet's fate is told to ``on_confirmed`` once, unless the connection breaks
        before. Any one thread at a time.
        """
        ...

    def stop(self, timeout_s: float) -> bool:
        """Disconnect and end within ``timeout_s``; False when something had to be cut off. Harmless when repeated."""
        ...

    def statistics(self) -> SinkStatistics:
        """The state at this moment; any thread."""
        ...
