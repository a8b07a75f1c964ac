"""A decided label continues under the same rules, and ends with a state change under new rules."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent.cameras.sources.choose import make_source
from agent.config.loader import LoadedConfig, load_config
from agent.config.sections.decide import DecideConfig
from agent.inference.binding import ClassifierBinding
from agent.inference.decisions.decision import LabelDecision, LabelSetDecision
from agent.inference.pipeline import Parts, Pipeline
from agent.reload import load_packages
from agent.runtime.clock import SystemClock
from agent.runtime.records import Classification, Score, ServedModel, StageTimes
from engines import OutputSpec, Task
from tests.fixtures.agent_process import write_config
from tests.fixtures.parts import BrightnessEngine, plain_package

_DENT = Classification(
    camera="front",
    classifier="inspect",
    served=ServedModel("inspect", "m", "1", "0" * 64, "ort-cpu", "fp32", degraded=False),
    frame_index=0,
    captured_at_ns=0,
    captured_at_utc_ns=0,
    decided_at_ns=0,
    top=(Score(2, "dent", 0.9),),
    margin=0.9,
    batch=1,
    times=StageTimes(0, 0, 0, 0, 0),
)


def _loaded(directory: Path, **decide: object) -> LoadedConfig:
    classify = [{"model": "inspect", "decide": {"votes": 1, "window": 1, **decide}}]
    cameras: dict[str, Any] = {"front": {"source": {"type": "pattern"}, "classify": classify}}
    return load_config(write_config(directory, {"models": {"inspect": {"package": "demo"}}, "cameras": cameras}))


def _station(pipeline: Pipeline) -> ClassifierBinding:
    (binding,) = pipeline._bindings_of("inspect")
    return binding


@pytest.mark.parametrize(("decide", "first_word"), [({}, (None, "dent")), ({"enter": 0.9}, ("dent", "unknown"))])
def test_a_label_continues_under_the_same_rules_and_ends_with_a_change_under_new_rules(
    tmp_path: Path, decide: dict[str, object], first_word: tuple[str | None, str]
) -> None:
    loaded = _loaded(tmp_path)
    packages = load_packages(loaded)
    parts = Parts(
        lambda key, config, package, building: BrightnessEngine(2),
        partial(make_source, base_dir=tmp_path, clock=SystemClock()),
    )
    pipeline = Pipeline(loaded.config, packages, parts, clock=SystemClock(), emit=lambda record: None)
    _station(pipeline).decision.update(_DENT, now_ns=0, utc_ns=0)
    pipeline.apply(_loaded(tmp_path, **decide).config, packages)
    change = _station(pipeline).decision.initial()
    assert (change.moves[0].from_label if change.moves else None, change.label) == first_word


def test_a_set_continues_only_with_the_labels_and_thresholds_that_it_was_made_for() -> None:
    stated = OutputSpec(task=Task.MULTI_LABEL, stated=(("a", 0.4),))
    package = replace(plain_package("a", "b"), output=stated)
    decision = LabelSetDecision(
        "front", "ppe", DecideConfig(), labels=package.labels, stated=dict(stated.stated), now_ns=0, utc_ns=0
    )
    assert decision.fits(package)
    assert decision.fits(replace(package, version="2.0.0"))
    assert not decision.fits(replace(package, labels=("b", "a")))
    assert not decision.fits(replace(package, output=replace(stated, stated=(("a", 0.5),))))
    assert not decision.fits(plain_package("a", "b"))
    one = LabelDecision("front", "ppe", DecideConfig(), now_ns=0, utc_ns=0)
    assert (one.fits(plain_package("a", "b")), one.fits(package)) == (True, False)
