"""Finds the few layers that must stay in fp32 for an int8 graph to pass the accuracy check."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from engines.base import Images, Scores
from engines.errors import PrecisionRejected
from engines.graph.agreement import Bars, Comparison, why_failed
from engines.graph.int8 import Int8Converter
from engines.graph.ort_library import library, library_errors, one_line

_RANKED_IMAGES = 4


@dataclass(frozen=True, slots=True)
class Int8Result:
    """A quantised graph that reaches the bars, with the layers left in fp32, most sensitive first."""

    model: onnx.ModelProto
    kept_layers: tuple[str, ...]
    layers: int
    comparison: Comparison


def quantise_to_agreement(
    converter: Int8Converter,
    batch: Images,
    *,
    input_name: str,
    output_name: str,
    step: int,
    compare: Callable[[Scores, Scores], Comparison],
    bars: Bars,
) -> Int8Result:
    """Quantise all layers; if accuracy suffers, leave as few as possible in fp32.

    ``batch`` has images that the converter is not calibrated on, at least ``step``; ``compare`` gets their scores in
    fp32 and in int8. Layers are ranked by the error that each adds on a few images. The number of layers kept in fp32
    is doubled until no bar is missed, then bisected down.

    Raises:
        PrecisionRejected: not even half of the layers in fp32 is enough.
    """

    def scores_of(model: onnx.ModelProto) -> Scores:
        scores: Scores = _run(model, batch, input_name=input_name, outputs=[output_name], step=step)[0]
        return scores

    expected = scores_of(converter.model)

    def attempt(keep: Sequence[str]) -> tuple[onnx.ModelProto, Comparison]:
        model = converter.convert(keep=keep)
        return model, compare(expected, scores_of(model))

    layers = converter.layers()
    model, found = attempt(())
    if not why_failed(found, bars):
        return Int8Result(model, (), len(layers), found)
    ranked = _by_added_error(converter, model, batch, input_name=input_name, step=step)
    return _smallest(ranked, attempt, bars=bars, without=found)


def _smallest(
    ranked: Sequence[str],
    attempt: Callable[[Sequence[str]], tuple[onnx.ModelProto, Comparison]],
    *,
    bars: Bars,
    without: Comparison,
) -> Int8Result:
    limit = max(1, len(ranked) // 2)
    too_few, count = 0, 1
    best: Int8Result | None = None
    while best is None:
        model, found = attempt(ranked[:count])
        missed = why_failed(found, bars)
        if not missed:
            best = Int8Result(model, tuple(ranked[:count]), len(ranked), found)
        elif count == limit:
            raise PrecisionRejected(
                f"int8 does not keep the answers of fp32 on images that it was not calibrated on: "
                f"{why_failed(without, bars)}; with {count} of {len(ranked)} layers left in fp32 {missed}. Use fp16, "
                "or give more calibration images, typical ones",
                precision="int8",
                agreement=found.agreement,
                at_least=found.at_least,
                kept_layers=",".join(ranked[:count]),
            )
        else:
            too_few, count = count, min(limit, count * 2)
    # Agreement need not grow with each layer, so this finds a small set, not always the smallest.
    while len(best.kept_layers) - too_few > 1:
        middle = (len(best.kept_layers) + too_few) // 2
        model, found = attempt(ranked[:middle])
        if not why_failed(found, bars):
            best = Int8Result(model, tuple(ranked[:middle]), len(ranked), found)
        else:
            too_few = middle
    return best


def _by_added_error(
    converter: Int8Converter, model: onnx.ModelProto, batch: Images, *, input_name: str, step: int
) -> list[str]:
    """Order the layers by the relative error that each adds to the layer before it, worst first."""
    names = converter.layers()
    # The outputs of all layers are in memory at once, so only a few images, in whole batches.
    few = batch[: max(step, min(len(batch), _RANKED_IMAGES) // step * step)]
    exact, rough = (
        _run(_exposing(one, outputs), few, input_name=input_name, outputs=outputs, step=step)
        for one, outputs in ((one, _outputs_of(one, names)) for one in (converter.model, model))
    )
    added: dict[str, float] = {}
    before = 0.0
    for name, one, other in zip(names, exact, rough, strict=True):
        length = float(np.linalg.norm(one))
        error = float(np.linalg.norm(one - other)) / length if length else 0.0
        error = error if math.isfinite(error) else math.inf
        # The error of a layer contains the error of its inputs; the increase is its own share.
        added[name], before = error - before, error
    return sorted(names, key=lambda name: -added[name])


def _outputs_of(model: onnx.ModelProto, names: Sequence[str]) -> list[str]:
    """Return the output tensors of the nodes ``names``. A layer whose Relu was folded in has the Relu's output."""
    made = {node.name: node.output[0] for node in model.graph.node}
    return [made[name] for name in names]


def _exposing(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {value.name for value in copy.graph.output}
    copy.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors if name not in present
    )
    return copy


def _run(model: onnx.ModelProto, batch: Images, *, input_name: str, outputs: Sequence[str], step: int) -> list[Any]:
    """Run a model in memory on the CPU; return each output, joined over the whole batch."""
    ort = library()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # A graph with a fixed batch takes exactly ``step`` images, so a remainder cannot run.
    usable = len(batch) // step * step
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        parts = [session.run(list(outputs), {input_name: batch[i : i + step]}) for i in range(0, usable, step)]
    except library_errors() as exc:
        raise PrecisionRejected(
            f"the quantised model does not run: {one_line(exc)}. Use precision fp16 or fp32", precision="int8"
        ) from exc
    return [np.concatenate(column) for column in zip(*parts, strict=True)]
