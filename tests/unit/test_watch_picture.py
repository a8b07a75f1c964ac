"""The picture of `agent watch` in the documentation is drawn from messages, and needs nothing but itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

from agent.mqtt.messages import result_from_classification
from agent.mqtt.topics import encode
from agent.tools.watch.fleet import FleetView
from scripts.dev.watch_picture import picture_of
from tests.fixtures.publish_samples import DEVICE, SESSION, TOPICS, camera_health, classification, health, runtime

_SHOWN = Path(__file__).parents[2] / "docs" / "images" / "watch.svg"


def _line(topic: str, message: bytes) -> bytes:
    return json.dumps({"topic": topic, "retain": False, "message": json.loads(message)}).encode()


def _lines() -> list[bytes]:
    result = result_from_classification(classification(7), device=DEVICE, session=SESSION, seq=0, clock_state="synced")
    return [
        _line(TOPICS.status, b'{"state": "online"}'),
        _line(TOPICS.runtime, encode(runtime())),
        _line(TOPICS.health, encode(health())),
        _line(TOPICS.camera_health("front"), encode(camera_health())),
        _line(TOPICS.result("front", "inspect"), encode(result)),
        _line(TOPICS.status, b'{"state": "stopped"}'),
    ]


def _words(svg: str) -> str:
    return " ".join(re.findall(r">([^<>]+)</text>", svg)).replace("&#160;", " ")


def test_the_picture_shows_a_running_agent_and_loads_nothing() -> None:
    svg = picture_of(FleetView("edge"), _lines())
    assert svg is not None
    for word in (DEVICE, "online", "front", "inspect", "MQTT 5", "connected"):
        assert word in _words(svg)
    assert "stopped" not in _words(svg)
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", svg) == []


def test_without_a_result_there_is_no_picture() -> None:
    assert picture_of(FleetView("edge"), _lines()[:4]) is None


def test_the_documentation_shows_a_picture_of_an_agent_at_work() -> None:
    words = _words(_SHOWN.read_text(encoding="utf-8"))
    assert re.search(r"(?s)results/s.* 1[45]\.\d ", words), (
        "write it again on a machine with time: scripts/dev/screenshot"
    )
    assert "up 0 s" not in words
