"""What a model's scores decide reaches the subscriber: both labels of a binary model, the set of several labels."""

from __future__ import annotations

from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator

from agent.commands.schemas import message_schemas
from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.deadlines import wait_until
from tests.fixtures.discovery_schema import problems_of_discovery
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.packages import PackageFiles, TinyModel
from tests.fixtures.recorder import Recorder

_IDS = count()
pytestmark = pytest.mark.timeout(120)

_DECIDE = {"enter": 0.05, "exit": 0.01, "votes": 1, "window": 1, "top_k": 2}


def _binary(root: Path, threshold: float) -> Path:
    root.mkdir()
    files = PackageFiles.of(TinyModel(classes=1, ending="sigmoid"))
    files.labels = b"ok\ndefect"
    files.manifest["output"] = {
        "activation": "none", "task": "binary", "positive": "defect", "thresholds": {"defect": threshold}
    }  # fmt: skip
    return files.write(root)


def _config(
    broker: MosquittoBroker, packages: dict[str, Path], decide: dict[str, Any], **mqtt: object
) -> dict[str, Any]:
    camera: dict[str, Any] = {
        "source": {"type": "pattern", "fps": 10, "width": 64, "height": 48},
        "classify": [{"model": name, "decide": dict(decide)} for name in packages],
    }
    return {
        "models": {name: {"package": str(path), "engine": "ort-cpu"} for name, path in packages.items()},
        "cameras": {"belt": camera},
        "mqtt": {"broker": broker.url, **mqtt},
    }


def _run(directory: Path, broker: MosquittoBroker, packages: dict[str, Path]) -> AgentProcess:
    config = _config(broker, packages, _DECIDE)
    return AgentProcess(directory, "run", "-c", str(write_config(directory, config)))


def _has_state(recorder: Recorder, topic: str, label: str) -> bool:
    return any(one.json["label"] == label for one in recorder.messages(topic))


def test_a_binary_model_has_two_labels_and_decides_at_its_threshold(
    tmp_path: Path, broker: MosquittoBroker, recorder: Recorder
) -> None:
    packages = {"strict": _binary(tmp_path / "a", 0.01), "lax": _binary(tmp_path / "b", 0.99)}
    with _run(tmp_path, broker, packages):
        for name, label in (("strict", "defect"), ("lax", "ok")):
            topic = f"edge/dut/camera/belt/{name}"
            wait_until(partial(_has_state, recorder, f"{topic}/state", label))
            result = recorder.wait_count(1, f"{topic}/result")[-1].json
            assert result["label"] == label
            # Of two labels the probabilities add up to 1; the margin has a sign of its own.
            assert abs(2 * result["confidence"] - 1) == pytest.approx(result["margin"], abs=1e-3)
            assert result["decision"]["label"] == label
            Draft202012Validator(message_schemas()[result["schema"]]).validate(result)


def _several(root: Path, **thresholds: float) -> Path:
    """A package whose scores all lie near 0.5; some labels have a threshold in the manifest."""
    files = PackageFiles.of(TinyModel(ending="sigmoid"))
    files.manifest["output"]["thresholds"] = thresholds
    return files.write(root)


def test_a_multi_label_model_has_a_state_as_a_set_and_an_event_for_each_label(
    tmp_path: Path, broker: MosquittoBroker, recorder: Recorder
) -> None:
    decide = {"votes": 2, "window": 3, "enter": 0.95, "exit": 0.9, "labels": {"ash": {"enter": 0.2, "exit": 0.1}}}
    config = _config(broker, {"ppe": _several(tmp_path, birch=0.2)}, decide, home_assistant={"enabled": True})
    gated = {"model": "ppe", "name": "behind", "when": {"classifier": "ppe", "labels": ["fir", "birch"]}}
    closed = {"model": "ppe", "name": "shut", "when": {"classifier": "ppe", "labels": ["fir"]}}
    config["cameras"]["belt"]["classify"] += [gated, closed]
    config["mqtt"]["commands"] = {"enabled": True, "allow": ["set", "explain"]}
    topic = "edge/dut/camera/belt/ppe"
    with AgentProcess(tmp_path, "run", "-c", str(write_config(tmp_path, config))) as agent:
        wait_until(lambda: any(one.json["labels"] == ["ash", "birch"] for one in recorder.messages(f"{topic}/state")))
        events = [one.json for one in recorder.wait_count(2, f"{topic}/event")]
        assert [(one["seq"], one["from_label"], one["to_label"]) for one in events[:2]] == [
            (0, None, "ash"),
            (1, None, "birch"),
        ]
        result = recorder.messages(f"{topic}/result")[-1].json
        assert list(result["labels"]) == ["ash", "birch"]
        assert all(confidence >= 0.1 for confidence in result["labels"].values())
        assert "label" not in result["decision"]
        schemas = message_schemas()
        for message in (result, events[0], recorder.messages(f"{topic}/state")[-1].json):
            Draft202012Validator(schemas[message["schema"]]).validate(message)
        recorder.wait_count(1, "edge/dut/camera/belt/behind/result")
        assert not recorder.messages("edge/dut/camera/belt/shut/result"), "no frame shows the label of this gate"

        _check_home_assistant(recorder)
        reply = _send(recorder, "set", camera="belt", classifier="ppe", label="ash", enter=0.99, exit=0.98)
        assert reply["outcome"] == "done", reply
        assert reply["details"]["classifiers"]["ppe"]["labels"]["ash"] == {"enter": 0.99, "exit": 0.98}
        wait_until(lambda: recorder.messages(f"{topic}/state")[-1].json["labels"] == ["birch"])
        moves = [(one.json["from_label"], one.json["to_label"]) for one in recorder.messages(f"{topic}/event")]
        assert ("ash", "unknown") in moves, "other rules begin with unknown"
        unknown = _send(recorder, "set", camera="belt", classifier="ppe", label="asch", enter=0.5)
        assert (unknown["outcome"], unknown["reason"]) == ("refused", "unknown_label")
        explained = _send(recorder, "explain", camera="belt")["details"]["classifiers"]["ppe"]
        assert explained["labels"] == ["birch"]
        assert "is below enter 0.9" in explained["why"]
        assert agent.end() == 0, agent.stderr


def _send(recorder: Recorder, verb: str, **body: object) -> dict[str, Any]:
    """Send a command, and wait for its reply."""
    key = f"{verb}-{next(_IDS)}"
    recorder.publish(f"edge/dut/cmd/{verb}", orjson.dumps({"id": key, **body}))
    reply = recorder.wait_for(lambda one: one.topic == f"edge/dut/reply/{verb}" and one.json["id"] == key, 20)
    found: dict[str, Any] = reply.json
    return found


def _check_home_assistant(recorder: Recorder) -> None:
    message = recorder.wait_for(lambda one: one.topic.startswith("homeassistant/device/")).json
    assert list(problems_of_discovery(message)) == []
    sensors = [part for part in message["cmps"].values() if part["p"] == "binary_sensor" and "ash" in part["name"]]
    assert {part["stat_t"] for part in sensors} == {
        f"edge/dut/camera/belt/{name}/state" for name in ("ppe", "behind", "shut")
    }
