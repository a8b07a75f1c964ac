"""Results on their way to the sink: sent, waiting for room on the line, or dropped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from agent.mqtt.base import Packet
from agent.publish.delivery.delivery import Delivery
from agent.runtime.clock import Clock
from agent.runtime.records import Classification

STALE_S = 2.0
"""How long a result may wait for room on the line: longer than a burst or a lost TCP segment takes, and short enough
that what arrives over a thin line is current."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A result that may be sent until monotonic ``until_ns``."""

    result: Classification
    packet: Packet
    until_ns: int


class ResultStream:
    """Keeps the order of results: while one waits, the caller sends no other. Used by the publisher's thread.

    ``on_sent`` is called with each sent result and the monotonic time in ns.
    """

    def __init__(
        self, delivery: Delivery, on_sent: Callable[[Classification, int], None] | None, clock: Clock
    ) -> None:
        self._delivery = delivery
        self._on_sent = on_sent
        self._clock = clock
        self._waiting: _Waiting | None = None
        self._fresh_from_ns = 0

    @property
    def is_waiting(self) -> bool:
        """A result waits for room."""
        return self._waiting is not None

    def excuse_the_past(self) -> None:
        """Results had to wait for another reason until now: for them too the time begins now."""
        self._fresh_from_ns = self._clock.monotonic_ns()
        if self._waiting is not None:
            self._waiting = replace(self._waiting, until_ns=self._fresh_from_ns + round(STALE_S * 1e9))

    def send(self, result: Classification, packet: Packet, offered_ns: int) -> None:
        """Send a result that was offered at monotonic ``offered_ns``, or let it wait."""
        self._delivery.copy(packet)
        self._waiting = _Waiting(result, packet, max(offered_ns, self._fresh_from_ns) + round(STALE_S * 1e9))
        self.retry()

    def retry(self) -> None:
        """Send the result that waits, or drop it if it has waited too long."""
        waiting = self._waiting
        if waiting is None:
            return
        problem = self._delivery.stream(waiting.packet)
        now_ns = self._clock.monotonic_ns()
        if problem == "backlog" and now_ns < waiting.until_ns:
            return
        self._waiting = None
        if problem is not None:
            self._delivery.lost(waiting.packet.topic, "stale" if problem == "backlog" else problem)
        elif self._on_sent is not None:
            self._on_sent(waiting.result, now_ns)

    def abandon(self) -> None:
        """The agent stops: a result that still waits is dropped."""
        if self._waiting is not None:
            self._delivery.lost(self._waiting.packet.topic, "stopped")
            self._waiting = None
