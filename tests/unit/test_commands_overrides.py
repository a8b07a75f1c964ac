"""Kept overrides: those that fit the configuration apply, the others are named and ignored."""

from __future__ import annotations

from agent.commands.overrides import CameraOverride, ClassifierOverride, Overrides
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
