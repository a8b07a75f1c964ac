"""What a file says of labels is checked against the packages, and seconds against the source."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from agent.commands.overrides import CameraOverride, ClassifierOverride, LabelOverride, Overrides
from agent.config.labels import check_labels, idle_thresholds, questionable_means, unknown_labels
from agent.config.loader import LoadedConfig, load_config
from agent.config.sections.decide import DecideConfig
from agent.reload import load_packages
from agent.runtime.errors import ConfigError
from engines import ModelPackage, OutputSpec, Task
from tests.fixtures.agent_process import write_config
from tests.fixtures.packages import PackageFiles, TinyModel
from tests.fixtures.parts import plain_package

SEVERAL = OutputSpec(task=Task.MULTI_LABEL, thresholds=(0.4, 0.5), stated=(("helmet", 0.4),))
PPE = replace(plain_package("helmet", "vest"), output=SEVERAL)


def _loaded(
    directory: Path, decide: dict[str, Any], source: dict[str, Any] | None = None, **camera: Any
) -> LoadedConfig:
    one = {"source": source or {"type": "pattern"}, "classify": [{"model": "ppe", "decide": decide}], **camera}
    return load_config(write_config(directory, {"models": {"ppe": {"package": "demo"}}, "cameras": {"gate": one}}))


def test_rules_that_fit_the_package_are_accepted(tmp_path: Path) -> None:
    decide = {"unknown": "unsure", "labels": {"helmet": {"exit": 0.4}, "vest": {"enter": 0.2}}}
    check_labels(_loaded(tmp_path, decide), {"ppe": PPE})
    check_labels(_loaded(tmp_path, {"labels": {"other": {}}}), {})


@pytest.mark.parametrize(
    ("decide", "labels", "words"),
    [
        ({}, ("ok", "unknown"), ["`unknown` is the word while", "model ppe has a label", "set decide.unknown to"]),
        ({"unknown": "ok"}, ("ok", "no"), ["decide.unknown: `ok` is the word while"]),
        ({}, ("ok", "stale"), ["`stale` is the word while no results come, but", "another name in the labels"]),
        ({"labels": {"ok": {}}}, ("ok", "no"), ["task multi_label, but model ppe chooses one label; use enter"]),
    ],
)  # fmt: skip
def test_labels_of_a_model_that_chooses_one_are_refused(
    tmp_path: Path, decide: dict[str, Any], labels: tuple[str, ...], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_labels(_loaded(tmp_path, decide), {"ppe": plain_package(*labels)})
    for word in [*words, "agent.yaml:", "cameras.gate.classify[0]"]:
        assert word in caught.value.message


@pytest.mark.parametrize(
    ("decide", "labels", "words"),
    [
        ({"labels": {"helmets": {}}}, None, ["labels.helmets: model ppe has no label", "did you mean `helmet`?"]),
        ({"labels": {"helmet": {"exit": 0.5}}}, None, ["exit 0.5 is above the enter of `helmet`, 0.4; lower exit"]),
        ({"labels": {"vest": {"exit": 0.8}}}, None, ["exit 0.8 is above the enter of `vest`, 0.7"]),
        ({}, ("people", "people"), ["several labels `people`, but a set has each label once"]),
        ({}, ("stale", "vest"), ["another name in the labels"]),
    ],
)  # fmt: skip
def test_labels_of_a_model_that_finds_several_are_refused(
    tmp_path: Path, decide: dict[str, Any], labels: tuple[str, ...] | None, words: list[str]
) -> None:
    package = PPE if labels is None else replace(plain_package(*labels), output=SEVERAL)
    with pytest.raises(ConfigError) as caught:
        check_labels(_loaded(tmp_path, decide), {"ppe": package})
    for word in words:
        assert word in caught.value.message


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (plain_package("ok", "no"), []),
        (
            plain_package("no", "ok"),
            ["label 0 is `ok` in model a, but `no` in model b", "the same labels in the same"],
        ),
        (plain_package("ok", "no", "dent"), ["there are 2 labels in model a, but 3 in model b"]),
        (
            replace(plain_package("ok", "no"), output=SEVERAL),
            ["output.task is single_label in model a, but multi_label in model b"],
        ),
    ],
)
def test_a_mean_needs_models_whose_scores_mean_the_same(
    tmp_path: Path, second: ModelPackage, words: list[str]
) -> None:
    one = {"source": {"type": "pattern"}, "classify": [{"model": "a"}, {"model": "b", "mean_with": "a"}]}
    models = {"a": {"package": "demo"}, "b": {"package": "demo"}}
    loaded = load_config(write_config(tmp_path, {"models": models, "cameras": {"gate": one}}))
    check_labels(loaded, {"a": plain_package("ok", "no")})  # one that is not known is not checked
    if not words:
        check_labels(loaded, {"a": plain_package("ok", "no"), "b": second})
        return
    with pytest.raises(ConfigError) as caught:
        check_labels(loaded, {"a": plain_package("ok", "no"), "b": second})
    for word in [*words, "agent.yaml:", "cameras.gate.classify[1].mean_with"]:
        assert word in caught.value.message


@pytest.mark.parametrize(
    ("partner", "second", "words"),
    [
        ({}, {"output": OutputSpec(thresholds=(0.4, 0.5))}, ["of a and b state different thresholds, but", "of b;"]),
        ({}, {}, ["b has the same model file as a, but a mean needs two"]),
        (
            {"roi": [0, 0, 0.5, 1]},
            {"sha256": "b" * 64},
            ["region [0.0, 0.0, 1.0, 1.0], but a", "[0.0, 0.0, 0.5, 1.0]"],
        ),
        ({}, {"sha256": "b" * 64}, []),
        ({}, {"input": replace(plain_package("ok").input, interpolation="area")}, []),
    ],
)
def test_a_mean_of_other_images_or_of_one_model_is_a_warning(
    tmp_path: Path, partner: dict[str, Any], second: dict[str, Any], words: list[str]
) -> None:
    one = {"source": {"type": "pattern"}, "classify": [{"model": "a", **partner}, {"model": "b", "mean_with": "a"}]}
    models = {"a": {"package": "demo"}, "b": {"package": "demo"}}
    loaded = load_config(write_config(tmp_path, {"models": models, "cameras": {"gate": one}}))
    package = plain_package("ok", "no")
    told = list(questionable_means(loaded, {"a": package, "b": replace(package, **second)}))
    assert len(told) == bool(words)
    for word in words:
        assert word in told[0]
    assert list(questionable_means(loaded, {"a": package})) == []  # one that is not known is not judged


@pytest.mark.parametrize(
    ("task", "stated", "decide", "lowest"),
    [
        (Task.BINARY, (("dent", 0.3),), {}, "0.3"),
        (Task.BINARY, (("dent", 0.8),), {}, "0.2"),  # of the other label
        (Task.BINARY, (("dent", 0.3),), {"enter": 0.3, "exit": 0.2}, None),
        (Task.BINARY, (), {}, None),
        (Task.MULTI_LABEL, (("dent", 0.3),), {}, None),  # there it is the label's `enter`
    ],
)
def test_a_stated_threshold_that_decides_nothing_is_told(
    tmp_path: Path, task: Task, stated: tuple[tuple[str, float], ...], decide: dict[str, Any], lowest: str | None
) -> None:
    package = replace(plain_package("dent", "ok"), output=OutputSpec(task=task, stated=stated))
    told = list(idle_thresholds(_loaded(tmp_path, decide), {"ppe": package}))
    assert [f"set decide.enter to {lowest}" in text for text in told] == ([] if lowest is None else [True])


def test_a_kept_override_of_a_lost_label_is_logged_and_does_not_prevent_a_start(tmp_path: Path) -> None:
    package = PackageFiles.of(TinyModel(ending="sigmoid")).write(tmp_path)
    one = {"source": {"type": "pattern"}, "classify": [{"model": "trees"}]}
    models = {"trees": {"package": str(package)}}
    loaded = load_config(write_config(tmp_path, {"models": models, "cameras": {"gate": one}}))
    lost = ClassifierOverride(labels={"oak": LabelOverride(enter=0.2), "ash": LabelOverride(enter=0.2)})
    kept = Overrides(cameras={"gate": CameraOverride(classifiers={"trees": lost})})
    changed = replace(loaded, config=kept.applied_to(loaded.config))
    with capture_logs() as logs:
        packages = load_packages(changed)
    assert [(one["event"], "'oak'" in one["error"]) for one in logs] == [("overrides.ignored", True)]
    assert list(unknown_labels(loaded, packages)) == []


def test_the_start_refuses_a_package_whose_label_is_a_word_of_the_state(tmp_path: Path) -> None:
    files = PackageFiles.of(TinyModel())
    files.labels = b"ash\nunknown\nstale\nelm\nfir"
    one = {"source": {"type": "pattern"}, "classify": [{"model": "trees"}]}
    models = {"trees": {"package": str(files.write(tmp_path))}}
    with pytest.raises(ConfigError, match="has 2 faults") as caught:
        load_packages(load_config(write_config(tmp_path, {"models": models, "cameras": {"gate": one}})))
    assert caught.value.exit_code == 78
    assert "decide.unknown" in caught.value.message
    assert "another name in the labels file" in caught.value.message


def test_overrides_of_a_label_lie_over_the_rules_of_the_file(tmp_path: Path) -> None:
    loaded = _loaded(tmp_path, {"labels": {"helmet": {"enter": 0.6, "votes": 1}}})
    change = ClassifierOverride(labels={"helmet": LabelOverride(exit=0.2), "vest": LabelOverride(enter=0.9)})
    kept = Overrides(cameras={"gate": CameraOverride(classifiers={"ppe": change})})
    (use,) = kept.applied_to(loaded.config).cameras["gate"].classify
    helmet, vest = use.decide.rule("helmet"), use.decide.rule("vest")
    assert (helmet.enter, helmet.exit, helmet.needed) == (0.6, 0.2, 1)
    assert (vest.enter, vest.needed) == (0.9, 3)
    fitting, problems = Overrides.model_validate(
        {"cameras": {"gate": {"classifiers": {"ppe": {"labels": {"helmet": {"exit": 0.7}}}}}}}
    ).fitting(loaded.config)
    assert not fitting.cameras
    assert "exit 0.7 is above enter 0.6" in problems[0]


def test_an_exit_that_is_not_given_keeps_its_proportion_to_enter() -> None:
    decide = DecideConfig.model_validate({"enter": 0.8, "exit": 0.4, "labels": {"a": {"enter": 0.2}}})
    assert [decide.rule(label).exit for label in ("a", "b")] == [0.1, 0.4]
    assert decide.rule("b", stated=0.3).exit == pytest.approx(0.15)


_FILE = {"type": "file", "path": "demo"}


@pytest.mark.parametrize(
    ("source", "camera", "words"),
    [
        (
            _FILE,
            {},
            ["decide.hold_s: hold_s is in seconds of captured time, but frames of the source `file`", "rate_hz"],
        ),
        ({"type": "images", "path": "."}, {"rate_hz": 5}, ["the source `images` come as fast as they are read"]),
        (_FILE, {"rate_hz": 5}, []),
        ({"type": "pattern"}, {}, []),
    ],
)
def test_seconds_are_refused_where_frames_have_no_time(
    tmp_path: Path, source: dict[str, Any], camera: dict[str, Any], words: list[str]
) -> None:
    if not words:
        loaded = _loaded(tmp_path, {"hold_s": 2}, source, **camera)
        assert loaded.config.cameras["gate"].classify[0].decide.hold_s == 2.0
        return
    with pytest.raises(ConfigError) as caught:
        _loaded(tmp_path, {"hold_s": 2}, source, **camera)
    for word in words:
        assert word in caught.value.message
