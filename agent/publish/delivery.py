"""Sends packets and follows each to its confirmation."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

from agent.mqtt.base import Packet, Sink
from agent.publish.outbox.base import EVENT, Outbox, Stored
from agent.publish.retained_topics import RetainedLedger
from agent.runtime.logs import get_logger

WINDOW = 20
"""Maximum number of retained values and events that wait for a confirmation."""

_CURRENT = b'"historical":false}'
_HISTORICAL = b'"historical":true}'
_MAX_DENIED = 20
_MAX_LOGGED_TOPICS = 1000
_TRY_LATER = frozenset({"disconnected", "backlog"})

log = get_logger(__name__)


class DeliveryCounters:
    """Counts sent, dropped (by reason) and rate-limited messages; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent = 0
        self._rate_limited = 0
        self._dropped: Counter[str] = Counter()
        self._denied: dict[str, str] = {}

    def sent(self) -> None:
        """Count a message that was sent (QoS 0) or confirmed by the broker (QoS 1)."""
        with self._lock:
            self._sent += 1

    def rate_limited(self) -> None:
        """Count a result left out by the rate limit."""
        with self._lock:
            self._rate_limited += 1

    def drop(self, reason: str, count: int = 1) -> None:
        """Count ``count`` dropped messages."""
        with self._lock:
            self._dropped[reason] += count

    def counts(self) -> tuple[int, int, dict[str, int]]:
        """Sent, rate-limited, and dropped by reason."""
        with self._lock:
            return self._sent, self._rate_limited, {reason: count for reason, count in self._dropped.items() if count}

    def deny(self, topic: str, reason: str) -> None:
        """The broker forbids publishing to ``topic``."""
        with self._lock:
            if topic in self._denied or len(self._denied) < _MAX_DENIED:
                self._denied[topic] = reason

    def grant(self, topic: str) -> None:
        """The broker accepts ``topic`` (again)."""
        if topic in self._denied:
            with self._lock:
                self._denied.pop(topic, None)

    def denied(self) -> dict[str, str]:
        """The forbidden topics, each with the reason."""
        with self._lock:
            return dict(self._denied)


class RetainedValues:
    """The newest packet of each retained topic, and which of them the broker does not have yet. One thread."""

    def __init__(self) -> None:
        self._values: dict[str, Packet] = {}
        self._pending: OrderedDict[str, None] = OrderedDict()
        self._unsent: set[str] = set()

    def put(self, packet: Packet) -> bool:
        """Store the newest value of its topic; True if it replaces one that was never sent."""
        is_superseding = packet.topic in self._unsent
        self._values[packet.topic] = packet
        self._pending[packet.topic] = None
        self._unsent.add(packet.topic)
        return is_superseding

    def forget_cleared(self, topic: str) -> None:
        """Forget a topic that the broker has cleared, unless it has a new value."""
        value = self._values.get(topic)
        if value is not None and not value.payload and topic not in self._unsent:
            del self._values[topic]
            self._pending.pop(topic, None)

    def resend_all(self) -> None:
        """Mark every value to be sent again: the broker of a new connection may have lost all of them."""
        for topic in self._values:
            self._pending[topic] = None

    def next(self) -> Packet | None:
        """The packet that waits longest; it stays pending until ``sent``. None if nothing waits."""
        topic = next(iter(self._pending), None)
        return None if topic is None else self._values[topic]

    def sent(self, packet: Packet) -> None:
        """``packet`` was handed to the sink."""
        self._pending.pop(packet.topic, None)
        self._unsent.discard(packet.topic)

    @property
    def pending(self) -> int:
        """Number of values that wait to be sent."""
        return len(self._pending)

    @property
    def unsent(self) -> int:
        """Number of values whose newest version was never handed to a sink."""
        return len(self._unsent)


@dataclass(frozen=True, slots=True)
class _Flight:
    """A packet that waits for its confirmation. ``outbox_key`` is that of an event.

    A guarded packet is sent again until it is confirmed; a clearing one deletes a retained value.
    """

    topic: str
    is_guarded: bool
    outbox_key: int | None = None
    is_clearing: bool = False


def historical(packet: Packet) -> Packet:
    """``packet`` with its last field, ``historical``, set to true; unchanged if it has no such field."""
    if not packet.payload.endswith(_CURRENT):
        return packet
    return replace(packet, payload=packet.payload[: -len(_CURRENT)] + _HISTORICAL)


class Delivery:
    """Three kinds of delivery. Used by the publisher's thread only.

    - a stream (results, latency) is sent at once, or dropped and counted;
    - a retained value waits for the connection, the newest version only, and is sent again on each new connection;
    - an event goes through the outbox, in order, until it is confirmed.
    """

    def __init__(
        self,
        sink: Sink,
        outbox: Outbox,
        counters: DeliveryCounters,
        extra_sinks: Sequence[Sink] = (),
        *,
        ledger: RetainedLedger | None = None,
    ) -> None:
        self._sink = sink
        self._ledger = ledger
        self._outbox = outbox
        self._counters = counters
        self._extra_sinks = tuple(extra_sinks)
        self._retained = RetainedValues()
        self._is_live = False
        self._in_flight: dict[int, _Flight] = {}
        self._guarded = 0
        self._keys = count(1)
        self._sent_up_to = 0
        self._historical_up_to = outbox.last_key
        self._backlog: dict[str, int] = {}
        self._fresh: deque[Stored] = deque()
        self._sent_early: set[int] = set()
        self._refusals: dict[str, str] = {}  # last logged problem, by topic

    @property
    def is_live(self) -> bool:
        """The sink is connected."""
        return self._is_live

    @property
    def is_done(self) -> bool:
        """Everything that must arrive has been confirmed."""
        return not self._guarded and not self._retained.pending and not self._outbox.statistics().stored

    def connected(self) -> None:
        """Start again on a new connection: the broker may have lost what was sent before."""
        self._forget_flights()
        self._is_live = True
        self._sent_up_to = 0
        self._historical_up_to = self._outbox.last_key
        self._backlog = dict(self._outbox.newest_keys())
        self._fresh.clear()
        self._sent_early.clear()
        self._retained.resend_all()

    def rebirth(self) -> None:
        """Send every retained value again."""
        self._retained.resend_all()

    def disconnected(self) -> None:
        """The connection was lost."""
        self._is_live = False
        self._forget_flights()

    def switch_to(self, sink: Sink) -> None:
        """Use ``sink``, which is not connected yet, from now on."""
        self.disconnected()
        self._sink = sink
        self._refusals.clear()

    def has_unconfirmed(self) -> bool:
        """Send retained values as far as the window allows; False once none waits and every packet is confirmed.

        Events stay in the outbox.
        """
        while self._is_live and self._guarded < WINDOW and self._pump_retained():
            pass
        return bool(self._in_flight or self._retained.pending)

    def confirmed(self, key: int, problem: str | None) -> None:
        """The packet with ``key`` was confirmed, or refused with ``problem``."""
        flight = self._in_flight.pop(key, None)
        if flight is None:
            return
        self._guarded -= flight.is_guarded
        if flight.outbox_key is not None:
            self._outbox.ack(flight.outbox_key)
        if flight.is_clearing:
            self._retained.forget_cleared(flight.topic)
            if self._ledger is not None:
                self._ledger.cleared(flight.topic)
        if problem is None:
            self._counters.sent()
            self._counters.grant(flight.topic)
            if self._refusals.pop(flight.topic, None) is not None:
                log.info("publish.accepted", topic=flight.topic)
        else:
            self._refused(flight.topic, problem)

    def abandon(self) -> None:
        """Count the retained values that were never sent. The outbox counts or keeps its events."""
        if self._retained.unsent:
            self._counters.drop("stopped", self._retained.unsent)

    def stream(self, packet: Packet) -> bool:
        """Send now or drop; True if it was sent."""
        self._copy(packet)
        if not self._is_live:
            self._counters.drop("disconnected")
            return False
        problem = (
            self._sink.send(packet)
            if packet.qos == 0
            else self._track(packet, _Flight(packet.topic, is_guarded=False))
        )
        if problem is not None:
            self._counters.drop(problem)
            return False
        if packet.qos == 0:
            self._counters.sent()
        return True

    def retain(self, packet: Packet) -> None:
        """Send as soon as possible, and again on every new connection, until a newer value replaces it.

        An empty payload clears the topic. A late value for a cleared topic is ignored.
        """
        if packet.payload and self._ledger is not None and self._ledger.is_removed(packet.topic):
            return
        self._copy(packet)
        if self._retained.put(packet):
            self._counters.drop("superseded")

    def event(self, packet: Packet, rank: int = EVENT) -> None:
        """Store ``packet``, then send it until it is confirmed.

        New events of topics without a backlog overtake older events: only the order within a topic is guaranteed.
        """
        self._copy(packet)
        key = self._outbox.put(packet, rank)
        if not self._is_live or self._sent_up_to >= self._historical_up_to:
            return
        if self._backlog.get(packet.topic, 0) <= self._sent_up_to:
            self._fresh.append(Stored(key, packet))
        else:
            # It waits behind older events of its topic, and later ones must not overtake it.
            self._backlog[packet.topic] = key

    def pump(self) -> None:
        """Send waiting packets, as far as the window allows."""
        while self._is_live and self._guarded < WINDOW:
            # Current states first, then new events, then the backlog, which may take minutes.
            if not (self._pump_retained() or self._pump_fresh() or self._pump_outbox()):
                return

    def _pump_retained(self) -> bool:
        packet = self._retained.next()
        if packet is None:
            return False
        problem = self._track(packet, _Flight(packet.topic, is_guarded=True, is_clearing=not packet.payload))
        if problem in _TRY_LATER:
            return False
        self._retained.sent(packet)
        if problem is not None:
            self._refused(packet.topic, problem)
        return True

    def _pump_fresh(self) -> bool:
        if not self._fresh:
            return False
        stored = self._fresh[0]
        if not self._send_stored(stored, stored.packet):
            return False
        self._fresh.popleft()
        self._sent_early.add(stored.key)
        return True

    def _pump_outbox(self) -> bool:
        stored = self._outbox.next(self._sent_up_to)
        while stored is not None and stored.key in self._sent_early:
            self._sent_early.discard(stored.key)
            self._sent_up_to = stored.key
            stored = self._outbox.next(self._sent_up_to)
        if stored is None:
            self._sent_early.clear()
            return False
        packet = historical(stored.packet) if stored.key <= self._historical_up_to else stored.packet
        if not self._send_stored(stored, packet):
            return False
        self._sent_up_to = stored.key
        return True

    def _send_stored(self, stored: Stored, packet: Packet) -> bool:
        """Send an event of the outbox; False if the sink has no room now."""
        problem = self._track(packet, _Flight(packet.topic, is_guarded=True, outbox_key=stored.key))
        if problem in _TRY_LATER:
            return False
        if problem is not None:
            self._outbox.ack(stored.key)
            self._refused(packet.topic, problem)
        return True

    def _track(self, packet: Packet, flight: _Flight) -> str | None:
        key = next(self._keys)
        # Registered before sending: a sink may confirm before ``send`` returns.
        self._in_flight[key] = flight
        self._guarded += flight.is_guarded
        problem = self._sink.send(packet, key)
        if problem is not None:
            del self._in_flight[key]
            self._guarded -= flight.is_guarded
        return problem

    def _forget_flights(self) -> None:
        """Forget unconfirmed packets: retained values and events are sent again, QoS 1 results count as lost."""
        lost = len(self._in_flight) - self._guarded
        if lost:
            self._counters.drop("connection_lost", lost)
        self._in_flight.clear()
        self._guarded = 0

    def _refused(self, topic: str, problem: str) -> None:
        self._counters.drop(problem)
        if problem == "not_authorised":
            self._counters.deny(topic, problem)
        if self._refusals.get(topic) != problem:
            # Requests choose the topics of their replies, so the number of topics has no bound of its own.
            if len(self._refusals) >= _MAX_LOGGED_TOPICS:
                self._refusals.clear()
            self._refusals[topic] = problem
            log.warning("publish.refused", topic=topic, problem=problem)

    def _copy(self, packet: Packet) -> None:
        for sink in self._extra_sinks:
            sink.send(packet)
