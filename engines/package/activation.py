"""Checks whether a model gives probabilities once its declared activation is added.

A softmax on top of a softmax keeps the top-1 class, but confidences are near 1/classes; logits published as
probabilities exceed 1. The end of the graph shows most of these mistakes at load, a run on images shows the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from engines.errors import ModelRejected
from engines.package.specs import Activation

if TYPE_CHECKING:
    import onnx

SUM_TOLERANCE = 0.02
"""Tolerance for the sum 1 and the range 0 to 1; float16 models with 1000 classes stay within it."""

NORMALISING = frozenset({"Softmax", "Sigmoid", "HardSigmoid"})
"""Operators whose results are probabilities."""

# What keeps probabilities what they are, or a part of them, or whole multiples.
_TRANSPARENT = frozenset(
    {
        *("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Dropout", "Transpose"),
        *("Slice", "Gather", "Clip", "QuantizeLinear", "DequantizeLinear", "ReduceMean"),
    }
)
_SCALING = frozenset({"Mul", "Div"})
_MERGING = frozenset({"Mean", "Add", "Sum", "Max", "Concat"})
# The last layer of a classifier: its results are logits, whatever their range.
_LAYERS = frozenset({"Gemm", "MatMul", "Conv", "GlobalAveragePool", "AveragePool", "Add", "FusedGemm", "FusedMatMul"})
_MAX_STEPS = 64
_CONSTANT = 1e-6
"""Scores that differ less than this share of the largest are equal."""


def last_operator(model: onnx.ModelProto, output: str) -> str:
    """Return the operator that decides what the values of ``output`` are; empty if there is none.

    Operators that only move, cut, round, average or scale probabilities are passed over, as in an export whose softmax
    is followed by a Slice, by quantisation, or by a factor of 100.
    """
    return _Ends(model.graph).of(output, _MAX_STEPS)


class _Ends:
    """Finds deciding operators; remembers them, because branches share their beginnings."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._makers = {name: node for node in graph.node for name in node.output}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self._constants[node.output[0]] = node.attribute[0].t
        self._known: dict[str, str] = {}

    def of(self, value: str, steps: int) -> str:
        if value not in self._known:
            node = self._makers.get(value)
            self._known[value] = "" if node is None or not steps else self._of_node(node, steps - 1)
        return self._known[value]

    def _of_node(self, node: onnx.NodeProto, steps: int) -> str:
        kind = str(node.op_type)
        computed = [name for name in node.input if name and name not in self._constants]
        if kind in _TRANSPARENT and node.input:
            return self.of(node.input[0], steps)
        if kind in _SCALING and len(computed) == 1 and self._scales_up(node):
            return self._passed(kind, self.of(computed[0], steps))
        if kind in _MERGING and len(computed) == len(node.input) > 1:
            # A mean of softmaxes is one; a residual connection is not.
            ends = {self.of(name, steps) for name in computed}
            return self._passed(kind, ends.pop()) if len(ends) == 1 else kind
        return kind

    @staticmethod
    def _passed(kind: str, end: str) -> str:
        """Only probabilities are recognised behind a scale or a sum; for anything else that is the last operator."""
        return end if end in NORMALISING else kind

    def _scales_up(self, node: onnx.NodeProto) -> bool:
        """Whether the constant of a product or quotient is positive: a negative one turns the order around."""
        from onnx import numpy_helper

        factor = next((self._constants[name] for name in node.input if name in self._constants), None)
        return factor is not None and bool((numpy_helper.to_array(factor).astype(np.float64) > 0).all())


def check_declared_activation(last: str, declared: Activation, *, name: str) -> None:
    """Refuse an activation that contradicts ``last``, the operator that the model ends in.

    Raises:
        ModelRejected: a second softmax or sigmoid, or an output of log probabilities.
    """
    if last == "LogSoftmax":
        fact = "gives log probabilities (its last operator is LogSoftmax)"
        if declared != "softmax":
            raise ModelRejected(
                f"{name} {fact}, but the manifest says activation {declared}. Set activation: softmax, which turns "
                "them into probabilities",
                last=last,
                declared=declared,
            )
    elif last in NORMALISING and declared != "none":
        raise ModelRejected(
            f"{name} already ends in {last}, but the manifest says that {declared} is missing: it would be applied "
            "twice. Set activation: none",
            last=last,
            declared=declared,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RawScores:
    """The range of the model's scores without an added activation, over all images tried.

    ``is_constant``: every image gets the same scores. ``is_flat``: every class gets the same score.
    """

    lowest: float
    highest: float
    sum_lowest: float
    sum_highest: float
    is_constant: bool = False
    is_flat: bool = False

    @property
    def is_finite(self) -> bool:
        """Whether no score is NaN or infinity."""
        return math.isfinite(self.lowest) and math.isfinite(self.highest)

    @property
    def in_range(self) -> bool:
        """Whether all scores are between 0 and 1, within the tolerance."""
        return self.lowest >= -SUM_TOLERANCE and self.highest <= 1 + SUM_TOLERANCE

    @property
    def sums_to_one(self) -> bool:
        """Whether the scores of each image sum to 1, within the tolerance."""
        return abs(self.sum_lowest - 1) <= SUM_TOLERANCE and abs(self.sum_highest - 1) <= SUM_TOLERANCE

    @property
    def is_scaled(self) -> bool:
        """Whether the scores are probabilities times a factor, such as percent: none is negative, one sum for all.

        Logits have no sum in common.
        """
        if not self.is_finite or self.is_constant or self.lowest < 0 or self.in_range:
            return False
        return self.sum_highest - self.sum_lowest <= SUM_TOLERANCE * self.sum_highest

    @property
    def text(self) -> str:
        """Range and sums, for messages."""
        sums = f"{self.sum_lowest:.4g} to {self.sum_highest:.4g}"
        return f"values from {self.lowest:.4g} to {self.highest:.4g} with sums from {sums}"


def raw_scores(scores: npt.NDArray[np.float32]) -> RawScores:
    """Measure scores ``(N, classes)`` of a serving graph built with activation none."""
    sums = scores.sum(axis=1)
    same = _CONSTANT * np.abs(scores).max(initial=0)
    return RawScores(
        lowest=float(scores.min()),
        highest=float(scores.max()),
        sum_lowest=float(sums.min()),
        sum_highest=float(sums.max()),
        is_constant=len(scores) > 1 and bool(np.ptp(scores, axis=0).max() <= same),
        is_flat=scores.shape[1] > 1 and bool(np.ptp(scores, axis=1).max() <= same),
    )


def judge_activation(raw: RawScores, declared: Activation, *, name: str, classes: int, last: str = "") -> str | None:
    """Return a warning, or None if the declared activation fits the model's scores; ``last`` as in ``last_operator``.

    Raises:
        ModelRejected: the scores would not be probabilities, say nothing, or softmax would be applied twice or to a
            single score.
    """
    _check_telling(raw, name=name)
    if declared == "softmax" and classes == 1:
        raise ModelRejected(
            f"{name} has one class, but the manifest says that softmax is missing: over a single score it is always "
            "1. Set activation: sigmoid",
            classes=classes,
        )
    if raw.is_scaled or (declared == "none" and not raw.in_range and last in NORMALISING):
        raise ModelRejected(
            f"{name} gives {raw.text}: probabilities times a factor, such as percent, but scores go from 0 to 1. "
            "Export it without the factor",
            lowest=raw.lowest,
            highest=raw.highest,
        )
    if declared == "none" and not raw.in_range:
        raise ModelRejected(
            f"{name} gives {raw.text}, but the manifest says that no activation is missing, so they should be "
            f"probabilities from 0 to 1. Set activation: {'sigmoid' if classes == 1 else 'softmax'}",
            lowest=raw.lowest,
            highest=raw.highest,
        )
    if declared == "softmax" and raw.in_range and raw.sums_to_one:
        raise ModelRejected(
            f"{name} already gives probabilities ({raw.text}), but the manifest says that softmax is missing: it "
            "would be applied twice. Set activation: none",
            sum_lowest=raw.sum_lowest,
            sum_highest=raw.sum_highest,
        )
    return _warning(raw, declared, classes=classes, last=last)


def _check_telling(raw: RawScores, *, name: str) -> None:
    if not raw.is_finite:
        raise ModelRejected(
            f"{name} gives {raw.lowest:.4g} to {raw.highest:.4g}, but scores are numbers. Were its weights converted "
            "to fp16, which ends at 65504, or is the preprocessing another one? Export it in fp32",
        )
    if raw.is_flat:
        raise ModelRejected(
            f"{name} gives every class the same score ({raw.highest:.4g}), but a classifier tells them apart. Are its "
            "weights all 0, or not loaded before the export?",
        )


def _warning(raw: RawScores, declared: Activation, *, classes: int, last: str) -> str | None:
    if raw.is_constant:
        return (
            "all test images got the same scores, but they are different noise and the golden images: check that the "
            "weights were loaded before the export, and the preprocessing"
        )
    if declared == "softmax" and raw.in_range and last not in _LAYERS:
        return (
            f"the model gives {raw.text}, which may be probabilities already, but activation softmax is added: then "
            f"confidences stay near {1 / classes:.3g}. If they are probabilities, state activation: none"
        )
    if declared == "none" and not raw.sums_to_one and last != "Softmax":
        sums = f"{raw.sum_lowest:.4g} to {raw.sum_highest:.4g}"
        return f"the scores of an image sum to {sums}, not 1: if they are independent, state task: multi_label"
    return None


def guess_activation(
    raw: RawScores | None, last: str, *, classes: int, name: str, is_single_label: bool = True
) -> Activation:
    """Find the missing activation from a model's last operator and its scores.

    ``raw`` is None if the model cannot be run. Labels that do not exclude each other never get a softmax.

    Raises:
        ModelRejected: the scores may be probabilities or logits, and nothing tells which.
    """
    if last in NORMALISING:
        return "none"
    logits: Activation = "softmax" if is_single_label and classes > 1 else "sigmoid"
    # Scores that are equal, or no numbers, are refused by ``judge_activation``.
    if raw is None or not raw.in_range or last in {"LogSoftmax"} or raw.is_flat or not raw.is_finite:
        return logits
    if is_single_label and classes > 1 and raw.sums_to_one:
        return "none"
    if last in _LAYERS:
        return logits
    raise ModelRejected(
        f"{name} gives {raw.text}, as probabilities do, but it ends in {last or 'an unknown operator'} and not in a "
        f"softmax or sigmoid, so nothing tells whether one is missing. State it: --activation none, or --activation "
        f"{logits} if these are logits",
        last=last,
    )
