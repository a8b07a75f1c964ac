"""Kept overrides: those that fit the configuration apply, the others are named and ignored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.commands.contract import CommandRefused
from agent.commands.overrides import (
    CameraOverride,
    ClassifierOverride,
    LabelOverride,
    Overrides,
    forget_edited,
    kept_changes,
    load_overrides,
    save_overrides,
    with_kept_changes,
)
from agent.commands.requests import Set
from agent.config.loader import LoadedConfig, load_config
from agent.config.model import AgentConfig
from tests.fixtures.agent_process import write_config


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


def test_one_key_that_does_not_fit_leaves_the_other_keys_of_its_camera_in_force() -> None:
    kept = Overrides(
        cameras={
            "front": CameraOverride(
                rate_hz=4.0,
                over={"rate_hz": None},
                classifiers={
                    "gone": ClassifierOverride(enter=0.8, enabled=False),
                    "inspect": ClassifierOverride(
                        enter=0.8,
                        exit=0.9,
                        labels={"cat": LabelOverride(enter=0.4, exit=0.6), "dog": LabelOverride(enter=0.5)},
                    ),
                },
            ),
        }
    )
    fitting, problems = kept.fitting(_config())
    front = fitting.cameras["front"]
    assert (front.rate_hz, front.over) == (4.0, {"rate_hz": None})
    assert list(front.classifiers) == ["inspect"]
    inspect = front.classifiers["inspect"]
    assert (inspect.enter, inspect.exit) == (0.8, None)
    assert inspect.labels == {"cat": LabelOverride(enter=0.4), "dog": LabelOverride(enter=0.5)}
    assert [problem.split(" is kept, but ")[0] for problem in problems] == [
        "cameras.front, classifier gone: enter 0.8",
        "cameras.front, classifier gone: enabled false",
        "cameras.front, classifier inspect: exit 0.9",
        "cameras.front, classifier inspect, label cat: exit 0.6",
    ]


def test_a_camera_with_a_trigger_takes_no_rate(tmp_path: Path) -> None:
    _keep(_loaded(tmp_path), rate_hz=4)
    _keep(_loaded(tmp_path), classifier="inspect", enter=0.3)
    loaded = _loaded(tmp_path, {"trigger": {}})
    with capture_logs() as logs:
        front = with_kept_changes(loaded).config.cameras["front"]
    assert (front.rate_hz, front.classify[0].decide.enter) == (None, 0.3)
    (problem,) = [entry["error"] for entry in logs if entry["event"] == "overrides.ignored"]
    assert "rate_hz 4 was given, but camera front has a trigger" in problem
    request = Set.model_validate({"id": "1", "camera": "front", "rate_hz": 4})
    with pytest.raises(CommandRefused) as caught:
        Overrides().with_change(request, loaded.config).applied_to(loaded.config)
    assert caught.value.reason == "invalid"


def test_keys_that_fit_only_together_stay_in_force_in_any_order() -> None:
    lower = Overrides(
        cameras={"front": CameraOverride(classifiers={"inspect": ClassifierOverride(enter=0.2, exit=0.1)})}
    )
    raised = Overrides(
        cameras={"front": CameraOverride(classifiers={"inspect": ClassifierOverride(enter=1, exit=0.95)})}
    )
    for kept in (lower, raised):
        assert kept.fitting(_config()) == (kept, [])


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


def _loaded(folder: Path, edit: Mapping[str, object] | None = None, *, is_enabled: bool = True) -> LoadedConfig:
    """A file with `front` and `side`, whose classifier `inspect` has `enter` 0.7; ``edit`` changes `front`."""
    front = dict(edit or {})
    enter = front.pop("enter", 0.7)

    def camera(**more: object) -> dict[str, object]:
        use = {"model": "inspect", "decide": {"enter": enter, "exit": 0.1}}
        return {"source": {"type": "pattern"}, "classify": [use], **more}

    config = {
        "models": {"inspect": {"package": "demo"}},
        "cameras": {"front": camera(**front), "side": camera()},
        "mqtt": {"broker": "embedded", "commands": {"enabled": is_enabled, "allow": ["set"]}},
    }
    return load_config(write_config(folder, config), environ={})


def _keep(loaded: LoadedConfig, **change: object) -> None:
    request = Set.model_validate({"id": "1", "camera": "front", "keep": True, **change})
    loaded.state_dir.mkdir(exist_ok=True)
    kept = load_overrides(loaded.state_dir)
    save_overrides(loaded.state_dir, kept.current(loaded.config)[0].with_change(request, loaded.config))


def _texts(loaded: LoadedConfig) -> list[str]:
    return [*kept_changes(loaded).in_force()]


def test_a_kept_value_is_named_with_that_of_the_file(tmp_path: Path) -> None:
    loaded = _loaded(tmp_path)
    _keep(loaded, rate_hz=4)
    _keep(loaded, classifier="inspect", enter=0.3)
    assert _texts(loaded) == [
        "cameras.front.rate_hz is 4, set by command; the file says null",
        "cameras.front.classify[0].decide.enter is 0.3, set by command; the file says 0.7",
    ]
    with capture_logs() as logs:
        with_kept_changes(loaded)
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("overrides.in_force", "info")] * 2


@pytest.mark.parametrize(
    ("change", "edit", "key"),
    [
        ({"rate_hz": 4}, {"rate_hz": 6}, "rate_hz"),
        ({"classifier": "inspect", "enter": 0.3}, {"enter": 0.6}, "enter"),
        ({"enabled": False}, {"enabled": False}, "enabled"),
    ],
)
def test_an_edited_key_beats_an_older_override(
    tmp_path: Path, change: dict[str, object], edit: dict[str, object], key: str
) -> None:
    _keep(_loaded(tmp_path), **change)
    _keep(_loaded(tmp_path), exit=0.2, classifier="inspect")
    edited = _loaded(tmp_path, edit)
    kept = kept_changes(edited)
    assert [*kept.in_force()] == ["cameras.front.classify[0].decide.exit is 0.2, set by command; the file says 0.1"]
    assert len(kept.edited) == 1
    assert f"{key} was set to" in kept.edited[0]
    with capture_logs() as logs:
        with_kept_changes(edited)
    assert "overrides.superseded" in [entry["event"] for entry in logs]


def test_an_edit_back_revives_nothing_once_the_edited_file_was_in_force(tmp_path: Path) -> None:
    _keep(_loaded(tmp_path), rate_hz=4)
    assert _texts(_loaded(tmp_path, {"rate_hz": 6})) == []
    assert len(_texts(_loaded(tmp_path))) == 1, "a file that was only looked at changes nothing"
    forget_edited(_loaded(tmp_path, {"rate_hz": 6}))
    assert _texts(_loaded(tmp_path)) == []


def test_an_edit_of_another_key_leaves_an_override_in_force(tmp_path: Path) -> None:
    _keep(_loaded(tmp_path), rate_hz=4)
    assert len(_texts(_loaded(tmp_path, {"enter": 0.6}))) == 1


def test_a_value_set_back_to_that_of_the_file_is_no_override(tmp_path: Path) -> None:
    loaded = _loaded(tmp_path)
    _keep(loaded, classifier="inspect", enter=0.3)
    _keep(loaded, classifier="inspect", enter=0.7)
    assert _texts(loaded) == []
    assert _texts(_loaded(tmp_path, {"enter": 0.6})) == []


def test_the_second_change_is_made_over_the_file_of_its_time(tmp_path: Path) -> None:
    _keep(_loaded(tmp_path), rate_hz=4)
    _keep(_loaded(tmp_path, {"rate_hz": 6}), rate_hz=5)
    assert len(_texts(_loaded(tmp_path, {"rate_hz": 6}))) == 1
    assert _texts(_loaded(tmp_path)) == []


def test_overrides_kept_without_the_value_of_the_file_stay_in_force(tmp_path: Path) -> None:
    loaded = _loaded(tmp_path)
    loaded.state_dir.mkdir()
    save_overrides(loaded.state_dir, Overrides(cameras={"front": CameraOverride(rate_hz=4.0)}))
    assert len(_texts(_loaded(tmp_path, {"rate_hz": 6}))) == 1


def test_without_commands_nothing_kept_is_in_force(tmp_path: Path) -> None:
    _keep(_loaded(tmp_path), rate_hz=4)
    assert _texts(_loaded(tmp_path, is_enabled=False)) == []


def test_an_amended_configuration_is_amended_again_from_its_file(tmp_path: Path) -> None:
    loaded = _loaded(tmp_path)
    _keep(loaded, rate_hz=4)
    once = with_kept_changes(loaded)
    assert with_kept_changes(once) == once
    forget_edited(once)
    assert len(_texts(loaded)) == 1, "its own value is no edit of the file"
