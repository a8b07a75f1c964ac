"""Which packet of the outbox is sent next: topics take turns, and each is sent in order."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from agent.mqtt.base import Packet
from agent.publish.outbox.base import EVENT, REPLY, Outbox, Stored

_CURRENT = b'"historical":false}'
_HISTORICAL = b'"historical":true}'


def historical(packet: Packet) -> Packet:
    """``packet`` with its last field, ``historical``, set to true; unchanged if it has no such field."""
    if not packet.payload.endswith(_CURRENT):
        return packet
    return replace(packet, payload=packet.payload[: -len(_CURRENT)] + _HISTORICAL)


@dataclass(slots=True)
class _Topic:
    """``in_flight``: keys that were sent and are not confirmed, each with its time of ``put``. ``is_restarting``: one
    was refused, so nothing more is sent until the others have been answered; then it starts at the oldest again.
    Packets up to ``late_up_to`` are late."""

    rank: int
    head: Stored | None = None
    in_flight: OrderedDict[int, int | None] = field(default_factory=OrderedDict)
    is_restarting: bool = False
    late_up_to: int = 0


class WaitingEvents:
    """Hands out the packets of ``outbox`` by topic. Used by the publisher's thread, except ``oldest_ns``.

    A topic with a long backlog does not delay the others.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._topics: dict[str, _Topic] = {}
        self._turns: dict[int, OrderedDict[str, None]] = {EVENT: OrderedDict(), REPLY: OrderedDict()}
        self.start_over()

    def start_over(self) -> None:
        """Start at the oldest packet of each topic: a new connection. All that wait now are late."""
        self._topics.clear()
        for turns in self._turns.values():
            turns.clear()
        for topic in self._outbox.waiting():
            head = self._outbox.first(topic, 0)
            if head is not None:
                self._topics[topic] = _Topic(head.rank, head, late_up_to=self._outbox.last_key)
                self._turns[head.rank][topic] = None

    def put(self, packet: Packet, rank: int = EVENT) -> None:
        """Store ``packet`` in the outbox."""
        key = self._outbox.put(packet, rank)
        state = self._topics.get(packet.topic)
        if state is None:
            state = self._topics[packet.topic] = _Topic(rank)
        if state.head is None and not state.is_restarting:
            self._advance(packet.topic, state, key - 1)
        if state.head is None and not state.in_flight:  # the outbox had no room for it
            del self._topics[packet.topic]

    def next(self, may_send: Callable[[str], bool], rank: int = EVENT) -> Stored | None:
        """The oldest packet of the topic whose turn it is, of those that may be sent; it stays until ``sent``."""
        for topic in self._turns[rank]:
            if may_send(topic):
                return self._topics[topic].head
        return None

    def packet(self, stored: Stored) -> Packet:
        """The packet to send, marked as historical if it waited through an interruption or a refusal."""
        is_late = stored.key <= self._topics[stored.packet.topic].late_up_to
        return historical(stored.packet) if is_late else stored.packet

    def sent(self, stored: Stored) -> None:
        """``stored`` was handed to the sink."""
        topic = stored.packet.topic
        state = self._topics[topic]
        state.in_flight[stored.key] = stored.put_ns
        self._turns[state.rank].pop(topic)
        self._advance(topic, state, stored.key)

    def done(self, stored: Stored) -> None:
        """``stored`` was confirmed, or can never be: remove it."""
        self._outbox.ack(stored.key)
        self._answered(stored)

    def refused(self, stored: Stored) -> None:
        """``stored`` was refused and waits again, before later packets of its topic."""
        topic = stored.packet.topic
        state = self._topics[topic]
        state.is_restarting = True
        state.head = None
        self._turns[state.rank].pop(topic, None)
        self._answered(stored)

    def accepted_again(self, topic: str) -> None:
        """The broker accepts ``topic`` again: what waits now is late."""
        state = self._topics.get(topic)
        if state is not None:
            state.late_up_to = self._outbox.last_key

    def replies(self) -> int:
        """Number of replies in the outbox."""
        return sum(
            count
            for topic, count in self._outbox.waiting().items()
            if (state := self._topics.get(topic)) is not None and state.rank == REPLY
        )

    def oldest_ns(self) -> int | None:
        """When the oldest unconfirmed event was put, in ns since the boot; None without one. Any thread."""
        times = []
        for state in list(self._topics.values()):
            head = state.head
            first = next(iter(list(state.in_flight.values())), None if head is None else head.put_ns)
            if state.rank == EVENT and first is not None:
                times.append(first)
        return min(times, default=None)

    def _answered(self, stored: Stored) -> None:
        topic = stored.packet.topic
        state = self._topics[topic]
        state.in_flight.pop(stored.key, None)
        if state.in_flight:
            return
        if state.is_restarting:
            state.is_restarting = False
            state.late_up_to = self._outbox.last_key
            self._advance(topic, state, 0)
        if state.head is None:
            del self._topics[topic]

    def _advance(self, topic: str, state: _Topic, after: int) -> None:
        state.head = self._outbox.first(topic, after)
        if state.head is not None:
            self._turns[state.rank][topic] = None
