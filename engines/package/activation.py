"""Checks whether a model gives probabilities once its declared activation is added.

A softmax on top of a softmax keeps the top-1 class, but confidences are near 1/classes; logits published as
probabilities exceed 1. The end of the graph shows most of these mistakes at load, a run on images shows the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from engines.errors import ModelRejected
from engines.package.specs import Activation

SUM_TOLERANCE = 0.02
"""Tolerance for the sum 1 and the range 0 to 1; float16 models with 1000 classes stay within it."""

_TRANSPARENT = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Dropout", "Transpose"})
_MAX_STEPS = 64


def last_operator(model: onnx.ModelProto, output: str) -> str:
    """Return the operator that computes ``output``, ignoring reshapes and casts; empty if there is none."""
    makers = {name: node for node in model.graph.node for name in node.output}
    for _ in range(_MAX_STEPS):
        node = makers.get(output)
        if node is None:
            return ""
        if node.op_type not in _TRANSPARENT or not node.input:
            return str(node.op_type)
        output = node.input[0]
    return ""


def check_declared_activation(model: onnx.ModelProto, output: str, declared: Activation, *, name: str) -> None:
    """Refuse an activation that contradicts the end of the graph.

    Raises:
        ModelRejected: a second softmax or sigmoid, or an output of log probabilities.
    """
    last = last_operator(model, output)
    if last == "LogSoftmax":
        fact = "gives log probabilities (its last operator is LogSoftmax)"
        if declared != "softmax":
            raise ModelRejected(
                f"{name} {fact}, but the manifest says activation {declared}. Set activation: softmax, which turns "
                "them into probabilities",
                last=last,
                declared=declared,
            )
    elif last in {"Softmax", "Sigmoid", "HardSigmoid"} and declared != "none":
        raise ModelRejected(
            f"{name} already ends in {last}, but the manifest says that {declared} is missing: it would be applied "
            "twice. Set activation: none",
            last=last,
            declared=declared,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RawScores:
    """The range of the model's scores without an added activation, over all images tried."""

    lowest: float
    highest: float
    sum_lowest: float
    sum_highest: float

    @property
    def in_range(self) -> bool:
        """Whether all scores are between 0 and 1, within the tolerance."""
        return self.lowest >= -SUM_TOLERANCE and self.highest <= 1 + SUM_TOLERANCE

    @property
    def sums_to_one(self) -> bool:
        """Whether the scores of each image sum to 1, within the tolerance."""
        return abs(self.sum_lowest - 1) <= SUM_TOLERANCE and abs(self.sum_highest - 1) <= SUM_TOLERANCE


def raw_scores(scores: npt.NDArray[np.float32]) -> RawScores:
    """Measure scores ``(N, classes)`` of a serving graph built with activation none."""
    sums = scores.sum(axis=1)
    return RawScores(
        lowest=float(scores.min()),
        highest=float(scores.max()),
        sum_lowest=float(sums.min()),
        sum_highest=float(sums.max()),
    )


def judge_activation(raw: RawScores, declared: Activation, *, name: str, classes: int) -> str | None:
    """Return a warning, or None if the declared activation fits the model's scores.

    Raises:
        ModelRejected: the scores would not be probabilities, or softmax would be applied twice or to a single score.
    """
    sums = f"{raw.sum_lowest:.4g} to {raw.sum_highest:.4g}"
    seen = f"values from {raw.lowest:.4g} to {raw.highest:.4g} with sums from {sums}"
    if declared == "softmax" and classes == 1:
        raise ModelRejected(
            f"{name} has one class, but the manifest says that softmax is missing: over a single score it is always "
            "1. Set activation: sigmoid",
            classes=classes,
        )
    if declared == "none" and not raw.in_range:
        raise ModelRejected(
            f"{name} gives {seen}, but the manifest says that no activation is missing, so they should be "
            f"probabilities from 0 to 1. Set activation: {'sigmoid' if classes == 1 else 'softmax'}",
            lowest=raw.lowest,
            highest=raw.highest,
        )
    if declared == "softmax" and raw.in_range and raw.sums_to_one:
        raise ModelRejected(
            f"{name} already gives probabilities ({seen}), but the manifest says that softmax is missing: it would be "
            "applied twice. Set activation: none",
            sum_lowest=raw.sum_lowest,
            sum_highest=raw.sum_highest,
        )
    if declared == "none" and not raw.sums_to_one:
        return f"the scores of an image sum to {sums}, not 1: if they are independent, state task: multi_label"
    return None


def guess_activation(raw: RawScores | None, last: str, *, classes: int, is_single_label: bool = True) -> Activation:
    """Guess the missing activation from a model's last operator and its scores.

    ``raw`` is None if the model cannot be run. Labels that do not exclude each other never get a softmax.
    """
    if last in {"Softmax", "Sigmoid", "HardSigmoid"}:
        return "none"
    if classes == 1:
        return "sigmoid"
    if not is_single_label:
        return "none" if raw is not None and raw.in_range else "sigmoid"
    return "none" if raw is not None and raw.in_range and raw.sums_to_one else "softmax"
