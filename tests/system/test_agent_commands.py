"""Commands to a whole agent: each verb takes effect, and says so."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
import orjson
import paho.mqtt.publish
import pytest
import yaml

from agent.commands.schemas import message_schemas
from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.recorder import Recorder

pytestmark = pytest.mark.timeout(120)

VERBS = ["snapshot", "set", "reload", "rebirth", "selftest", "benchmark", "explain"]
_ids = itertools.count()


def _config(broker: MosquittoBroker, **camera: Any) -> dict[str, Any]:
    front = {
        "source": {"type": "pattern", "fps": 20, "width": 320, "height": 240},
        "rate_hz": 10,
        "classify": [{"model": "inspect"}],
        **camera,
    }
    side = {"source": {"type": "pattern", "fps": 5, "width": 64, "height": 48}, "classify": [{"model": "inspect"}]}
    return {
        "models": {"inspect": {"package": "demo", "engine": "ort-cpu"}},
        "cameras": {"front": front, "side": side},
        "mqtt": {"broker": broker.url, "commands": {"enabled": True, "allow": VERBS, "max_per_minute": 600}},
    }


class Desk:
    """A running agent, and whoever gives it commands."""

    def __init__(self, broker: MosquittoBroker, recorder: Recorder, agent: AgentProcess) -> None:
        self.broker, self.recorder, self.agent = broker, recorder, agent

    def ask(self, verb: str, **body: Any) -> Any:
        """Give one command and wait for its answer."""
        key = f"t{next(_ids)}"
        whole = {"id": key, "expires_at": time.time() + 30, **body}
        paho.mqtt.publish.single(
            f"edge/dut/cmd/{verb}", orjson.dumps(whole), qos=1, hostname="127.0.0.1", port=self.broker.port
        )
        reply = self.recorder.wait_for(
            lambda one: one.topic == f"edge/dut/reply/{verb}" and one.json["id"] == key, 20
        ).json
        jsonschema.Draft202012Validator(message_schemas()["reply/1"]).validate(reply)
        return reply


@pytest.fixture
def desk(tmp_path: Path, broker: MosquittoBroker, recorder: Recorder) -> Iterator[Desk]:
    path = write_config(tmp_path, _config(broker))
    with AgentProcess(tmp_path, "run", "-c", str(path)) as agent:
        agent.wait_for_log("agent.ready")
        recorder.wait_count(3, "edge/dut/camera/front/inspect/result", 20)
        yield Desk(broker, recorder, agent)
        assert agent.end() == 0, agent.stderr


def test_every_verb_answers_and_takes_effect(desk: Desk) -> None:
    snapshot = desk.ask("snapshot", camera="front", max_width=160)
    picture = desk.recorder.wait_count(1, "edge/dut/camera/front/snapshot")[0]
    decoded = cv2.imdecode(np.frombuffer(picture.payload, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert decoded.shape == (120, 160, 3)
    assert snapshot["details"]["bytes"] == len(picture.payload)
    assert picture.properties["ContentType"] == "image/jpeg"
    assert not picture.retain

    selftest = desk.ask("selftest")["details"]["inspect"]
    assert selftest["images"] > 0
    assert selftest["wrong"] == []
    benchmark = desk.ask("benchmark", runs=20)["details"]["inspect"]
    assert benchmark["runs"] == 20
    assert 0 < benchmark["p50_ms"] <= benchmark["p99_ms"] <= benchmark["max_ms"]

    explained = desk.ask("explain", camera="front")["details"]
    assert explained["state"] == "connected"
    assert explained["captured"] >= explained["classified"] > 0
    assert any("rate" in finding for finding in explained["findings"]), "20 fps at a rate of 10 Hz"

    desk.recorder.clear()
    assert desk.ask("rebirth")["outcome"] == "done"
    for topic in ("status", "runtime", "camera/front/inspect/state", "camera/front/health"):
        desk.recorder.wait_count(1, f"edge/dut/{topic}")

    assert desk.ask("reload")["details"] == {"outcome": "unchanged"}
    assert desk.ask("explain", camera="back")["reason"] == "unknown_camera"


def test_a_set_changes_what_runs_and_keeps_what_is_to_be_kept(
    tmp_path: Path, broker: MosquittoBroker, recorder: Recorder
) -> None:
    path = write_config(tmp_path, _config(broker))
    with AgentProcess(tmp_path, "run", "-c", str(path)) as agent:
        desk = Desk(broker, recorder, agent)
        agent.wait_for_log("agent.ready")
        done = desk.ask("set", camera="front", classifier="inspect", rate_hz=4, enter=0.9, exit=0.3)
        assert done["details"]["rate_hz"] == 4
        assert done["details"]["classifiers"] == {"inspect": {"enter": 0.9, "exit": 0.3}}
        runtime = recorder.wait_for(
            lambda one: one.topic == "edge/dut/runtime" and one.json["cameras"]["front"]["rate_hz"] == 4
        )
        assert runtime.json["session"] == 1
        assert desk.ask("set", camera="side", enabled=False, keep=True)["details"]["enabled"] is False
        assert desk.ask("explain", camera="side")["details"]["state"] == "disabled"
        refused = desk.ask("snapshot", camera="side")
        assert (refused["reason"], refused["text"]) == ("no_frame", "camera side is disabled")
        refused = desk.ask("set", camera="front", enabled=False)
        assert (refused["outcome"], refused["reason"]) == ("refused", "last_camera")
        assert desk.ask("set", camera="front", classifier="inspect", enter=0.2)["reason"] == "invalid"
        assert desk.ask("set", camera="front", classifier="inspect", enabled=False)["reason"] == "last_classifier"
        assert desk.ask("set", camera="front", classifier="other", enabled=False)["reason"] == "unknown_classifier"
        agent.end(signal.SIGKILL)
    recorder.clear()
    with AgentProcess(tmp_path, "run", "-c", str(path)) as agent:
        desk = Desk(broker, recorder, agent)
        agent.wait_for_log("agent.ready")
        assert desk.ask("explain", camera="side")["details"]["state"] == "disabled"
        assert desk.ask("explain", camera="front")["details"]["rate_hz"] == 10, "that was not to be kept"
        assert desk.ask("set", camera="side", enabled=True, keep=True)["outcome"] == "done"
        recorder.wait_count(1, "edge/dut/camera/side/inspect/result", 20)
        assert agent.end() == 0


def test_what_was_set_ends_with_a_reload_by_signal_unless_it_was_kept(tmp_path: Path, desk: Desk) -> None:
    assert desk.ask("set", camera="front", rate_hz=3)["outcome"] == "done"
    assert desk.ask("set", camera="side", rate_hz=2, keep=True)["outcome"] == "done"
    desk.agent.process.send_signal(signal.SIGHUP)
    desk.agent.wait_for_log("config.applied")
    assert desk.ask("explain", camera="front")["details"]["rate_hz"] == 10, "what the file says, and what runs"
    desk.recorder.clear()
    assert desk.ask("set", camera="side", rate_hz=1)["outcome"] == "done"
    runtime = desk.recorder.wait_count(1, "edge/dut/runtime")[-1].json
    assert runtime["cameras"]["front"]["rate_hz"] == 10, "an earlier change does not come back with the next one"


def test_what_was_kept_for_a_camera_that_is_gone_stands_in_no_ones_way(tmp_path: Path, desk: Desk) -> None:
    path = tmp_path / "agent.yaml"
    assert desk.ask("set", camera="side", rate_hz=2, keep=True)["outcome"] == "done"
    assert desk.ask("set", camera="front", rate_hz=4, keep=True)["outcome"] == "done"
    without = yaml.safe_load(path.read_text())
    side = without["cameras"].pop("side")
    path.write_text(yaml.safe_dump(without))
    assert desk.ask("reload")["details"] == {"outcome": "applied"}
    assert "there is no camera 'side'" in desk.agent.stderr
    assert desk.ask("explain", camera="front")["details"]["rate_hz"] == 4, "what was kept for the others holds"
    assert desk.ask("set", camera="front", rate_hz=5, keep=True)["outcome"] == "done"
    path.write_text(yaml.safe_dump({**without, "cameras": {**without["cameras"], "side": side}}))
    assert desk.ask("reload")["details"] == {"outcome": "applied"}
    assert desk.ask("explain", camera="side")["details"]["rate_hz"] == 2, "it holds again when the camera is back"


def test_what_was_kept_is_forgotten_with_its_file(tmp_path: Path, desk: Desk) -> None:
    assert desk.ask("set", camera="side", rate_hz=2, keep=True)["outcome"] == "done"
    (tmp_path / "state" / "overrides.json").unlink()
    assert desk.ask("reload")["details"] == {"outcome": "applied"}
    assert desk.ask("explain", camera="side")["details"]["rate_hz"] is None
    assert desk.ask("set", camera="front", rate_hz=4, keep=True)["outcome"] == "done"
    assert "side" not in (tmp_path / "state" / "overrides.json").read_text()


def test_a_change_that_cannot_be_kept_says_that_it_is_in_force(tmp_path: Path, desk: Desk) -> None:
    (tmp_path / "state" / "overrides.json").mkdir()
    answer = desk.ask("set", camera="front", rate_hz=4, keep=True)
    assert (answer["outcome"], answer["reason"]) == ("failed", "not_kept")
    assert "in force" in answer["text"]
    assert desk.ask("explain", camera="front")["details"]["rate_hz"] == 4


def test_a_reload_by_command_says_what_came_of_it(tmp_path: Path, desk: Desk) -> None:
    path = tmp_path / "agent.yaml"
    good = yaml.safe_load(path.read_text())
    good["cameras"]["front"]["rate_hz"] = 7
    path.write_text(yaml.safe_dump(good))
    assert desk.ask("reload")["details"] == {"outcome": "applied"}
    path.write_text("cameras: [")
    failed = desk.ask("reload")
    assert (failed["outcome"], failed["reason"]) == ("failed", "config_error")
    assert "agent.yaml" in failed["text"]
    assert desk.ask("explain", camera="front")["details"]["rate_hz"] == 7
    path.write_text(yaml.safe_dump(good))


def test_a_command_that_was_given_while_the_agent_was_away_is_not_carried_out(
    tmp_path: Path, broker: MosquittoBroker, recorder: Recorder
) -> None:
    whole = {"id": "early", "expires_at": time.time() + 60}
    for retain in (True, False):
        paho.mqtt.publish.single(
            "edge/dut/cmd/rebirth", orjson.dumps(whole), qos=1, retain=retain, hostname="127.0.0.1", port=broker.port
        )
    path = write_config(tmp_path, _config(broker))
    with AgentProcess(tmp_path, "run", "-c", str(path)) as agent:
        agent.wait_for_log("agent.ready")
        assert Desk(broker, recorder, agent).ask("explain", camera="front")["outcome"] == "done"
        assert agent.end() == 0
    assert [one.json["verb"] for one in recorder.messages() if "/reply/" in one.topic] == ["explain"]
