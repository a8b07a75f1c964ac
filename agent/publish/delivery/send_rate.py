"""The limit of ``mqtt.max_rate``: messages and bytes a second over all topics."""

from __future__ import annotations

from agent.mqtt.base import Packet
from agent.runtime.clock import Clock

BURST_S = 1.0
"""What may be sent at once after a pause, as seconds of the rate."""
PACKET_BYTES = 40
"""What MQTT 5 adds to topic and payload: header, lengths, packet id, content type and expiry."""
RESERVE_RATIO = 0.5
"""Share of the burst that is kept for events and retained values."""


class _Bucket:
    """A token bucket. It may go below zero, for one packet larger than the burst."""

    def __init__(self, per_s: float, now_ns: int) -> None:
        self._per_s = per_s
        self._capacity = max(1.0, per_s * BURST_S)
        self._tokens = self._capacity
        self._at_ns = now_ns

    def wait_s(self, cost: float, reserve_ratio: float, now_ns: int) -> float:
        """Seconds until ``cost`` may be taken; 0 if it may be now."""
        self._tokens = min(self._capacity, self._tokens + (now_ns - self._at_ns) / 1e9 * self._per_s)
        self._at_ns = now_ns
        needed = min(self._capacity, cost + reserve_ratio * self._capacity)
        return max(0.0, (needed - self._tokens) / self._per_s)

    def take(self, cost: float) -> None:
        self._tokens -= cost


class SendRate:
    """Limits messages and bytes a second; None is no limit. Used by the publisher's thread."""

    def __init__(self, clock: Clock, *, messages_hz: float | None = None, bytes_per_s: float | None = None) -> None:
        self._clock = clock
        now_ns = clock.monotonic_ns()
        self._messages = None if messages_hz is None else _Bucket(messages_hz, now_ns)
        self._bytes = None if bytes_per_s is None else _Bucket(bytes_per_s, now_ns)

    def wait_s(self, packet: Packet, *, is_urgent: bool) -> float:
        """Seconds until ``packet`` may be sent, 0 if it may be now. Half of the burst is only for urgent packets."""
        if self._messages is None and self._bytes is None:
            return 0.0
        now_ns, reserve = self._clock.monotonic_ns(), 0.0 if is_urgent else RESERVE_RATIO
        return max(
            0.0 if self._messages is None else self._messages.wait_s(1.0, reserve, now_ns),
            0.0 if self._bytes is None else self._bytes.wait_s(_size(packet), reserve, now_ns),
        )

    def take(self, packet: Packet) -> None:
        """``packet`` was sent."""
        if self._messages is not None:
            self._messages.take(1.0)
        if self._bytes is not None:
            self._bytes.take(_size(packet))


def _size(packet: Packet) -> int:
    return len(packet.topic.encode()) + len(packet.payload) + PACKET_BYTES
