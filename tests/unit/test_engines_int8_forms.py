"""int8 forms: which form an engine gets, what is in the graph, what is cached and reported."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper

from engines import EngineOptions, ModelPackage, load_package
from engines.backends.onnxruntime.engine import open_onnxruntime
from engines.check.reference import certificate_for
from engines.graph.agreement import BARS, Bars, compare_scores
from engines.graph.image_set import image_set_of
from engines.graph.int8 import Int8Converter
from engines.graph.int8_forms import (
    DETAIL,
    SIGNED,
    SYMMETRIC,
    UNSIGNED,
    UNSIGNED_7_BIT,
    Int8Form,
    form_details,
    int8_form,
)
from engines.graph.int8_search import Int8Result, quantise_to_agreement
from engines.graph.ort_library import library
from engines.graph.precision import precise_graph
from engines.graph.serving import serving_graph
from engines.select.candidate import open_unchecked
from tests.fixtures.colour_packages import colour_model, outlier_model, write_colour_package

_FORMS = pytest.mark.parametrize("form", [SYMMETRIC, SIGNED, UNSIGNED, UNSIGNED_7_BIT], ids=lambda form: form.label)
_VNNI_FLAGS = ("avx2 avx512f avx512_vnni", "avx2 avx_vnni")
_OLDER_FLAGS = ("avx2", "avx2 avx512f avx512bw avx512vl", "sse4_2", "avx512_vnnix", "")


@pytest.fixture(scope="module", autouse=True)
def _library_is_loaded() -> None:
    """ONNX Runtime keeps files open until the process ends; it must open them before a test counts them."""
    library()


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    return load_package(write_colour_package(tmp_path))


def _cpuinfo(folder: Path, flags: str) -> Path:
    path = folder / "cpuinfo"
    path.write_text(f"processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu {flags}\nbogomips\t: 1\n")
    return path


@pytest.mark.parametrize("engine", ["tensorrt", "ort-tensorrt", "ort-cuda"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_tensorrt_and_cuda_get_symmetric_activations_on_every_machine(engine: str, machine: str) -> None:
    assert int8_form(engine, machine=machine) == SYMMETRIC


@pytest.mark.parametrize("engine", ["ort-cpu", "ort-openvino", "ort-dnnl"])
@pytest.mark.parametrize("flags", _VNNI_FLAGS)
def test_a_processor_with_vnni_gets_unsigned_activations_and_8_bit_weights(
    tmp_path: Path, engine: str, flags: str
) -> None:
    assert int8_form(engine, machine="x86_64", cpuinfo=_cpuinfo(tmp_path, flags)) == UNSIGNED


@pytest.mark.parametrize("flags", _OLDER_FLAGS)
def test_a_processor_without_vnni_gets_7_bit_weights(tmp_path: Path, flags: str) -> None:
    assert int8_form("ort-cpu", machine="x86_64", cpuinfo=_cpuinfo(tmp_path, flags)) == UNSIGNED_7_BIT


def test_unreadable_processor_flags_mean_no_vnni(tmp_path: Path) -> None:
    assert int8_form("ort-cpu", machine="x86_64", cpuinfo=tmp_path / "absent") == UNSIGNED_7_BIT


def test_arm_gets_signed_activations_and_8_bit_weights(tmp_path: Path) -> None:
    assert int8_form("ort-cpu", machine="aarch64", cpuinfo=_cpuinfo(tmp_path, "")) == SIGNED


def test_xnnpack_gets_no_mixture_of_signed_and_unsigned(tmp_path: Path) -> None:
    assert int8_form("ort-xnnpack", machine="x86_64", cpuinfo=_cpuinfo(tmp_path, _VNNI_FLAGS[0])) == SIGNED


@_FORMS
def test_a_graph_has_the_activations_and_weights_of_its_form(
    package: ModelPackage, tmp_path: Path, form: Int8Form
) -> None:
    model = _converter(package, tmp_path, form).convert()
    onnx.checker.check_model(model, full_check=True)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    activations = [
        weights[node.input[2]]
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in weights
    ]
    assert {zero.dtype for zero in activations} == {np.dtype(form.activations)}
    assert all(not zero.any() for zero in activations) or not form.is_symmetric
    largest = max(int(np.abs(one.astype(int)).max()) for one in _int8_weights(model))
    # Two products are added in 16 bits without VNNI: 2 * 64 * 255 fits, 2 * 127 * 255 does not.
    assert (2 * largest * 255 < 2**15) == form.has_7_bit_weights


def _quantised(package: ModelPackage, converter: Int8Converter, bars: Bars) -> Int8Result:
    return quantise_to_agreement(
        converter,
        image_set_of(package).batch,
        input_name="images",
        output_name="scores",
        step=1,
        compare=partial(compare_scores, package),
        bars=bars,
    )


@_FORMS
def test_every_form_keeps_the_labels_with_the_sensitive_layer_in_fp32(tmp_path: Path, form: Int8Form) -> None:
    package = load_package(write_colour_package(tmp_path / "package", model=outlier_model(layers=1)))
    converter = _converter(package, tmp_path, form)
    result = _quantised(package, converter, BARS["int8"])
    assert result.kept_layers == ("conv2",)
    assert result.comparison.agreement >= 0.97


def test_a_relu_before_an_fp32_part_is_kept(tmp_path: Path) -> None:
    """The graph ends in Relu and softmax; the softmax is fp32 and must read the clipped values."""
    model = _model_that_ends_in_relu()
    package = load_package(write_colour_package(tmp_path / "package", model=model, golden=False))
    converter = _converter(package, tmp_path, UNSIGNED)
    images = image_set_of(package).batch
    result = _quantised(package, converter, replace(BARS["int8"], agreement=0.9))
    exact, rough = (_scores(one, images) for one in (converter.model, result.model))
    np.testing.assert_allclose(rough, exact, atol=0.05)


@_FORMS
def test_ranges_of_one_form_make_the_same_graph_of_another(
    package: ModelPackage, tmp_path: Path, form: Int8Form
) -> None:
    first = _converter(package, tmp_path, SYMMETRIC)
    first.convert()
    if first.ranges is None:
        pytest.skip("this ONNX Runtime does not keep ranges, it reads the images for each form")
    known = _converter(package, tmp_path, form, ranges=first.ranges, images=0)
    fresh = _converter(package, tmp_path, form)
    assert known.convert() == fresh.convert()


def test_each_form_is_cached_under_its_own_name(package: ModelPackage, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    graphs = {
        engine: precise_graph(package, cache_dir=cache, precision="int8", engine=engine).graph
        for engine in ("tensorrt", "ort-tensorrt", "ort-cpu")
    }
    assert graphs["tensorrt"] == graphs["ort-tensorrt"]
    assert graphs["tensorrt"].path != graphs["ort-cpu"].path
    for engine, graph in graphs.items():
        record = json.loads(graph.path.with_suffix(".json").read_text())
        assert record["facts"]["form"] == int8_form(engine).facts()


def test_damaged_ranges_are_calibrated_again(package: ModelPackage, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    expected = precise_graph(package, cache_dir=tmp_path / "other", precision="int8", engine="ort-cpu").graph
    precise_graph(package, cache_dir=cache, precision="int8", engine="tensorrt")
    for path in (cache / "precision").glob("*-ranges-*.json"):
        path.write_text(path.read_text().replace("1", "2"))
    assert precise_graph(package, cache_dir=cache, precision="int8", engine="ort-cpu").graph.sha256 == expected.sha256


def test_engine_info_and_certificate_name_the_form(package: ModelPackage, tmp_path: Path) -> None:
    options = EngineOptions(cache_dir=tmp_path / "cache", engine="ort-cpu", precision="int8")
    engine, kept_layers = open_unchecked(package, options, "ort-cpu")
    with engine:
        assert engine.info.details[DETAIL] == int8_form("ort-cpu").label
        assert (
            certificate_for(package, engine, options, kept_layers=kept_layers).int8_form == int8_form("ort-cpu").label
        )


def test_a_certificate_of_one_form_is_not_used_for_another(package: ModelPackage, tmp_path: Path) -> None:
    options = EngineOptions(cache_dir=tmp_path / "cache", engine="ort-cpu", precision="int8")
    engine, kept_layers = open_unchecked(package, options, "ort-cpu")
    with engine:
        certificate_for(package, engine, options, kept_layers=kept_layers)
    other = precise_graph(package, cache_dir=options.cache_dir, precision="int8", engine="tensorrt")
    with open_onnxruntime(package, options, engine="ort-cpu", graph=other.graph) as symmetric:
        symmetric._info.details[DETAIL] = SYMMETRIC.label  # type: ignore[index]  # as another machine has it
        certificate_for(package, symmetric, options, kept_layers=other.kept_layers)
    assert len(list((options.cache_dir / "certificates").iterdir())) == 2


def test_other_precisions_have_no_form() -> None:
    assert form_details("ort-cpu", "fp32") == {}
    assert form_details("tensorrt", "int8") == {DETAIL: "symmetric int8 activations"}
    assert form_details("tensorrt", "fp16") == {}


def _converter(
    package: ModelPackage, tmp_path: Path, form: Int8Form, *, ranges: bytes | None = None, images: int | None = None
) -> Int8Converter:
    graph = serving_graph(package, cache_dir=tmp_path / "cache")
    batch = image_set_of(package).batch[:images]
    return Int8Converter(graph.path, form=form, input_name="images", batch=batch, step=1, ranges=ranges)


def _int8_weights(model: onnx.ModelProto) -> list[np.ndarray[tuple[int, ...], np.dtype[np.int8]]]:
    """The weights of the quantised layers, as they are stored or as the graph rounds them."""
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found = [tensor for name, tensor in tensors.items() if tensor.dtype == np.int8 and tensor.ndim > 1]
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in tensors:
            scale: npt.NDArray[np.float32] = tensors[node.input[1]].reshape(
                [-1] + [1] * (tensors[node.input[0]].ndim - 1)
            )
            values = tensors[node.input[0]]
            is_last = next((one.i for one in node.attribute if one.name == "axis"), 1) == values.ndim - 1
            scale = scale.reshape(-1) if is_last else scale
            found.append(np.clip(np.rint(values / scale), -128, 127).astype(np.int8))
    return found


def _model_that_ends_in_relu() -> onnx.ModelProto:
    """The colour model with logits that are negative for most classes, and a Relu that makes them 0."""
    model = colour_model(scale=3)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) - 2, "bias"))
    model.graph.node[-1].output[0] = "raw"
    model.graph.node.append(helper.make_node("Relu", ["raw"], ["logits"], "last"))
    return model


def _scores(
    model: onnx.ModelProto, batch: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    session = library().InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["scores"], {"images": batch})[0], np.float32)
