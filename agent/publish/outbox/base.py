"""The contract of an outbox, and the outbox in memory."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from agent.mqtt.base import Packet

Durability = Literal["each", "grouped", "memory"]

EVENT = 0
REPLY = 1
"""Ranks: a full outbox drops the higher rank first, and within a rank the oldest packet."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A packet and its key. Keys increase with every packet, in a durable outbox across restarts too."""

    key: int
    packet: Packet


@dataclass(frozen=True, slots=True)
class OutboxStatistics:
    """Counters since the outbox was opened; if it was empty then, ``put == acknowledged + dropped + stored``.

    ``durability`` is the current one, ``reason`` why it is less than configured.
    """

    put: int
    acknowledged: int
    stored: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    durability: Durability = "memory"
    reason: str | None = None


class Outbox(Protocol):
    """Keeps packets in order. Used by the publisher's thread only, except ``statistics``."""

    @property
    def last_key(self) -> int:
        """The key of the newest packet ever put; 0 before the first."""
        ...

    def newest_keys(self) -> Mapping[str, int]:
        """The newest key of each topic that has waiting packets."""
        ...

    def put(self, packet: Packet, rank: int = EVENT) -> int:
        """Store ``packet`` and return its key; without room the oldest packet of the highest rank is dropped and
        counted."""
        ...

    def next(self, after: int) -> Stored | None:
        """The oldest packet with a key above ``after`` (0: the oldest of all), or None."""
        ...

    def ack(self, key: int) -> None:
        """Remove a packet that was confirmed (or refused permanently). Keys that `put` and `next` did not return, and
        those of dropped packets, are ignored."""
        ...

    def statistics(self) -> OutboxStatistics:
        """A snapshot of the counters; any thread."""
        ...

    def close(self) -> None:
        """Release files and threads. Idempotent."""
        ...


class MemoryOutbox:
    """Keeps the newest packets in memory, at most ``capacity`` packets and ``max_bytes``. ``close`` drops the rest and
    counts them as ``stopped``."""

    def __init__(self, capacity: int = 1000, *, max_bytes: int | None = None) -> None:
        if capacity < 1:
            raise ValueError(f"an outbox needs a capacity of at least 1, got {capacity}")
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._bytes = 0
        self._stored: OrderedDict[int, Packet] = OrderedDict()
        self._low_rank: OrderedDict[int, None] = OrderedDict()
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
            victim = next(iter(self._low_rank), None) or next(iter(self._stored))
            self._take(victim)
            self._dropped["outbox_full"] += 1
        self._last_key += 1
        self._stored[self._last_key] = packet
        self._bytes += _size(packet)
        if rank:
            self._low_rank[self._last_key] = None
        return self._last_key

    def next(self, after: int) -> Stored | None:
        """See Outbox."""
        if not self._stored or after >= self._last_key:
            return None
        oldest = next(iter(self._stored))
        # Keys are consecutive, except where a later packet was confirmed first.
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
        self._low_rank.pop(key, None)


def _size(packet: Packet) -> int:
    return len(packet.topic) + len(packet.payload)
