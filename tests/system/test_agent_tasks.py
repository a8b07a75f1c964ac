"""What a model's scores decide reaches the subscriber: both labels of a binary model, a warning for several labels."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.deadlines import wait_until
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.packages import LABELS, PackageFiles, TinyModel
from tests.fixtures.recorder import Recorder

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


def _run(directory: Path, broker: MosquittoBroker, packages: dict[str, Path]) -> AgentProcess:
    camera: dict[str, Any] = {
        "source": {"type": "pattern", "fps": 10, "width": 64, "height": 48},
        "classify": [{"model": name, "decide": dict(_DECIDE)} for name in packages],
    }
    config = {
        "models": {name: {"package": str(path), "engine": "ort-cpu"} for name, path in packages.items()},
        "cameras": {"belt": camera},
        "mqtt": {"broker": broker.url},
    }
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
            assert {one["label"] for one in result["top_k"]} == {"ok", "defect"}
            assert sum(one["confidence"] for one in result["top_k"]) == pytest.approx(1.0, abs=1e-3)


def test_a_multi_label_model_is_served_by_its_best_label_and_says_so(
    tmp_path: Path, broker: MosquittoBroker, recorder: Recorder
) -> None:
    package = PackageFiles.of(TinyModel(ending="sigmoid")).write(tmp_path)
    with _run(tmp_path, broker, {"many": package}) as agent:
        result = recorder.wait_count(1, "edge/dut/camera/belt/many/result")[-1].json
        assert result["label"] in LABELS
    assert '"model.best_label_only"' in agent.stderr
