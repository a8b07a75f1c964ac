"""A publisher that switches to another sink; the sinks are fakes."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
import pytest

from agent.mqtt.base import LineStatistics, Packet, SinkListener, SinkStatistics
from agent.publish.listener_gate import ListenerGate
from agent.publish.publisher import Publisher
from tests.fixtures.deadlines import wait_until
from tests.fixtures.publish_samples import IDENTITY, TOPICS, classification, state_change


class Sink:
    """Accepts packets once the test connects it, and confirms them at once unless ``is_mute``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.taken: list[Packet] = []
        self.listener: SinkListener | None = None
        self.is_mute = False
        self.is_stopped = False

    def start(self, listener: SinkListener) -> None:
        self.listener = listener

    def connect(self) -> None:
        wait_until(lambda: self.listener is not None)
        assert self.listener is not None
        self.listener.on_connected()

    def send(self, packet: Packet, key: int | None = None) -> str | None:
        self.taken.append(packet)
        if key is not None and not self.is_mute and self.listener is not None:
            self.listener.on_confirmed(key, None)
        return None

    def stop(self, timeout_s: float) -> bool:
        self.is_stopped = True
        return True

    def statistics(self) -> SinkStatistics:
        return SinkStatistics("connected", self.name, None, 0, None, 0, 0)

    def line(self) -> LineStatistics:
        return LineStatistics(None, 0)

    def of(self, kind: str) -> list[int]:
        return [orjson.loads(packet.payload)["seq"] for packet in self.taken if packet.topic.endswith(kind)]

    def statuses(self) -> list[tuple[str, str | None]]:
        found = [orjson.loads(packet.payload) for packet in self.taken if packet.topic == TOPICS.status]
        return [(status["state"], status["reason"]) for status in found]


class Pair:
    def __init__(self) -> None:
        self.old, self.new = Sink("old"), Sink("new")
        self.publisher = Publisher(self.old, identity=IDENTITY)
        self.publisher.start()
        self.old.connect()
        wait_until(lambda: self.old.statuses() == [("online", None)])
        self.say()
        wait_until(lambda: self.old.of("/result") == [0])

    def say(self) -> None:
        self.publisher.offer(classification())


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    assert made.publisher.stop(2.0)
    assert made.publisher.failure is None


def test_the_old_sink_gets_moved_and_the_new_one_online(pair: Pair) -> None:
    pair.publisher.move(pair.new, grace_s=0.0)
    pair.new.connect()
    wait_until(lambda: pair.new.statuses() == [("online", None)])
    assert pair.old.statuses() == [("online", None), ("stopped", "moved")]
    assert pair.old.is_stopped
    assert pair.publisher.statistics().connection.address == "new"


def test_results_wait_for_the_new_connection(pair: Pair) -> None:
    pair.publisher.move(pair.new, grace_s=0.0)
    wait_until(lambda: pair.new.listener is not None)
    for _ in range(20):
        pair.say()
    pair.new.connect()
    wait_until(lambda: pair.new.of("/result") == list(range(1, 21)))
    assert pair.publisher.statistics().dropped == {}


def test_an_event_that_the_old_sink_never_confirmed_goes_to_the_new_one(pair: Pair) -> None:
    pair.old.is_mute = True
    pair.publisher.offer(state_change())
    wait_until(lambda: pair.old.of("/event") == [0])
    pair.publisher.move(pair.new, grace_s=0.0)
    pair.new.connect()
    wait_until(lambda: pair.new.of("/event") == [0])
    wait_until(lambda: pair.publisher.statistics().stored == 0)


def test_calls_of_the_old_sink_are_ignored(pair: Pair) -> None:
    pair.publisher.move(pair.new, grace_s=0.0)
    pair.new.connect()
    wait_until(lambda: pair.new.statuses() == [("online", None)])
    assert pair.old.listener is not None
    pair.old.listener.on_failed(RuntimeError("it hung, and then fell"))
    pair.old.listener.on_disconnected("gone")
    pair.old.listener.on_connected()
    pair.say()
    wait_until(lambda: pair.new.of("/result") == [1])
    assert pair.new.statuses() == [("online", None)]


def test_a_stop_within_the_grace_time_ends_at_the_old_sink(pair: Pair) -> None:
    pair.publisher.move(pair.new, grace_s=60.0)
    assert pair.publisher.stop(2.0)
    assert pair.old.statuses() == [("online", None), ("stopped", None)]
    assert pair.new.listener is None


def test_a_stop_does_not_wait_for_a_new_sink_to_connect(pair: Pair) -> None:
    pair.publisher.move(pair.new, grace_s=0.0)
    wait_until(lambda: pair.new.listener is not None)
    pair.say()
    assert pair.publisher.stop(2.0)
    assert pair.publisher.statistics().dropped["disconnected"] == 1


def test_the_last_of_several_moves_counts(pair: Pair) -> None:
    never, last = Sink("never"), pair.new
    pair.publisher.move(never, grace_s=60.0)
    pair.publisher.move(last, grace_s=0.0)
    last.connect()
    wait_until(lambda: last.statuses() == [("online", None)])
    assert never.listener is None


def test_results_that_wait_for_a_sink_follow_the_next_move(pair: Pair) -> None:
    deaf = Sink("deaf")
    pair.publisher.move(deaf, grace_s=0.0)
    wait_until(lambda: deaf.listener is not None)
    pair.say()
    pair.publisher.offer(state_change())
    pair.publisher.move(pair.new, grace_s=0.0)
    pair.new.connect()
    wait_until(lambda: pair.new.of("/result") == [1] and pair.new.of("/event") == [0])
    assert deaf.is_stopped
    assert deaf.taken == []
    # The status `online` for a broker that never answered.
    assert pair.publisher.statistics().dropped == {"superseded": 1}


def test_a_stop_during_a_move_starts_no_new_sink(pair: Pair) -> None:
    pair.old.is_mute = True
    pair.publisher.move(pair.new, grace_s=0.0)
    wait_until(lambda: pair.old.statuses()[-1] == ("stopped", "moved"))
    assert pair.publisher.stop(2.0)
    assert pair.old.is_stopped
    assert pair.new.listener is None


def test_a_closed_listener_gate_passes_nothing_on() -> None:
    heard: list[str] = []

    class Listener:
        def on_connected(self) -> None:
            heard.append("connected")

        def on_disconnected(self, reason: str) -> None:
            heard.append(reason)

        def on_confirmed(self, key: int, problem: str | None) -> None:
            heard.append(f"{key}")

        def on_failed(self, error: BaseException) -> None:
            heard.append(f"{error}")

    gate = ListenerGate(Listener())
    gate.on_connected()
    gate.on_confirmed(1, None)
    gate.close()
    gate.on_confirmed(2, None)
    gate.on_disconnected("lost")
    gate.on_failed(OSError("fell"))
    assert heard == ["connected", "1"]
