"""The contract of an outbox, and the outbox in memory."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from agent.mqtt.base import Packet
from agent.runtime.boot import boot_ns

Durability = Literal["each", "grouped", "memory"]

EVENT = 0
REPLY = 1
"""Ranks: a full outbox drops the higher rank first, and within a rank the oldest packet. All packets of a topic have
the same rank."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A packet and its key. Keys increase with every packet, in a durable outbox across restarts too.

    ``put_ns`` is the time of ``put`` in ns since the boot (``boot_ns``), None if it was during another boot and the
    clock was not synchronised then and now.
    """

    key: int
    packet: Packet
    rank: int = EVENT
    put_ns: int | None = None


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

    def waiting(self) -> Mapping[str, int]:
        """The number of waiting packets by topic."""
        ...

    def put(self, packet: Packet, rank: int = EVENT) -> int:
        """Store ``packet`` and return its key; without room the oldest packet of the highest rank is dropped and
        counted."""
        ...

    def first(self, topic: str, after: int) -> Stored | None:
        """The oldest packet of ``topic`` with a key above ``after`` (0: the oldest of all), or None."""
        ...

    def ack(self, key: int) -> None:
        """Remove a packet that was confirmed (or refused permanently). Keys that `put` and `first` did not return, and
        those of dropped packets, are ignored."""
        ...

    def statistics(self) -> OutboxStatistics:
        """A snapshot of the counters; any thread."""
        ...

    def close(self) -> None:
        """Release files and threads. Idempotent."""
        ...


class KeysByTopic:
    """The keys of packets in memory, by topic. They are added in increasing order."""

    def __init__(self) -> None:
        self._keys: dict[str, OrderedDict[int, None]] = {}

    def add(self, topic: str, key: int) -> None:
        """Add the newest key."""
        self._keys.setdefault(topic, OrderedDict())[key] = None

    def remove(self, topic: str, key: int) -> None:
        """Remove a key; unknown ones are ignored."""
        keys = self._keys.get(topic)
        if keys is not None:
            keys.pop(key, None)
            if not keys:
                del self._keys[topic]

    def first(self, topic: str, after: int) -> int | None:
        """The lowest key of ``topic`` above ``after``."""
        keys = self._keys.get(topic)
        if not keys or after >= next(reversed(keys)):
            return None
        # Only packets that were sent and are not confirmed come before it.
        return next(key for key in keys if key > after)

    def counts(self) -> dict[str, int]:
        """The number of keys by topic."""
        return {topic: len(keys) for topic, keys in self._keys.items()}


class MemoryOutbox:
    """Keeps the newest packets in memory, at most ``capacity`` packets and ``max_bytes``. ``close`` drops the rest and
    counts them as ``stopped``."""

    def __init__(self, capacity: int = 1000, *, max_bytes: int | None = None) -> None:
        if capacity < 1:
            raise ValueError(f"an outbox needs a capacity of at least 1, got {capacity}")
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._bytes = 0
        self._stored: OrderedDict[int, Stored] = OrderedDict()
        self._topics = KeysByTopic()
        self._low_rank: OrderedDict[int, None] = OrderedDict()
        self._last_key = 0
        self._acknowledged = 0
        self._dropped: Counter[str] = Counter()

    @property
    def last_key(self) -> int:
        """See Outbox."""
        return self._last_key

    def waiting(self) -> Mapping[str, int]:
        """See Outbox."""
        return self._topics.counts()

    def put(self, packet: Packet, rank: int = EVENT) -> int:
        """See Outbox."""
        while self._stored and not self._has_room(packet):
            victim = next(iter(self._low_rank), None) or next(iter(self._stored))
            self._take(victim)
            self._dropped["outbox_full"] += 1
        self._last_key += 1
        self._stored[self._last_key] = Stored(self._last_key, packet, rank, boot_ns())
        self._topics.add(packet.topic, self._last_key)
        self._bytes += _size(packet)
        if rank:
            self._low_rank[self._last_key] = None
        return self._last_key

    def first(self, topic: str, after: int) -> Stored | None:
        """See Outbox."""
        key = self._topics.first(topic, after)
        return None if key is None else self._stored[key]

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
            self._topics = KeysByTopic()

    def _has_room(self, packet: Packet) -> bool:
        if len(self._stored) >= self._capacity:
            return False
        return self._max_bytes is None or self._bytes + _size(packet) <= self._max_bytes

    def _take(self, key: int) -> None:
        packet = self._stored.pop(key).packet
        self._topics.remove(packet.topic, key)
        self._bytes -= _size(packet)
        self._low_rank.pop(key, None)


def _size(packet: Packet) -> int:
    return len(packet.topic) + len(packet.payload)
