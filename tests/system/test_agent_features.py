"""`features: true` through a whole agent: a subscriber gets the projected embedding of each frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
from jsonschema import Draft202012Validator

from agent.commands.schemas import message_schemas
from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.packages import embedding_model, embedding_package
from tests.fixtures.recorder import Recorder

pytestmark = pytest.mark.timeout(120)


def _expected(image: np.ndarray[Any, np.dtype[np.uint8]]) -> Any:
    """By ONNX Runtime and numpy alone: the embedding of the unchanged model, times the documented matrix."""
    session = onnxruntime.InferenceSession(embedding_model().SerializeToString(), providers=["CPUExecutionProvider"])
    planes = image[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32)
    embedding = session.run(["embedding"], {"image": planes})[0]
    return (embedding @ (np.random.RandomState(20).standard_normal((40, 32)) / np.sqrt(32)))[0]


def test_each_result_has_the_projected_embedding_of_its_frame(
    tmp_path: Path, broker: MosquittoBroker, recorder: Recorder
) -> None:
    image = np.random.default_rng(6).integers(0, 256, (16, 16, 3), np.uint8)
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "part.png"), image)
    package = str(embedding_package().write(tmp_path))
    config = {
        "models": {
            "inspect": {"package": package, "engine": "ort-cpu", "features": True},
            "plain": {"package": package, "engine": "ort-cpu"},
        },
        "cameras": {
            "belt": {
                "source": {"type": "images", "path": "images"},
                "classify": [{"model": "inspect"}, {"model": "plain"}],
            }
        },
        "mqtt": {"broker": broker.url, "results": {"qos": 1}},
    }
    with AgentProcess(tmp_path, "run", "-c", str(write_config(tmp_path, config))) as agent:
        results = {
            name: recorder.wait_count(1, f"edge/dut/camera/belt/{name}/result", 60)[0].json
            for name in ("inspect", "plain")
        }
        runtime = recorder.wait_for(lambda one: one.topic == "edge/dut/runtime", 60).json
        assert agent.wait() == 0, agent.stderr
    Draft202012Validator(message_schemas()[results["inspect"]["schema"]]).validate(results["inspect"])
    expected = _expected(image)
    np.testing.assert_allclose(results["inspect"]["features"], expected, atol=1e-3 * np.abs(expected).max())
    assert "features" not in results["plain"]
    assert runtime["models"]["inspect"]["details"]["features"] == 40
    assert "features" not in runtime["models"]["plain"]["details"]
