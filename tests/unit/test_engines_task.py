"""The task of a model: what is stated in the manifest, what contradicts the model, and what its golden images mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.errors import ModelRejected
from engines.package.decisions import NO_LABEL, answer_for, detections, has_thresholds
from engines.package.load import ModelPackage, Task, load_package
from tests.fixtures.packages import LABELS, PackageFiles, TinyModel


def _load(tmp_path: Path, tiny: TinyModel, labels: str | None = None, **output: Any) -> ModelPackage:
    files = PackageFiles.of(tiny)
    files.manifest["output"] = output
    if labels is not None:
        files.labels = labels.encode()
    return load_package(files.write(tmp_path))


def test_without_a_statement_a_softmax_chooses_one_label(tmp_path: Path) -> None:
    package = _load(tmp_path, TinyModel(), activation="softmax")
    assert package.output.task is Task.SINGLE_LABEL
    assert not has_thresholds(package)


def test_one_class_without_a_statement_is_judged_at_its_threshold(tmp_path: Path) -> None:
    package = _load(tmp_path, TinyModel(classes=1), activation="sigmoid")
    assert package.output.task is Task.SINGLE_LABEL
    assert has_thresholds(package)


def test_a_binary_model_has_its_positive_label_first(tmp_path: Path) -> None:
    package = _load(
        tmp_path, TinyModel(classes=1), "ok\ndefect\n", activation="sigmoid", task="binary", positive="defect",
        thresholds={"defect": 0.3},
    )  # fmt: skip
    assert package.labels == ("defect", "ok")
    assert (package.output.task, package.output.positive) == (Task.BINARY, "defect")
    assert package.output.thresholds == (0.3,)
    answers = [answer_for(package, np.array([score], np.float32), "ok") for score in (0.3, 0.2)]
    assert [label for label, _ in answers] == ["defect", "ok"]
    assert [round(confidence, 3) for _, confidence in answers] == [0.3, 0.8]


def test_a_multi_label_model_has_a_threshold_for_each_label(tmp_path: Path) -> None:
    package = _load(tmp_path, TinyModel(), activation="sigmoid", task="multi_label", thresholds={LABELS[1]: 0.9})
    assert package.output.thresholds == (0.5, 0.9, 0.5, 0.5, 0.5)
    scores = np.array([0.6, 0.8, 0.1, 0.5, 0.4], np.float32)
    assert detections(package, scores).tolist() == [True, False, False, True, False]
    assert answer_for(package, scores, LABELS[3]) == (LABELS[3], 0.5)
    # The highest score is not the one that was asked for, and it is below its own threshold.
    assert answer_for(package, scores, LABELS[2])[0] == NO_LABEL
    scores[1] = 0.95
    assert answer_for(package, scores, LABELS[2])[0] == LABELS[1]


SINGLE, SEVERAL = TinyModel(classes=1), TinyModel()
REFUSALS: dict[str, tuple[TinyModel, str | None, dict[str, Any], list[str]]] = {
    "sigmoid without a task": (SEVERAL, None, {"activation": "sigmoid"}, ["5 labels", "output.task is not stated"]),
    "a graph that ends in sigmoids": (
        TinyModel(ending="sigmoid"), None, {"activation": "none"}, ["task: multi_label", "task: single_label"],
    ),
    "binary with several scores": (
        SEVERAL, "a\nb", {"activation": "sigmoid", "task": "binary", "positive": "a"}, ["one score", "has 5"],
    ),
    "single_label with one score": (
        SINGLE, "a", {"activation": "sigmoid", "task": "single_label"}, ["has one score", "binary"],
    ),
    "multi_label after a softmax": (
        SEVERAL, None, {"activation": "softmax", "task": "multi_label"}, ["softmax", "exclude each other"],
    ),
    "multi_label after the graph's own softmax": (
        TinyModel(ending="softmax"), None, {"activation": "none", "task": "multi_label"}, ["exclude each other"],
    ),
    "binary without positive": (SINGLE, "a\nb", {"activation": "sigmoid", "task": "binary"}, ["needs positive"]),
    "positive without binary": (
        SEVERAL, None, {"activation": "softmax", "positive": "ash"}, ["positive needs task: binary", "not stated"],
    ),
    "positive is no label": (
        SINGLE, "good\ndefect", {"activation": "sigmoid", "task": "binary", "positive": "defekt"},
        ["'defekt'", "did you mean 'defect'"],
    ),
    "binary with one label": (
        SINGLE, "a", {"activation": "sigmoid", "task": "binary", "positive": "a"}, ["1 labels", "2 classes"],
    ),
    "binary with the same label twice": (
        SINGLE, "a\na", {"activation": "sigmoid", "task": "binary", "positive": "a"}, ["both labels"],
    ),
    "thresholds of a single_label model": (
        SEVERAL, None, {"activation": "softmax", "thresholds": {"ash": 0.4}}, ["thresholds need task"],
    ),
    "a threshold of no label": (
        SEVERAL, None, {"activation": "sigmoid", "task": "multi_label", "thresholds": {"ahs": 0.4}},
        ["'ahs'", "did you mean 'ash'"],
    ),
    "a threshold of the negative label": (
        SINGLE, "a\nb", {"activation": "sigmoid", "task": "binary", "positive": "a", "thresholds": {"b": 0.4}},
        ["'b' has no score of its own"],
    ),
    "a threshold of one": (
        SEVERAL, None, {"activation": "sigmoid", "task": "multi_label", "thresholds": {"ash": 1.0}}, ["less than 1"],
    ),
    "an unknown task": (SEVERAL, None, {"activation": "softmax", "task": "detection"}, ["'detection'", "multi_label"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_a_task_that_contradicts_the_model_is_refused_with_both_facts(tmp_path: Path, case: str) -> None:
    tiny, labels, output, facts = REFUSALS[case]
    with pytest.raises(ModelRejected) as caught:
        _load(tmp_path, tiny, labels, **output)
    for fact in facts:
        assert fact in caught.value.message
