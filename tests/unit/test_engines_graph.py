"""The serving graph computes the manifest's preprocessing and the model, for every kind of model."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from engines.errors import EngineUnavailable, ModelRejected
from engines.graph.preprocessing import takes_float
from engines.graph.resize import Resizer
from engines.graph.serving import serving_graph
from engines.graph.serving_model import build_serving_model
from engines.package.load import InputSpec, ModelPackage, load_package
from tests.fixtures.packages import PackageFiles, TinyModel

Floats = npt.NDArray[np.float32]

NORMALISED = {"scale": 1 / 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def run(model: onnx.ModelProto | Path, feeds: dict[str, Any]) -> Floats:
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


def images(package: ModelPackage, count: int, seed: int = 3) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, package.input.height, package.input.width, 3), np.uint8)


def reference(package: ModelPackage, tiny: TinyModel, batch: npt.NDArray[np.uint8]) -> Floats:
    """The manifest's preprocessing in numpy, and the unchanged model."""
    spec = package.input
    answers = []
    for image in batch:
        if spec.color == "gray":
            pixels = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[:, :, None]
        else:
            pixels = image[:, :, ::-1] if spec.color == "rgb" else image
        values = (pixels.astype(np.float32) * spec.scale - np.array(spec.mean)) / np.array(spec.std)
        data = values if package.signature.layout == "NHWC" else values.transpose(2, 0, 1)
        raw = run(tiny.proto(), {tiny.input_name: data[None].astype(package.signature.dtype)})
        answers.append(raw.astype(np.float32).reshape(-1))
    scores = np.stack(answers)
    if package.output.activation == "softmax":
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    elif package.output.activation == "sigmoid":
        scores = (1 / (1 + np.exp(-scores))).astype(np.float32)
    return scores


@pytest.mark.parametrize(
    ("layout", "dtype", "color", "normalised"),
    [
        case
        for case in itertools.product(
            ["NCHW", "NHWC"], ["float32", "float16", "uint8"], ["rgb", "bgr", "gray"], [True, False]
        )
        if not (case[1] == "uint8" and case[3])
    ],
)
def test_serving_graph_equals_the_numpy_computation(
    tmp_path: Path, layout: str, dtype: str, color: str, normalised: bool
) -> None:
    tiny = TinyModel(layout=layout, dtype=dtype, channels=1 if color == "gray" else 3)
    keys: dict[str, Any] = {"color": color}
    if normalised:
        keys |= {
            name: value[: tiny.channels] if isinstance(value, list) else value for name, value in NORMALISED.items()
        }
    package = load_package(PackageFiles.of(tiny, **keys).write(tmp_path))
    batch = images(package, 3)
    scores = run(build_serving_model(package), {"images": batch})
    assert scores.dtype == np.float32
    assert scores.shape == (3, 5)
    np.testing.assert_allclose(scores, reference(package, tiny, batch), atol=1e-3 if dtype == "float16" else 1e-5)


@pytest.mark.parametrize("resize", ["stretch", "shorter_side", "letterbox"])
@pytest.mark.parametrize("interpolation", ["linear", "area", "nearest"])
def test_a_frame_of_any_size_is_preprocessed_as_in_the_manifest(
    tmp_path: Path, resize: str, interpolation: str
) -> None:
    keys: dict[str, Any] = {"resize": resize, "interpolation": interpolation, **NORMALISED}
    if resize == "shorter_side":
        keys["resize_to"] = 9
    package = load_package(PackageFiles.of(TinyModel(), **keys).write(tmp_path))
    frame = np.random.default_rng(5).integers(0, 256, (40, 61, 3), np.uint8)
    batch = np.empty((1, 6, 8, 3), np.uint8)
    Resizer(package.input).fill(frame, batch[0])
    scores = run(build_serving_model(package), {"images": batch})
    np.testing.assert_allclose(scores, reference(package, TinyModel(), batch), atol=1e-5)


@pytest.mark.parametrize("opset", [7, 9, 11, 12, 13, 17, 18, 21])
@pytest.mark.parametrize("channels", [1, 3])
def test_old_and_new_opsets_are_kept(tmp_path: Path, opset: int, channels: int) -> None:
    ir_version = 3 if opset == 7 else 8
    tiny = TinyModel(opset=opset, channels=channels, ir_version=ir_version, initializers_as_inputs=opset == 7)
    package = load_package(PackageFiles.of(tiny).write(tmp_path))
    model = build_serving_model(package)
    assert [entry.version for entry in model.opset_import] == [opset]
    assert 4 <= model.ir_version <= 10
    assert [value.name for value in model.graph.input] == ["images"]
    batch = images(package, 2)
    np.testing.assert_allclose(run(model, {"images": batch}), reference(package, tiny, batch), atol=1e-5)


def test_an_opset_that_runtimes_no_longer_support_is_raised(tmp_path: Path) -> None:
    nodes = [helper.make_node("GlobalAveragePool", ["data"], ["logits"])]
    graph = helper.make_graph(
        nodes,
        "old",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3, 1, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 5)])
    model.ir_version = 3
    files = PackageFiles.of(TinyModel(classes=3, width=4, height=4)).with_model(model.SerializeToString())
    served = build_serving_model(load_package(files.write(tmp_path)))
    assert served.opset_import[0].version == 7
    assert run(served, {"images": np.zeros((2, 4, 4, 3), np.uint8)}).shape == (2, 3)


@pytest.mark.parametrize("shape", ["nc", "nc11", "c"])
@pytest.mark.parametrize(
    ("ending", "activation"),
    [("none", "softmax"), ("none", "sigmoid"), ("softmax", "none"), ("log_softmax", "softmax")],
)
def test_every_output_shape_and_activation_gives_probabilities(
    tmp_path: Path, shape: str, ending: str, activation: str
) -> None:
    tiny = TinyModel(shape=shape, ending="none" if shape == "c" else ending)
    files = PackageFiles.of(tiny)
    files.manifest["output"] = {"activation": "softmax" if shape == "c" else activation, "task": "single_label"}
    package = load_package(files.write(tmp_path))
    batch = images(package, 1)
    np.testing.assert_allclose(
        run(build_serving_model(package), {"images": batch}), reference(package, tiny, batch), atol=1e-5
    )


@pytest.mark.parametrize(
    ("tiny", "max_batch"),
    [
        (TinyModel(batch=1), None),
        (TinyModel(batch="N"), None),
        (TinyModel(batch=4), None),
        (TinyModel(batch=1, ending="baked"), None),
        (TinyModel(batch="N", ending="baked"), None),
        (TinyModel(batch=4, ending="baked"), 4),
        (TinyModel(batch=1, ending="mixing"), 1),
        (TinyModel(batch=1, shape="c"), 1),
    ],
    ids=["one", "dynamic", "four", "baked", "dynamic but baked", "four but baked", "mixing", "no batch dimension"],
)
def test_the_batch_is_dynamic_only_if_scores_do_not_depend_on_it(
    tmp_path: Path, tiny: TinyModel, max_batch: int | None
) -> None:
    files = PackageFiles.of(tiny)
    files.manifest["output"] = {"activation": "none"} if tiny.ending == "mixing" else {"activation": "softmax"}
    graph = serving_graph(load_package(files.write(tmp_path)), cache_dir=tmp_path / "cache")
    assert graph.max_batch == max_batch


def test_dynamic_sides_are_fixed_by_the_manifest(tmp_path: Path) -> None:
    tiny = TinyModel(dynamic_sides=True, batch="N")
    package = load_package(PackageFiles.of(tiny).write(tmp_path))
    assert (package.signature.height, package.signature.width) == (6, 8)
    dims = build_serving_model(package).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims][1:] == [6, 8, 3]


@pytest.mark.parametrize(("source", "target"), [("images", "scores"), ("scores", "images"), ("serving/cast", "conv2")])
def test_a_model_with_clashing_tensor_names_is_served(tmp_path: Path, source: str, target: str) -> None:
    tiny = TinyModel(input_name=source, output_name=target)
    package = load_package(PackageFiles.of(tiny).write(tmp_path))
    batch = images(package, 2)
    np.testing.assert_allclose(
        run(build_serving_model(package), {"images": batch}), reference(package, tiny, batch), atol=1e-5
    )


def test_gray_is_bit_for_bit_an_8_bit_gray_image(tmp_path: Path) -> None:
    tiny = TinyModel(channels=1, height=32, width=32)
    package = load_package(PackageFiles.of(tiny).write(tmp_path))
    model = build_serving_model(package)
    batch = images(package, 1)
    model.graph.output.append(helper.make_tensor_value_info("data", TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    gray = session.run(["data"], {"images": batch})[0]
    assert np.array_equal(gray[0, 0], cv2.cvtColor(batch[0], cv2.COLOR_BGR2GRAY))


def test_the_second_call_reads_the_graph_from_the_cache(tmp_path: Path) -> None:
    package = load_package(PackageFiles.of().write(tmp_path))
    first = serving_graph(package, cache_dir=tmp_path / "cache")
    stamp = first.path.stat().st_mtime_ns
    assert serving_graph(package, cache_dir=tmp_path / "cache") == first
    assert first.path.stat().st_mtime_ns == stamp
    assert sorted(path.suffix for path in first.path.parent.iterdir()) == [".json", ".onnx", ".sha256"]


@pytest.mark.parametrize("victim", ["graph", "sidecar", "no sidecar"])
def test_a_damaged_cache_entry_is_made_again(tmp_path: Path, victim: str) -> None:
    package = load_package(PackageFiles.of().write(tmp_path))
    first = serving_graph(package, cache_dir=tmp_path / "cache")
    sidecar = first.path.with_suffix(".onnx.sha256")
    if victim == "graph":
        data = bytearray(first.path.read_bytes())
        data[len(data) // 2] ^= 1
        first.path.write_bytes(data)
    elif victim == "sidecar":
        sidecar.write_text("0" * 64)
    else:
        sidecar.unlink()
    assert serving_graph(package, cache_dir=tmp_path / "cache") == first
    assert first.path.read_bytes()


def test_different_preprocessing_has_a_different_address(tmp_path: Path) -> None:
    paths = set()
    variants: list[dict[str, Any]] = [{}, {"color": "bgr"}, {"scale": 0.5}]
    for place, keys in enumerate(variants):
        (tmp_path / str(place)).mkdir()
        package = load_package(PackageFiles.of(**keys).write(tmp_path / str(place)))
        paths.add(serving_graph(package, cache_dir=tmp_path / "cache").path)
    assert len(paths) == 3


def test_a_cache_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    package = load_package(PackageFiles.of().write(tmp_path))
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(EngineUnavailable, match=r"cache directory .*cache cannot be used"):
        serving_graph(package, cache_dir=tmp_path / "cache")


def test_a_model_changed_after_loading_is_refused_with_both_hashes(tmp_path: Path) -> None:
    package = load_package(PackageFiles.of().write(tmp_path))
    package.model_path.write_bytes(TinyModel(seed=8).proto().SerializeToString())
    with pytest.raises(ModelRejected, match=package.sha256):
        serving_graph(package, cache_dir=tmp_path / "cache")


def test_normalisation_that_changes_nothing_adds_no_nodes(tmp_path: Path) -> None:
    package = load_package(PackageFiles.of(color="bgr").write(tmp_path))
    added = [node.op_type for node in build_serving_model(package).graph.node if "serving/" in node.name]
    assert added == ["Cast", "Transpose", "Softmax"]
    assert InputSpec(width=1, height=1).channels == 3


def test_a_freed_reshape_gives_every_image_its_own_scores(tmp_path: Path) -> None:
    tiny = TinyModel(batch=1, ending="baked")
    package = load_package(PackageFiles.of(tiny).write(tmp_path))
    batch = images(package, 4)
    np.testing.assert_allclose(
        run(build_serving_model(package), {"images": batch}), reference(package, tiny, batch), atol=1e-5
    )


def test_a_model_that_cannot_run_is_refused_at_load_with_the_reason(tmp_path: Path) -> None:
    model = TinyModel(output_name="x").proto()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 7], np.int64), "seven"))
    model.graph.node.append(helper.make_node("Reshape", ["x", "seven"], ["y"]))
    model.graph.node.append(helper.make_node("Slice", ["y", "zero", "five", "one"], ["logits"]))
    for name, value in (("zero", 0), ("five", 5), ("one", 1)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value], np.int64), name))
    model.graph.output[0].name = "logits"
    files = PackageFiles.of().with_model(model.SerializeToString())
    with pytest.raises(ModelRejected, match=r"model\.onnx cannot be run for 1 image\(s\) of 8x6: .*Export"):
        serving_graph(load_package(files.write(tmp_path)), cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("color", ["rgb", "bgr", "gray"])
def test_the_input_of_a_uint8_model_feeds_a_cast_and_nothing_inside_is_uint8(
    tmp_path: Path, layout: str, color: str
) -> None:
    """TensorRT cannot build another graph."""
    tiny = TinyModel(dtype="uint8", layout=layout, channels=1 if color == "gray" else 3)
    package = load_package(PackageFiles.of(tiny, color=color).write(tmp_path))
    graph = build_serving_model(package).graph
    assert [node.op_type for node in graph.node if "images" in node.input] == ["Cast"]
    casts = [node for node in graph.node if node.op_type == "Cast"]
    assert not any(attribute.i == TensorProto.UINT8 for node in casts for attribute in node.attribute)


def _reading(*nodes: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "g", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])


_CAST = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)
_BRANCH = helper.make_node("If", ["c"], ["z"], then_branch=_reading(_CAST), else_branch=_reading(_CAST))


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (_reading(_CAST), True),
        (
            _reading(
                helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
                helper.make_node("Cast", ["t"], ["y"], to=TensorProto.FLOAT16),
            ),
            True,
        ),
        (_reading(helper.make_node("DequantizeLinear", ["x", "s", "z"], ["y"])), False),
        (_reading(_CAST, helper.make_node("Shape", ["x"], ["n"])), False),
        (_reading(helper.make_node("Identity", ["x"], ["y"])), False),
        (_reading(helper.make_node("Gather", ["table", "x"], ["y"], axis=0)), False),
        (_reading(helper.make_node("Cast", ["x"], ["y"], to=TensorProto.UINT8)), False),
        (_reading(_CAST, _BRANCH), False),
    ],
    ids=["cast", "moved", "dequantised", "shape", "output", "index", "to uint8", "in a branch"],
)
def test_only_a_model_that_casts_its_input_first_gets_float(graph: onnx.GraphProto, expected: bool) -> None:
    assert takes_float(graph, "x") is expected


def test_a_model_that_computes_with_uint8_keeps_it(tmp_path: Path) -> None:
    """The scores are those of the model alone."""
    nodes = [
        helper.make_node("DequantizeLinear", ["data", "scale", "zero"], ["values"]),
        helper.make_node("ReduceMean", ["values"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Identity", ["means"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("data", TensorProto.UINT8, ["N", 3, 6, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        [
            onnx.numpy_helper.from_array(np.array(0.01, np.float32), "scale"),
            onnx.numpy_helper.from_array(np.array(7, np.uint8), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    files = PackageFiles.of(TinyModel(classes=3)).with_model(model.SerializeToString())
    package = load_package(files.write(tmp_path))
    served = build_serving_model(package)
    assert any(
        a.i == TensorProto.UINT8 for node in served.graph.node if node.op_type == "Cast" for a in node.attribute
    )
    batch = images(package, 2)
    rgb = np.ascontiguousarray(batch[..., ::-1].transpose(0, 3, 1, 2))
    logits = run(model, {"data": rgb})
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(run(served, {"images": batch}), expected, atol=1e-6)
