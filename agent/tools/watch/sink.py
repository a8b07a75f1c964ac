"""A sink for the live view of the agent in the same process."""

from __future__ import annotations

from agent.mqtt.base import LineStatistics, Packet, SinkListener, SinkState, SinkStatistics
from agent.runtime.channel import Channel, ChannelClosed
from agent.runtime.clock import Clock, SystemClock

_BUFFERED = 10_000


class ViewSink:
    """Buffers packets until they are received, and drops the oldest when full. Never blocks the publisher."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._channel: Channel[Packet] = Channel(_BUFFERED, "drop_oldest")
        self._clock = clock or SystemClock()
        self._state: SinkState = "disconnected"
        self._since_utc_ns = self._clock.utc_ns()
        self._listener: SinkListener | None = None

    def receive(self, timeout_s: float) -> Packet | None:
        """The oldest buffered packet; None if none arrives within ``timeout_s``.

        Raises:
            ChannelClosed: the sink is stopped and its buffer is empty.
        """
        return self._channel.receive(timeout_s)

    def start(self, listener: SinkListener) -> None:
        """See Sink."""
        self._listener = listener
        self._state, self._since_utc_ns = "connected", self._clock.utc_ns()
        listener.on_connected()

    def send(self, packet: Packet, key: int | None = None) -> str | None:
        """See Sink; confirms a packet at once."""
        try:
            self._channel.send(packet)
        except ChannelClosed:
            return "disconnected"
        if key is not None and self._listener is not None:
            self._listener.on_confirmed(key, None)
        return None

    def stop(self, timeout_s: float) -> bool:  # noqa: ARG002 - nothing here blocks
        """See Sink; buffered packets can still be received."""
        self._state = "stopped"
        self._channel.close()
        return True

    def statistics(self) -> SinkStatistics:
        """See Sink."""
        return SinkStatistics(
            state=self._state,
            address="view",
            protocol=None,
            since_utc_ns=self._since_utc_ns,
            reason=None,
            reconnects=0,
            unconfirmed=0,
        )

    def line(self) -> LineStatistics:
        """See Sink; nothing ever waits."""
        return LineStatistics(None, 0)
