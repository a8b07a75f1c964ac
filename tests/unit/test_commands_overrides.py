"""Kept overrides: those that fit the configuration apply, the others are named and ignored."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.commands.overrides import CameraOverride, ClassifierOverride, Overrides, load_overrides, save_overrides
from agent.config.model import AgentConfig


def _config(*, exit_at: float = 0.3) -> AgentConfig:
    camera = {
        "source": {"type": "pattern"},
        "classify": [{"model": "inspect", "decide": {"enter": 0.9, "exit": exit_at}}],
    }
    return AgentConfig.model_validate(
        {
            "version": 1,
            "models": {"inspect": {"package": "demo"}},
            "cameras": {"front": camera, "side": camera},
            "mqtt": {"broker": "embedded"},
        }
    )


def test_fitting_overrides_apply_beside_others_that_do_not_fit() -> None:
    kept = Overrides(
        cameras={
            "gone": CameraOverride(rate_hz=1.0),
            "front": CameraOverride(rate_hz=4.0),
            "side": CameraOverride(classifiers={"inspect": ClassifierOverride(enter=0.5)}),
        }
    )
    fitting, problems = kept.fitting(_config(exit_at=0.6))
    assert list(fitting.cameras) == ["front"]
    assert len(problems) == 2
    assert "there is no camera 'gone'" in problems[0]
    assert list(kept.fitting(_config())[0].cameras) == ["front", "side"]


def test_overrides_never_disable_the_last_camera() -> None:
    off = CameraOverride(enabled=False)
    fitting, problems = Overrides(cameras={"front": off, "side": off}).fitting(_config())
    assert list(fitting.cameras) == ["front"]
    assert "this is the last enabled camera" in problems[0]


def test_what_is_kept_is_read_back(tmp_path: Path) -> None:
    kept = Overrides(cameras={"front": CameraOverride(rate_hz=4.0)})
    save_overrides(tmp_path, kept)
    assert load_overrides(tmp_path) == kept
    assert [path.name for path in tmp_path.iterdir()] == ["overrides.json"]


@pytest.mark.parametrize("value", ["5", '{"cameras": {"front": {"rate_hz": -1}}}', '{"cameres": {}}'])
def test_a_file_that_holds_no_overrides_is_left_out_with_a_warning(tmp_path: Path, value: str) -> None:
    (tmp_path / "overrides.json").write_text(f'{{"form": 1, "facts": {{}}, "value": {value}}}')
    with capture_logs() as logs:
        assert load_overrides(tmp_path) == Overrides()
    assert [entry["event"] for entry in logs] == ["overrides.ignored"]
