"""fp16 and int8 graphs: what is converted, what stays in fp32, what is cached, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines import EngineOptions, ModelPackage, PrecisionRejected, load_package
from engines.backends.onnxruntime.engine import open_onnxruntime
from engines.base import Images, Scores
from engines.graph.fp16 import half_model
from engines.graph.precision import precise_graph
from engines.graph.serving import ServingGraph, serving_graph
from engines.store.files import write_with_checksum
from tests.fixtures.colour_packages import colour_model, outlier_model, write_colour_package


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    return load_package(write_colour_package(tmp_path))


def _scores(package: ModelPackage, graph: ServingGraph, cache_dir: Path, batch: Images) -> Scores:
    options = EngineOptions(cache_dir=cache_dir, engine="ort-cpu", max_batch=len(batch))
    with open_onnxruntime(package, options, engine="ort-cpu", graph=graph) as engine:
        return engine.infer(batch)


def _noise(count: int = 4) -> Images:
    return np.random.default_rng(5).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def test_an_fp16_graph_computes_layers_in_fp16_between_the_same_inputs_and_outputs(
    package: ModelPackage, tmp_path: Path
) -> None:
    model = onnx.load(precise_graph(package, cache_dir=tmp_path, precision="fp16").graph.path)
    onnx.checker.check_model(model, full_check=True)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) == 3
    assert all(types[node.input[1]] == TensorProto.FLOAT16 for node in layers)
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    source = next(node for node in model.graph.node if softmax.input[0] in node.output)
    assert source.op_type == "Cast", "the softmax reads fp16"


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 1e-3), ("int8", 0.03)])
def test_a_converted_graph_keeps_the_labels(
    package: ModelPackage, tmp_path: Path, precision: str, tolerance: float
) -> None:
    assert precision in ("fp16", "int8")
    batch = _noise()
    exact = _scores(package, serving_graph(package, cache_dir=tmp_path), tmp_path, batch)
    precise = precise_graph(package, cache_dir=tmp_path, precision="fp16" if precision == "fp16" else "int8")
    np.testing.assert_allclose(_scores(package, precise.graph, tmp_path, batch), exact, atol=tolerance)
    assert precise.kept_layers == ()


def test_fp16_keeps_operators_that_exceed_its_range_in_fp32() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "big"], ["scaled"]),
        helper.make_node("Pow", ["scaled", "two"], ["square"]),
        helper.make_node("ReduceMean", ["square"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Sqrt", ["mean"], ["y"]),
    ]
    model = _model(nodes, {"big": np.float32(1000), "two": np.float32(2)})
    assert _largest_difference(model, np.full((1, 4), 3, np.float32)) < 5


def test_fp16_keeps_layers_with_too_large_weights_in_fp32() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Mul", ["m", "small"], ["y"])]
    weights: dict[str, object] = {"w": np.full((4, 4), 1e6, np.float32), "small": np.float32(1e-6)}
    converted = half_model(_model(nodes, weights))
    kept = {tensor.name: tensor.data_type for tensor in converted.graph.initializer}
    assert kept["w"] == TensorProto.FLOAT


def test_fp16_converts_constants_branches_and_direct_outputs() -> None:
    constant = numpy_helper.from_array(np.ones((4, 4), np.float32))
    nodes = [
        helper.make_node("Constant", [], ["w"], value=constant),
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w"], ["c"]),
        helper.make_node("Add", ["a", "c"], ["y"]),
    ]
    assert _largest_difference(_model(nodes, {}), np.ones((1, 4), np.float32)) < 0.05


def test_a_graph_is_converted_once(package: ModelPackage, tmp_path: Path) -> None:
    first = precise_graph(package, cache_dir=tmp_path, precision="int8")
    written = first.graph.path.stat().st_mtime_ns
    assert precise_graph(package, cache_dir=tmp_path, precision="int8") == first
    assert first.graph.path.stat().st_mtime_ns == written


def test_a_damaged_graph_is_converted_again(package: ModelPackage, tmp_path: Path) -> None:
    first = precise_graph(package, cache_dir=tmp_path, precision="int8")
    content = bytearray(first.graph.path.read_bytes())
    content[len(content) // 2] ^= 1
    first.graph.path.write_bytes(content)
    assert precise_graph(package, cache_dir=tmp_path, precision="int8").graph.sha256 == first.graph.sha256


def test_different_calibration_images_make_a_different_int8_graph(package: ModelPackage, tmp_path: Path) -> None:
    first = precise_graph(package, cache_dir=tmp_path / "cache", precision="int8")
    package.calibration[0].write_bytes(package.calibration[1].read_bytes())
    changed = precise_graph(package, cache_dir=tmp_path / "cache", precision="int8")
    assert changed.graph.path != first.graph.path


def test_int8_without_calibration_images_is_refused_with_a_remedy(tmp_path: Path) -> None:
    package = load_package(write_colour_package(tmp_path, calibration=0))
    with pytest.raises(PrecisionRejected, match=r"no calibration images.*calibration folder.*fp16"):
        precise_graph(package, cache_dir=tmp_path, precision="int8")


def test_calibration_images_that_all_judge_are_named_as_such(package: ModelPackage, tmp_path: Path) -> None:
    same = replace(package, evaluation=package.calibration)
    count = len(package.calibration)
    words = rf"has 0\. {count} of the {count} images in its calibration folder .* in the evaluation folder too\. Add"
    with pytest.raises(PrecisionRejected, match=words):
        precise_graph(same, cache_dir=tmp_path, precision="int8")


def test_int8_keeps_preprocessing_and_softmax_in_fp32(package: ModelPackage, tmp_path: Path) -> None:
    model = onnx.load(precise_graph(package, cache_dir=tmp_path, precision="int8").graph.path)
    producers = {name: node for node in model.graph.node for name in node.output}
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    assert producers[softmax.input[0]].op_type == "Gemm"
    rounded = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert "images" not in rounded
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert all(producers[node.input[0]].op_type == "DequantizeLinear" for node in layers)
    zeros = [tensor for tensor in model.graph.initializer if "zero_point" in tensor.name]
    assert zeros
    assert all(not numpy_helper.to_array(tensor).any() for tensor in zeros), "TensorRT takes zero points of 0 only"


def test_int8_names_the_one_layer_that_must_stay_fp32(tmp_path: Path) -> None:
    package = load_package(write_colour_package(tmp_path, model=outlier_model(layers=1)))
    precise = precise_graph(package, cache_dir=tmp_path / "cache", precision="int8")
    assert precise.kept_layers == ("conv2",)
    assert precise_graph(package, cache_dir=tmp_path / "cache", precision="int8") == precise


def test_int8_that_needs_most_layers_in_fp32_is_refused_with_figures(tmp_path: Path) -> None:
    package = load_package(write_colour_package(tmp_path, model=outlier_model(layers=2)))
    with pytest.raises(
        PrecisionRejected, match=r"was not calibrated on: .*1 of 3 layers left in fp32 .*, but "
    ) as caught:
        precise_graph(package, cache_dir=tmp_path / "cache", precision="int8")
    assert caught.value.exit_code == 69


def test_int8_quantises_layers_whose_weights_are_stored_in_fp16(tmp_path: Path) -> None:
    package = load_package(write_colour_package(tmp_path, model=half_model(colour_model())))
    precise = precise_graph(package, cache_dir=tmp_path / "cache", precision="int8")
    assert precise.kept_layers == ()
    model = onnx.load(precise.graph.path)
    producers = {name: node for node in model.graph.node for name in node.output}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) == 3
    assert {producers[name].op_type for node in layers for name in node.input[:2]} == {"DequantizeLinear"}


def test_int8_of_a_model_that_is_int8_already_is_refused(package: ModelPackage, tmp_path: Path) -> None:
    quantised = onnx.load(precise_graph(package, cache_dir=tmp_path, precision="int8").graph.path)
    again = tmp_path / "again"
    made = load_package(write_colour_package(again))
    with pytest.raises(PrecisionRejected, match=r"in int8 already \(\d+ quantised operators\)\. Use precision fp32"):
        _refuse_quantised(made, quantised, again)


def _refuse_quantised(package: ModelPackage, model: onnx.ModelProto, cache_dir: Path) -> None:
    """Ask for int8 of a package whose fp32 serving graph is ``model``."""
    path = serving_graph(package, cache_dir=cache_dir).path
    write_with_checksum(path, model.SerializeToString())
    precise_graph(package, cache_dir=cache_dir, precision="int8")


def test_int8_converts_models_with_an_older_opset(tmp_path: Path) -> None:
    model = colour_model()
    model.opset_import[0].version = 11
    package = load_package(write_colour_package(tmp_path, model=model))
    assert precise_graph(package, cache_dir=tmp_path / "cache", precision="int8").graph.precision == "int8"


def _model(nodes: list[onnx.NodeProto], weights: dict[str, object]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, None])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def _largest_difference(model: onnx.ModelProto, value: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
    from onnx.reference import ReferenceEvaluator

    converted = half_model(model)
    onnx.checker.check_model(converted, full_check=True)
    exact, half = (
        np.asarray(next(iter(ReferenceEvaluator(one).run(None, {"x": value})))) for one in (model, converted)
    )
    assert half.dtype == np.float32
    return float(np.abs(exact - half).max())
