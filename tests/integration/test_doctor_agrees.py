"""`agent doctor` and a start of the agent come to the same verdict on a model's engine, whatever is configured."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.app import Agent
from agent.config.loader import LoadedConfig, load_config
from agent.runtime.errors import Unavailable
from agent.tools.doctor.models import copied_cache, model_finding
from engines import EngineError
from tests.fixtures.agent_process import write_config
from tests.fixtures.colour_packages import write_colour_package


def _loaded(folder: Path, model: dict[str, object]) -> LoadedConfig:
    # What belongs to the program needs no sandbox, which takes seconds.
    package = str(write_colour_package(folder, calibration=0)) if model.pop("is_own", False) else "demo"
    config = {
        "models": {"colours": {"package": package, **model}},
        "cameras": {"front": {"source": {"type": "pattern"}, "classify": [{"model": "colours"}]}},
        "mqtt": {"broker": "embedded"},
    }
    return load_config(write_config(folder, config), environ={})


def _started(loaded: LoadedConfig) -> tuple[int, str | None]:
    """The exit code of a short run, and why its engine is degraded."""
    with capture_logs() as logs:
        try:
            Agent(loaded).run(for_s=0.0)
        except EngineError as exc:
            return exc.exit_code, None
    return 0, next((str(entry["reason"]) for entry in logs if entry["event"] == "engine.degraded"), None)


@pytest.mark.parametrize(
    ("model", "state"),
    [
        ({"engine": "ort-cpu"}, "ok"),
        ({"engine": "ort-cpu", "precision": "int8", "strict": True, "is_own": True}, "failed"),
        ({"engine": "ort-cpu", "precision": "fp16", "strict": True}, "failed"),
        ({"engine": "ort-cpu", "precision": "fp16"}, "warning"),
        ({"engine": "tensorrt", "strict": True}, "failed"),
        ({"engine": "tensorrt"}, "warning"),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else value,
)
def test_the_doctor_says_what_a_start_does(tmp_path: Path, model: dict[str, object], state: str) -> None:
    if model["engine"] == "tensorrt" and Path("/dev/nvidia0").exists():
        pytest.skip("TensorRT may work here; the case is for machines without a GPU")
    loaded = _loaded(tmp_path, {**model})
    with copied_cache(loaded.state_dir) as cache_dir:
        finding = model_finding("colours", loaded, cache_dir)
    assert not loaded.state_dir.exists(), "the doctor writes nothing"
    exit_code, degraded = _started(loaded)
    assert (finding.state, finding.is_needed) == (state, True)
    assert exit_code == (Unavailable.exit_code if state == "failed" else 0)
    assert finding.facts.get("degraded") == degraded
    assert (degraded is not None) == (state == "warning")
