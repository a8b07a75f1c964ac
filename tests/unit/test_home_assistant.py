"""The discovery message fits its documented schema, and removed components are removed in Home Assistant."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from agent.commands.requests import Set, request_from_payload
from agent.config.loader import load_config
from agent.mqtt.base import Packet, Received
from agent.mqtt.messages import LabelRuntime, Runtime
from agent.mqtt.topics import Topics
from agent.publish.home_assistant.device import BIRTH_DELAY_S, STUBS_FOR_SESSIONS, HomeAssistant, birth_delay_s
from agent.publish.home_assistant.discovery import MAX_LABELS, discovery_message
from agent.runtime.clock import SystemClock
from tests.fixtures.agent_process import write_config
from tests.fixtures.discovery_schema import problems_of_discovery
from tests.fixtures.publish_samples import DEVICE, IDENTITY, TOPICS, runtime

ALLOWED = ("set", "snapshot", "capture")


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
        "front_capture": "button",
        "inspect_p99": "sensor",
        "temperature": "sensor",
        "power": "sensor",
        "throttling": "binary_sensor",
    }
    assert parts["front_inspect_label"]["ops"] == ["ok", "dent", "scratch", "unknown", "stale"]


def test_without_commands_there_are_no_controls() -> None:
    parts = _message(allowed=())["cmps"]
    assert {part["p"] for part in parts.values()} == {"sensor", "binary_sensor"}
    assert "front_image" not in _message(snapshots=False)["cmps"]


def test_a_camera_with_a_trigger_has_no_number_for_a_rate() -> None:
    plain = runtime()
    triggered = replace(plain, cameras={"front": replace(plain.cameras["front"], rate_hz=None, triggered=True)})
    keys = set(discovery_message(triggered, TOPICS, allowed=ALLOWED, snapshots=True)["cmps"])
    assert set(_message()["cmps"]) - keys == {"front_rate"}


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
        TOPICS.command("capture"),
    }


def test_commands_of_home_assistant_are_valid() -> None:
    for part in _message()["cmps"].values():
        if "cmd_tpl" not in part:
            continue
        filled = part["cmd_tpl"].replace("{{ now().timestamp() }}", "1800000000.123456")
        filled = filled.replace("{{ value }}", "0.5")
        filled = re.sub(r"\{\{ 'true' if value == 'ON' else 'false' \}\}", "true", filled)
        assert "{{" not in filled
        verb = part["cmd_t"].rpartition("/")[2]
        # A button must work however far the two clocks are apart.
        assert request_from_payload(verb, filled.encode()).expires_at is None


class SetClock(SystemClock):
    """Monotonic time that stands still."""

    now_ns = 0

    def monotonic_ns(self) -> int:
        return self.now_ns


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
        self.rebirths = 0
        self.clock = SetClock()
        self.home = HomeAssistant(
            load_config(config),
            IDENTITY,
            self.out.append,
            directory / "home.json",
            rebirth=self._rebirth,
            clock=self.clock,
        )

    def pass_s(self, seconds: float) -> None:
        self.clock.now_ns += int(seconds * 1e9)
        self.home.tick()

    def _rebirth(self) -> None:
        self.rebirths += 1

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


def test_enabling_again_restores_the_whole_device(tmp_path: Path) -> None:
    for enabled in (True, False):
        Session(tmp_path, enabled=enabled).home.announce(runtime())
    assert "stat_t" in Session(tmp_path).announce(runtime())["front_fps"]
    for _ in range(STUBS_FOR_SESSIONS + 1):
        assert Session(tmp_path).announce(_without_camera()).get("front_fps", {"p": "sensor"}) == {"p": "sensor"}


def test_a_disabled_one_announces_nothing(tmp_path: Path) -> None:
    session = Session(tmp_path, enabled=False)
    session.home.announce(runtime())
    assert session.out == []


def _birth(payload: bytes = b"online", *, retain: bool = False) -> Received:
    return Received("homeassistant/status", payload, 1, retain)


def test_a_start_of_home_assistant_is_answered_once_and_later(tmp_path: Path) -> None:
    session = Session(tmp_path)
    for message in (_birth(b"offline"), _birth(retain=True)):
        session.home.on_status(message)
        session.pass_s(10)
    assert session.rebirths == 0
    for _ in range(1000):
        session.home.on_status(_birth())
    session.pass_s(BIRTH_DELAY_S[0] * 0.99)
    assert session.rebirths == 0
    session.pass_s(BIRTH_DELAY_S[1])
    session.pass_s(BIRTH_DELAY_S[1])
    assert session.rebirths == 1
    session.home.on_status(_birth())
    session.pass_s(BIRTH_DELAY_S[1])
    assert session.rebirths == 2


def test_a_hundred_devices_do_not_answer_at_once() -> None:
    delays = sorted(birth_delay_s(f"line-{number}") for number in range(100))
    assert delays == sorted(birth_delay_s(f"line-{number}") for number in range(100))
    assert BIRTH_DELAY_S[0] <= delays[0] < 1.0
    assert 4.5 < delays[-1] <= BIRTH_DELAY_S[1]
    most_in_a_second = max(sum(start <= one < start + 1 for one in delays) for start in delays)
    assert most_in_a_second < 45


def _named(cameras: Sequence[tuple[str, str]], device: str = DEVICE) -> dict[str, Any]:
    """The message for these cameras, each with one classifier."""
    use = runtime().cameras["front"]
    several: dict[str, dict[str, Any]] = {}
    for camera, classifier in cameras:
        several.setdefault(camera, {})[classifier] = use.classifiers["inspect"]
    said = replace(
        runtime(),
        device=device,
        cameras={camera: replace(use, classifiers=classifiers) for camera, classifiers in several.items()},
    )
    return discovery_message(said, Topics("edge", device), allowed=ALLOWED, snapshots=True)


COLLIDING = [
    [("a.b", "x"), ("a_b", "x"), ("a-b", "x")],
    [("door", "left_defect"), ("door_left", "defect")],
    [("a", "b.c"), ("a.b", "c"), ("a", "b_c"), ("a_b", "c"), ("a", "b_dot_c"), ("a_dot_b", "c")],
    [("a", "b__c"), ("a__b", "c"), ("a_", "b"), ("a", "b_")],
    [("a", "classifier_b"), ("a_classifier", "b")],
]


@pytest.mark.parametrize("cameras", COLLIDING)
def test_names_that_look_alike_do_not_collide(cameras: list[tuple[str, str]]) -> None:
    message = _named(cameras)
    assert list(problems_of_discovery(message)) == []
    parts = message["cmps"]
    assert all(re.fullmatch("[a-zA-Z0-9_-]+", key) for key in parts)
    labels = {part["stat_t"] for key, part in parts.items() if key.endswith("_label")}
    assert labels == {TOPICS.state(camera, classifier) for camera, classifier in cameras}
    connected = {part["stat_t"] for key, part in parts.items() if key.endswith("_connected")}
    assert connected == {TOPICS.camera_health(camera) for camera, _ in cameras}


def test_a_name_without_underscores_or_dots_is_the_start_of_its_keys() -> None:
    assert {"door-1_left-2_label", "door-1_fps"} <= _named([("door-1", "left-2")])["cmps"].keys()


NAMES = st.text(alphabet="ab._-", min_size=1, max_size=5).map(lambda text: f"a{text}")
DEVICES = st.text(alphabet="ab_-", max_size=4).map(lambda text: f"a{text}")


@given(st.tuples(DEVICES, NAMES, NAMES), st.tuples(DEVICES, NAMES, NAMES))
def test_every_entity_of_every_device_has_an_id_of_its_own(
    first: tuple[str, str, str], second: tuple[str, str, str]
) -> None:
    ids = [
        {part["uniq_id"] for part in _named([(camera, classifier)], device)["cmps"].values()}
        for device, camera, classifier in (first, second)
    ]
    labels = [{one for one in some if one.endswith(("_label", "_enter"))} for some in ids]
    of_cameras = [{one for one in some if one.endswith(("_fps", "_rate"))} for some in ids]
    of_boards = [{one for one in some if one.endswith(("_power", "_temperature"))} for some in ids]
    assert (labels[0] & labels[1] == set()) == (first != second)
    assert (of_cameras[0] & of_cameras[1] == set()) == (first[:2] != second[:2])
    assert (of_boards[0] & of_boards[1] == set()) == (first[0] != second[0])


@pytest.mark.parametrize(("count", "is_left_out"), [(100, False), (1000, True)])
def test_too_many_labels_for_the_recorder_are_left_out_and_reported(
    tmp_path: Path, count: int, *, is_left_out: bool
) -> None:
    said = runtime()
    model = replace(said.models["inspect"], labels=tuple(f"label number {number:04}" for number in range(count)))
    session = Session(tmp_path)
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            parts = session.announce(replace(said, models={"inspect": model}))
    label = parts["front_inspect_label"]
    assert ("ops" in label, "dev_cla" in label) == (not is_left_out, not is_left_out)
    assert [line["event"] for line in logs] == ["home_assistant.options_left_out"] * is_left_out
    assert list(problems_of_discovery(orjson.loads(session.out[-1].payload))) == []


def _several(*labels: str) -> Runtime:
    """A birth message whose classifier finds several labels."""
    said = runtime()
    rules = {label: LabelRuntime(enter=0.6, exit=0.4, needed=3) for label in labels}
    model = replace(said.models["inspect"], labels=labels, task="multi_label")
    front = said.cameras["front"]
    use = replace(front.classifiers["inspect"], labels=rules)
    return replace(said, models={"inspect": model}, cameras={"front": replace(front, classifiers={"inspect": use})})


def test_each_of_several_labels_is_a_binary_sensor_with_a_threshold() -> None:
    message = discovery_message(_several("helmet", "hard hat"), TOPICS, allowed=ALLOWED, snapshots=True)
    assert list(problems_of_discovery(message)) == []
    parts = message["cmps"]
    assert "front_inspect_enter" not in parts, "no label has this threshold"
    assert parts["front_inspect_label"]["p"] == "sensor"
    sensor = parts["front_inspect_HAS_hard_20_hat"]
    assert (sensor["p"], sensor["stat_t"]) == ("binary_sensor", TOPICS.state("front", "inspect"))
    template = "{{ None if value_json.label else 'ON' if 'hard hat' in value_json.labels else 'OFF' }}"
    assert sensor["val_tpl"] == template
    number = parts["front_inspect_ENTER_hard_20_hat"]
    assert "labels['hard hat'].enter" in number["val_tpl"]
    filled = number["cmd_tpl"].replace("{{ now().timestamp() }}", "1").replace("{{ value }}", "0.5")
    request = request_from_payload("set", filled.replace("{{ 'hard hat' | tojson }}", '"hard hat"').encode())
    assert isinstance(request, Set)
    assert (request.label, request.enter, request.keep) == ("hard hat", 0.5, True)


@pytest.mark.parametrize("label", ["d'or", "{{ 7 * 7 }}", "{% raw %}", "a\\b", "line\nbreak", "日本 😀", '"', "'"])
def test_no_label_can_write_into_a_template(label: str) -> None:
    parts = discovery_message(_several(label), TOPICS, allowed=ALLOWED, snapshots=True)["cmps"]
    (sensor,) = (part for key, part in parts.items() if "_HAS_" in key)
    (number,) = (part for key, part in parts.items() if "_ENTER_" in key)
    for template in (sensor["val_tpl"], number["val_tpl"]):
        inside = template.removeprefix("{{").removesuffix("}}")
        assert not re.search(r"[{}\n]|%}", inside)
        # Jinja reads a text as Python does.
        texts = [ast.literal_eval(one) for one in re.findall(r"'(?:[^'\\]|\\.)*'", template)]
        assert label in texts
    assert number["cmd_tpl"].count("{{") == number["cmd_tpl"].count("}}") == 3


LABEL_NAMES = st.text(alphabet="aA .-_20'é", min_size=1, max_size=4)


@given(LABEL_NAMES, LABEL_NAMES)
def test_every_label_has_entities_of_its_own(first: str, second: str) -> None:
    parts = discovery_message(_several(first, second), TOPICS, allowed=ALLOWED, snapshots=True)["cmps"]
    assert all(re.fullmatch("[a-zA-Z0-9_-]+", key) for key in parts)
    assert len([key for key in parts if "_HAS_" in key]) == len({first, second})


def test_more_labels_than_entities_are_left_out_and_reported_once(tmp_path: Path) -> None:
    session = Session(tmp_path)
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            parts = session.announce(_several(*(f"label-{number}" for number in range(MAX_LABELS + 1))))
    assert len([key for key in parts if "_HAS_" in key]) == MAX_LABELS
    assert [(line["event"], line["classifiers"]) for line in logs] == [
        ("home_assistant.labels_left_out", ("front/inspect",))
    ]
