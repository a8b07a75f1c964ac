"""Whatever the broker refuses and however it does it: nothing is lost, and each topic stays in order."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.mqtt.base import Packet
from agent.publish.delivery.delivery import WINDOW
from agent.publish.delivery.held_topics import CLOSES
from agent.publish.delivery.suspects import CONNECTIONS
from tests.fixtures.model_broker import RECONNECT_S, TICK_S, ModelBench, once

EVENTS = tuple(f"event/{name}" for name in "abcdef")
VALUES = tuple(f"value/{name}" for name in "abcd")
SEEDS = st.integers(min_value=0, max_value=1 << 32)


def _fill(bench: ModelBench, chance: random.Random, count: int) -> None:
    for _ in range(count):
        bench.event(chance.choice(EVENTS))
        bench.value(chance.choice(VALUES))


@settings(max_examples=25)
@given(
    poisoned=st.sets(st.sampled_from(EVENTS + VALUES), min_size=1, max_size=4),
    loses=st.booleans(),
    room=st.sampled_from([1, 2, 5, 1000]),
    seed=SEEDS,
)
def test_only_the_topics_that_end_connections_are_set_aside(
    poisoned: set[str], loses: bool, room: int, seed: int
) -> None:
    chance, bench = random.Random(seed), ModelBench(seed)
    broker = bench.broker
    broker.poisoned, broker.loses_confirmations, broker.room = poisoned, loses, room
    _fill(bench, chance, 60)
    good = [topic for topic in EVENTS if topic not in poisoned]

    def is_drained() -> bool:
        return all(len(set(broker.numbers(topic))) == bench.put(topic) for topic in good)

    messages = 120 + len(EVENTS + VALUES) * 20
    limit_s = (CONNECTIONS + len(poisoned) + 1) * (RECONNECT_S + TICK_S) + messages * TICK_S
    broker.run(limit_s, until=is_drained)
    assert is_drained(), "the good topics do not wait for the others"
    assert set(bench.held) <= poisoned, "no innocent topic is set aside"
    assert set(bench.held.values()) <= {CLOSES}
    _fill(bench, chance, 20)
    broker.run(120.0)
    assert is_drained()
    assert set(bench.held) == {topic for topic in poisoned if bench.put(topic)}
    assert bench.stored == sum(bench.put(topic) for topic in poisoned if topic in EVENTS), "nothing is lost"
    broker.poisoned = set()
    broker.run(700.0, until=lambda: not bench.held and not bench.stored)
    broker.run(1.0)
    for topic in EVENTS:
        numbers = broker.numbers(topic)
        assert once(numbers) == list(range(bench.put(topic))), "each topic stays in order"
        assert max(Counter(numbers).values(), default=1) <= broker.connections
    for topic in VALUES:
        assert not bench.put(topic) or broker.numbers(topic)[-1] == bench.put(topic) - 1
    events = sum(len(broker.numbers(topic)) for topic in EVENTS)
    assert events - sum(bench.put(topic) for topic in EVENTS) <= WINDOW * (broker.connections - 1)
    assert bench.dropped.keys() <= {"superseded"}


@settings(max_examples=25)
@given(
    spans=st.lists(
        st.tuples(
            st.sampled_from(EVENTS + VALUES),
            st.floats(min_value=0.0, max_value=20.0),
            st.floats(min_value=0.2, max_value=20.0),
            st.sampled_from(["not_authorised", "quota_exceeded", "refused"]),
        ),
        max_size=8,
    ),
    seed=SEEDS,
)
def test_a_refusal_that_passes_loses_nothing_and_keeps_the_order(
    spans: list[tuple[str, float, float, str]], seed: int
) -> None:
    chance, bench = random.Random(seed), ModelBench(seed)
    broker = bench.broker
    start_ns = broker.clock.now_ns

    def refusal(packet: Packet) -> str | None:
        at_s = (broker.clock.now_ns - start_ns) / 1e9
        return next(
            (why for topic, begin_s, long_s, why in spans if topic == packet.topic and 0 <= at_s - begin_s < long_s),
            None,
        )

    broker.refusal = refusal
    for _ in range(300):
        _fill(bench, chance, 1)
        broker.run(0.1)
    broker.run(130.0, until=lambda: broker.is_connected and bench.delivery.is_done and not bench.held)
    assert bench.held == {}
    assert broker.connections == 1, "no new connection was needed"
    for topic in EVENTS:
        assert broker.numbers(topic) == list(range(bench.put(topic)))
    for topic in VALUES:
        assert broker.numbers(topic)[-1] == bench.put(topic) - 1
    assert bench.dropped.keys() <= {"superseded"}


@settings(max_examples=25)
@given(share=st.floats(min_value=0.0, max_value=0.6), cuts=st.sampled_from([0.0, 0.01, 0.05]), seed=SEEDS)
def test_random_refusals_and_cuts_lose_nothing(share: float, cuts: float, seed: int) -> None:
    chance, bench = random.Random(seed), ModelBench(seed)
    broker = bench.broker
    broker.refusal = lambda _: "quota_exceeded" if chance.random() < share else None
    for _ in range(200):
        _fill(bench, chance, 1)
        broker.tick()
        if broker.is_connected and chance.random() < cuts:
            broker.cut()
    broker.refusal = lambda _: None
    broker.run(700.0, until=lambda: broker.is_connected and bench.delivery.is_done and not bench.held)
    for topic in EVENTS:
        assert set(broker.numbers(topic)) == set(range(bench.put(topic)))
    for topic in VALUES:
        assert broker.numbers(topic)[-1] == bench.put(topic) - 1
    assert bench.stored == 0
    assert bench.dropped.keys() <= {"superseded"}


@settings(max_examples=25)
@given(
    denied=st.sets(st.sampled_from(EVENTS + VALUES), min_size=1, max_size=4),
    room=st.sampled_from([1, 2, 5, 1000]),
    seed=SEEDS,
)
def test_only_the_topics_whose_refusals_end_connections_are_set_aside(denied: set[str], room: int, seed: int) -> None:
    chance, bench = random.Random(seed), ModelBench(seed)
    broker = bench.broker
    broker.refusal_closes, broker.room = True, room
    broker.refusal = lambda packet: "not_authorised" if packet.topic in denied else None
    _fill(bench, chance, 60)
    for _ in range(120):
        _fill(bench, chance, 1)
        broker.run(1.0)
        assert set(bench.held) <= denied, "no innocent topic is set aside"
    assert broker.connections <= (CONNECTIONS + 6) * len(denied) + 1
    for topic in set(EVENTS) - denied:
        assert len(set(broker.numbers(topic))) >= bench.put(topic) - 2, "the good topics do not wait for the others"
    assert bench.stored >= sum(bench.put(topic) for topic in denied if topic in EVENTS), "nothing is lost"
    broker.refusal = lambda _: None
    broker.run(700.0, until=lambda: not bench.held and not bench.stored)
    broker.run(1.0)
    assert not bench.held
    for topic in EVENTS:
        assert once(broker.numbers(topic)) == list(range(bench.put(topic))), "each topic stays in order"
    for topic in VALUES:
        assert not bench.put(topic) or broker.numbers(topic)[-1] == bench.put(topic) - 1
    assert bench.dropped.keys() <= {"superseded"}
