"""Retained topics are remembered until the broker has confirmed their clearing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from agent.config.model import AgentConfig
from agent.mqtt.base import Packet
from agent.mqtt.topics import CATALOG, Topics
from agent.publish.delivery.counters import DeliveryCounters
from agent.publish.delivery.delivery import Delivery
from agent.publish.delivery.retained_topics import RetainedLedger, retained_topics
from agent.publish.outbox.base import MemoryOutbox
from tests.fixtures.model_broker import ManualClock

FRONT, SIDE = "edge/dut/camera/front/health", "edge/dut/camera/side/inspect/state"


def _topics(file: Path) -> list[str]:
    topics: list[str] = json.loads(file.read_text())["value"]
    return topics


def test_a_topic_stays_in_the_file_until_it_is_cleared(tmp_path: Path) -> None:
    file = tmp_path / "retained.json"
    ledger = RetainedLedger(file)
    ledger.expect([FRONT, SIDE])
    assert _topics(file) == [FRONT, SIDE]
    assert ledger.settle([FRONT]) == [SIDE]
    assert _topics(file) == [FRONT, SIDE]
    ledger.cleared(SIDE)
    ledger.save()
    assert _topics(file) == [FRONT]


def test_the_next_session_clears_topics_that_this_one_could_not(tmp_path: Path) -> None:
    RetainedLedger(tmp_path / "retained.json").expect([FRONT, SIDE])
    following = RetainedLedger(tmp_path / "retained.json")
    following.expect([FRONT])
    assert following.settle([FRONT]) == [SIDE]
    assert (following.is_removed(SIDE), following.is_removed(FRONT)) == (True, False)


def test_a_topic_that_is_used_again_is_not_forgotten_by_a_late_confirmation(tmp_path: Path) -> None:
    ledger = RetainedLedger(tmp_path / "retained.json")
    ledger.expect([FRONT, SIDE])
    ledger.settle([FRONT])
    ledger.expect([FRONT, SIDE])
    ledger.cleared(SIDE)
    ledger.save()
    assert not ledger.is_removed(SIDE)
    assert _topics(tmp_path / "retained.json") == [FRONT, SIDE]


def _config(text: str) -> AgentConfig:
    return AgentConfig.model_validate(yaml.safe_load(text))


CONFIG = """
version: 1
models: {inspect: {package: demo}}
cameras:
  front: {source: {type: pattern}, classify: [{model: inspect}]}
  spare: {source: {type: pattern}, classify: [{model: inspect}], enabled: false}
mqtt: {home_assistant: {enabled: true}}
"""
OF_CONFIG = {
    *(f"edge/dut/{name}" for name in ("status", "runtime", "thermal", "health")),
    "edge/dut/camera/front/health",
    "edge/dut/camera/front/inspect/state",
    "edge/dut/camera/spare/health",
    "homeassistant/device/edge_inference_agent_dut/config",
}


def test_every_retained_topic_is_known_and_read_again(tmp_path: Path) -> None:
    topics = retained_topics(_config(CONFIG), Topics("edge", "dut"))
    assert topics == OF_CONFIG
    RetainedLedger(tmp_path / "retained.json").expect(topics)
    assert set(RetainedLedger(tmp_path / "retained.json").settle([])) == OF_CONFIG


def test_every_retained_message_of_the_catalog_is_known() -> None:
    names = SimpleNamespace(camera="front", classifier="inspect")
    retained = {entry.topic(Topics("edge", "dut"), names) for entry in CATALOG if entry.retain}
    assert retained <= OF_CONFIG


@pytest.mark.parametrize(
    ("other", "gone"),
    [
        (Topics("edge", "new"), OF_CONFIG),
        (Topics("plant/line", "dut"), {one for one in OF_CONFIG if one.startswith("edge/")}),
    ],
)
def test_another_device_id_or_prefix_clears_what_the_old_one_left_until_it_is_confirmed(
    tmp_path: Path, other: Topics, gone: set[str]
) -> None:
    RetainedLedger(tmp_path / "retained.json").expect(retained_topics(_config(CONFIG), Topics("edge", "dut")))
    now = retained_topics(_config(CONFIG), other)
    for _ in range(2):  # the broker was away in the first session
        ledger = RetainedLedger(tmp_path / "retained.json")
        ledger.expect(now)
        assert set(ledger.settle(now)) == gone
    for topic in gone:
        ledger.cleared(topic)
    ledger.save()
    assert RetainedLedger(tmp_path / "retained.json").settle(now) == []


def test_leaving_home_assistant_clears_the_discovery_message(tmp_path: Path) -> None:
    RetainedLedger(tmp_path / "retained.json").expect(OF_CONFIG)
    off = retained_topics(_config(CONFIG.replace("enabled: true}}", "enabled: false}}")), Topics("edge", "dut"))
    cleared = RetainedLedger(tmp_path / "retained.json").settle(off)
    assert cleared == ["homeassistant/device/edge_inference_agent_dut/config"]


def _with(topics: str) -> bytes:
    """The file with these ``topics``, whole otherwise."""
    return f'{{"form": 1, "facts": {{}}, "value": {topics}}}'.encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        _with("5"),
        _with(
            '[null, 7, "", "#", "edge/+/camera/a/health", "x/camera/a/\\u0000/state", "a/health", "edge/dut/event"]'
        ),
        _with('["homeassistant/status", "homeassistant/device/other/config", "homeassistant/sensor/a/config"]'),
        _with('["x/camera/\\ud800/health"]'),
        b"\xff\xfe\x00",
        b"[" * 100_000,
    ],
)
def test_a_file_without_topics_of_an_agent_clears_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "retained.json").write_bytes(content)
    ledger = RetainedLedger(tmp_path / "retained.json")
    ledger.expect([FRONT])
    assert ledger.settle([FRONT]) == []
    assert _topics(tmp_path / "retained.json") == [FRONT]


def test_an_unwritable_directory_leaves_the_list_in_memory(tmp_path: Path) -> None:
    (tmp_path / "retained.json").mkdir()
    ledger = RetainedLedger(tmp_path / "retained.json")
    ledger.expect([FRONT, SIDE])
    assert ledger.settle([FRONT]) == [SIDE]


class Broker:
    """A sink that accepts everything and confirms on request."""

    def __init__(self) -> None:
        self.taken: list[tuple[Packet, int | None]] = []

    def send(self, packet: Packet, key: int | None = None) -> str | None:
        self.taken.append((packet, key))
        return None


class Bench:
    """A connected delivery with a ledger of two topics."""

    def __init__(self, file: Path) -> None:
        self.broker = Broker()
        self.ledger = RetainedLedger(file)
        self.ledger.expect([FRONT, SIDE])
        self.clock = ManualClock()
        self.delivery = Delivery(self.broker, MemoryOutbox(), DeliveryCounters(), ledger=self.ledger, clock=self.clock)  # type: ignore[arg-type]  # of a sink only this is used
        self.delivery.connected()

    def say(self, topic: str, payload: bytes) -> None:
        self.delivery.retain(Packet(topic, payload, 1, retain=True))
        self.delivery.pump()

    def confirm(self, problem: str | None = None) -> list[tuple[str, bytes]]:
        taken, self.broker.taken = self.broker.taken, []
        for _, key in taken:
            self.delivery.confirmed(key or 0, problem)
        return [(packet.topic, packet.payload) for packet, _ in taken]


@pytest.mark.parametrize("problem", [None, "topic_refused"])
def test_a_cleared_topic_is_forgotten_once_the_broker_has_answered_for_good(
    tmp_path: Path, problem: str | None
) -> None:
    bench = Bench(tmp_path / "retained.json")
    bench.say(SIDE, b"1")
    assert bench.ledger.settle([FRONT]) == [SIDE]
    bench.say(SIDE, b"")
    assert bench.confirm(problem) == [(SIDE, b"1"), (SIDE, b"")]
    assert bench.ledger.settle([FRONT]) == []
    bench.delivery.rebirth()
    bench.delivery.pump()
    assert bench.confirm() == []


def test_a_refused_clearing_is_tried_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "retained.json")
    assert bench.ledger.settle([FRONT]) == [SIDE]
    bench.say(SIDE, b"")
    assert bench.confirm("not_authorised") == [(SIDE, b"")]
    assert bench.ledger.settle([FRONT]) == [SIDE]
    bench.clock.advance(60.0)
    bench.delivery.pump()
    assert bench.confirm() == [(SIDE, b"")]
    assert bench.ledger.settle([FRONT]) == []


def test_late_messages_of_a_removed_camera_are_ignored(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "retained.json")
    bench.ledger.settle([FRONT])
    bench.say(SIDE, b"")
    bench.say(SIDE, b"2")
    bench.say(FRONT, b"3")
    assert bench.confirm() == [(SIDE, b""), (FRONT, b"3")]


def test_an_unconfirmed_clearing_is_sent_again_on_the_next_connection(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "retained.json")
    bench.ledger.settle([FRONT])
    bench.say(SIDE, b"")
    bench.broker.taken.clear()
    bench.delivery.disconnected()
    bench.delivery.connected()
    bench.delivery.pump()
    assert bench.confirm() == [(SIDE, b"")]
    assert bench.ledger.settle([FRONT]) == []


def test_a_value_after_the_clearing_survives_its_confirmation(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "retained.json")
    bench.ledger.settle([FRONT])
    bench.say(SIDE, b"")
    bench.ledger.expect([FRONT, SIDE])
    bench.delivery.retain(Packet(SIDE, b"4", 1, retain=True))
    bench.confirm()
    bench.delivery.pump()
    assert bench.confirm() == [(SIDE, b"4")]
    assert bench.ledger.settle([FRONT]) == [SIDE]
