"""What a model's scores decide: checks ``output.task`` of the manifest against the model and its labels."""

from __future__ import annotations

from engines.errors import ModelRejected
from engines.package.manifest import OutputSection
from engines.package.specs import THRESHOLD, OutputSpec, Task
from engines.package.strict_yaml import nearest_key

_SIGMOIDS = frozenset({"Sigmoid", "HardSigmoid"})
_SOFTMAXES = frozenset({"Softmax", "LogSoftmax"})
_TWO = 2


def task_of(section: OutputSection, *, classes: int, last: str, name: str) -> Task:
    """Return the task; ``last`` is the operator that the graph ends in, empty if it is unknown.

    Without a statement a model chooses one label. A model with one class has nothing to choose from: its score is
    judged at its threshold.

    Raises:
        ModelRejected: the task contradicts the model, or the model may decide in two ways and none is stated.
    """
    is_softmax = section.activation == "softmax" or last in _SOFTMAXES
    is_sigmoid = section.activation == "sigmoid" or last in _SIGMOIDS
    if section.task is None:
        # Judged as a choice of one label, a second label that is never found again would go unnoticed.
        if is_sigmoid and classes > 1:
            raise ModelRejected(
                f"{name} gives each of its {classes} labels a sigmoid of its own, but output.task is not stated. Set "
                "task: multi_label if an image may have several labels or none, or task: single_label if it has "
                "exactly one (agent model import: --task)",
                classes=classes,
            )
        return Task.SINGLE_LABEL
    task = Task(section.task)
    if task is Task.BINARY and classes != 1:
        raise ModelRejected(
            f"output.task is binary, which is for a model with one score, but {name} has {classes}. Set task: "
            "single_label and remove positive",
            classes=classes,
        )
    if task is Task.SINGLE_LABEL and classes == 1:
        raise ModelRejected(
            f"output.task is single_label, which chooses one of several labels, but {name} has one score. Set task: "
            "binary with positive and both labels in the labels file, or task: multi_label",
            classes=classes,
        )
    if task is not Task.SINGLE_LABEL and is_softmax:
        raise ModelRejected(
            f"output.task is {task.value}, but the scores of {name} come from a softmax, so they sum to 1 and exclude "
            "each other. Set task: single_label, or activation: sigmoid if that is what the model lacks",
            task=task.value,
        )
    return task


def output_of(
    section: OutputSection, task: Task, labels: tuple[str, ...], *, name: str
) -> tuple[OutputSpec, tuple[str, ...]]:
    """Return the output, and the labels in the order of the scores: of a binary model the positive one comes first.

    Raises:
        ModelRejected: ``positive`` or a threshold names no label, or a binary model has a label twice.
    """
    if task is Task.BINARY:
        labels = _positive_first(section, labels, name=name)
    scored = labels[:1] if task is Task.BINARY else labels
    for label in section.thresholds:
        if label not in scored:
            raise ModelRejected(f"output.thresholds: {label!r} has no score of its own; {_near(label, scored)}")
    thresholds = tuple(section.thresholds.get(label, THRESHOLD) for label in scored)
    spec = OutputSpec(
        activation=section.activation,
        task=task,
        positive=section.positive,
        thresholds=thresholds,
        stated=tuple(section.thresholds.items()),
        name=section.name,
        class_axis=section.class_axis,
        features=section.features,
    )
    return spec, labels


def _positive_first(section: OutputSection, labels: tuple[str, ...], *, name: str) -> tuple[str, ...]:
    positive = str(section.positive)
    others = tuple(label for label in labels if label != positive)
    if len(others) == _TWO:
        raise ModelRejected(
            f"output.positive {positive!r} is not one of the labels in {name}; {_near(positive, labels)}"
        )
    if len(others) != 1:
        raise ModelRejected(f"output.task is binary, but both labels in {name} are {positive!r}. Name the other one")
    return positive, *others


def _near(label: str, labels: tuple[str, ...]) -> str:
    near = nearest_key(label, labels)
    return f"did you mean {near!r}?" if near else f"known are {', '.join(labels[:5])}"
