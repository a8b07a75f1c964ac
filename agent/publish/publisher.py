"""The publisher thread: takes records from the pipeline and sends them as packets."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from orjson import JSONEncodeError
from pydantic import ValidationError

from agent.mqtt.base import LineStatistics, NullListener, Packet, Sink, SinkStatistics
from agent.mqtt.identity import Identity
from agent.mqtt.messages import Message
from agent.publish.delivery.counters import DeliveryCounters, DeliveryReport
from agent.publish.delivery.delivery import RETRY_S, Delivery
from agent.publish.delivery.retained_topics import RetainedLedger
from agent.publish.delivery.send_rate import SendRate
from agent.publish.listener_gate import ListenerGate
from agent.publish.outbox.base import REPLY, Durability, MemoryOutbox, Outbox
from agent.publish.packets import NumberedChange, Outgoing, PacketFactory, ResultDetail, ResultRate, SequenceNumbers
from agent.publish.result_stream import ResultStream
from agent.runtime.channel import Channel, ChannelClosed
from agent.runtime.clock import Clock, SystemClock
from agent.runtime.clock_sync import ClockState
from agent.runtime.errors import StageFailed
from agent.runtime.heartbeat import Heartbeat
from agent.runtime.logs import get_logger
from agent.runtime.records import Classification, StateChange
from agent.runtime.threads import StageThread

RESULTS_BUFFERED = 256
IMPORTANT_BUFFERED = 1024
IDLE_S = 0.5
PASS_WITHIN_S = 15.0
"""A pass of the publisher's loop takes milliseconds; after this time it is stuck, in a disk or a library."""
DRAIN_SHARE = 0.6
"""Share of the time given to ``stop`` for the shutdown drain; the rest is for the sink. Results that wait for room
have half of it, so time is left for the status."""

MOVE_GRACE_S = 0.5
LEAVE_WITHIN_S, END_WITHIN_S = 1.0, 1.5
"""Limits for the drain of the previous sink, and for its ``stop``."""
HOLD_S = 3.0
"""How long results wait for a new sink to connect; after that they are dropped and counted."""
MOVE_POLL_S = 0.02

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PublisherStatistics:
    """Counters of this session's messages. At QoS 1 ``sent`` counts only confirmed messages; ``queued`` messages wait
    for the publisher's thread, ``stored`` events for a confirmation. ``refused`` counts attempts that the broker
    refused and that are repeated, ``rejected`` names topics that lost a message which it can never accept."""

    sent: int
    dropped: Mapping[str, int]
    rate_limited: int
    queued: int
    stored: int
    connection: SinkStatistics
    failure: str | None
    durability: Durability = "memory"
    durability_reason: str | None = None
    denied: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    rejected: Mapping[str, str] = field(default_factory=dict)
    delivery: DeliveryReport = field(default_factory=DeliveryReport)
    line: LineStatistics = field(default_factory=lambda: LineStatistics(None, 0))


@dataclass(frozen=True, slots=True)
class _Move:
    sink: Sink
    due: float


_Offered = tuple[Classification, int]
"""A result and the monotonic time of its offer in ns."""
_Important = NumberedChange | Message | Outgoing | Packet


class Publisher:
    """Takes records from any thread; its own thread makes packets of them and sends them.

    Results wait in one bounded channel and everything else in another, so a flood of results cannot push out a state
    or an event. A dropped message uses up its sequence number, so subscribers see the gap; a result offered after the
    stop has none. Results are numbered on the publisher's thread, because ``offer`` runs on the thread that infers.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        identity: Identity,
        result_qos: Literal[0, 1] = 0,
        result_detail: ResultDetail = "compact",
        result_max_hz: float | None = None,
        outbox: Outbox | None = None,
        ledger: RetainedLedger | None = None,
        send_rate: SendRate | None = None,
        extra_sinks: Sequence[Sink] = (),
        clock: Clock | None = None,
        clock_state: Callable[[], ClockState] = lambda: "unsynced",
        on_result_sent: Callable[[Classification, int], None] | None = None,
        on_failure: Callable[[StageFailed], None] | None = None,
    ) -> None:
        """``extra_sinks`` receive every packet too. ``on_result_sent`` is called on the publisher's thread with each
        sent result and the monotonic time in ns, ``on_failure`` if an exception ends the thread. ``ledger``
        knows which retained topics have been cleared."""
        self._sink = sink
        self._gate = ListenerGate(self)
        self._move: _Move | None = None
        self._hold_until = 0.0
        self._identity = identity
        self._rate_limit = None if result_max_hz is None else ResultRate(result_max_hz)
        self._numbers = SequenceNumbers()
        self._outbox = outbox or MemoryOutbox()
        self._extra_sinks = tuple(extra_sinks)
        self._clock = clock or SystemClock()
        self._packets = PacketFactory(identity, clock_state, result_qos=result_qos, result_detail=result_detail)
        self._on_failure = on_failure
        self.heartbeat = Heartbeat("publisher")
        self._counters = DeliveryCounters()
        self._delivery = Delivery(
            sink, self._outbox, self._counters, self._extra_sinks, ledger=ledger, clock=self._clock
        )
        if send_rate is not None:
            self._delivery.limit(send_rate)
        self._result_stream = ResultStream(self._delivery, on_result_sent, self._clock)
        self._results: Channel[_Offered] = Channel(RESULTS_BUFFERED, "drop_oldest", on_drop=self._lose_result)
        self._important: Channel[_Important] = Channel(
            IMPORTANT_BUFFERED, "drop_oldest", on_drop=lambda lost: self._counters.drop("overflow", _messages(lost))
        )
        self._notifications: deque[Callable[[], None]] = deque()
        self._notified = threading.Event()
        self._drain_by: float | None = None
        self._results_by = float("inf")
        self._thread: StageThread | None = None
        self._failure: StageFailed | None = None

    def start(self) -> None:
        """Start the thread and the sink; does not wait for a connection."""
        if self._thread is not None:
            raise RuntimeError("start() was called twice: a Publisher starts once")
        for sink in self._extra_sinks:
            sink.start(NullListener())
        self._delivery.retain(self._identity.status("online"))
        # A sink that connects at once must report it before the first record is processed.
        self._sink.start(self._gate)
        self._thread = StageThread("publisher", self._work, on_failure=self._on_thread_failure)
        self._thread.start()

    def offer(self, record: Classification | StateChange | Message | Outgoing | Packet) -> None:
        """Queue ``record`` without blocking; without room the oldest one is dropped and counted.

        The records of one classifier come from one thread. A ``Message`` is one of runtime, thermal, health, camera
        health and latency; ``Outgoing`` and ``Packet`` carry their own topics.
        """
        try:
            if isinstance(record, Classification):
                rate_limit = self._rate_limit
                if rate_limit is None or rate_limit.allows(record):
                    self._results.send((record, self._clock.monotonic_ns()))
                else:
                    self._counters.rate_limited()
            else:
                self._important.send(self._numbered(record) if isinstance(record, StateChange) else record)
                self._results.wake()
        except ChannelClosed:
            self._counters.drop("stopped")

    def rebirth(self) -> None:
        """Send every retained message again, for a subscriber that has lost them. Any thread."""
        self._notify(self._delivery.rebirth)

    def clear(self, topics: Sequence[str]) -> None:
        """Clear the retained messages of ``topics``. Any thread."""
        for topic in topics:
            self.offer(Packet(topic, b"", 1, retain=True))

    def change_results(self, *, qos: Literal[0, 1], max_hz: float | None, detail: ResultDetail) -> None:
        """Change QoS, rate limit and detail of results. Any thread."""
        self._packets.result_qos, self._packets.result_detail = qos, detail
        self._rate_limit = None if max_hz is None else ResultRate(max_hz)

    def change_rate(self, rate: SendRate) -> None:
        """Change the limit over all topics; what waits stays. Any thread."""
        self._notify(lambda: self._delivery.limit(rate))

    def move(self, sink: Sink, *, grace_s: float = MOVE_GRACE_S) -> None:
        """Switch to another sink, which the publisher owns from now on. Returns at once. Any thread.

        The switch begins after ``grace_s`` seconds, so the command's reply still goes out on the connection it came
        from. Then the old sink gets the status ``moved`` and is stopped, and the new one is started. Results wait up
        to ``HOLD_S`` for its connection; retained values and events are sent as on every connection.
        """
        self._notify(lambda: self._set_move(_Move(sink, time.monotonic() + grace_s)))

    def stop(self, timeout_s: float = 3.0) -> bool:
        """Send waiting messages and ``stopped``, then disconnect; False if that took too long. Idempotent."""
        started = time.monotonic()
        if self._drain_by is None:
            self._results_by = started + timeout_s * DRAIN_SHARE / 2
            self._drain_by = started + timeout_s * DRAIN_SHARE
        self._important.close()
        self._results.close()
        self._notified.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
        left_s = max(0.1, started + timeout_s - time.monotonic())
        is_clean = self._sink.stop(left_s)
        for sink in self._extra_sinks:
            sink.stop(0.0)
        self._outbox.close()
        return is_clean and (self._thread is None or not self._thread.is_alive)

    @property
    def failure(self) -> StageFailed | None:
        """The exception that ended the publisher's thread; any thread."""
        return self._failure

    def connection(self) -> SinkStatistics:
        """The state of the connection alone; any thread."""
        return self._sink.statistics()

    def statistics(self) -> PublisherStatistics:
        """A snapshot of the counters; any thread."""
        sent, rate_limited, dropped = self._counters.counts()
        stored = self._outbox.statistics()
        for reason, lost in stored.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + lost
        return PublisherStatistics(
            sent=sent,
            dropped=dropped,
            rate_limited=rate_limited,
            queued=self._results.statistics().buffered + self._important.statistics().buffered,
            stored=stored.stored,
            connection=self._sink.statistics(),
            failure=None if self._failure is None else self._failure.message,
            durability=stored.durability,
            durability_reason=stored.reason,
            denied=self._counters.denied(),
            refused=self._counters.refused(),
            rejected=self._counters.rejected(),
            delivery=self._delivery.report(),
            line=self._sink.line(),
        )

    def on_connected(self) -> None:
        """See SinkListener."""
        self._notify(self._delivery.connected)

    def on_disconnected(self, reason: str) -> None:  # noqa: ARG002 (the sink's statistics have it)
        """See SinkListener."""
        self._notify(self._delivery.disconnected)

    def on_confirmed(self, key: int, problem: str | None) -> None:
        """See SinkListener."""
        self._notify(lambda: self._delivery.confirmed(key, problem))

    def on_failed(self, error: BaseException) -> None:
        """See SinkListener."""

        def fail() -> None:
            raise StageFailed(f"the connection's thread failed with {type(error).__name__}: {error}") from error

        self._notify(fail)

    def _notify(self, notification: Callable[[], None]) -> None:
        self._notifications.append(notification)
        self._notified.set()
        self._results.wake()

    def _numbered(self, change: StateChange) -> NumberedChange:
        state_seq, event_seqs = self._numbers.of_change(change)
        return NumberedChange(change, self._clock.utc_ns(), state_seq, event_seqs)

    def _on_thread_failure(self, error: Exception) -> None:
        log.error("publisher.failed", exc_info=error)
        failure = self._failure = _stage_failed(error)
        self._important.close()
        self._results.close()
        if self._on_failure is not None:
            self._on_failure(failure)

    def _work(self) -> None:
        while True:
            self.heartbeat.beat(PASS_WITHIN_S)
            self._run_notifications()
            # States and events first: a flood of results must not delay them.
            self._take_important()
            self._delivery.pump()
            if self._continue_move() or self._wait_for_room():
                continue
            try:
                offered = self._results.receive(self._delivery.wait_s(IDLE_S))
            except ChannelClosed:
                break
            if offered is not None:
                self._publish(offered)
        self.heartbeat.rest()
        self._take_important()
        self._drain()

    def _set_move(self, move: _Move) -> None:
        self._move = move

    def _continue_move(self) -> bool:
        """Switch to the next sink when it is due; True while results wait for it to connect."""
        move = self._move
        if self._drain_by is not None:
            return False
        if move is not None and time.monotonic() >= move.due:
            self._move = None
            self._switch_to(move.sink)
        if self._delivery.is_live or time.monotonic() >= self._hold_until:
            if self._hold_until:
                self._hold_until = 0.0
                self._result_stream.excuse_the_past()
            return False
        self._notified.wait(MOVE_POLL_S)
        self._notified.clear()
        return True

    def _switch_to(self, sink: Sink) -> None:
        before = self._sink
        self._announce_move()
        before.stop(END_WITHIN_S)
        self._gate.close()
        # Queued calls of the old sink must run before the switch: later they would pass for calls of the new one.
        self._run_notifications()
        self._delivery.switch_to(sink)
        if self._drain_by is not None:  # `stop` was called meanwhile and would not stop the new sink
            return
        self._sink, self._gate = sink, ListenerGate(self)
        self._delivery.retain(self._identity.status("online"))
        self._hold_until = time.monotonic() + HOLD_S
        sink.start(self._gate)
        log.info("broker.changed", previous=before.statistics().address, current=sink.statistics().address)

    def _announce_move(self) -> None:
        """Publish the status ``moved`` on the old sink, and wait briefly for its confirmations."""
        deadline = time.monotonic() + LEAVE_WITHIN_S
        if self._delivery.is_live:
            self._delivery.retain(self._identity.status("stopped", reason="moved"))
        while self._delivery.is_live and self._delivery.has_unconfirmed():
            if self._drain_by is not None or time.monotonic() >= deadline:
                log.info("broker.move_timed_out", broker=self._sink.statistics().address)
                return
            self._notified.wait(MOVE_POLL_S)
            self._notified.clear()
            self._run_notifications()

    def _wait_for_room(self) -> bool:
        """True while a result waits for room on the line."""
        self._result_stream.retry()
        if time.monotonic() >= self._results_by:
            self._result_stream.abandon()
        if not self._result_stream.is_waiting:
            return False
        self._notified.wait(RETRY_S)
        self._notified.clear()
        return True

    def _drain(self) -> None:
        self._run_notifications()
        if self._delivery.is_live:
            self._delivery.retain(self._identity.status("stopped"))
            self._delivery.pump()
        while self._delivery.is_live and not self._delivery.is_done:
            left_s = (self._drain_by or 0.0) - time.monotonic()
            if left_s <= 0:
                log.warning("publisher.drain_cut_off", stored=self._outbox.statistics().stored)
                break
            self._notified.wait(self._delivery.wait_s(left_s))
            self._notified.clear()
            self._run_notifications()
            self._delivery.pump()
        self._delivery.abandon()

    def _run_notifications(self) -> None:
        while self._notifications:
            self._notifications.popleft()()

    def _take_important(self) -> None:
        while True:
            try:
                item = self._important.receive(0.0)
            except ChannelClosed:
                return
            if item is None:
                return
            self._publish(item)
            self._run_notifications()
            self._delivery.pump()

    def _lose_result(self, offered: _Offered) -> None:
        self._numbers.of_result(offered[0])
        self._counters.drop("overflow")

    def _publish(self, item: _Offered | _Important) -> None:
        try:
            if isinstance(item, tuple):
                self._publish_result(*item)
            elif isinstance(item, NumberedChange):
                self._publish_change(item)
            else:
                self._publish_other(item)
        except (ValidationError, JSONEncodeError) as exc:
            # One NaN from an engine, or a label that cannot be encoded, must not end the publisher.
            self._counters.drop("invalid", _messages(item))
            log.error("publish.invalid", problem=str(exc))  # noqa: TRY400 (the trace would add nothing)

    def _publish_result(self, result: Classification, offered_ns: int) -> None:
        packet = self._packets.result(result, self._numbers.of_result(result))
        self._result_stream.send(result, packet, offered_ns)

    def _publish_change(self, item: NumberedChange) -> None:
        for packet in self._packets.events(item):
            self._delivery.event(packet)
        self._delivery.retain(self._packets.state(item))

    def _publish_other(self, item: Message | Outgoing | Packet) -> None:
        other = self._packets.other(item)
        packet = other.packet
        if packet.retain:
            self._delivery.retain(packet, other.short)
        elif other.is_kept:
            self._delivery.event(packet, REPLY)
        else:
            self._delivery.copy(packet)
            problem = self._delivery.stream(packet, is_reply=other.is_reply)
            if problem is not None:
                self._delivery.lost(packet.topic, problem)


def _stage_failed(exc: Exception) -> StageFailed:
    if isinstance(exc, StageFailed):
        return exc
    failure = StageFailed(f"the publisher failed with {type(exc).__name__}: {exc}", stage="publisher")
    failure.__cause__ = exc
    return failure


def _messages(item: _Offered | _Important) -> int:
    """How many messages are lost if ``item`` is dropped."""
    return 1 + len(item.event_seqs) if isinstance(item, NumberedChange) else 1
