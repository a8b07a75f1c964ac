"""Where events wait until the broker has confirmed them."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from agent.mqtt.base import Packet

Durability = Literal["each", "grouped", "memory"]

EVENT = 0
REPLY = 1
"""Ranks: where room is short, a packet of a higher rank goes before one of a lower, and an older before a newer."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One packet and its key; keys rise with every packet, also over restarts where the outbox is durable."""

    key: int
    packet: Packet


@dataclass(frozen=True, slots=True)
class OutboxStatistics:
    """Counts since the outbox was opened; ``put == acknowledged + dropped + stored`` when it was opened empty.

    ``durability`` is what holds at the moment, ``reason`` why that is less than what is asked for.
    """

    put: int
    acknowledged: int
    stored: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    durability: Durability = "memory"
    reason: str | None = None


class Outbox(Protocol):
    """Keeps packets in order. Used by the publisher's thread alone, except ``statistics``."""

    @property
    def last_key(self) -> int:
        """The key of the newest packet that was ever put; 0 before the first."""
        ...

    def newest_keys(self) -> Mapping[str, int]:
        """For each topic of which packets wait, the key of the newest of them."""
        ...

    def put(self, packet: Packet, rank: int = EVENT) -> int:
        """Keep ``packet`` and return its key; where there is no room, the oldest of the highest rank is given up and
        counted."""
        ...

    def next(self, after: int) -> Stored | None:
        """The oldest packet whose key is above ``after`` (0: the oldest of all), or None."""
        ...

    def ack(self, key: int) -> None:
        """The packet has arrived (or was refused for good): forget it. Keys that neither `put` nor `next` gave out,
        and those that were given up, are ignored."""
        ...

    def statistics(self) -> OutboxStatistics:
        """The counts at this moment; any thread."""
        ...

    def close(self) -> None:
        """Give everything back; harmless when repeated."""
        ...


class MemoryOutbox:
    """Keeps the newest packets in memory, at most ``capacity`` of them and ``max_bytes``; closing it drops what is
    left, counted as ``stopped``."""

    def __init__(self, capacity: int = 1000, *, max_bytes: int | None = None) -> None:
        if capacity < 1:
            raise ValueError(f"an outbox needs a capacity of at least 1, got {capacity}")
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._bytes = 0
        self._stored: OrderedDict[int, Packet] = OrderedDict()
        self._spared_last: OrderedDict[int, None] = OrderedDict()
        self._last_key = 0
        self._acknowledged = 0
        self._dropped: Counter[str] = Counter()

    @property
    def last_key(self) -> int:
        """See Outbox."""
        return self._last_key

    def newest_keys(self) -> Mapping[str, int]:
        """See Outbox."""
        return {packet.topic: key for key, packet in self._stored.items()}

    def put(self, packet: Packet, rank: int = EVENT) -> int:
        """See Outbox."""
        while self._stored and not self._has_room(packet):
            victim = next(iter(self._spared_last), None) or next(iter(self._stored))
            self._take(victim)
            self._dropped["outbox_full"] += 1
        self._last_key += 1
        self._stored[self._last_key] = packet
        self._bytes += _size(packet)
        if rank:
            self._spared_last[self._last_key] = None
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
        if key in self._stored:
            self._take(key)
            self._acknowledged += 1

    def statistics(self) -> OutboxStatistics:
        """See Outbox."""
        return OutboxStatistics(self._last_key, self._acknowledged, len(self._stored), dict(self._dropped))

    def close(self) -> None:
        """See Outbox."""
        if self._stored:
            self._dropped["stopped"] += len(self._stored)
            self._stored.clear()

    def _has_room(self, packet: Packet) -> bool:
        if len(self._stored) >= self._capacity:
            return False
        return self._max_bytes is None or self._bytes + _size(packet) <= self._max_bytes

    def _take(self, key: int) -> None:
        self._bytes -= _size(self._stored.pop(key))
        self._spared_last.pop(key, None)


def _size(packet: Packet) -> int:
    return len(packet.topic) + len(packet.payload)
