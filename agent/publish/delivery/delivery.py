"""Sends packets and follows each to its confirmation."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from agent.mqtt.base import FINAL_PROBLEMS, Packet, Sink
from agent.publish.delivery.counters import DeliveryCounters, DeliveryReport
from agent.publish.delivery.flights import Flight, Flights, Kind
from agent.publish.delivery.held_topics import CLOSES, HeldTopics, RefusalLog
from agent.publish.delivery.retained_topics import RetainedLedger
from agent.publish.delivery.retained_values import RetainedValues
from agent.publish.delivery.send_rate import SendRate
from agent.publish.delivery.suspects import Suspects
from agent.publish.delivery.waiting_events import WaitingEvents
from agent.publish.outbox.base import EVENT, REPLY, Outbox, Stored
from agent.runtime.boot import boot_ns
from agent.runtime.clock import Clock, SystemClock

WINDOW = 20
"""Maximum number of retained values and events that wait for a confirmation."""
STREAM_WINDOW = 20
"""The same for results at QoS 1 and snapshots."""
EVENTS_PER_VALUE = 3
"""Events between two retained values while both wait. Events all have to pass; of a value only the newest version."""
REPLY_WINDOW = 4
"""The same for replies. They have no place among the events, so a flood of commands delays none."""
MAX_REPLIES = 100
"""Replies that may wait in the outbox; further ones are dropped, because nobody waits that long."""
BUSY_S = 0.1
"""A line with more unsent bytes than it carries in this time is the bottleneck, and streams wait behind all others.
On a faster line they go beside a long backlog of events, which waits for confirmations."""
RETRY_S = 0.02
"""Interval for offering packets to a line that had no room."""

_TRY_LATER = frozenset({"disconnected", "backlog"})

_RANKS = {Kind.EVENT: EVENT, Kind.REPLY: REPLY}


class Delivery:
    """Three kinds of delivery. Used by the publisher's thread only, except ``report``.

    - a stream (results, latency) is sent at once, or not at all;
    - a retained value waits for the connection, the newest version only, and is sent again on each new connection;
    - an event goes through the outbox, in order on its topic, until it is confirmed.

    Values and events take turns; replies come after them, streams last. A refused value or event is kept and tried
    again, and holds only its own topic. A topic that the broker answers by closing the connection is found
    (``Suspects``) and tried alone, less and less often.
    """

    def __init__(
        self,
        sink: Sink,
        outbox: Outbox,
        counters: DeliveryCounters,
        extra_sinks: Sequence[Sink] = (),
        *,
        ledger: RetainedLedger | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._sink = sink
        self._ledger = ledger
        self._counters = counters
        self._extra_sinks = tuple(extra_sinks)
        self._clock = clock or SystemClock()
        self._events = WaitingEvents(outbox)
        self._retained = RetainedValues()
        self._held = HeldTopics(self._clock, rng)
        self._suspects = Suspects()
        self._rate = SendRate(self._clock)
        self._is_live = False
        self._flights = Flights()
        self._stream_trials: dict[str, Packet] = {}
        self._events_left = 0  # how many go before the next value
        self._blocked: tuple[str, float] | None = None  # why a value or an event finds no room, and how long to wait
        self._refusals = RefusalLog()

    @property
    def is_live(self) -> bool:
        """The sink is connected."""
        return self._is_live

    @property
    def is_done(self) -> bool:
        """Everything that can arrive now has been confirmed; topics that wait after a refusal do not count."""
        return not (
            len(self._flights)
            or self._retained.next(self._is_due)
            or self._events.next(self._is_due)
            or self._events.next(self._is_due, REPLY)
        )

    def report(self) -> DeliveryReport:
        """What waits and why; any thread."""
        oldest_ns = self._events.oldest_ns()
        return DeliveryReport(
            self._held.snapshot(), None if oldest_ns is None else max(0.0, (boot_ns() - oldest_ns) / 1e9)
        )

    def wait_s(self, idle_s: float) -> float:
        """Seconds until ``pump`` should be called again, at most ``idle_s``."""
        if not self._is_live:
            return idle_s
        waits = (idle_s, None if self._blocked is None else self._blocked[1], self._held.next_due_s())
        return max(RETRY_S, min(wait for wait in waits if wait is not None))

    def limit(self, rate: SendRate) -> None:
        """Keep to ``rate`` from now on."""
        self._rate = rate

    def connected(self) -> None:
        """Start again on a new connection: the broker may have lost what was sent before."""
        self._forget_flights()
        self._is_live = True
        self._suspects.connected(self._clock.monotonic_ns())
        self._events.start_over()
        self._retained.resend_all()
        self._held.retry_refused(lambda topic: self._suspects.refusal_ends(topic) > 0)

    def rebirth(self) -> None:
        """Send every retained value again."""
        self._retained.resend_all()

    def disconnected(self) -> None:
        """The connection was lost."""
        if self._is_live:
            is_trial, now_ns = self._flights.trial_key is not None, self._clock.monotonic_ns()
            for culprit in self._suspects.ended(self._flights.topics(), is_trial=is_trial, now_ns=now_ns):
                if not self._held.closes(culprit) or self._is_due(culprit):
                    self._held.hold(culprit, CLOSES)
                self._refusals.refused(culprit, CLOSES, "set aside")
        self._is_live = False
        self._forget_flights()

    def switch_to(self, sink: Sink) -> None:
        """Use ``sink``, which is not connected yet, from now on. Nothing that the previous broker refused counts."""
        self._is_live = False
        self._forget_flights()
        self._sink = sink
        self._suspects.reset()
        self._held.clear()
        self._refusals.clear()
        self._counters.forget_broker()

    def has_unconfirmed(self) -> bool:
        """Send retained values as far as the window allows; False once none waits and every packet is confirmed."""
        while self._is_live and self._has_room() and self._send_value():
            pass
        return bool(len(self._flights) or self._retained.next(self._is_due))

    def confirmed(self, key: int, problem: str | None) -> None:
        """The packet with ``key`` was confirmed, or refused with ``problem``."""
        is_trial = key == self._flights.trial_key
        flight = self._flights.take(key)
        if flight is None:
            return
        topic = flight.packet.topic
        self._suspects.answered(topic)
        if problem is None:
            self._suspects.accepted(topic)
            self._accepted(flight)
        else:
            self._suspects.refused(topic, is_trial=is_trial, now_ns=self._clock.monotonic_ns())
            self._refused(flight, problem)

    def abandon(self) -> None:
        """Count the retained values that were never sent. The outbox counts or keeps its events."""
        if self._retained.unsent:
            self._counters.drop("stopped", self._retained.unsent)

    def stream(self, packet: Packet, *, is_reply: bool = False) -> str | None:
        """Send ``packet`` now and return None, or return why it cannot be sent; the caller drops it and counts it.

        ``backlog`` means that there is no room now.
        """
        if not self._is_live:
            return "disconnected"
        if not self._is_trusted(packet.topic):
            return self._stream_alone(packet)
        kind = Kind.REPLY if is_reply else Kind.STREAM
        if self._blocked is not None:
            return self._blocked[0]
        if (
            self._is_silent()
            or self._is_line_taken()
            or self._flights.count(kind) >= (REPLY_WINDOW if is_reply else STREAM_WINDOW)
        ):
            return "backlog"
        if self._rate.wait_s(packet, is_urgent=False):
            return "max_rate"
        return self._hand_over(packet, kind)

    def lost(self, topic: str, reason: str) -> None:
        """Count a packet of a stream that was not sent."""
        if reason in FINAL_PROBLEMS:
            self._counters.reject(topic, reason)
            self._refusals.refused(topic, reason, "dropped")
        else:
            self._counters.drop(reason)

    def copy(self, packet: Packet) -> None:
        """Show ``packet`` to the extra sinks."""
        for sink in self._extra_sinks:
            sink.send(packet)

    def retain(self, packet: Packet, short: Packet | None = None) -> None:
        """Send as soon as possible, and again on every new connection, until a newer value replaces it.

        An empty payload clears the topic. A late value for a cleared topic is ignored. ``short`` is sent instead to a
        broker to which ``packet`` is too large.
        """
        if packet.payload and self._ledger is not None and self._ledger.is_removed(packet.topic):
            return
        self.copy(packet)
        if self._retained.put(packet, short):
            self._counters.drop("superseded")

    def event(self, packet: Packet, rank: int = EVENT) -> None:
        """Store ``packet``, then send it until it is confirmed.

        Topics take turns: only the order within a topic is guaranteed.
        """
        self.copy(packet)
        if rank == REPLY and self._events.replies() >= MAX_REPLIES:
            self._counters.drop("too_many_replies")
            return
        self._events.put(packet, rank)

    def pump(self) -> None:
        """Send waiting packets, as far as window, line and rate allow."""
        if self._is_live and self._suspects.is_doubting:
            self._suspects.settle(self._clock.monotonic_ns())
        self._blocked = None
        while self._is_live and self._send_one():
            pass

    def _send_one(self) -> bool:
        if self._is_silent():
            return self._try_alone()
        if self._has_room():
            turns = (self._send_value, self._send_event)
            for send in reversed(turns) if self._events_left else turns:
                if self._blocked is None and send():
                    return True
        return self._blocked is None and self._flights.count(Kind.REPLY) < REPLY_WINDOW and self._send_reply()

    def _is_line_taken(self) -> bool:
        """Whether events or values wait for a line that carries no more."""
        line = self._sink.line()
        if line.bytes_per_s is None or line.queued_bytes <= line.bytes_per_s * BUSY_S:
            return False
        return (self._retained.next(self._may_send) or self._events.next(self._may_send)) is not None

    def _has_room(self) -> bool:
        return self._flights.count(Kind.VALUE, Kind.EVENT) < WINDOW

    def _send_value(self) -> bool:
        packet = self._retained.next(self._may_send)
        return packet is not None and self._send_urgent(packet, Kind.VALUE)

    def _send_event(self) -> bool:
        stored = self._events.next(self._may_send)
        return stored is not None and self._send_urgent(self._events.packet(stored), Kind.EVENT, stored)

    def _send_reply(self) -> bool:
        stored = self._events.next(self._may_send, REPLY)
        if stored is None or self._rate.wait_s(stored.packet, is_urgent=False):
            return False
        return self._hand_over(stored.packet, Kind.REPLY, stored) not in _TRY_LATER

    def _send_urgent(self, packet: Packet, kind: Kind, stored: Stored | None = None) -> bool:
        """Send a value or an event; False if there is no room now, which keeps everything else out too."""
        wait_s = self._rate.wait_s(packet, is_urgent=True)
        if not wait_s and self._hand_over(packet, kind, stored) not in _TRY_LATER:
            # They take turns, so neither can keep the other out of a small window.
            self._events_left = EVENTS_PER_VALUE if kind is Kind.VALUE else max(0, self._events_left - 1)
            return True
        self._blocked = ("max_rate", wait_s) if wait_s else ("backlog", RETRY_S)
        return False

    # Topics that wait, and those that are tried alone.

    def _is_due(self, topic: str) -> bool:
        return not self._held.is_waiting(topic)

    def _is_trusted(self, topic: str) -> bool:
        return self._suspects.is_trusted(topic) and not self._held.closes(topic)

    def _may_send(self, topic: str) -> bool:
        if not self._is_due(topic) or not self._is_trusted(topic):
            return False
        return topic not in self._flights or not self._held.is_single(topic)

    def _needs_trial(self, topic: str) -> bool:
        return self._is_due(topic) and not self._is_trusted(topic)

    def _is_silent(self) -> bool:
        """Whether nothing may be sent, because a topic is tried alone now or next."""
        if self._flights.trial_key is not None:
            return True
        return (self._suspects.is_doubting or self._held.has_closing()) and self._trial() is not None

    def _trial(self) -> tuple[Packet, Kind, Stored | None] | None:
        """The next packet to send alone."""
        packet = self._retained.next(self._needs_trial)
        if packet is not None:
            return packet, Kind.VALUE, None
        for kind, rank in _RANKS.items():
            stored = self._events.next(self._needs_trial, rank)
            if stored is not None:
                return self._events.packet(stored), kind, stored
        topic = next(filter(self._needs_trial, self._stream_trials), None)
        return None if topic is None else (self._stream_trials[topic], Kind.STREAM, None)

    def _try_alone(self) -> bool:
        """Send the next packet that is tried alone, once nothing else is unconfirmed."""
        trial = None if len(self._flights) else self._trial()
        if trial is None:
            return False
        packet, kind, stored = trial
        problem = self._hand_over(packet, kind, stored, is_trial=True)
        if problem in _TRY_LATER:
            self._blocked = ("backlog", RETRY_S)
            return False
        if kind is Kind.STREAM:
            del self._stream_trials[packet.topic]
            if problem is not None:
                self._counters.drop(problem)
        return True

    def _stream_alone(self, packet: Packet) -> str | None:
        """Remember a packet of a suspected topic, which is tried at QoS 1 when its turn comes."""
        if not self._is_due(packet.topic):
            return "set_aside"
        if packet.topic in self._stream_trials or packet.topic in self._flights:
            return "backlog"
        self._stream_trials[packet.topic] = replace(packet, qos=1)
        return None

    # From the sink and back.

    def _hand_over(
        self, packet: Packet, kind: Kind, stored: Stored | None = None, *, is_trial: bool = False
    ) -> str | None:
        """Give ``packet`` to the sink; returns why it was not accepted. A stream is the caller's then."""
        now_ns = self._clock.monotonic_ns()
        if kind is Kind.STREAM and packet.qos == 0:
            problem = self._sink.send(packet)
            if problem is None:
                self._rate.take(packet)
                self._counters.sent()
                self._suspects.streamed(now_ns)
            return problem
        flight = Flight(kind, packet, now_ns, stored)
        key = self._flights.add(flight, is_trial=is_trial)
        problem = self._sink.send(packet, key)
        if problem is not None:
            self._flights.take(key)
        if problem in _TRY_LATER:
            return problem
        self._mark_sent(flight)
        if problem is None:
            self._rate.take(packet)
        elif stored is not None or kind is Kind.VALUE:
            self._refused(flight, problem)
        return problem

    def _mark_sent(self, flight: Flight) -> None:
        if flight.kind is Kind.VALUE:
            self._retained.sent(flight.packet)
        elif flight.stored is not None:
            self._events.sent(flight.stored)

    def _accepted(self, flight: Flight) -> None:
        topic = flight.packet.topic
        self._counters.sent()
        self._counters.grant(topic)
        self._settled(flight)
        if self._held.release(topic):
            self._events.accepted_again(topic)
        if not self._retained.is_shortened(flight.packet):
            self._refusals.accepted(topic)

    def _refused(self, flight: Flight, problem: str) -> None:
        """The broker refused the packet: keep it, unless it can never be accepted or nobody would miss it."""
        topic = flight.packet.topic
        if problem == "oversize" and self._retained.shorten(flight.packet):
            self._refusals.refused(topic, problem, "a short form is sent instead")
            return
        if problem == "not_authorised":
            self._counters.deny(topic, problem)
        is_closing = self._still_closes(topic)
        if flight.kind in {Kind.REPLY, Kind.STREAM}:
            self._counters.drop(problem)
            self._settled(flight)
            if not is_closing:
                self._held.release(topic)
                self._refusals.refused(topic, problem, "dropped")
        elif problem in FINAL_PROBLEMS:
            self._counters.reject(topic, problem)
            self._settled(flight)
            if not is_closing:
                self._held.release(topic)
                self._refusals.refused(topic, problem, "dropped")
        else:
            self._counters.refuse(problem)
            if flight.stored is not None:
                self._events.refused(flight.stored)
            elif not self._retained.refused(flight.packet):
                self._counters.drop("superseded")
            if not is_closing:
                if self._is_due(topic):
                    self._held.hold(topic, problem)
                self._refusals.refused(topic, problem, "kept")

    def _still_closes(self, topic: str) -> bool:
        """Whether the refused topic goes on to close the connection; then it is held longer."""
        if not self._held.closes(topic) or not self._suspects.closes(topic):
            return False
        if self._is_due(topic):
            self._held.hold(topic, CLOSES)
        return True

    def _settled(self, flight: Flight) -> None:
        """The packet needs nothing more."""
        packet = flight.packet
        if flight.stored is not None:
            self._events.done(flight.stored)
        elif flight.kind is Kind.VALUE:
            self._retained.arrived(packet)
            if not packet.payload:
                self._retained.forget_cleared(packet.topic)
                if self._ledger is not None:
                    self._ledger.cleared(packet.topic)

    def _forget_flights(self) -> None:
        """Forget unconfirmed packets: retained values and events are sent again, streams count as lost."""
        lost = self._flights.clear()
        if lost:
            self._counters.drop("connection_lost", lost)
        if self._stream_trials:
            self._counters.drop("disconnected", len(self._stream_trials))
        self._stream_trials.clear()
