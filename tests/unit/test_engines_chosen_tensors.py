"""Of several outputs the manifest chooses one, and further inputs get constants: the scores stay the model's own."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.errors import ModelRejected
from engines.graph.batch_dimension import run_serving_model
from engines.graph.serving_model import build_serving_model
from engines.package.load import ModelPackage, load_package
from engines.package.signature.base import TensorFacts, image_input, layout_of, signature_from
from engines.package.specs import InputSpec
from tests.fixtures.packages import PackageFiles, TinyModel

_PIXELS = np.random.default_rng(5).integers(0, 256, (2, 6, 8, 3), np.uint8)


def several(*, packed: str = "") -> onnx.ModelProto:
    """The tiny model with an embedding beside its logits, a label, a factor and a switch; or with packed scores."""
    model = TinyModel().proto()
    graph = model.graph
    graph.input.append(helper.make_tensor_value_info("factor", TensorProto.FLOAT, []))
    graph.input.append(helper.make_tensor_value_info("shift", TensorProto.FLOAT, ["N", 5]))
    graph.node.extend(
        [
            helper.make_node("Mul", ["logits", "factor"], ["scaled"]),
            helper.make_node("Add", ["scaled", "shift"], ["final"]),
            helper.make_node("Softmax", ["final"], ["probabilities"], axis=1),
            helper.make_node("ArgMax", ["final"], ["label"], axis=1, keepdims=0),
        ]
    )
    graph.initializer.append(numpy_helper.from_array(np.array(1 / 255, np.float32), "step"))
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.uint8), "zero"))
    del graph.output[:]
    if packed == "ZipMap":
        graph.node.append(
            helper.make_node(
                "ZipMap", ["probabilities"], ["zipped"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2, 3, 4]
            )
        )
        model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
        zipped = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
        graph.output.append(helper.make_value_info("zipped", helper.make_sequence_type_proto(zipped)))
    elif packed == "QuantizeLinear":
        graph.node.append(helper.make_node("QuantizeLinear", ["probabilities", "step", "zero"], ["whole"]))
        graph.output.append(helper.make_tensor_value_info("whole", TensorProto.UINT8, [1, 5]))
    graph.output.append(helper.make_tensor_value_info("label", TensorProto.INT64, [1]))
    graph.output.append(helper.make_tensor_value_info("final", TensorProto.FLOAT, [1, 5]))
    return model


def package(tmp_path: Path, model: onnx.ModelProto, output: dict[str, Any], **constants: Any) -> ModelPackage:
    files = PackageFiles.of().with_model(model.SerializeToString())
    files.manifest["output"] = output
    if constants:
        files.manifest["input"]["constants"] = constants
    return load_package(files.write(tmp_path))


def reference(model: onnx.ModelProto, output: str, **feeds: Any) -> Any:
    """Each image alone through the unchanged model, by ONNX Runtime."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if output not in {value.name for value in copy.graph.output}:
        copy.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, 5]))
    session = onnxruntime.InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"])
    planes = _PIXELS[:, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32)
    return np.concatenate([session.run([output], {"data": image[None], **feeds})[0] for image in planes])


_FEEDS = {"factor": np.array(2, np.float32), "shift": np.array([[0, 1, 0, 2, 0]], np.float32)}
_CONSTANTS: dict[str, Any] = {"factor": 2, "shift": [0, 1, 0, 2, 0.0]}


@pytest.mark.parametrize(
    ("packed", "name", "tensor"),
    [
        ("", "final", "final"),
        ("", "probabilities", "probabilities"),  # inside the graph
        ("ZipMap", "zipped", "probabilities"),
        ("QuantizeLinear", "whole", "probabilities"),
    ],
)
def test_the_chosen_output_gives_the_scores_of_the_model(tmp_path: Path, packed: str, name: str, tensor: str) -> None:
    model = several(packed=packed)
    activation = "softmax" if tensor == "final" else "none"
    made = package(tmp_path, model, {"activation": activation, "name": name}, **_CONSTANTS)
    assert made.signature.classes == 5
    serving = build_serving_model(made)
    kinds = {node.op_type for node in serving.graph.node}
    assert not kinds & {"ArgMax", "ZipMap", "QuantizeLinear"}
    wanted = reference(model, "probabilities", **_FEEDS)
    np.testing.assert_allclose(run_serving_model(serving, _PIXELS), wanted, atol=1e-6)


def test_an_only_output_of_whole_numbers_is_read_before_they_are_made(tmp_path: Path) -> None:
    model = several(packed="QuantizeLinear")
    del model.graph.output[1:]
    made = package(tmp_path, model, {"activation": "none"}, **_CONSTANTS)
    scores = run_serving_model(build_serving_model(made), _PIXELS)
    np.testing.assert_allclose(scores, reference(model, "probabilities", **_FEEDS), atol=1e-6)


@pytest.mark.parametrize(
    ("output", "constants", "facts"),
    [
        ({}, _CONSTANTS, ["2 outputs", "label (int64 1)", "final (float32 1x5)", "--output-name"]),
        ({"name": "finale"}, _CONSTANTS, ["no output 'finale'", "final (float32 1x5)"]),
        ({"name": "label"}, _CONSTANTS, ["label is int64", "name the tensor before it"]),
        (
            {"name": "final"},
            {"factor": 2},
            ["2 inputs", "data (float32 1x3x6x8)", "shift (float32 ?x5)", "--constant"],
        ),
        ({"name": "final"}, {**_CONSTANTS, "mask": 1}, ["no input 'mask'", "shift (float32 ?x5)"]),
        ({"name": "final"}, {**_CONSTANTS, "shift": [1, 2]}, ["holds 5 values", "has 2", "1 or 5"]),
        ({"name": "final", "class_axis": 0}, _CONSTANTS, ["1x5", "class_axis is 0"]),
    ],
)
def test_a_choice_that_does_not_fit_is_refused_with_both_facts(
    tmp_path: Path, output: dict[str, Any], constants: dict[str, Any], facts: list[str]
) -> None:
    with pytest.raises(ModelRejected) as caught:
        package(tmp_path, several(), {"activation": "softmax", **output}, **constants)
    for fact in facts:
        assert fact in caught.value.message


@pytest.mark.parametrize("value", ["no", [], {}, [1, "a"], None])
def test_a_constant_that_is_no_number_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ModelRejected, match=r"input\.constants\.factor"):
        package(tmp_path, several(), {"activation": "softmax", "name": "final"}, factor=value, shift=0)


@pytest.mark.parametrize(("value", "fits"), [(3, True), (True, True), (0.5, False), (300, False), (-1, False)])
def test_a_constant_of_whole_numbers_keeps_its_value(tmp_path: Path, value: float, *, fits: bool) -> None:
    model = TinyModel().proto()
    model.graph.input.append(helper.make_tensor_value_info("steps", TensorProto.UINT8, []))
    model.graph.node.append(helper.make_node("Cast", ["steps"], ["steps_f"], to=TensorProto.FLOAT))
    model.graph.node.append(helper.make_node("Mul", ["logits", "steps_f"], ["final"]))
    model.graph.output[0].name = "final"
    if not fits:
        with pytest.raises(ModelRejected, match="takes uint8, but its constant is"):
            package(tmp_path, model, {"activation": "softmax"}, steps=value)
        return
    made = package(tmp_path, model, {"activation": "softmax"}, steps=value)
    raw = reference(model, "final", steps=np.array(value, np.uint8))
    powers = np.exp(raw - raw.max(axis=1, keepdims=True))
    scores = run_serving_model(build_serving_model(made), _PIXELS)
    np.testing.assert_allclose(scores, powers / powers.sum(axis=1, keepdims=True), atol=1e-6)


def test_classes_on_the_first_axis_are_served_where_the_axis_is_stated(tmp_path: Path) -> None:
    model = TinyModel().proto()
    model.graph.node.append(helper.make_node("Transpose", ["logits"], ["turned"], perm=[1, 0]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("turned", TensorProto.FLOAT, [5, 1]))
    words = r"shape 5x1 \(axis 0: 5, axis 1: 1\), but the batch is 1\. .*--class-axis N"
    with pytest.raises(ModelRejected, match=words):
        package(tmp_path, model, {"activation": "softmax"})
    (tmp_path / "stated").mkdir()
    made = package(tmp_path / "stated", model, {"activation": "softmax", "class_axis": 0})
    serving = build_serving_model(made)
    raw = reference(TinyModel().proto(), "logits")
    powers = np.exp(raw - raw.max(axis=1, keepdims=True))
    np.testing.assert_allclose(
        run_serving_model(serving, _PIXELS), powers / powers.sum(axis=1, keepdims=True), atol=1e-6
    )
    assert serving.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def batch_elsewhere(axis: int, layout: str, batch: int | None) -> onnx.ModelProto:
    """The tiny model with the batch on another axis of its image, and on the last one of its scores."""
    model = TinyModel(layout=layout, batch=batch or "N").proto()
    order = [*range(1, axis + 1), 0, *range(axis + 1, 4)]
    sides = [batch, *((3, 6, 8) if layout == "NCHW" else (6, 8, 3))]
    model.graph.input[0].CopyFrom(
        helper.make_tensor_value_info("moved", TensorProto.FLOAT, [sides[place] or "N" for place in order])
    )
    back = helper.make_node("Transpose", ["moved"], ["image"], perm=[order.index(place) for place in range(4)])
    model.graph.node[0].input[0] = "image"
    model.graph.node.insert(0, back)
    model.graph.node.append(helper.make_node("Transpose", ["logits"], ["turned"], perm=[1, 0]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("turned", TensorProto.FLOAT, [5, batch or "N"]))
    return model


@pytest.mark.parametrize(("layout", "axis"), [("NCHW", 3), ("NCHW", 1), ("NHWC", 3), ("NHWC", 2), ("NCHW", 0)])
@pytest.mark.parametrize("batch", [1, None])
def test_a_batch_on_another_axis_is_served_where_the_axis_is_stated(
    tmp_path: Path, layout: str, axis: int, batch: int | None
) -> None:
    files = PackageFiles.of().with_model(batch_elsewhere(axis, layout, batch).SerializeToString())
    files.manifest["output"] = {"activation": "softmax", "class_axis": 0}
    files.manifest["input"]["batch_axis"] = axis
    made = load_package(files.write(tmp_path))
    assert (made.signature.batch, made.signature.layout) == (batch, layout)
    serving = build_serving_model(made)
    raw = reference(TinyModel().proto(), "logits")
    powers = np.exp(raw - raw.max(axis=1, keepdims=True))
    np.testing.assert_allclose(
        run_serving_model(serving, _PIXELS), powers / powers.sum(axis=1, keepdims=True), atol=1e-6
    )
    assert serving.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize(
    ("shape", "scores", "batch_axis", "facts"),
    [
        ([3, 6, 8, "N"], [5, 1], None, ["shape 5x1", "but the batch is 3", "If 3 is no batch", "--batch-axis N"]),
        ([1, 3, 6, 8], [5, "N"], None, ["(axis 0: 5, axis 1: ?), but the batch is 1", "--class-axis N"]),
        (["N", 3, 6, 8], [5, "N"], None, ["(axis 0: 5, axis 1: ?)", "known number on the last", "--class-axis N"]),
        ([3, 6, 8], [5], 1, ["3x6x8, one image without a batch", "input.batch_axis is 1", "--batch-axis"]),
    ],
)
def test_an_axis_that_does_not_fit_is_refused_with_the_list_and_the_flag(
    tmp_path: Path, shape: list[Any], scores: list[Any], batch_axis: int | None, facts: list[str]
) -> None:
    source = TensorFacts("image", "float32", tuple(None if dim == "N" else dim for dim in shape))
    target = TensorFacts("scores", "float32", tuple(None if dim == "N" else dim for dim in scores))
    spec = InputSpec(width=8, height=6, batch_axis=batch_axis)
    with pytest.raises(ModelRejected) as caught:
        signature_from(source, target, layout_of(source, spec, fallback="NCHW", name="m"), spec, name="m")
    for fact in facts:
        assert fact in caught.value.message


@pytest.mark.parametrize("shape", [(3, 6, 8, None), (None, 6, 3, 8), (3, 6, 8, 2)])
def test_an_image_without_channels_at_an_end_asks_for_the_batch_axis(shape: Any) -> None:
    source = TensorFacts("image", "float32", shape)
    with pytest.raises(ModelRejected) as caught:
        image_input(source, batch_axis=None, fallback="NCHW", name="m")
    for fact in (f"axis 2: {shape[2]}", "1 or 3 channels at one end of it", "batch is on axis 0", "--batch-axis N"):
        assert fact in caught.value.message
    if shape[0] == 3:
        taken = image_input(source, batch_axis=3, fallback="NCHW", name="m")
        assert (taken.layout, taken.height, taken.width, taken.channels) == ("NCHW", 6, 8, 3)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_model_without_a_batch_axis_gets_one(tmp_path: Path, layout: str) -> None:
    model = TinyModel(layout=layout, shape="c").proto()
    node = model.graph.node[0]
    model.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "axes"))
    model.graph.node.insert(0, helper.make_node("Unsqueeze", ["image", "axes"], ["batched"]))
    node.input[0] = "batched"
    sides = (3, 6, 8) if layout == "NCHW" else (6, 8, 3)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.FLOAT, sides))
    made = package(tmp_path, model, {"activation": "softmax"})
    assert (made.signature.batch, made.signature.layout, made.signature.has_batch_axis) == (1, layout, False)
    raw = reference(TinyModel().proto(), "logits")
    powers = np.exp(raw - raw.max(axis=1, keepdims=True))
    scores = run_serving_model(build_serving_model(made), _PIXELS)
    np.testing.assert_allclose(scores, powers / powers.sum(axis=1, keepdims=True), atol=1e-6)


def test_a_digest_from_before_these_keys_stays_valid(tmp_path: Path) -> None:
    package = load_package(PackageFiles.of().write(tmp_path))
    before = {key: value for key, value in asdict(package.input).items() if key not in {"constants", "batch_axis"}}
    output = asdict(package.output)
    facts = {
        "form": 1,
        "model": package.sha256,
        "input": before,
        "output": {key: output[key] for key in ("activation", "task", "positive", "thresholds")},
        "labels": list(package.labels),
        "golden": [],
        "calibration": {},
        "evaluation": {},
    }
    assert package.digest == hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    (tmp_path / "named").mkdir()
    files = PackageFiles.of()
    files.manifest["output"]["name"] = "logits"
    assert load_package(files.write(tmp_path / "named")).digest != package.digest
