"""What a refusal delays, and what it never loses; the broker is a model and the clock stands still."""

from __future__ import annotations

import orjson
import pytest
import structlog

from agent.mqtt.base import FINAL_PROBLEMS, Packet
from agent.publish.delivery.delivery import MAX_REPLIES, REPLY_WINDOW, WINDOW
from agent.publish.delivery.held_topics import CLOSES, CLOSES_AGAIN_S, CLOSES_WAIT_S, REFUSED_WAIT_S, HeldTopics
from agent.publish.delivery.suspects import CONNECTIONS, Suspects
from agent.publish.outbox.base import REPLY
from agent.runtime.backoff import STABLE_S
from tests.fixtures.model_broker import RECONNECT_S, TICK_S, ManualClock, ModelBench, once

FRONT, SIDE, STATUS = "front/event", "side/event", "status"


@pytest.fixture
def bench() -> ModelBench:
    return ModelBench()


def _refuse(bench: ModelBench, problem: str | None, *topics: str) -> None:
    bench.broker.refusal = lambda packet: problem if packet.topic in topics else None


@pytest.mark.parametrize("problem", ["not_authorised", "quota_exceeded", "refused"])
def test_a_refused_topic_waits_and_the_others_go_on(bench: ModelBench, problem: str) -> None:
    _refuse(bench, problem, FRONT)
    for _ in range(3 * WINDOW):
        bench.event(FRONT)
    for _ in range(100):
        bench.event(SIDE)
        bench.broker.tick()
    bench.broker.run(1.0)
    assert bench.broker.numbers(SIDE) == list(range(100))
    assert bench.held == {FRONT: problem}
    assert bench.stored == 3 * WINDOW
    assert bench.dropped == {}
    _refuse(bench, None)
    bench.broker.run(REFUSED_WAIT_S[1] + 5.0)
    assert bench.broker.numbers(FRONT) == list(range(3 * WINDOW))
    assert bench.held == {}
    assert bench.broker.connections == 1


def test_events_that_waited_are_late_and_those_after_them_are_not(bench: ModelBench) -> None:
    _refuse(bench, "not_authorised", FRONT)
    bench.event(FRONT)
    bench.broker.run(1.0)
    bench.event(FRONT)
    _refuse(bench, None)
    bench.broker.run(70.0)
    bench.event(FRONT)
    bench.broker.run(1.0)
    assert [orjson.loads(packet.payload)["historical"] for packet in bench.broker.received] == [True, True, False]


def test_a_refused_status_is_sent_again_without_a_new_connection(bench: ModelBench) -> None:
    _refuse(bench, "not_authorised", STATUS)
    bench.value(STATUS)
    bench.broker.run(4.0)
    assert bench.broker.numbers(STATUS) == []
    _refuse(bench, None)
    bench.broker.run(REFUSED_WAIT_S[1])
    assert bench.broker.numbers(STATUS) == [0]
    assert bench.broker.connections == 1


def test_a_refused_value_gives_way_to_a_newer_one_which_counts_it(bench: ModelBench) -> None:
    _refuse(bench, "not_authorised", STATUS)
    for _ in range(3):
        bench.value(STATUS)
        bench.broker.run(0.5)
    _refuse(bench, None)
    bench.broker.run(REFUSED_WAIT_S[1])
    assert bench.broker.numbers(STATUS) == [2]
    assert bench.dropped == {"superseded": 2}


def test_a_value_that_is_refused_after_it_was_replaced_is_counted_once(bench: ModelBench) -> None:
    bench.broker.run(0.1)
    _refuse(bench, "refused", STATUS)
    for _ in range(2):
        bench.value(STATUS)
        bench.delivery.pump()  # both are sent before the answer to the first
    bench.broker.tick()
    _refuse(bench, None)
    bench.broker.run(REFUSED_WAIT_S[1])
    assert bench.broker.numbers(STATUS) == [1]
    assert bench.dropped == {"superseded": 1}


@pytest.mark.parametrize("problem", sorted(FINAL_PROBLEMS))
def test_what_can_never_succeed_is_dropped_counted_and_named(bench: ModelBench, problem: str) -> None:
    _refuse(bench, problem, FRONT, STATUS)
    bench.event(FRONT)
    bench.value(STATUS)
    with structlog.testing.capture_logs() as lines:
        bench.broker.run(1.0)
    assert bench.stored == 0
    assert bench.held == {}
    assert bench.dropped == {problem: 2}
    assert bench.counters.rejected() == {FRONT: problem, STATUS: problem}
    assert sorted((line["event"], line["topic"], line["problem"]) for line in lines) == [
        ("publish.refused", FRONT, problem),
        ("publish.refused", STATUS, problem),
    ]
    _refuse(bench, None)
    bench.event(FRONT)
    bench.broker.run(1.0)
    assert bench.counters.rejected() == {STATUS: problem}


def test_a_value_that_is_too_large_again_and_again_is_logged_once_and_when_it_fits(bench: ModelBench) -> None:
    def health(number: int) -> None:
        full = Packet(STATUS, b'{"n":%d,"x":"%s"}' % (number, b"x" * 400), 1, retain=True)
        bench.delivery.retain(full, Packet(STATUS, b'{"n":%d}' % number, 1, retain=True))
        bench.broker.run(10.0)

    bench.broker.max_bytes = 100
    with structlog.testing.capture_logs() as lines:
        for number in range(5):
            health(number)
        bench.broker.cut()
        bench.broker.max_bytes = 1000
        for number in range(5, 8):
            health(number)
    assert sorted(set(bench.broker.numbers(STATUS))) == list(range(8))
    assert [line["event"] for line in lines] == ["publish.refused", "publish.accepted"]
    assert bench.dropped == {}


def test_after_a_refusal_a_quota_cannot_change_the_order_any_more(bench: ModelBench) -> None:
    _refuse(bench, "quota_exceeded", FRONT)
    bench.event(FRONT)
    bench.broker.run(1.0)
    answers = iter(range(1_000_000))
    bench.broker.refusal = lambda _: "quota_exceeded" if next(answers) % 3 else None
    for _ in range(40):
        bench.event(FRONT)
    bench.broker.run(3000.0, until=lambda: not bench.stored)
    assert bench.broker.numbers(FRONT) == list(range(41))


def test_a_new_connection_tries_refused_topics_at_once(bench: ModelBench) -> None:
    _refuse(bench, "not_authorised", FRONT)
    bench.event(FRONT)
    bench.broker.run(100.0)
    assert bench.delivery.report().held[FRONT].attempts >= 5
    _refuse(bench, None)
    bench.broker.cut()
    bench.broker.run(RECONNECT_S + 3 * TICK_S)
    assert bench.broker.numbers(FRONT) == [0]


def test_another_broker_begins_without_waiting_topics(bench: ModelBench) -> None:
    _refuse(bench, "not_authorised", FRONT)
    bench.event(FRONT)
    bench.broker.run(1.0)
    assert bench.held
    assert bench.counters.denied()
    other = ModelBench().broker
    other.delivery, other.clock = bench.delivery, bench.broker.clock
    bench.delivery.switch_to(other)
    assert bench.held == {}
    assert bench.counters.denied() == {}
    other.run(1.0)
    assert other.numbers(FRONT) == [0]


def test_the_end_waits_for_no_topic_that_is_refused(bench: ModelBench) -> None:
    _refuse(bench, "not_authorised", FRONT, STATUS)
    bench.event(FRONT)
    bench.value(STATUS)
    bench.event(SIDE)
    states = []
    for _ in range(20):
        bench.broker.tick()
        states.append(bench.delivery.is_done)
    assert not states[0]
    assert states[-1]
    assert bench.stored == 1, "its event stays in the outbox"
    bench.delivery.abandon()
    assert bench.dropped == {"stopped": 1}, "the value that never arrived"


def test_waits_grow_to_a_minute_and_start_small_after_a_success() -> None:
    clock = ManualClock()
    held = HeldTopics(clock)
    waits = []
    for _ in range(40):
        waits.append(held.hold(FRONT, "not_authorised"))
        clock.advance(waits[-1])
    assert all(REFUSED_WAIT_S[0] <= wait <= REFUSED_WAIT_S[1] for wait in waits)
    assert waits[0] <= 1.2
    assert max(waits[10:]) > 20.0
    assert len(set(waits)) == len(waits), "many devices do not come back together"
    assert held.release(FRONT)
    assert held.hold(FRONT, "not_authorised") <= 1.2
    closing = [held.hold(FRONT, CLOSES) for _ in range(40)]
    assert CLOSES_WAIT_S[0] <= closing[0] <= 2 * CLOSES_WAIT_S[0], "it may be a wrong alarm"
    assert all(CLOSES_AGAIN_S <= wait <= CLOSES_WAIT_S[1] for wait in closing[1:]), "each costs the connection"
    assert CLOSES_AGAIN_S > STABLE_S


@pytest.mark.parametrize("loses", [False, True])
def test_a_topic_that_ends_the_connection_is_found_and_the_others_go_on(bench: ModelBench, loses: bool) -> None:
    bench.broker.poisoned, bench.broker.loses_confirmations = {FRONT}, loses
    bench.value(STATUS)
    for _ in range(10):
        bench.event(FRONT)
        bench.event(SIDE)
    with structlog.testing.capture_logs() as lines:
        bench.broker.run((CONNECTIONS + 2) * RECONNECT_S + 2.0)
    assert set(bench.broker.numbers(SIDE)) == set(range(10))
    assert bench.held == {FRONT: CLOSES}
    assert [line["topic"] for line in lines if line["event"] == "publish.refused"] == [FRONT]
    connections = bench.broker.connections
    assert connections <= CONNECTIONS + 2
    bench.broker.run(3600.0)
    assert bench.broker.connections - connections <= 25, "it is tried less and less often"
    assert bench.stored == 10
    bench.broker.poisoned = set()
    bench.broker.run(CLOSES_WAIT_S[1] + 5.0)
    assert bench.broker.numbers(FRONT) == list(range(10))


@pytest.mark.parametrize("loses", [False, True])
def test_a_topic_that_is_refused_and_then_closed_on_costs_few_connections(bench: ModelBench, loses: bool) -> None:
    bench.broker.refusal_closes, bench.broker.loses_confirmations = True, loses
    _refuse(bench, "not_authorised", FRONT)
    bench.value(STATUS)
    with structlog.testing.capture_logs() as lines:
        for _ in range(round(70.0 / TICK_S)):
            bench.event(SIDE)
            if bench.put(SIDE) % 20 == 1:
                bench.event(FRONT)
            bench.broker.tick()
    assert bench.held == {FRONT: CLOSES}
    assert bench.broker.connections <= CONNECTIONS + 5
    assert len(once(bench.broker.numbers(SIDE))) >= bench.put(SIDE) - 2
    refused = [(line["topic"], line["problem"]) for line in lines if line["event"] == "publish.refused"]
    assert refused == [(FRONT, "not_authorised"), (FRONT, CLOSES)]
    connections = bench.broker.connections
    bench.broker.run(3600.0)
    assert bench.broker.connections - connections <= 25, "it is tried less and less often"
    _refuse(bench, None)
    bench.broker.run(CLOSES_WAIT_S[1] + 5.0)
    assert bench.held == {}
    assert once(bench.broker.numbers(FRONT)) == list(range(bench.put(FRONT)))


def test_a_refused_topic_that_closes_no_connection_any_more_waits_a_minute_at_most(bench: ModelBench) -> None:
    bench.broker.refusal_closes = True
    _refuse(bench, "not_authorised", FRONT)
    bench.event(FRONT)
    bench.broker.run(30.0)
    assert bench.held == {FRONT: CLOSES}
    bench.broker.refusal_closes = False
    bench.broker.run(2 * CLOSES_WAIT_S[1] + 5.0)
    assert bench.held == {FRONT: "not_authorised"}
    connections = bench.broker.connections
    _refuse(bench, None)
    bench.broker.run(REFUSED_WAIT_S[1] + 5.0)
    assert bench.held == {}
    assert bench.broker.numbers(FRONT) == [0]
    assert bench.broker.connections == connections


@pytest.mark.parametrize("topic", ["front/result", "reply/set"])
def test_a_result_or_a_reply_that_is_refused_and_closed_on_is_set_aside(bench: ModelBench, topic: str) -> None:
    bench.broker.refusal_closes = True
    _refuse(bench, "not_authorised", topic)
    for number in range(round(70.0 / TICK_S)):
        bench.event(SIDE)
        if topic.startswith("reply"):
            if not number % 20:
                bench.delivery.event(Packet(topic, b"{}", 1), REPLY)
        else:
            bench.delivery.stream(Packet(topic, b"{}"))
        bench.broker.tick()
    assert bench.held == {topic: CLOSES}
    assert bench.broker.connections <= 2 * CONNECTIONS + 5
    assert set(bench.broker.numbers(SIDE)) >= set(range(bench.put(SIDE) - 30))


def test_a_refused_topic_does_not_hide_another_that_closes_the_connection(bench: ModelBench) -> None:
    bench.broker.poisoned = {SIDE}
    _refuse(bench, "not_authorised", FRONT)
    for _ in range(10):
        bench.event(FRONT)
        bench.event(SIDE)
        bench.event("back/event")
    bench.broker.run(60.0)
    assert bench.held[SIDE] == CLOSES
    assert bench.broker.numbers("back/event")[-1] == 9
    bench.broker.poisoned = set()
    _refuse(bench, None)
    bench.broker.run(CLOSES_WAIT_S[1] + 5.0)
    assert bench.held == {}
    assert once(bench.broker.numbers(FRONT)) == once(bench.broker.numbers(SIDE)) == list(range(10))


def test_a_result_that_ends_the_connection_is_found(bench: ModelBench) -> None:
    bench.broker.poisoned = {"front/result"}
    sent = 0
    for _ in range(round(20.0 / TICK_S)):
        bench.event(SIDE)
        for topic in ("front/result", "side/result"):
            sent += bench.delivery.stream(Packet(topic, b"{}")) is None
        bench.broker.tick()
    assert bench.held == {"front/result": CLOSES}
    assert bench.broker.numbers(SIDE)[-100:] == list(range(299, 399)), "all but the one on its way"
    assert len([packet for packet in bench.broker.received if packet.topic == "side/result"]) > 200
    assert all(packet.topic != "front/result" for packet in bench.broker.received)


def test_an_unstable_network_sets_nothing_aside_for_long(bench: ModelBench) -> None:
    """The line breaks every second for a minute; nothing is wrong with any topic."""
    for _ in range(30):
        bench.event(FRONT)
        bench.event(SIDE)
        bench.broker.run(RECONNECT_S + 1.0)
        bench.broker.cut()
    bench.broker.run(CLOSES_WAIT_S[0] * 2 + RECONNECT_S + 1.0)
    assert bench.held == {}
    assert set(bench.broker.numbers(FRONT)) == set(bench.broker.numbers(SIDE)) == set(range(30))


def test_a_broker_that_stops_answering_makes_no_topic_a_suspect() -> None:
    suspects, second = Suspects(), 1_000_000_000
    for number in range(10):
        begin_ns = number * 20 * second
        suspects.connected(begin_ns)
        assert suspects.ended([(FRONT, begin_ns)], is_trial=False, now_ns=begin_ns + 6 * second) == []
    assert not suspects.is_doubting


def test_early_ends_long_apart_make_no_topic_a_suspect() -> None:
    suspects, second = Suspects(), 1_000_000_000
    for number in range(10):
        begin_ns = number * 100 * second
        end_ns = begin_ns + round((STABLE_S + 1) * 1e9) if number % 2 else begin_ns + second
        suspects.connected(begin_ns)
        suspects.ended([(FRONT, end_ns)], is_trial=False, now_ns=end_ns)
    assert not suspects.is_doubting


def test_replies_take_no_place_of_events(bench: ModelBench) -> None:
    bench.broker.tick()
    bench.broker.tick()
    for number in range(3 * WINDOW):
        bench.delivery.event(Packet(f"reply/{number}", b"{}", 1), REPLY)
        bench.event(FRONT)
    bench.delivery.pump()
    bench.broker.room = 0
    assert bench.broker.most_unconfirmed == WINDOW + REPLY_WINDOW
    bench.broker.room = 1000
    bench.broker.run(5.0)
    assert bench.broker.numbers(FRONT) == list(range(3 * WINDOW))
    assert bench.stored == 0


def test_replies_are_bounded_and_dropped_first(bench: ModelBench) -> None:
    for number in range(MAX_REPLIES + 50):
        bench.delivery.event(Packet(f"reply/{number % 7}", b"{}", 1), REPLY)
        bench.event(FRONT)
    assert bench.dropped == {"too_many_replies": 50}
    assert bench.stored == MAX_REPLIES + MAX_REPLIES + 50
    bench.broker.run(20.0)
    assert bench.broker.numbers(FRONT) == list(range(MAX_REPLIES + 50))


def test_a_refused_reply_is_not_kept(bench: ModelBench) -> None:
    _refuse(bench, "not_authorised", "reply/set")
    bench.delivery.event(Packet("reply/set", b"{}", 1), REPLY)
    bench.broker.run(1.0)
    assert bench.stored == 0
    assert bench.held == {}
    assert bench.dropped == {"not_authorised": 1}
