"""`agent doctor` measures the way to the broker and back, and says what holds messages up."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.config.loader import load_config
from agent.config.model import MqttConfig
from agent.mqtt.settings import settings_from_config
from agent.mqtt.topics import Topics
from agent.tools.doctor.broker import broker_findings
from agent.tools.doctor.broker_way import MESSAGES, finding_from_times, way_finding
from agent.tools.doctor.findings import Finding
from tests.fixtures.agent_process import write_config
from tests.fixtures.mosquitto import MosquittoBroker, free_port
from tests.fixtures.recorder import Recorder

_TOPIC = "edge/dut/doctor/0123"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[MosquittoBroker]:
    with MosquittoBroker(tmp_path / "broker") as running:
        yield running


def _way(directory: Path, url: str, *, top_k: int = 3, detail: str = "compact") -> Finding:
    use = {"model": "inspect", "decide": {"top_k": top_k}}
    config = {
        "models": {"inspect": {"package": "demo"}},
        "cameras": {"belt": {"source": {"type": "pattern"}, "classify": [use]}},
        "mqtt": {"broker": url, "results": {"detail": detail}},
    }
    found = broker_findings(load_config(write_config(directory, config), environ={}))
    assert found[0].state == "ok", found[0].detail
    (way,) = [one for one in found if one.name == "way"]
    return way


@pytest.mark.parametrize(("detail", "size_bytes"), [("compact", 300), ("full", 600 + 4 * 45)])
def test_the_way_is_measured_with_messages_of_a_results_size(
    tmp_path: Path, broker: MosquittoBroker, detail: str, size_bytes: int
) -> None:
    with Recorder(broker.port, ["edge/dut/doctor/#"]) as recorder:
        way = _way(tmp_path, broker.url, top_k=4, detail=detail)
        sizes = {len(one.payload) for one in recorder.wait_count(MESSAGES)}
    assert way.facts["received"] == way.facts["sent"] == MESSAGES
    assert sizes == {way.facts["bytes"]} == {size_bytes}
    assert 0 < float(str(way.facts["p50_ms"])) <= float(str(way.facts["p99_ms"]))


def test_nothing_of_the_measurement_stays_at_the_broker(tmp_path: Path, broker: MosquittoBroker) -> None:
    _way(tmp_path, broker.url)
    with Recorder(broker.port, ["edge/#"]) as recorder:
        recorder.publish("edge/end", b"")
        assert [one.topic for one in recorder.wait_count(1)] == ["edge/end"]


def test_a_broker_that_forbids_the_topic_is_no_fault(tmp_path: Path) -> None:
    acl = "topic readwrite edge/dut/cmd/#\ntopic read edge/+/status\n"
    with MosquittoBroker(tmp_path / "broker", acl=acl) as broker:
        way = _way(tmp_path, broker.url)
    assert way.state == "absent"
    assert "let the agent's user write and read edge/dut/doctor/#" in way.remedy


def test_a_broker_that_allows_no_further_connection_is_no_fault() -> None:
    mqtt = MqttConfig(broker=f"mqtt://127.0.0.1:{free_port()}")
    settings = settings_from_config(mqtt, device="dut", password_file=None)
    way = way_finding(settings, Topics("edge", "dut"), 756)
    assert (way.state, way.is_needed) == ("absent", False)
    assert way.detail.startswith("not measured: ")


@pytest.mark.parametrize(
    ("late", "usual_ms", "state", "words"),
    [
        (0, 0.6, "ok", ""),
        (2, 0.6, "ok", ""),
        (3, 0.6, "warning", "set_tcp_nodelay true"),
        (12, 0.6, "warning", "set_tcp_nodelay true"),
        (50, 90.0, "warning", "look at the network"),
    ],
)
def test_the_finding_names_the_option_that_helps(late: int, usual_ms: float, state: str, words: str) -> None:
    times = [*itertools.repeat(usual_ms, MESSAGES - late), *itertools.repeat(max(43.0, usual_ms), late)]
    finding = finding_from_times(times, _TOPIC, 756)
    assert finding.state == state
    assert words in finding.remedy
    assert finding.facts["late"] == late
    assert not finding.is_needed


def test_messages_that_never_came_back_are_stated() -> None:
    assert finding_from_times([0.5] * 40, _TOPIC, 756).detail.startswith("40 of 50 messages of 756 bytes came back")
    assert finding_from_times([], _TOPIC, 756).state == "absent"
