"""Commands to a whole agent: every verb takes effect and replies."""

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


class CommandClient:
    """A running agent, and a client that sends it commands."""

    def __init__(self, broker: MosquittoBroker, recorder: Recorder, agent: AgentProcess) -> None:
        self.broker, self.recorder, self.agent = broker, recorder, agent

    def send(self, verb: str, **body: Any) -> Any:
        """Send a command and wait for its reply."""
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
def client(tmp_path: Path, broker: MosquittoBroker, recorder: Recorder) -> Iterator[CommandClient]:
    path = write_config(tmp_path, _config(broker))
    with AgentProcess(tmp_path, "run", "-c", str(path)) as agent:
        agent.wait_for_log("agent.ready")
        recorder.wait_count(3, "edge/dut/camera/front/inspect/result", 20)
        yield CommandClient(broker, recorder, agent)
        assert agent.end() == 0, agent.stderr


def test_every_verb_takes_effect_and_replies(client: CommandClient) -> None:
    snapshot = client.send("snapshot", camera="front", max_width=160)
    image = client.recorder.wait_count(1, "edge/dut/camera/front/snapshot")[0]
    decoded = cv2.imdecode(np.frombuffer(image.payload, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert decoded.shape == (120, 160, 3)
    assert snapshot["details"]["bytes"] == len(image.payload)
    assert image.properties["ContentType"] == "image/jpeg"
    assert not image.retain

    selftest = client.send("selftest")["details"]["inspect"]
    assert selftest["images"] > 0
    assert selftest["wrong"] == []
    benchmark = client.send("benchmark", runs=20)["details"]["inspect"]
    assert benchmark["runs"] == 20
    assert 0 < benchmark["p50_ms"] <= benchmark["p99_ms"] <= benchmark["max_ms"]

    explained = client.send("explain", camera="front")["details"]
    assert explained["state"] == "connected"
    assert explained["captured"] >= explained["classified"] > 0
    assert any("rate" in finding for finding in explained["findings"]), "20 fps at a rate of 10 Hz"

    client.recorder.clear()
    assert client.send("rebirth")["outcome"] == "done"
    for topic in ("status", "runtime", "camera/front/inspect/state", "camera/front/health"):
        client.recorder.wait_count(1, f"edge/dut/{topic}")

    assert client.send("reload")["details"] == {"outcome": "unchanged"}
    assert client.send("explain", camera="back")["reason"] == "unknown_camera"


def test_set_changes_what_runs_and_keep_survives_a_restart(
    tmp_path: Path, broker: MosquittoBroker, recorder: Recorder
) -> None:
    path = write_config(tmp_path, _config(broker))
    with AgentProcess(tmp_path, "run", "-c", str(path)) as agent:
        client = CommandClient(broker, recorder, agent)
        agent.wait_for_log("agent.ready")
        done = client.send("set", camera="front", classifier="inspect", rate_hz=4, enter=0.9, exit=0.3)
        assert done["details"]["rate_hz"] == 4
        assert done["details"]["classifiers"] == {"inspect": {"enter": 0.9, "exit": 0.3}}
        runtime = recorder.wait_for(
            lambda one: one.topic == "edge/dut/runtime" and one.json["cameras"]["front"]["rate_hz"] == 4
        )
        assert runtime.json["session"] == 1
        assert client.send("set", camera="side", enabled=False, keep=True)["details"]["enabled"] is False
        assert client.send("explain", camera="side")["details"]["state"] == "disabled"
        refused = client.send("snapshot", camera="side")
        assert (refused["reason"], refused["text"]) == ("no_frame", "camera side is disabled")
        refused = client.send("set", camera="front", enabled=False)
        assert (refused["outcome"], refused["reason"]) == ("refused", "last_camera")
        assert client.send("set", camera="front", classifier="inspect", enter=0.2)["reason"] == "invalid"
        assert client.send("set", camera="front", classifier="inspect", enabled=False)["reason"] == "last_classifier"
        assert client.send("set", camera="front", classifier="other", enabled=False)["reason"] == "unknown_classifier"
        agent.end(signal.SIGKILL)
    recorder.clear()
    with AgentProcess(tmp_path, "run", "-c", str(path)) as agent:
        client = CommandClient(broker, recorder, agent)
        agent.wait_for_log("agent.ready")
        assert client.send("explain", camera="side")["details"]["state"] == "disabled"
        assert client.send("explain", camera="front")["details"]["rate_hz"] == 10, "that was not to be kept"
        assert client.send("set", camera="side", enabled=True, keep=True)["outcome"] == "done"
        recorder.wait_count(1, "edge/dut/camera/side/inspect/result", 20)
        assert agent.end() == 0


def test_a_reload_by_signal_reverts_overrides_that_are_not_kept(tmp_path: Path, client: CommandClient) -> None:
    assert client.send("set", camera="front", rate_hz=3)["outcome"] == "done"
    assert client.send("set", camera="side", rate_hz=2, keep=True)["outcome"] == "done"
    client.agent.process.send_signal(signal.SIGHUP)
    client.agent.wait_for_log("config.applied")
    assert client.send("explain", camera="front")["details"]["rate_hz"] == 10, "what the file says, and what runs"
    client.recorder.clear()
    assert client.send("set", camera="side", rate_hz=1)["outcome"] == "done"
    runtime = client.recorder.wait_count(1, "edge/dut/runtime")[-1].json
    assert runtime["cameras"]["front"]["rate_hz"] == 10, "an earlier change does not come back with the next one"


def test_kept_overrides_of_a_removed_camera_are_ignored(tmp_path: Path, client: CommandClient) -> None:
    path = tmp_path / "agent.yaml"
    assert client.send("set", camera="side", rate_hz=2, keep=True)["outcome"] == "done"
    assert client.send("set", camera="front", rate_hz=4, keep=True)["outcome"] == "done"
    without = yaml.safe_load(path.read_text())
    side = without["cameras"].pop("side")
    path.write_text(yaml.safe_dump(without))
    front = "cameras.front.rate_hz is {}, set by command; the file says 10"
    assert client.send("reload")["details"] == {"outcome": "applied", "overrides": [front.format(4)]}
    assert "there is no camera 'side'" in client.agent.stderr
    assert client.send("explain", camera="front")["details"]["rate_hz"] == 4, "what was kept for the others holds"
    assert client.send("set", camera="front", rate_hz=5, keep=True)["outcome"] == "done"
    path.write_text(yaml.safe_dump({**without, "cameras": {**without["cameras"], "side": side}}))
    overrides = client.send("reload")["details"]["overrides"]
    assert overrides == [front.format(5), "cameras.side.rate_hz is 2, set by command; the file says null"]
    explained = client.send("explain", camera="side")["details"]
    assert explained["rate_hz"] == 2, "it holds again when the camera is back"
    assert explained["overrides"] == overrides[1:]


def test_an_edited_file_beats_what_was_kept_before(tmp_path: Path, client: CommandClient) -> None:
    path = tmp_path / "agent.yaml"
    assert client.send("set", camera="front", rate_hz=4, keep=True)["outcome"] == "done"
    runtime = client.recorder.wait_count(2, "edge/dut/runtime")[-1].json
    assert runtime["overridden"] == {"cameras.front.rate_hz": 10}
    edited = yaml.safe_load(path.read_text())
    edited["cameras"]["front"]["rate_hz"] = 6
    path.write_text(yaml.safe_dump(edited))
    assert client.send("reload")["details"] == {"outcome": "applied"}
    explained = client.send("explain", camera="front")["details"]
    assert (explained["rate_hz"], explained["overrides"]) == (6, [])
    assert "rate_hz was set to 4 over 10, but the file says 6 now; the file wins" in client.agent.stderr
    assert "front" not in (tmp_path / "state" / "overrides.json").read_text()


def test_deleting_the_file_reverts_kept_overrides(tmp_path: Path, client: CommandClient) -> None:
    assert client.send("set", camera="side", rate_hz=2, keep=True)["outcome"] == "done"
    (tmp_path / "state" / "overrides.json").unlink()
    assert client.send("reload")["details"] == {"outcome": "applied"}
    assert client.send("explain", camera="side")["details"]["rate_hz"] is None
    assert client.send("set", camera="front", rate_hz=4, keep=True)["outcome"] == "done"
    assert "side" not in (tmp_path / "state" / "overrides.json").read_text()


def test_a_change_that_cannot_be_saved_is_reported_as_in_force(tmp_path: Path, client: CommandClient) -> None:
    (tmp_path / "state" / "overrides.json").mkdir()
    answer = client.send("set", camera="front", rate_hz=4, keep=True)
    assert (answer["outcome"], answer["reason"]) == ("failed", "not_kept")
    assert "in force" in answer["text"]
    assert client.send("explain", camera="front")["details"]["rate_hz"] == 4


def test_the_reply_to_a_reload_has_its_outcome(tmp_path: Path, client: CommandClient) -> None:
    path = tmp_path / "agent.yaml"
    good = yaml.safe_load(path.read_text())
    good["cameras"]["front"]["rate_hz"] = 7
    path.write_text(yaml.safe_dump(good))
    assert client.send("reload")["details"] == {"outcome": "applied"}
    path.write_text("cameras: [")
    failed = client.send("reload")
    assert (failed["outcome"], failed["reason"]) == ("failed", "config_error")
    assert "agent.yaml" in failed["text"]
    assert client.send("explain", camera="front")["details"]["rate_hz"] == 7
    path.write_text(yaml.safe_dump(good))


def test_a_command_sent_while_the_agent_was_away_is_not_carried_out(
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
        assert CommandClient(broker, recorder, agent).send("explain", camera="front")["outcome"] == "done"
        assert agent.end() == 0
    assert [one.json["verb"] for one in recorder.messages() if "/reply/" in one.topic] == ["explain"]
