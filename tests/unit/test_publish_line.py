"""What is sent first when the line, the broker's window or the configured rate has no room for everything."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

import orjson
import pytest

from agent.mqtt.base import Packet
from agent.publish.delivery.delivery import EVENTS_PER_VALUE, RETRY_S, WINDOW
from agent.publish.delivery.send_rate import BURST_S, PACKET_BYTES, SendRate
from agent.publish.result_stream import STALE_S, ResultStream
from tests.fixtures.model_broker import TICK_S, ManualClock, ModelBench
from tests.fixtures.publish_samples import classification

EVENT_BYTES, STATE_BYTES, RESULT_BYTES = 900, 400, 900
RESULTS = ("a/result", "b/result")


class Camera:
    """10 results, 10 events and 10 states a second, and the results that wait as in the publisher."""

    def __init__(self, bench: ModelBench) -> None:
        self.bench = bench
        self.put_ns: list[int] = []
        self.offered: deque[tuple[Packet, int]] = deque()
        self.offered_ns: list[int] = []
        self.stream = ResultStream(bench.delivery, None, bench.broker.clock)

    def say(self) -> None:
        now_ns = self.bench.broker.clock.now_ns
        self.bench.event("event", size=EVENT_BYTES)
        self.bench.value("state", size=STATE_BYTES)
        payload = b'{"n":%d,"x":"%s"}' % (len(self.offered_ns), b"x" * RESULT_BYTES)
        self.offered.append((Packet("result", payload), now_ns))
        self.put_ns.append(now_ns)
        self.offered_ns.append(now_ns)

    def run(self, seconds: float) -> None:
        for number in range(round(seconds / TICK_S)):
            if number % 2 == 0:
                self.say()
            self.bench.broker.tick()
            self.stream.retry()
            while self.offered and not self.stream.is_waiting:
                packet, offered_ns = self.offered.popleft()
                self.stream.send(classification(), packet, offered_ns)

    def ages_s(self, topic: str) -> list[float]:
        began_ns = self.put_ns if topic == "event" else self.offered_ns
        broker = self.bench.broker
        return [
            (at_ns - began_ns[orjson.loads(packet.payload)["n"]]) / 1e9
            for packet, at_ns in zip(broker.received, broker.received_at_ns, strict=True)
            if packet.topic == topic
        ]


@pytest.fixture
def bench() -> ModelBench:
    made = ModelBench()
    made.broker.run(0.1)
    return made


@pytest.mark.parametrize("bytes_per_s", [15_000, 12_000])
def test_events_keep_up_on_a_thin_line_and_results_get_what_is_left(bench: ModelBench, bytes_per_s: int) -> None:
    bench.broker.bytes_per_tick = round(bytes_per_s * TICK_S)
    camera = Camera(bench)
    camera.run(60.0)
    events, results = camera.ages_s("event"), camera.ages_s("result")
    assert len(events) >= 590
    assert max(events) < 2.0, "the age of an event does not rise"
    assert max(results, default=0.0) < STALE_S + 1.0
    waiting = len(camera.offered) + camera.stream.is_waiting + bench.broker.on_the_line.count("result")
    assert len(results) + bench.dropped["stale"] + waiting == len(camera.offered_ns), "every result is accounted for"
    assert bench.dropped.keys() <= {"stale", "superseded"}
    assert len([packet for packet in bench.broker.received if packet.topic == "state"]) > 100


def test_on_a_line_too_thin_for_the_events_nothing_else_takes_their_place(bench: ModelBench) -> None:
    bench.broker.bytes_per_tick = round(5_000 * TICK_S)
    camera = Camera(bench)
    camera.run(60.0)
    arrived = Counter(packet.topic for packet in bench.broker.received)
    assert arrived["result"] <= 5, "only until the line was full"
    assert arrived["event"] * EVENT_BYTES >= 0.8 * 5_000 * 60.0
    assert arrived["state"] >= arrived["event"] // EVENTS_PER_VALUE - 1
    assert bench.stored == bench.put("event") - arrived["event"], "the others wait in the outbox"
    bench.broker.bytes_per_tick = 1 << 20
    bench.broker.run(10.0)
    assert bench.broker.numbers("event") == list(range(bench.put("event")))


@pytest.mark.parametrize(("bytes_per_s", "is_shared"), [(20_000, False), (1 << 30, True)])
def test_results_pass_a_backlog_only_on_a_line_with_room(bench: ModelBench, bytes_per_s: int, is_shared: bool) -> None:
    """Small events fill the window of unconfirmed packets before they fill the line."""
    bench.broker.bytes_per_tick = round(bytes_per_s * TICK_S)
    for _ in range(4 * WINDOW):
        bench.event("event", size=300)
    bench.delivery.pump()
    assert bench.broker.on_the_line.count("event") == WINDOW
    assert (bench.delivery.stream(Packet("result", b"{}")) is None) == is_shared


@pytest.mark.parametrize("room", [1, 2, 3])
def test_neither_events_nor_values_starve_in_a_small_window(bench: ModelBench, room: int) -> None:
    bench.broker.room = room
    for _ in range(200):
        bench.event("event")
        bench.value("value/a")
        bench.value("value/b")
        bench.broker.tick()
    arrived = Counter(packet.topic for packet in bench.broker.received)
    sent = sum(arrived.values())
    assert arrived["event"] >= sent // 4
    assert arrived["value/a"] >= sent // 10
    assert arrived["value/b"] >= sent // 10
    assert bench.broker.most_unconfirmed == room


def test_the_first_message_of_a_connection_is_a_retained_value(bench: ModelBench) -> None:
    bench.broker.cut()
    bench.broker.room = 1
    for _ in range(5):
        bench.event("event")
    bench.value("status")
    bench.broker.run(3.0)
    assert bench.broker.received[0].topic == "status"


def test_results_at_qos_1_wait_while_an_event_finds_no_room(bench: ModelBench) -> None:
    bench.broker.room = 1
    for number in range(100):
        bench.event("event")
        bench.delivery.pump()
        bench.delivery.stream(Packet("result", b'{"n":%d}' % number, 1))
        bench.broker.tick()
    assert bench.broker.numbers("event") == list(range(100))


def test_a_result_waits_for_room_and_is_stale_after_two_seconds(bench: ModelBench) -> None:
    sent: list[int] = []
    clock = bench.broker.clock
    stream = ResultStream(bench.delivery, lambda result, at_ns: sent.append(at_ns), clock)
    bench.broker.bytes_per_tick = 10
    assert bench.delivery.stream(Packet("other", b"x" * 400)) is None
    stream.send(classification(0), Packet("result", b"0"), clock.now_ns)
    states = [stream.is_waiting]
    for seconds in (STALE_S - 0.1, 0.1):
        clock.advance(seconds)
        stream.retry()
        states.append(stream.is_waiting)
    assert states == [True, True, False]
    assert bench.dropped == {"stale": 1}
    assert sent == []
    stream.send(classification(1), Packet("result", b"1"), clock.now_ns)
    bench.broker.bytes_per_tick = 1000
    bench.broker.tick()
    stream.retry()
    assert sent == [clock.now_ns]
    assert bench.dropped == {"stale": 1}


def test_a_result_that_waited_for_a_new_broker_has_its_time_for_the_line_besides(bench: ModelBench) -> None:
    clock = bench.broker.clock
    stream = ResultStream(bench.delivery, None, clock)
    offered_ns = clock.now_ns
    clock.advance(2.9)
    stream.excuse_the_past()
    bench.broker.bytes_per_tick = 10
    assert bench.delivery.stream(Packet("other", b"x" * 400)) is None
    stream.send(classification(), Packet("result", b"0"), offered_ns)
    assert stream.is_waiting
    clock.advance(2.9)
    stream.excuse_the_past()
    stream.retry()
    assert stream.is_waiting, "and so has the one that waited for the line when the broker changed"


def test_a_waiting_result_is_counted_at_the_end(bench: ModelBench) -> None:
    stream = ResultStream(bench.delivery, None, bench.broker.clock)
    bench.broker.bytes_per_tick = 10
    assert bench.delivery.stream(Packet("other", b"x" * 400)) is None
    stream.send(classification(), Packet("result", b"0"), bench.broker.clock.now_ns)
    stream.abandon()
    stream.abandon()
    assert bench.dropped == {"stopped": 1}


def _limited(bench: ModelBench, **limits: float) -> None:
    bench.delivery.limit(SendRate(bench.broker.clock, **limits))


def _offer(bench: ModelBench, seconds: float) -> Iterator[str | None]:
    """20 events, 20 values and 40 results a second."""
    for _ in range(round(seconds / TICK_S)):
        bench.event("event")
        bench.value("value")
        for topic in RESULTS:
            yield bench.delivery.stream(Packet(topic, b"x" * 100))
        bench.broker.tick()


def test_the_rate_of_messages_is_kept_and_results_give_way(bench: ModelBench) -> None:
    _limited(bench, messages_hz=50.0)
    before = len(bench.broker.received)
    problems = Counter(_offer(bench, 20.0))
    arrived = Counter(packet.topic for packet in bench.broker.received[before:])
    assert sum(arrived.values()) <= 50 * (20.0 + BURST_S)
    assert arrived["event"] >= 398, "events come first"
    assert 0 < arrived["a/result"] + arrived["b/result"] < 300
    assert problems["max_rate"] > 0
    assert problems.keys() == {None, "max_rate"}


def test_the_rate_of_bytes_is_kept(bench: ModelBench) -> None:
    _limited(bench, bytes_per_s=3000.0)
    before = len(bench.broker.received)
    problems = Counter(_offer(bench, 20.0))
    sizes = [len(one.topic) + len(one.payload) + PACKET_BYTES for one in bench.broker.received[before:]]
    assert 0.9 * 3000 * 20 <= sum(sizes) <= 3000 * (20.0 + BURST_S) + max(sizes)
    assert problems["max_rate"] > 700


def test_a_limit_that_is_lifted_loses_nothing_that_waited(bench: ModelBench) -> None:
    _limited(bench, messages_hz=1.0)
    for _ in range(100):
        bench.event("event")
    bench.broker.run(10.0)
    assert 10 <= len(bench.broker.numbers("event")) <= 12
    assert bench.delivery.wait_s(5.0) > RETRY_S, "the publisher sleeps until the next message is due"
    bench.delivery.limit(SendRate(bench.broker.clock))
    bench.broker.run(2.0)
    assert bench.broker.numbers("event") == list(range(100))
    assert bench.dropped == {}


def test_a_packet_larger_than_the_burst_passes_and_is_paid_for_afterwards() -> None:
    clock = ManualClock()
    rate, large = SendRate(clock, bytes_per_s=1000.0), Packet("t", b"x" * 5000)
    assert rate.wait_s(large, is_urgent=False) == 0.0
    rate.take(large)
    wait_s = rate.wait_s(Packet("t", b"x"), is_urgent=True)
    assert wait_s == pytest.approx((5000 + 2 * (PACKET_BYTES + 1) + 1 - 1000) / 1000, abs=0.01)
    clock.advance(wait_s)
    assert rate.wait_s(Packet("t", b"x"), is_urgent=True) == 0.0
    assert rate.wait_s(Packet("t", b"x"), is_urgent=False) > 0.0, "half of the burst is for events and values"


def test_without_a_limit_nothing_waits() -> None:
    assert SendRate(ManualClock()).wait_s(Packet("t", b"x" * 10**6), is_urgent=False) == 0.0
