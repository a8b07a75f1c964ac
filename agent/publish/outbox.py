"""Where events wait until the broker has confirmed them."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from agent.publish.base import Packet


@dataclass(frozen=True, slots=True)
class Stored:
    """One packet and its key; keys rise with every packet, also over restarts where the outbox is durable."""

    key: int
    packet: Packet


@dataclass(frozen=True, slots=True)
class OutboxStatistics:
    """Counts since the outbox was opened; ``put == acknowledged + dropped + stored`` when it was opened empty."""

    put: int
    acknowledged: int
    stored: int
    dropped: Mapping[str, int] = field(default_factory=dict)


class Outbox(Protocol):
    """Keeps packets in order. Used by the publisher's thread alone, except ``statistics``."""

    @property
    def last_key(self) -> int:
        """The key of the newest packet that was ever put; 0 before the first."""
        ...

    def put(self, packet: Packet) -> int:
        """Keep ``packet`` and return its key; where there is no room, the oldest is given up and counted."""
        ...

    def next(self, after: int) -> Stored | None:
        """The oldest packet whose key is above ``after`` (0: the oldest of all), or None."""
        ...

    def ack(self, key: int) -> None:
        """The packet has arrived (or was refused for good): forget it. Unknown keys are ignored."""
        ...

    def statistics(self) -> OutboxStatistics:
        """The counts at this moment; any thread."""
        ...

    def close(self) -> None:
        """Give everything back; harmless when repeated."""
        ...


class MemoryOutbox:
    """Keeps the newest ``capacity`` packets in memory; closing it drops what is left, counted as ``stopped``."""

    def __init__(self, capacity: int = 1000) -> None:
        if capacity < 1:
            raise ValueError(f"an outbox needs a capacity of at least 1, got {capacity}")
        self._capacity = capacity
        self._stored: OrderedDict[int, Packet] = OrderedDict()
        self._last_key = 0
        self._acknowledged = 0
        self._dropped: Counter[str] = Counter()

    @property
    def last_key(self) -> int:
        """See Outbox."""
        return self._last_key

    def put(self, packet: Packet) -> int:
        """See Outbox."""
        if len(self._stored) >= self._capacity:
            self._stored.popitem(last=False)
            self._dropped["outbox_full"] += 1
        self._last_key += 1
        self._stored[self._last_key] = packet
        return self._last_key

    def next(self, after: int) -> Stored | None:
        """See Outbox."""
        if not self._stored or after >= self._last_key:
            return None
        oldest = next(iter(self._stored))
        # Keys are dense except where a packet in the middle was acknowledged first.
        for key in range(max(after + 1, oldest), self._last_key + 1):
            packet = self._stored.get(key)
            if packet is not None:
                return Stored(key, packet)
        return None

    def ack(self, key: int) -> None:
        """See Outbox."""
        if self._stored.pop(key, None) is not None:
            self._acknowledged += 1

    def statistics(self) -> OutboxStatistics:
        """See Outbox."""
        return OutboxStatistics(self._last_key, self._acknowledged, len(self._stored), dict(self._dropped))

    def close(self) -> None:
        """See Outbox."""
        if self._stored:
            self._dropped["stopped"] += len(self._stored)
            self._stored.clear()
