"""A change of the configuration in force is made for that one, and for no earlier one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from agent.cameras.sources.choose import make_source
from agent.config.loader import load_config
from agent.inference.pipeline import Parts, Pipeline
from agent.reload import Reloader, load_packages
from agent.runtime.clock import SystemClock
from agent.runtime.errors import ReloadUnderWay
from tests.fixtures.agent_process import write_config
from tests.fixtures.parts import BrightnessEngine


def test_a_change_made_for_a_file_that_was_read_again_meanwhile_is_refused(tmp_path: Path) -> None:
    camera = {"source": {"type": "pattern"}, "classify": [{"model": "inspect"}]}
    path = write_config(tmp_path, {"models": {"inspect": {"package": "demo"}}, "cameras": {"front": camera}})
    earlier, loaded = load_config(path), load_config(path)
    packages = load_packages(loaded)
    make = partial(make_source, base_dir=tmp_path, clock=SystemClock())
    parts = Parts(lambda key, config, package, building: BrightnessEngine(2), make)
    pipeline = Pipeline(loaded.config, packages, parts, clock=SystemClock(), emit=lambda record: None)
    applied: list[object] = []
    reloader = Reloader(
        loaded, packages, pipeline, on_applied=lambda now, _: applied.append(now), expect_cameras=applied.append
    )
    with pytest.raises(ReloadUnderWay, match="read again while this change waited"):
        reloader.adjust(earlier)
    assert applied == []
