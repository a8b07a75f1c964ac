"""What a model's scores decide, by its task: the label of an image, or which labels it has."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engines.package.load import ModelPackage
from engines.package.specs import Task

NO_LABEL = "no label"
"""Stands for the label of an image in which a multi-label model detects none."""

Flags = npt.NDArray[np.bool_]


def has_thresholds(package: ModelPackage) -> bool:
    """Whether each score is judged at its threshold; otherwise the highest score wins.

    A model with one class and no stated task has nothing to choose from, so its score is judged too.
    """
    return package.output.task is not Task.SINGLE_LABEL or package.signature.classes == 1


def detections(package: ModelPackage, scores: npt.NDArray[np.floating]) -> Flags:
    """Return which scores ``(N, classes)`` reach the threshold of their label."""
    flags: Flags = np.asarray(scores >= np.asarray(package.output.thresholds, scores.dtype))
    return flags


def described(package: ModelPackage, scores: npt.NDArray[np.floating]) -> str:
    """Return what ``scores (classes,)`` decide in words: a label, or the detected ones; NaN counts as no answer."""
    if not np.isfinite(scores).all():
        return "not a number"
    if package.output.task is Task.BINARY:
        return package.labels[0 if detections(package, scores)[0] else 1]
    if not has_thresholds(package):
        return package.labels[int(scores.argmax())]
    return ", ".join(package.labels[column] for column in np.flatnonzero(detections(package, scores))) or NO_LABEL


def answer_for(package: ModelPackage, scores: npt.NDArray[np.float32], expected: str) -> tuple[str, float]:
    """Return the label of an image whose label should be ``expected``, and its confidence, from ``scores (classes,)``.

    A multi-label model that detects ``expected`` among others is right; its confidence is that label's score.
    """
    if package.output.task is Task.BINARY:
        is_positive = bool(detections(package, scores)[0])
        confidence = float(scores[0]) if is_positive else 1 - float(scores[0])
        return package.labels[0 if is_positive else 1], confidence
    best = int(scores.argmax())
    if package.output.task is Task.MULTI_LABEL:
        wanted = package.labels.index(expected)
        is_detected = detections(package, scores)
        if is_detected[wanted] or not is_detected[best]:
            return expected if is_detected[wanted] else NO_LABEL, float(scores[wanted])
    return package.labels[best], float(scores[best])
