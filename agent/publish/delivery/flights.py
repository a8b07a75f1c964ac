"""Packets that were sent and are not confirmed yet."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum
from itertools import count

from agent.mqtt.base import Packet
from agent.publish.outbox.base import Stored


class Kind(Enum):
    """What a packet is to the delivery."""

    VALUE = "a retained value"
    EVENT = "an event"
    REPLY = "a reply"
    STREAM = "a result, a latency or a snapshot"


@dataclass(frozen=True, slots=True)
class Flight:
    """A packet that waits for its confirmation since monotonic ``sent_ns``; ``stored`` if it is in the outbox."""

    kind: Kind
    packet: Packet
    sent_ns: int
    stored: Stored | None = None


class Flights:
    """All of them, in the order of sending. ``trial_key`` is that of a packet sent alone. One thread."""

    def __init__(self) -> None:
        self._keys = count(1)
        self._flights: dict[int, Flight] = {}
        self._kinds: Counter[Kind] = Counter()
        self._topics: Counter[str] = Counter()
        self.trial_key: int | None = None

    def add(self, flight: Flight, *, is_trial: bool = False) -> int:
        """Add ``flight`` and return its key."""
        key = next(self._keys)
        self._flights[key] = flight
        self._kinds[flight.kind] += 1
        self._topics[flight.packet.topic] += 1
        if is_trial:
            self.trial_key = key
        return key

    def take(self, key: int) -> Flight | None:
        """Remove and return a flight; None if it belongs to an earlier connection."""
        flight = self._flights.pop(key, None)
        if flight is None:
            return None
        topic = flight.packet.topic
        self._kinds[flight.kind] -= 1
        self._topics[topic] -= 1
        if not self._topics[topic]:
            del self._topics[topic]
        if key == self.trial_key:
            self.trial_key = None
        return flight

    def clear(self) -> int:
        """Remove all of them, because the connection was lost; returns how many will not be sent again."""
        lost = sum(flight.stored is None and flight.kind is not Kind.VALUE for flight in self._flights.values())
        self._flights.clear()
        self._kinds.clear()
        self._topics.clear()
        self.trial_key = None
        return lost

    def count(self, *kinds: Kind) -> int:
        """Number of flights of these kinds."""
        return sum(self._kinds[kind] for kind in kinds)

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, topic: str) -> bool:
        return topic in self._topics

    def topics(self) -> list[tuple[str, int]]:
        """Topic and monotonic time of sending of each."""
        return [(flight.packet.topic, flight.sent_ns) for flight in self._flights.values()]
