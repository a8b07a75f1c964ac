"""Models that would be served wrong without an error are refused, or named in a warning, with the two facts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.check.import_request import crop_warning
from engines.errors import ModelRejected
from engines.graph.batch_dimension import noise_images, run_serving_model
from engines.graph.serving_model import build_serving_model
from engines.package.activation import (
    RawScores,
    guess_activation,
    judge_activation,
    last_operator,
    raw_scores,
)
from engines.package.graph_faults import check_inference_mode, quantised_operators
from engines.package.labels import parse_labels
from engines.package.load import load_package
from tests.fixtures.packages import PackageFiles, TinyModel

Nodes = list[onnx.NodeProto]


def after_logits(*nodes: onnx.NodeProto, **constants: Any) -> onnx.ModelProto:
    """The tiny model with ``nodes`` behind its logits; the last one's output is the model's."""
    model = TinyModel().proto()
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items())
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, [1, None]))
    return model


def node(kind: str, *names: str, **attributes: Any) -> onnx.NodeProto:
    """The last name is the output's."""
    return helper.make_node(kind, names[:-1], names[-1:], **attributes)


SOFTMAX = node("Softmax", "logits", "p", axis=1)
BEHIND_SOFTMAX: dict[str, tuple[Nodes, dict[str, Any]]] = {
    "slice": ([node("Slice", "p", "from", "to", "axis", "q")], {"from": [1], "to": [5], "axis": [1]}),
    "gather": ([node("Gather", "p", "picked", "q", axis=1)], {"picked": [4, 0, 2]}),
    "clip": ([node("Clip", "p", "low", "high", "q")], {"low": np.float32(1e-6), "high": np.float32(0.9)}),
    "percent": ([node("Mul", "p", "hundred", "q")], {"hundred": np.float32(100)}),
    "a quotient": ([node("Div", "p", "hundredth", "q")], {"hundredth": np.float32(0.01)}),
    "quantisation": (
        [node("QuantizeLinear", "p", "step", "zero", "w"), node("DequantizeLinear", "w", "step", "zero", "q")],
        {"step": np.float32(1 / 255), "zero": np.uint8(0)},
    ),
    "a mean of views": (
        [node("Unsqueeze", "p", "first", "u"), node("Concat", "u", "u", "v", axis=0), node("ReduceMean", "v", "q")],
        {"first": [0]},
    ),
    "a mean of two": ([node("Softmax", "logits", "p2", axis=1), node("Mean", "p", "p2", "q")], {}),
}


@pytest.mark.parametrize("case", BEHIND_SOFTMAX)
def test_a_softmax_is_seen_behind_what_follows_it(case: str) -> None:
    nodes, constants = BEHIND_SOFTMAX[case]
    model = after_logits(SOFTMAX, *nodes, **constants)
    assert last_operator(model, "q") == "Softmax"
    raw = RawScores(lowest=0.0, highest=0.4, sum_lowest=0.3, sum_highest=0.9)
    assert guess_activation(raw, last_operator(model, "q"), classes=5, name="m") == "none"
    assert judge_activation(raw, "none", name="m", classes=5, last="Softmax") is None


@pytest.mark.parametrize(
    ("nodes", "constants", "found"),
    [
        ([node("Mul", "p", "minus", "q")], {"minus": np.float32(-1)}, "Mul"),  # the order is turned around
        ([node("Sigmoid", "logits", "s"), node("Mul", "logits", "s", "q")], {}, "Mul"),  # SiLU
        ([node("Add", "p", "logits", "q")], {}, "Add"),  # a residual connection
        ([node("MatMul", "p", "matrix", "q")], {"matrix": np.eye(5, dtype=np.float32)}, "MatMul"),
    ],
)
def test_a_softmax_inside_the_model_is_not_its_end(nodes: Nodes, constants: dict[str, Any], found: str) -> None:
    assert last_operator(after_logits(SOFTMAX, *nodes, **constants), "q") == found


def test_a_softmax_on_quantised_probabilities_is_refused_at_load(tmp_path: Path) -> None:
    nodes, constants = BEHIND_SOFTMAX["quantisation"]
    model = after_logits(SOFTMAX, *nodes, **constants)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("q", TensorProto.FLOAT, [1, 5]))
    package = PackageFiles.of().with_model(model.SerializeToString())
    with pytest.raises(ModelRejected, match="already ends in Softmax, but the manifest says that softmax is missing"):
        load_package(package.write(tmp_path))


def raw(lowest: float, highest: float, sums: tuple[float, float], **flags: bool) -> RawScores:
    return RawScores(lowest=lowest, highest=highest, sum_lowest=sums[0], sum_highest=sums[1], **flags)


PROBABLE = raw(0.0, 0.7, (0.4, 0.9))


@pytest.mark.parametrize(
    ("classes", "is_single", "needed"), [(5, True, "softmax"), (5, False, "sigmoid"), (1, True, "sigmoid")]
)
def test_scores_that_may_be_either_are_asked_for(classes: int, needed: str, *, is_single: bool) -> None:
    with pytest.raises(ModelRejected, match=f"ends in Where .*--activation none, or --activation {needed}"):
        guess_activation(PROBABLE, "Where", classes=classes, name="m", is_single_label=is_single)
    # The last layer gives logits, whatever their range.
    assert guess_activation(PROBABLE, "Gemm", classes=classes, name="m", is_single_label=is_single) == needed


def test_a_stated_softmax_on_what_may_be_probabilities_is_a_warning() -> None:
    warning = judge_activation(PROBABLE, "softmax", name="m", classes=5, last="Where")
    assert warning is not None
    assert "stay near 0.2" in warning
    assert judge_activation(PROBABLE, "softmax", name="m", classes=5, last="Gemm") is None


@pytest.mark.parametrize(
    ("scores", "declared", "last", "words"),
    [
        (raw(0.0, 98.0, (100.0, 100.0)), "softmax", "Div", "percent, but scores go from 0 to 1"),
        (raw(0.0, 98.0, (100.0, 100.0)), "none", "Softmax", "percent, but scores go from 0 to 1"),
        (raw(0.0, 98.0, (97.0, 100.0)), "none", "Softmax", "percent, but scores go from 0 to 1"),
        (raw(float("nan"), float("nan"), (0.0, 0.0)), "softmax", "Gemm", "scores are numbers"),
        (raw(0.0, float("inf"), (0.0, 0.0)), "sigmoid", "Gemm", "scores are numbers"),
        (raw(0.0, 0.0, (0.0, 0.0), is_flat=True), "softmax", "Gemm", "every class the same score (0), but"),
    ],
)
def test_scores_that_are_no_probabilities_are_refused(scores: RawScores, declared: Any, last: str, words: str) -> None:
    with pytest.raises(ModelRejected) as caught:
        judge_activation(scores, declared, name="m", classes=5, last=last)
    assert words in caught.value.message


def test_softmax_over_a_single_score_is_refused() -> None:
    with pytest.raises(ModelRejected, match="over a single score it is always 1") as caught:
        judge_activation(raw(-4.0, 9.0, (-4.0, 9.0)), "softmax", name="m", classes=1, last="Gemm")
    assert "Set activation: sigmoid" in caught.value.message


def test_logits_that_are_never_negative_are_no_percent() -> None:
    assert judge_activation(raw(0.0, 9.0, (20.0, 21.0)), "softmax", name="m", classes=5, last="Clip") is None


def test_equal_scores_for_all_images_are_a_warning() -> None:
    scores = raw_scores(np.array([[0.2, 0.8], [0.2, 0.8]], np.float32))
    assert scores.is_constant
    warning = judge_activation(scores, "none", name="m", classes=2, last="Softmax")
    assert warning is not None
    assert "all test images got the same scores, but they are different noise" in warning
    assert not raw_scores(np.array([[0.2, 0.8], [0.2, 0.8001]], np.float32)).is_constant


def test_a_model_of_zeros_is_refused(tmp_path: Path) -> None:
    model = TinyModel().proto()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((5, 3, 6, 8), np.float32), "weights"))
    files = PackageFiles.of().with_model(model.SerializeToString())
    files.manifest["output"] = {"activation": "none"}
    package = load_package(files.write(tmp_path))
    scores = raw_scores(run_serving_model(build_serving_model(package), noise_images(package, 4)))
    with pytest.raises(ModelRejected, match="every class the same score"):
        judge_activation(scores, "softmax", name="m", classes=5, last="Conv")


def _normalised(**attributes: Any) -> onnx.ModelProto:
    outputs = attributes.pop("outputs", ["q"])
    names = ("scale", "bias", "mean", "var")
    model = after_logits(
        helper.make_node("BatchNormalization", ["logits", *names], outputs, "bn", **attributes),
        **{name: np.ones(5, np.float32) for name in names},
    )
    model.graph.output[0].name = "q"
    return model


def _dropout(*, mode: bool) -> onnx.ModelProto:
    constants = {"ratio": np.float32(0.5), "mode": np.bool_(mode)}
    return after_logits(helper.make_node("Dropout", ["logits", "ratio", "mode"], ["q"], "drop"), **constants)


@pytest.mark.parametrize(
    ("make", "opset", "is_training"),
    [
        (lambda: _normalised(training_mode=1, outputs=["q", "m2", "v2"]), 15, True),
        (lambda: _normalised(training_mode=1), 14, True),
        (lambda: _normalised(training_mode=0), 15, False),
        (lambda: _normalised(outputs=["q", "m2", "v2", "m3", "v3"]), 9, True),
        (_normalised, 9, False),
        (lambda: _dropout(mode=True), 13, True),
        (lambda: _dropout(mode=False), 13, False),
    ],
)
def test_a_node_in_training_mode_is_refused(
    make: Callable[[], onnx.ModelProto], opset: int, *, is_training: bool
) -> None:
    model = make()
    model.opset_import[0].version = opset
    if not is_training:
        check_inference_mode(model, name="m")
        return
    with pytest.raises(ModelRejected, match=r"is in training mode.*but a served model computes as in inference"):
        check_inference_mode(model, name="m")


def test_quantised_operators_are_counted() -> None:
    assert quantised_operators(TinyModel().proto()) == 0
    nodes, constants = BEHIND_SOFTMAX["quantisation"]
    assert quantised_operators(after_logits(SOFTMAX, *nodes, **constants)) == 2
    dynamic = after_logits(
        helper.make_node("DynamicQuantizeLinear", ["logits"], ["w", "s", "z"]), node("Cast", "w", "q", to=1)
    )
    assert quantised_operators(dynamic) == 1


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("0 people\n1 people\n2 people", ("0 people", "1 people", "2 people")),
        ("people,2\ncar,0\nbus,1", ("car", "bus", "people")),
        ("car\t1\nbus\t0", ("bus", "car")),
        ('"a, b",1\nc,0', ("c", "a, b")),
        ("label,id\ncar,1\nbus,0", ("bus", "car")),
        # No run of numbers: they belong to the names.
        ("Boeing,747\nAirbus,320", ("Boeing,747", "Airbus,320")),
        ("1,0\n0,1", ("1", "0")),
    ],
)
def test_numbers_in_a_label_file_are_those_of_the_classes(text: str, labels: tuple[str, ...]) -> None:
    assert parse_labels(text.encode(), name="labels") == labels


@pytest.mark.parametrize(
    ("width", "height", "to", "kept"),
    [
        (192, 48, 219, "11 %"),
        (48, 192, 219, "11 %"),
        (224, 224, 256, None),
        (224, 224, 400, "18 %"),
        (640, 360, 731, "24 %"),
    ],
)
def test_a_crop_that_leaves_little_of_a_frame_is_a_warning(width: int, height: int, to: int, kept: str | None) -> None:
    section: dict[str, object] = {"width": width, "height": height, "resize": "shorter_side", "resize_to": to}
    warning = crop_warning(section)
    if kept is None:
        assert warning is None
    else:
        assert warning is not None
        assert f"keep {kept.replace(' ', '')} of a 1920x1080 frame" in warning
        assert "--resize stretch or letterbox" in warning
    assert crop_warning({"width": width, "height": height, "resize": "stretch"}) is None
