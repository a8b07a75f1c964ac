"""A change of the configuration in force is made for that one, and for no earlier one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from agent.cameras.sources.choose import make_source
from agent.config.loader import LoadedConfig, load_config
from agent.inference.pipeline import Parts, Pipeline
from agent.reload import Reloader, load_packages
from agent.runtime.clock import SystemClock
from agent.runtime.errors import ConfigError, ReloadUnderWay
from tests.fixtures.agent_process import write_config
from tests.fixtures.parts import BrightnessEngine

_CAMERA = {"source": {"type": "pattern"}, "classify": [{"model": "inspect"}]}


def _write(directory: Path, **sections: object) -> Path:
    document = {"models": {"inspect": {"package": "demo"}}, "cameras": {"front": _CAMERA}, **sections}
    return write_config(directory, document)


def _reloader(path: Path, applied: Callable[[object], None] = lambda _: None) -> Reloader:
    loaded = load_config(path)
    packages = load_packages(loaded)
    make = partial(make_source, base_dir=path.parent, clock=SystemClock())
    parts = Parts(lambda key, config, package, building: BrightnessEngine(2), make)
    pipeline = Pipeline(loaded.config, packages, parts, clock=SystemClock(), emit=lambda record: None)
    return Reloader(loaded, packages, pipeline, on_applied=lambda now, _: applied(now), expect_cameras=applied)


def test_a_change_made_for_a_file_that_was_read_again_meanwhile_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path)
    applied: list[object] = []
    earlier = load_config(path)
    reloader = _reloader(path, applied.append)
    with pytest.raises(ReloadUnderWay, match="read again while this change waited"):
        reloader.adjust(earlier)
    assert applied == []


@pytest.mark.parametrize(("before", "after"), [(None, "a.prom"), ("a.prom", "b.prom"), ("a.prom", None)])
def test_a_metrics_file_that_is_set_changed_or_removed_builds_the_parts_again(
    tmp_path: Path, before: str | None, after: str | None
) -> None:
    reloader = _reloader(_write(tmp_path, serve={"metrics_file": before}))
    _write(tmp_path, serve={"metrics_file": after})
    assert reloader.reload_now() == "restarting"
    assert reloader.successor is not None
    assert reloader.successor.config.serve.metrics_file == after


def test_what_was_prepared_is_dropped_when_another_part_refuses_the_file(tmp_path: Path) -> None:
    reloader = _reloader(_write(tmp_path))
    calls: list[str] = []

    def refuse(loaded: LoadedConfig) -> None:
        raise ConfigError(f"refused {loaded.path.name}")

    def prepare(loaded: LoadedConfig) -> Callable[[], None]:
        calls.append(f"prepare {loaded.path.name}")
        return lambda: calls.append("apply")

    reloader.add(prepare, drop=lambda: calls.append("drop"))
    reloader.add(refuse, drop=lambda: None)
    with pytest.raises(ConfigError, match="refused"):
        reloader.reload_now()
    assert calls == ["prepare agent.yaml", "drop"]
