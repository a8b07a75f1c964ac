"""What is sent when, what is sent again, and what is counted; the sink is a fake."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import orjson
import pytest
import structlog

from agent.mqtt.base import LineStatistics, Packet, SinkListener, SinkStatistics
from agent.mqtt.messages import Message
from agent.publish.delivery.counters import DeliveryCounters
from agent.publish.delivery.delivery import WINDOW, Delivery
from agent.publish.json_lines import JsonLinesSink
from agent.publish.outbox.base import MemoryOutbox
from agent.publish.publisher import IMPORTANT_BUFFERED, RESULTS_BUFFERED, Publisher
from agent.runtime.errors import StageFailed
from tests.fixtures.model_broker import ManualClock
from tests.fixtures.publish_samples import IDENTITY, TOPICS, classification, state_change, vitals


class HeldSink:
    """Accepts everything and confirms only on request; ``problem`` refuses the next packets."""

    def __init__(self) -> None:
        self.taken: list[tuple[Packet, int | None]] = []
        self.problem: str | None = None
        self.listener: SinkListener | None = None

    def start(self, listener: SinkListener) -> None:
        self.listener = listener

    def send(self, packet: Packet, key: int | None = None) -> str | None:
        if self.problem is None:
            self.taken.append((packet, key))
        return self.problem

    def stop(self, timeout_s: float) -> bool:
        return True

    def statistics(self) -> SinkStatistics:
        return SinkStatistics("connected", "memory", None, 0, None, 0, 0)

    def line(self) -> LineStatistics:
        return LineStatistics(None, 0)

    def topics(self) -> list[str]:
        return [packet.topic for packet, _ in self.taken]


class Bench:
    """A delivery with its sink, outbox and counters."""

    def __init__(self) -> None:
        self.sink = HeldSink()
        self.outbox = MemoryOutbox()
        self.counters = DeliveryCounters()
        self.clock = ManualClock()
        self.delivery = Delivery(self.sink, self.outbox, self.counters, clock=self.clock)

    def confirm_all(self, problem: str | None = None) -> None:
        taken, self.sink.taken = self.sink.taken, []
        for _, key in taken:
            if key is not None:
                self.delivery.confirmed(key, problem)

    @property
    def counts(self) -> tuple[int, dict[str, int]]:
        sent, _, dropped = self.counters.counts()
        return sent, dropped


def _event(number: int) -> Packet:
    return Packet("event", b'{"n":%d,"historical":false}' % number, qos=1)


def _value(topic: str, number: int = 0) -> Packet:
    return Packet(topic, b"%d" % number, qos=1, retain=True)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_stream_is_sent_at_once_or_not_at_all(bench: Bench) -> None:
    assert bench.delivery.stream(Packet("result", b"1")) == "disconnected"
    bench.delivery.connected()
    assert bench.delivery.stream(Packet("result", b"2")) is None
    bench.sink.problem = "backlog"
    assert bench.delivery.stream(Packet("result", b"3")) == "backlog"
    bench.sink.problem = None
    bench.delivery.pump()
    assert bench.sink.topics() == ["result"]
    assert bench.counts == (1, {})


def test_values_and_events_wait_for_the_connection_and_go_out_values_first(bench: Bench) -> None:
    bench.delivery.event(_event(0))
    bench.delivery.retain(_value("a"))
    bench.delivery.pump()
    assert bench.sink.taken == []
    bench.delivery.connected()
    bench.delivery.pump()
    assert bench.sink.topics() == ["a", "event"]
    assert bench.outbox.statistics().stored == 1
    bench.confirm_all()
    assert bench.delivery.is_done
    assert bench.counts == (2, {})


def test_a_lasting_refusal_is_logged_once_and_again_when_it_ends(bench: Bench) -> None:
    bench.delivery.connected()
    bench.delivery.event(_event(0))
    bench.delivery.event(_event(1))
    with structlog.testing.capture_logs() as lines:
        for problem in ("not_authorised", "not_authorised", "quota_exceeded", None, None):
            bench.clock.advance(60.0)
            bench.delivery.pump()
            bench.confirm_all(problem)
    assert [(line["event"], line.get("problem")) for line in lines] == [
        ("publish.refused", "not_authorised"),
        ("publish.refused", "quota_exceeded"),
        ("publish.accepted", None),
    ]
    assert bench.counts == (2, {})
    assert bench.counters.refused() == {"not_authorised": 3, "quota_exceeded": 1}


def test_unconfirmed_packets_are_limited_to_the_window(bench: Bench) -> None:
    bench.delivery.connected()
    for number in range(3 * WINDOW):
        bench.delivery.event(_event(number))
    numbers = []
    for _ in range(3):
        bench.delivery.pump()
        bench.delivery.pump()
        assert len(bench.sink.taken) == WINDOW
        numbers += [orjson.loads(packet.payload)["n"] for packet, _ in bench.sink.taken]
        bench.confirm_all()
    assert numbers == list(range(3 * WINDOW))
    assert bench.counts == (3 * WINDOW, {})


def test_unconfirmed_events_are_sent_again_in_order_as_historical(bench: Bench) -> None:
    bench.delivery.connected()
    for number in range(3):
        bench.delivery.event(_event(number))
    bench.delivery.pump()
    (_, first_key), *_ = bench.sink.taken
    assert first_key is not None
    bench.delivery.confirmed(first_key, None)
    bench.sink.taken.clear()
    bench.delivery.disconnected()
    bench.delivery.event(_event(3))
    bench.delivery.pump()
    assert bench.sink.taken == []
    bench.delivery.connected()
    bench.delivery.event(_event(4))
    bench.delivery.pump()
    again = [orjson.loads(packet.payload) for packet, _ in bench.sink.taken]
    assert again == [{"n": number, "historical": number != 4} for number in (1, 2, 3, 4)]
    bench.confirm_all()
    assert bench.counts == (5, {})


def test_a_confirmation_of_an_earlier_connection_is_ignored(bench: Bench) -> None:
    bench.delivery.connected()
    bench.delivery.event(_event(0))
    bench.delivery.pump()
    late = bench.sink.taken.copy()
    bench.delivery.disconnected()
    for _, key in late:
        assert key is not None
        bench.delivery.confirmed(key, None)
    assert bench.counts == (0, {})
    assert bench.outbox.statistics().stored == 1


def test_every_value_is_sent_again_on_a_new_connection(bench: Bench) -> None:
    bench.delivery.connected()
    for topic in ("a", "b"):
        bench.delivery.retain(_value(topic))
    bench.delivery.pump()
    bench.confirm_all()
    bench.delivery.disconnected()
    bench.delivery.retain(_value("b", 1))
    bench.delivery.retain(_value("b", 2))
    bench.delivery.connected()
    bench.delivery.pump()
    assert sorted((packet.topic, packet.payload) for packet, _ in bench.sink.taken) == [("a", b"0"), ("b", b"2")]
    assert bench.counts[1] == {"superseded": 1}


def test_a_permanently_refused_packet_is_counted_and_removed(bench: Bench) -> None:
    bench.delivery.connected()
    bench.delivery.event(_event(0))
    bench.delivery.pump()
    bench.confirm_all("payload_invalid")
    bench.sink.problem = "oversize"
    bench.delivery.event(_event(1))
    bench.delivery.retain(_value("a"))
    bench.delivery.pump()
    bench.sink.problem = None
    bench.delivery.pump()
    assert bench.sink.taken == []
    assert bench.delivery.is_done
    assert bench.counts == (0, {"payload_invalid": 1, "oversize": 2})
    assert bench.counters.rejected() == {"event": "oversize", "a": "oversize"}


def test_a_packet_is_retried_after_a_backlog(bench: Bench) -> None:
    bench.delivery.connected()
    bench.sink.problem = "backlog"
    bench.delivery.event(_event(0))
    bench.delivery.retain(_value("a"))
    bench.delivery.pump()
    bench.sink.problem = None
    bench.delivery.pump()
    assert bench.sink.topics() == ["a", "event"]
    assert bench.counts == (0, {})


def test_a_qos_1_stream_is_counted_when_its_connection_breaks(bench: Bench) -> None:
    bench.delivery.connected()
    for _ in range(3):
        bench.delivery.stream(Packet("result", b"1", qos=1))
    (_, key), *_ = bench.sink.taken
    assert key is not None
    bench.delivery.confirmed(key, None)
    bench.delivery.disconnected()
    assert bench.counts == (1, {"connection_lost": 2})


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_flood_of_results_drops_the_oldest_results_and_no_state() -> None:
    stream = io.BytesIO()
    publisher = Publisher(JsonLinesSink(stream), identity=IDENTITY)
    # The thread does not run yet, so everything has to wait.
    publisher.offer(state_change())
    for index in range(RESULTS_BUFFERED + 44):
        publisher.offer(classification(index))
    assert publisher.statistics().dropped == {"overflow": 44}
    assert publisher.statistics().queued == RESULTS_BUFFERED + 1
    publisher.start()
    _until(lambda: publisher.statistics().queued == 0)
    publisher.stop()
    lines = [orjson.loads(line) for line in stream.getvalue().splitlines()]
    results = [line["message"]["seq"] for line in lines if line["topic"].endswith("result")]
    assert results == list(range(44, RESULTS_BUFFERED + 44))  # those that were lost have numbers too
    assert sum(line["topic"].endswith(("state", "event")) for line in lines) == 2


def test_dropped_changes_count_each_message_that_is_lost() -> None:
    publisher = Publisher(JsonLinesSink(io.BytesIO()), identity=IDENTITY)
    for _ in range(IMPORTANT_BUFFERED + 1):
        publisher.offer(state_change())
    assert publisher.statistics().dropped == {"overflow": 2}
    publisher.stop()


def test_numbers_have_no_gaps_on_each_topic() -> None:
    stream = io.BytesIO()
    publisher = Publisher(JsonLinesSink(stream), identity=IDENTITY)
    publisher.start()
    _until(lambda: publisher.statistics().sent == 1)

    def work(camera: str) -> None:
        for index in range(60):
            publisher.offer(classification(index, camera=camera))
            publisher.offer(state_change(previous="ok" if index % 3 == 0 else None, camera=camera))

    threads = [threading.Thread(target=work, args=(camera,)) for camera in ("left", "right")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _until(lambda: publisher.statistics().queued == 0)
    assert publisher.stop()
    lines = [orjson.loads(line) for line in stream.getvalue().splitlines()]
    for camera in ("left", "right"):
        for topic, expected in (
            (TOPICS.result(camera, "inspect"), 60),
            (TOPICS.event(camera, "inspect"), 20),
        ):
            seqs = [line["message"]["seq"] for line in lines if line["topic"] == topic]
            assert seqs == list(range(expected))
        states = [line["message"]["seq"] for line in lines if line["topic"] == TOPICS.state(camera, "inspect")]
        assert states == sorted(states)
        assert states[-1] == 59
    assert lines[0]["message"]["state"] == "online"
    assert lines[-1]["message"]["state"] == "stopped"


def test_an_extra_sink_receives_every_message_once() -> None:
    stream, extra_sink = io.BytesIO(), io.BytesIO()
    publisher = Publisher(JsonLinesSink(stream), identity=IDENTITY, extra_sinks=[JsonLinesSink(extra_sink)])
    publisher.start()
    for message in vitals():
        publisher.offer(message)
    publisher.offer(state_change())
    _until(lambda: publisher.statistics().sent == 8)
    publisher.offer(classification())
    _until(lambda: publisher.statistics().sent == 9)
    publisher.stop()
    assert sorted(extra_sink.getvalue().splitlines())[:-1] == sorted(stream.getvalue().splitlines())[:-1]
    assert b'"stopped"' in extra_sink.getvalue()


def test_on_result_sent_gets_the_time_of_sending() -> None:
    told: list[tuple[int, int]] = []
    publisher = Publisher(
        JsonLinesSink(io.BytesIO()),
        identity=IDENTITY,
        on_result_sent=lambda result, sent_ns: told.append((result.frame_index, sent_ns)),
    )
    publisher.start()
    _until(lambda: publisher.statistics().sent == 1)
    for index in range(3):
        publisher.offer(classification(index))
    _until(lambda: len(told) == 3)
    publisher.stop()
    assert [frame for frame, _ in told] == [0, 1, 2]
    assert all(0 < sent_ns <= time.monotonic_ns() for _, sent_ns in told)


def test_a_result_with_nan_is_dropped_and_the_next_one_is_sent() -> None:
    stream = io.BytesIO()
    publisher = Publisher(JsonLinesSink(stream), identity=IDENTITY)
    publisher.start()
    _until(lambda: publisher.statistics().sent == 1)
    publisher.offer(replace(classification(), margin=float("nan")))
    change = state_change()
    moves = (replace(change.moves[0], confidence=float("nan")),)
    publisher.offer(replace(change, confidence=float("nan"), moves=moves))
    publisher.offer(classification(1))
    _until(lambda: publisher.statistics().sent == 2)
    assert publisher.stop()
    assert publisher.statistics().dropped == {"invalid": 3}
    assert publisher.statistics().failure is None
    assert b'"margin":null' not in stream.getvalue()
    assert b'"confidence":null' not in stream.getvalue()


def test_a_result_that_cannot_be_encoded_is_dropped_and_the_next_one_is_sent() -> None:
    publisher = Publisher(JsonLinesSink(io.BytesIO()), identity=IDENTITY)
    publisher.start()
    _until(lambda: publisher.statistics().sent == 1)
    half = replace(classification().top[0], label="half \ud800")
    publisher.offer(replace(classification(), top=(half,)))
    publisher.offer(replace(classification(), frame_index=1 << 64))
    publisher.offer(classification(2))
    _until(lambda: publisher.statistics().sent == 2)
    assert publisher.stop()
    assert publisher.statistics().dropped == {"invalid": 2}
    assert publisher.statistics().failure is None


def test_a_bug_ends_the_publisher_with_its_reason() -> None:
    failures: list[StageFailed] = []
    publisher = Publisher(JsonLinesSink(io.BytesIO()), identity=IDENTITY, on_failure=failures.append)
    publisher.start()
    publisher.offer(Message(schema="unknown/1", device="d", session=1))
    _until(lambda: bool(failures))
    publisher.offer(classification())
    publisher.stop()
    assert "the catalog has no entry for 'unknown/1'" in (publisher.statistics().failure or "")
    assert failures[0].exit_code == 70
    assert isinstance(failures[0].__cause__, ValueError)
    assert publisher.statistics().dropped["stopped"] == 1


@pytest.mark.parametrize(("refusals", "dropped"), [(10, {}), (10**9, {"stopped": 3})])
def test_results_that_find_no_room_at_the_end_have_half_of_the_drain(refusals: int, dropped: dict[str, int]) -> None:
    class NarrowSink(HeldSink):
        """Has no room for a result at first, and confirms everything else."""

        left = refusals

        def send(self, packet: Packet, key: int | None = None) -> str | None:
            if packet.topic.endswith("/result"):
                self.left -= 1
                if self.left >= 0:
                    return "backlog"
            elif self.listener is not None and key is not None:
                self.listener.on_confirmed(key, None)
            return super().send(packet, key)

    sink = NarrowSink()
    publisher = Publisher(sink, identity=IDENTITY)
    publisher.start()
    publisher.on_connected()
    _until(lambda: publisher.statistics().sent == 1)
    for index in range(3):
        publisher.offer(classification(index))
    assert publisher.stop(2.0)
    assert publisher.statistics().dropped == dropped
    assert sink.topics().count(TOPICS.result("front", "inspect")) == 3 - sum(dropped.values())
    assert b'"stopped"' in sink.taken[-1][0].payload


def test_new_events_overtake_a_backlog_but_never_within_their_topic(bench: Bench) -> None:
    numbers = iter(range(1000))

    def put(topic: str) -> None:
        bench.delivery.event(Packet(topic, b'{"n":%d,"historical":false}' % next(numbers), qos=1))

    for _ in range(WINDOW + 5):
        put("a")
    for _ in range(3 * WINDOW):
        put("b")
    bench.delivery.connected()
    arrived: list[tuple[str, int]] = []
    for _ in range(20):
        bench.delivery.pump()
        arrived += [(packet.topic, orjson.loads(packet.payload)["n"]) for packet, _ in bench.sink.taken]
        bench.confirm_all()
        if len(arrived) < 5 * WINDOW:
            for topic in "abc":
                put(topic)
    assert sorted(number for _, number in arrived) == list(range(next(numbers)))
    for topic in "abc":
        own = [number for one, number in arrived if one == topic]
        assert own == sorted(own)
    first_c = next(place for place, (topic, _) in enumerate(arrived) if topic == "c")
    assert first_c < 2 * WINDOW, "it did not wait for the backlog of the others"
    assert bench.delivery.is_done


def test_a_late_event_keeps_the_clock_state_of_its_time() -> None:
    sink, states = HeldSink(), ["unsynced"]
    publisher = Publisher(
        sink, identity=IDENTITY, clock_state=lambda: "unsynced" if states[-1] == "unsynced" else "synced"
    )
    publisher.start()
    publisher.offer(state_change())
    _until(lambda: publisher.statistics().stored == 1)
    states.append("synced")
    publisher.on_connected()
    _until(lambda: any(topic.endswith("/event") for topic in sink.topics()))
    publisher.offer(state_change("scratch", "dent"))
    _until(lambda: sum(topic.endswith("/event") for topic in sink.topics()) == 2)
    publisher.stop(0.2)
    events = [orjson.loads(packet.payload) for packet, _ in sink.taken if packet.topic.endswith("/event")]
    assert [(event["clock"], event["historical"]) for event in events] == [("unsynced", True), ("synced", False)]
