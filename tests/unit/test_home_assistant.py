"""The discovery message fits its documented schema, and removed components are removed in Home Assistant."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog

from agent.config.loader import load_config
from agent.mqtt.base import Packet
from agent.mqtt.messages import Runtime
from agent.publish.discovery import discovery_message
from agent.publish.home_assistant import STUBS_FOR_SESSIONS, HomeAssistant
from tests.fixtures.agent_process import write_config
from tests.fixtures.discovery_schema import problems_of_discovery
from tests.fixtures.publish_samples import DEVICE, IDENTITY, TOPICS, runtime

ALLOWED = ("set", "snapshot")


def _message(**more: Any) -> dict[str, Any]:
    return discovery_message(runtime(), TOPICS, **{"allowed": ALLOWED, "snapshots": True, **more})


def test_the_message_fits_the_documented_schema() -> None:
    assert list(problems_of_discovery(_message())) == []


BREAKS: list[Callable[[dict[str, Any]], object]] = [
    lambda message: message.pop("o"),
    lambda message: message["dev"].pop("ids"),
    lambda message: message["o"].pop("name"),
    lambda message: message.update(state_topic="x"),
    lambda message: message["cmps"]["power"].pop("uniq_id"),
    lambda message: message["cmps"]["power"].update(uniq_id=message["cmps"]["temperature"]["uniq_id"]),
    lambda message: message["cmps"]["power"].update(p="thermometer"),
    lambda message: message["cmps"]["power"].pop("stat_t"),
    lambda message: message["cmps"]["power"].update(obj_id="x"),
    lambda message: message["cmps"]["front_inspect_label"].update(unit_of_meas="x"),
    lambda message: message["cmps"]["front_inspect_label"].pop("ops"),
    lambda message: message["cmps"]["front_image"].pop("img_t"),
]


@pytest.mark.parametrize("break_it", BREAKS)
def test_the_schema_notices_a_breach(break_it: Callable[[dict[str, Any]], object]) -> None:
    message = copy.deepcopy(_message())
    break_it(message)
    assert list(problems_of_discovery(message)) != []


def test_every_documented_entity_exists() -> None:
    parts = _message()["cmps"]
    assert {key: part["p"] for key, part in parts.items()} == {
        "front_connected": "binary_sensor",
        "front_fps": "sensor",
        "front_inspect_label": "sensor",
        "front_inspect_enter": "number",
        "front_rate": "number",
        "front_enabled": "switch",
        "front_image": "image",
        "front_take": "button",
        "inspect_p99": "sensor",
        "temperature": "sensor",
        "power": "sensor",
        "throttling": "binary_sensor",
    }
    assert parts["front_inspect_label"]["ops"] == ["ok", "dent", "scratch", "unknown"]


def test_without_commands_there_are_no_controls() -> None:
    parts = _message(allowed=())["cmps"]
    assert {part["p"] for part in parts.values()} == {"sensor", "binary_sensor"}
    assert "front_image" not in _message(snapshots=False)["cmps"]


def test_every_topic_in_the_discovery_message_exists() -> None:
    parts = _message()["cmps"]
    named = {value for part in parts.values() for key, value in part.items() if key.endswith("_t")}
    assert named == {
        TOPICS.camera_health("front"),
        TOPICS.state("front", "inspect"),
        TOPICS.snapshot("front"),
        TOPICS.runtime,
        TOPICS.latency,
        TOPICS.thermal,
        TOPICS.command("set"),
        TOPICS.command("snapshot"),
    }


def test_commands_of_home_assistant_are_valid() -> None:
    from agent.commands.requests import request_from_payload

    for part in _message()["cmps"].values():
        if "cmd_tpl" not in part:
            continue
        filled = part["cmd_tpl"].replace("{{ now().timestamp() }}", "1800000000.123456")
        filled = filled.replace("{{ now().timestamp() + 30 }}", "1800000030.123456").replace("{{ value }}", "0.5")
        filled = re.sub(r"\{\{ 'true' if value == 'ON' else 'false' \}\}", "true", filled)
        assert "{{" not in filled
        verb = part["cmd_t"].rpartition("/")[2]
        request_from_payload(verb, filled.encode())


class Session:
    """One session of an agent with or without Home Assistant, all on one state directory."""

    def __init__(self, directory: Path, *, enabled: bool = True) -> None:
        config = write_config(
            directory,
            {
                "models": {"inspect": {"package": "demo"}},
                "cameras": {"front": {"source": {"type": "pattern"}, "classify": [{"model": "inspect"}]}},
                "mqtt": {"home_assistant": {"enabled": enabled}},
            },
        )
        self.out: list[Packet] = []
        self.home = HomeAssistant(load_config(config), IDENTITY, self.out.append, directory / "home.json")

    def announce(self, said: Runtime) -> dict[str, Any]:
        self.home.announce(said)
        packet = self.out[-1]
        assert (packet.topic, packet.retain) == (f"homeassistant/device/edge_inference_agent_{DEVICE}/config", True)
        message: dict[str, Any] = orjson.loads(packet.payload)["cmps"]
        return message


def _without_camera() -> Runtime:
    return replace(runtime(), cameras={})


def test_a_removed_component_is_removed_and_then_forgotten(tmp_path: Path) -> None:
    assert "stat_t" in Session(tmp_path).announce(runtime())["front_fps"]
    for _ in range(STUBS_FOR_SESSIONS):
        assert Session(tmp_path).announce(_without_camera())["front_fps"] == {"p": "sensor"}
    assert "front_fps" not in Session(tmp_path).announce(_without_camera())
    assert "stat_t" in Session(tmp_path).announce(runtime())["front_fps"]


def test_a_component_removed_by_a_reload_goes_at_once_and_can_return(tmp_path: Path) -> None:
    session = Session(tmp_path)
    session.announce(runtime())
    assert session.announce(_without_camera())["front_fps"] == {"p": "sensor"}
    assert "stat_t" in session.announce(runtime())["front_fps"]


def test_disabling_removes_the_device_in_several_sessions_and_then_stops(tmp_path: Path) -> None:
    Session(tmp_path).announce(runtime())
    said = []
    # The broker may be away in the first session, and the agent may stop before it is back.
    for _ in range(STUBS_FOR_SESSIONS + 2):
        off = Session(tmp_path, enabled=False)
        off.home.announce(runtime())
        said.append([packet.payload for packet in off.out])
    assert said == [[b""]] * (STUBS_FOR_SESSIONS + 1) + [[]]
    assert not (tmp_path / "home.json").exists()


def test_enabling_again_restores_the_whole_device(tmp_path: Path) -> None:
    for enabled in (True, False):
        Session(tmp_path, enabled=enabled).home.announce(runtime())
    assert "stat_t" in Session(tmp_path).announce(runtime())["front_fps"]
    for _ in range(STUBS_FOR_SESSIONS + 1):
        assert Session(tmp_path).announce(_without_camera()).get("front_fps", {"p": "sensor"}) == {"p": "sensor"}


def test_an_undeletable_file_does_not_end_the_agent(tmp_path: Path) -> None:
    session = Session(tmp_path, enabled=False)
    (tmp_path / "home.json").mkdir()
    with structlog.testing.capture_logs() as logs:
        session.home.announce(runtime())
    assert [packet.payload for packet in session.out] == [b""]
    assert [line["event"] for line in logs] == ["home_assistant.clear_failed"]
