"""The publisher and its connection against a broker that closes the connection on a topic, or refuses for a while."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from agent.config.broker_address import BrokerAddress
from agent.config.loader import LoadedConfig, load_config
from agent.mqtt.client import MqttClient
from agent.mqtt.settings import MqttSettings
from agent.publish.delivery.held_topics import CLOSES
from agent.publish.delivery.suspects import CONNECTIONS
from agent.publish.publisher import Publisher
from agent.publish.uplink import Uplink
from agent.runtime.clock import SystemClock
from tests.fixtures.agent_process import write_config
from tests.fixtures.deadlines import wait_until
from tests.fixtures.mqtt_packets import Property
from tests.fixtures.publish_samples import IDENTITY, TOPICS, classification, runtime, state_change
from tests.fixtures.recording_broker import RecordingBroker
from tests.fixtures.recording_link import NOT_AUTHORISED

FRONT, SIDE = TOPICS.event("front", "inspect"), TOPICS.event("side", "inspect")


@pytest.fixture
def broker() -> Iterator[RecordingBroker]:
    with RecordingBroker() as running:
        yield running


@pytest.fixture
def publisher(broker: RecordingBroker) -> Iterator[Publisher]:
    settings = MqttSettings(address=BrokerAddress("127.0.0.1", broker.port), client_id="line-3", backoff_base_s=0.02)
    made = Publisher(MqttClient(settings, will=IDENTITY.status("offline")), identity=IDENTITY)
    yield made
    assert made.stop(2.0)
    assert made.failure is None


def _seqs(broker: RecordingBroker, topic: str) -> list[int]:
    return [orjson.loads(one.payload)["seq"] for one in broker.published(topic, is_accepted=True)]


def _say(publisher: Publisher, count: int) -> None:
    for number in range(count):
        publisher.offer(state_change(f"{number}", f"{number - 1}"))
        publisher.offer(state_change(f"{number}", f"{number - 1}", camera="side"))


def test_a_topic_on_which_an_old_broker_closes_does_not_stop_the_others(
    broker: RecordingBroker, publisher: Publisher
) -> None:
    broker.version_5, broker.poison = "refused", (FRONT,)
    publisher.start()
    publisher.offer(runtime())
    _say(publisher, 10)
    wait_until(lambda: set(_seqs(broker, SIDE)) == set(range(10)), within_s=20.0)
    wait_until(lambda: publisher.statistics().delivery.held.keys() == {FRONT})
    assert publisher.statistics().delivery.held[FRONT].reason == CLOSES
    wait_until(lambda: publisher.statistics().stored == 10)
    publisher.offer(state_change("last", "9", camera="side"))
    wait_until(lambda: _seqs(broker, SIDE)[-1] == 10)
    for index in range(5):
        publisher.offer(classification(index, camera="side"))
    wait_until(lambda: len(_seqs(broker, TOPICS.result("side", "inspect"))) == 5)
    wait_until(lambda: broker.connected == 1)
    assert list(dict.fromkeys(_seqs(broker, SIDE))) == list(range(11))
    assert publisher.statistics().dropped.keys() <= {"superseded"}


def test_a_topic_that_is_refused_and_closed_on_does_not_stop_the_others(
    broker: RecordingBroker, publisher: Publisher
) -> None:
    broker.refusal_closes = True
    broker.refuse(FRONT, NOT_AUTHORISED)
    publisher.start()
    publisher.offer(runtime())
    _say(publisher, 10)
    wait_until(lambda: publisher.statistics().delivery.held.keys() == {FRONT})
    wait_until(lambda: publisher.statistics().delivery.held[FRONT].reason == CLOSES, within_s=30.0)
    connects = len(broker.connects)
    # Where the connection is lost before a refusal is read, it counts as an early end, not as one after a refusal.
    assert connects <= 2 * CONNECTIONS
    publisher.offer(state_change("last", "9", camera="side"))
    wait_until(lambda: set(_seqs(broker, SIDE)) == set(range(11)))
    for index in range(5):
        publisher.offer(classification(index, camera="side"))
    wait_until(lambda: len(_seqs(broker, TOPICS.result("side", "inspect"))) == 5)
    assert len(broker.connects) <= connects + 1
    assert publisher.statistics().delivery.held.keys() == {FRONT}
    assert publisher.statistics().stored == 10
    assert publisher.statistics().dropped.keys() <= {"superseded"}


def test_a_quota_that_is_used_up_for_a_while_loses_nothing(broker: RecordingBroker, publisher: Publisher) -> None:
    publisher.start()
    publisher.offer(runtime())
    wait_until(lambda: publisher.statistics().sent >= 2)
    broker.refuse("#", 0x97, for_s=1.0)
    _say(publisher, 20)
    wait_until(lambda: len(_seqs(broker, FRONT)) == len(_seqs(broker, SIDE)) == 20, within_s=20.0)
    assert _seqs(broker, FRONT) == _seqs(broker, SIDE) == list(range(20))
    assert publisher.statistics().refused["quota_exceeded"] >= 2
    assert publisher.statistics().dropped.keys() <= {"superseded"}
    assert len(broker.connects) == 1


def test_events_and_values_pass_a_window_of_one(broker: RecordingBroker, publisher: Publisher) -> None:
    broker.grants = {Property.RECEIVE_MAXIMUM: 1}
    publisher.start()
    _say(publisher, 30)
    wait_until(lambda: len(_seqs(broker, FRONT)) == len(_seqs(broker, SIDE)) == 30)
    wait_until(lambda: publisher.statistics().stored == 0)
    last = TOPICS.state("side", "inspect")
    wait_until(lambda: _seqs(broker, last)[-1] == 29)
    assert broker.violations == []


def test_a_reload_changes_the_limit_at_once_and_loses_nothing(broker: RecordingBroker, tmp_path: Path) -> None:
    def load(**mqtt: object) -> LoadedConfig:
        camera = {"source": {"type": "pattern"}, "classify": [{"model": "inspect"}]}
        parts = {"models": {"inspect": {"package": "demo"}}, "cameras": {"front": camera}}
        return load_config(write_config(tmp_path, {**parts, "mqtt": {"broker": broker.url, **mqtt}}))

    limited = load(max_rate={"messages_hz": 2.0})
    limited.state_dir.mkdir()
    uplink = Uplink(limited, IDENTITY, clock=SystemClock(), extra_sinks=(), on_result_sent=lambda *_: None)
    publisher = uplink.publisher
    publisher.start()
    try:
        wait_until(lambda: publisher.statistics().sent >= 1)
        _say(publisher, 20)
        for index in range(20):
            publisher.offer(classification(index))
        wait_until(lambda: publisher.statistics().dropped.get("max_rate", 0) == 20)
        assert publisher.statistics().stored >= 30
        apply_change = uplink.prepare(load())
        assert apply_change is not None
        apply_change()
        wait_until(lambda: publisher.statistics().stored == 0)
        assert _seqs(broker, FRONT) == _seqs(broker, SIDE) == list(range(20))
        assert len(broker.connects) == 1
    finally:
        uplink.close()
