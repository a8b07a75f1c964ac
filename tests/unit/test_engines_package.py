"""A package is loaded completely, or refused with the two facts that disagree."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.external_data_helper import convert_model_to_external_data

from agent.cli.io.options import MAX_FILE_OPTION
from agent.config.model import ModelConfig
from engines.errors import ModelRejected
from engines.graph.serving_model import build_serving_model
from engines.package.load import GoldenImage, load_package
from engines.package.model_bytes import DEFAULT_MAX_BYTES, MAX_FILE_MIB
from engines.package.model_file import file_sha256
from tests.fixtures.hostile_models import endless_model, exploding_model, write_package
from tests.fixtures.packages import LABELS, PackageFiles, TinyModel

Change = Callable[[PackageFiles], object]


def refusal(directory: Path) -> str:
    with pytest.raises(ModelRejected) as caught:
        load_package(directory)
    return caught.value.message


def test_a_valid_package_is_loaded_completely(tmp_path: Path) -> None:
    files = PackageFiles.of(resize="shorter_side", resize_to=9, scale=1 / 255, mean=[0.5] * 3, std=[0.25] * 3)
    files.manifest |= {
        "golden": [{"image": "golden/a.png", "label": "elm", "min_confidence": 0.5}],
        "calibration": "calibration",
        "license": "MIT",
    }
    files.extra = {
        "golden/a.png": b"-",
        "calibration/b.jpg": b"-",
        "calibration/a.PNG": b"-",
        "calibration/x.txt": b"-",
    }
    directory = files.write(tmp_path)
    package = load_package(directory)
    assert (package.name, package.version, package.license, package.format) == ("trees", "1.0.0", "MIT", "onnx")
    assert package.labels == LABELS
    assert package.golden == (GoldenImage(path=directory / "golden/a.png", label="elm", min_confidence=0.5),)
    assert [path.name for path in package.calibration] == ["a.PNG", "b.jpg"]
    assert (package.input.mean, package.input.std, package.input.resize_to) == ((0.5,) * 3, (0.25,) * 3, 9)
    signature = package.signature
    assert (signature.layout, signature.dtype, signature.batch, signature.classes) == ("NCHW", "float32", 1, 5)
    assert (signature.input_name, signature.output_name, signature.output_shape) == ("data", "logits", (1, 5))


def test_defaults_are_the_identity_per_channel(tmp_path: Path) -> None:
    package = load_package(PackageFiles.of(TinyModel(channels=1)).write(tmp_path))
    assert (package.input.scale, package.input.mean, package.input.std) == (1.0, (0.0,), (1.0,))


@pytest.mark.parametrize("labels", [b"ash\nbirch\ncedar\nelm\n", b"1,ash\n2,birch\n3,cedar\n4,elm\n"])
def test_offset_one_names_class_zero_background(tmp_path: Path, labels: bytes) -> None:
    files = PackageFiles.of()
    files.labels = labels
    files.manifest["labels"]["offset"] = 1
    assert load_package(files.write(tmp_path)).labels == ("background", "ash", "birch", "cedar", "elm")


def other_model(**keys: object) -> Change:
    return lambda files: files.with_model(TinyModel(**keys).proto().SerializeToString())  # type: ignore[arg-type] # the cases below are literal


def raw_model(data: bytes) -> Change:
    return lambda files: files.with_model(data)


def manifest_input(**keys: object) -> Change:
    return lambda files: files.manifest["input"].update(keys)


def manifest(**keys: object) -> Change:
    return lambda files: files.manifest.update(keys)


def with_shape(*dims: int | str) -> Change:
    """A model that averages an input of this shape."""
    nodes = [helper.make_node("ReduceMean", ["data"], ["logits"], axes=[len(dims) - 1], keepdims=0)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, dims[:-1])],
    )
    return raw_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString())


def two(what: str) -> Change:
    model = TinyModel().proto()
    extra = helper.make_tensor_value_info("conv" if what == "output" else "size", TensorProto.FLOAT, [1, 5])
    (model.graph.output if what == "output" else model.graph.input).append(extra)
    return raw_model(model.SerializeToString())


def changed(edit: Callable[[onnx.ModelProto], object]) -> Change:
    model = TinyModel().proto()
    edit(model)
    return raw_model(model.SerializeToString())


def _integer_output() -> Change:
    model = TinyModel().proto()
    model.graph.node.append(helper.make_node("ArgMax", ["logits"], ["best"], axis=1))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("best", TensorProto.INT64, [1, 1]))
    return raw_model(model.SerializeToString())


def _map_output() -> Change:
    model = TinyModel(shape="nc11").proto()
    dims = model.graph.output[0].type.tensor_type.shape.dim
    dims[2].dim_value = dims[3].dim_value = 7
    return raw_model(model.SerializeToString())


def _unsupported_input() -> Change:
    return changed(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.INT32))


GOOD = TinyModel().proto().SerializeToString()
REFUSALS: dict[str, tuple[Change, list[str]]] = {
    "git lfs pointer": (
        raw_model(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
        ["model.onnx", "Git LFS pointer"],
    ),
    "html page": (raw_model(b"\n<!DOCTYPE html><html>404</html>"), ["model.onnx", "HTML page"]),
    "empty": (raw_model(b""), ["model.onnx", "0 bytes"]),
    "truncated": (raw_model(GOOD[: len(GOOD) // 2]), ["model.onnx", str(len(GOOD) // 2)]),
    "no graph": (raw_model(b"\x08\x08"), ["model.onnx", "no graph"]),
    "tensorrt plan": (raw_model(b"ftrt" + bytes(60)), ["TensorRT plan", "ONNX"]),
    "zip": (raw_model(b"PK\x03\x04" + bytes(60)), ["zip archive", ".pt2"]),
    "keras": (raw_model(b"\x89HDF\r\n"), ["HDF5", "ONNX"]),
    "pickle": (raw_model(b"\x80\x02}q"), ["pickle", "ONNX"]),
    "tflite": (raw_model(b"\x1c\x00\x00\x00TFL3"), ["TensorFlow Lite", "ONNX"]),
    "size": (manifest_input(width=9), ["1x3x6x8", "width 9", "input.width: 8"]),
    "channels": (other_model(channels=1), ["1x1x6x8", "color rgb", "color: gray"]),
    "gray for a color model": (manifest_input(color="gray"), ["3 channels", "gray gives 1", "rgb or bgr"]),
    "two inputs": (two("input"), ["2 inputs", "data (float32 1x3x6x8)", "size (float32 1x5)", "--constant"]),
    "two outputs": (two("output"), ["2 outputs", "logits (float32 1x5)", "conv (float32 1x5)", "--output-name"]),
    "rank 2 input": (with_shape(6, 8), ["6x8", "4 dimensions", "3 without the batch"]),
    "no image": (with_shape(1, 9, 9, 9), ["1x9x9x9", "1 or 3 channels"]),
    "huge batch": (other_model(batch=1000), ["1000 images", "256"]),
    "integer input": (_unsupported_input(), ["int32", "float32, float16, uint8"]),
    "integer output": (_integer_output(), ["int64", "float32", "ArgMax"]),
    "a map of scores": (_map_output(), ["1x5x7x7", "batch x classes"]),
    "labels": (lambda files: setattr(files, "labels", b"a\nb\n"), ["2 labels", "5 classes"]),
    "newer opset": (changed(lambda m: setattr(m.opset_import[0], "version", 99)), ["opset 99", "knows up to"]),
    "foreign operators": (
        changed(lambda m: setattr(m.graph.node[0], "domain", "acme.ops")),
        ["acme.ops", "only ONNX's own"],
    ),
    "unknown operator": (changed(lambda m: setattr(m.graph.node[0], "op_type", "Cats")), ["not a valid ONNX", "Cats"]),
    "second softmax": (other_model(ending="softmax"), ["ends in Softmax", "softmax is missing", "activation: none"]),
    "sigmoid on softmax": (
        lambda files: (other_model(ending="softmax")(files), manifest(output={"activation": "sigmoid"})(files)),
        ["ends in Softmax", "sigmoid is missing"],
    ),
    "log softmax as it is": (
        lambda files: (other_model(ending="log_softmax")(files), manifest(output={"activation": "none"})(files)),
        ["LogSoftmax", "activation none", "activation: softmax"],
    ),
    "normalised uint8": (
        lambda files: (other_model(dtype="uint8")(files), manifest_input(scale=0.5)(files)),
        ["takes uint8", "scale 0.5"],
    ),
    "golden label": (
        lambda files: (
            manifest(golden=[{"image": "a.png", "label": "oak", "min_confidence": 0}])(files),
            files.extra.update({"a.png": b"-"}),
        ),
        ["'oak'", "5 labels", "ash"],
    ),
    "golden label, nearly": (
        lambda files: (
            manifest(golden=[{"image": "a.png", "label": "birhc"}])(files),
            files.extra.update({"a.png": b"-"}),
        ),
        ["'birhc'", "did you mean 'birch'"],
    ),
    "no golden image": (manifest(golden=[{"image": "a.png", "label": "ash"}]), ["a.png", "does not exist"]),
    "no calibration images": (
        lambda files: (manifest(calibration="cal")(files), files.extra.update({"cal/readme.txt": b""})),
        ["'cal'", "0 images"],
    ),
    "calibration is a file": (manifest(calibration="labels.txt"), ["labels.txt", "directory"]),
    "unknown ending": (manifest(file="labels.txt"), [".txt", ".onnx or .pt2"]),
    "outside": (manifest(file="../model.onnx"), ["'../model.onnx'", "outside the package"]),
    "absolute": (manifest(file="/etc/passwd"), ["'/etc/passwd'", "relative"]),
    "missing": (manifest(file="other.onnx"), ["'other.onnx'", "does not exist"]),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_mismatch_is_refused_with_both_facts(tmp_path: Path, case: str) -> None:
    change, facts = REFUSALS[case]
    files = PackageFiles.of()
    change(files)
    message = refusal(files.write(tmp_path))
    for fact in facts:
        assert fact in message


def test_a_wrong_sha256_is_refused_with_both_values(tmp_path: Path) -> None:
    files = PackageFiles.of()
    stated = files.manifest["sha256"]
    files.model = TinyModel(seed=8).proto().SerializeToString()
    message = refusal(files.write(tmp_path))
    assert stated in message
    assert hashlib.sha256(files.model).hexdigest() in message


@pytest.mark.parametrize("bit", range(0, len(GOOD) * 8, len(GOOD) * 8 // 40))
def test_no_single_flipped_bit_goes_unnoticed(tmp_path: Path, bit: int) -> None:
    files = PackageFiles.of()
    data = bytearray(files.model)
    data[bit // 8] ^= 1 << bit % 8
    files.model = bytes(data)
    refusal(files.write(tmp_path))


@pytest.mark.parametrize("victim", ["model.onnx", "labels.txt"])
def test_a_link_out_of_the_package_is_refused(tmp_path: Path, victim: str) -> None:
    directory = PackageFiles.of().write(tmp_path)
    (directory / victim).rename(tmp_path / "elsewhere")
    (directory / victim).symlink_to(tmp_path / "elsewhere")
    message = refusal(directory)
    assert victim in message
    assert str(tmp_path / "elsewhere") in message
    assert "outside the package" in message


def test_a_package_reached_by_a_link_is_loaded(tmp_path: Path) -> None:
    directory = PackageFiles.of().write(tmp_path)
    (tmp_path / "current").symlink_to(directory)
    assert load_package(tmp_path / "current").directory == directory


def _external(tmp_path: Path, location: str) -> PackageFiles:
    model = TinyModel().proto()
    convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    (tmp_path / "made").mkdir()
    onnx.save(model, str(tmp_path / "made/model.onnx"))
    weights = (tmp_path / "made/weights.bin").read_bytes()
    digest = file_sha256(tmp_path / "made/model.onnx")
    saved = onnx.load(str(tmp_path / "made/model.onnx"), load_external_data=False)
    for tensor in saved.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    files = PackageFiles.of().with_model(saved.SerializeToString())
    files.manifest["sha256"] = digest
    files.extra = {"weights.bin": weights}
    return files


def test_external_data_inside_the_package_is_read_and_hashed(tmp_path: Path) -> None:
    files = _external(tmp_path, "weights.bin")
    directory = files.write(tmp_path)
    assert load_package(directory).signature.classes == 5
    weights = bytearray((directory / "weights.bin").read_bytes())
    weights[0] ^= 1
    (directory / "weights.bin").write_bytes(weights)
    assert files.manifest["sha256"] in refusal(directory)


@pytest.mark.parametrize("location", ["../made/weights.bin", "/etc/passwd", "link.bin", "gone.bin", ""])
def test_external_data_outside_the_package_is_refused(tmp_path: Path, location: str) -> None:
    directory = _external(tmp_path, location).write(tmp_path)
    (directory / "link.bin").symlink_to(tmp_path / "made/weights.bin")
    message = refusal(directory)
    assert "external data" in message
    assert repr(location) in message


def test_a_model_above_the_limit_is_refused_with_both_sizes(tmp_path: Path) -> None:
    directory = PackageFiles.of().write(tmp_path)
    with (directory / "model.onnx").open("r+b") as stream:
        stream.truncate((512 << 20) + 1)
    message = refusal(directory)
    assert f"has {(512 << 20) + 1} bytes, but the limit is {512 << 20} (512 MiB)" in message
    assert "Raise models.NAME.max_file_mib in the configuration, or the command's --max-file-mib, to 513" in message
    assert "3078 MiB of memory" in message


def test_the_limit_of_a_model_can_be_raised_and_lowered(tmp_path: Path) -> None:
    directory = PackageFiles.of().write(tmp_path)
    size = (directory / "model.onnx").stat().st_size
    assert load_package(directory, max_bytes=size).max_file_bytes == size
    with pytest.raises(ModelRejected, match=f"has {size} bytes, but the limit is {size - 1} "):
        load_package(directory, max_bytes=size - 1)
    with pytest.raises(ModelRejected, match=f"has {size} bytes, but the limit is {size - 1} "):
        build_serving_model(replace(load_package(directory), max_file_bytes=size - 1))


def test_above_what_onnx_can_hold_no_higher_limit_is_advised(tmp_path: Path) -> None:
    directory = PackageFiles.of().write(tmp_path)
    with (directory / "model.onnx").open("r+b") as stream:
        stream.truncate((2000 << 20) + 1)
    message = refusal(directory)
    assert "Use a smaller model: the limit (max_file_mib) can be 2000 MiB at most" in message
    assert "Raise" not in message


def test_the_configuration_and_the_commands_have_the_same_limits() -> None:
    command = click.command()(MAX_FILE_OPTION(lambda: None))
    (limits,) = command.params
    assert isinstance(limits.type, click.IntRange)
    field = ModelConfig.model_json_schema()["properties"]["max_file_mib"]
    assert (field["minimum"], field["maximum"]) == (limits.type.min, limits.type.max) == (1, MAX_FILE_MIB)
    assert field["default"] << 20 == limits.to_info_dict()["default"] << 20 == DEFAULT_MAX_BYTES


def test_the_error_for_a_wrong_directory_says_how_to_make_a_package(tmp_path: Path) -> None:
    assert "agent model import" in refusal(tmp_path)
    (tmp_path / "model.onnx").write_bytes(GOOD)
    assert "agent model import" in refusal(tmp_path / "model.onnx")
    assert "Check the path" in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("dims", "layout"),
    [
        ((1, 3, 6, 8), "NCHW"),
        ((1, 6, 8, 3), "NHWC"),
        (("N", 3, "h", "w"), "NCHW"),
        (("N", "h", "w", 3), "NHWC"),
        (("N", "c", "h", "w"), "NCHW"),
    ],
)
def test_the_layout_is_read_from_the_model(tmp_path: Path, dims: tuple[int | str, ...], layout: str) -> None:
    nodes = [helper.make_node("Flatten", ["data"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", "classes"])],
        [onnx.numpy_helper.from_array(np.zeros((144, 5), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    signature = load_package(PackageFiles.of().with_model(model.SerializeToString()).write(tmp_path)).signature
    assert (signature.layout, signature.classes, signature.batch) == (layout, 5, 1 if dims[0] == 1 else None)


def test_an_output_without_a_shape_is_inferred(tmp_path: Path) -> None:
    model = TinyModel().proto()
    model.graph.output[0].type.tensor_type.ClearField("shape")
    signature = load_package(PackageFiles.of().with_model(model.SerializeToString()).write(tmp_path)).signature
    assert (signature.classes, signature.output_shape) == (5, (1, 5))


def test_nested_functions_are_counted_without_inlining_them(tmp_path: Path) -> None:
    """A hundred million nodes in two kilobytes; shape inference would take hours."""
    with pytest.raises(ModelRejected, match=r"has \d+ nodes, but the limit is 100000"):
        load_package(write_package(exploding_model(), tmp_path))
    assert load_package(write_package(exploding_model(depth=3), tmp_path / "small")).signature.classes == 5


def test_nodes_of_subgraphs_count_too(tmp_path: Path) -> None:
    model = endless_model()
    (loop,) = [node for node in model.graph.node if node.op_type == "Loop"]
    body = loop.attribute[0].g
    body.node.extend(helper.make_node("Identity", ["turn"], [f"turn{place}"]) for place in range(100_000))
    with pytest.raises(ModelRejected, match="the limit is 100000"):
        load_package(write_package(model, tmp_path))


@pytest.mark.parametrize("change", [
    lambda model: model.graph.node[0].attribute.add(name="x"),
    lambda model: model.metadata_props.add(key="x", value="y"),
    lambda model: setattr(model.graph.node[0], "domain", "x"),
])  # fmt: skip
def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    model = TinyModel().proto()
    change(model)
    data = model.SerializeToString()
    place = data.rindex(b"\x01x")
    damaged = data[: place + 1] + b"\xff" + data[place + 2 :]
    assert "is not UTF-8, but ONNX allows no other" in refusal(PackageFiles.of().with_model(damaged).write(tmp_path))
