"""Options of ONNX Runtime's TensorRT provider, and the seal of the plan directory; neither needs a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engines import EngineOptions, ModelPackage, load_package
from engines.backends.onnxruntime import tensorrt as ort_tensorrt
from engines.environment import Gpu
from engines.graph.serving import ServingGraph
from engines.store.plan_cache import PlanCache, PlanKey
from tests.fixtures.colour_packages import write_colour_package

_GPU = Gpu("Orin", "8.7", 8 << 30, integrated=True)
_GRAPH = ServingGraph(path=Path("model.onnx"), sha256="a" * 64, precision="fp32", max_batch=None)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return load_package(write_colour_package(tmp_path_factory.mktemp("package"), calibration=0))


def _options(package: ModelPackage, graph: ServingGraph = _GRAPH, **given: str) -> dict[str, str]:
    options = EngineOptions(cache_dir=Path("cache"), max_batch=4)
    return ort_tensorrt.provider_options(package, graph, options, given, Path("cache/ort-tensorrt/x"))


def test_all_three_profile_shapes_are_given_for_a_dynamic_batch(package: ModelPackage) -> None:
    options = _options(package)
    assert options["trt_profile_min_shapes"] == "images:1x32x32x3"
    assert options["trt_profile_opt_shapes"] == "images:4x32x32x3"
    assert options["trt_profile_max_shapes"] == "images:4x32x32x3"


def test_a_fixed_batch_needs_no_profile(package: ModelPackage) -> None:
    assert not any("profile" in name for name in _options(package, replace(_GRAPH, max_batch=2)))


def test_booleans_are_spelt_as_the_provider_reads_them(package: ModelPackage) -> None:
    flags = {name: value for name, value in _options(package).items() if name.endswith("_enable")}
    assert flags
    assert set(flags.values()) <= {"True", "False"}


@pytest.mark.parametrize(("precision", "fp16", "int8"), [("fp32", "False", "False"), ("fp16", "True", "False")])
def test_precision_flags_follow_the_graph(package: ModelPackage, precision: str, fp16: str, int8: str) -> None:
    graph = replace(_GRAPH, precision="fp16") if precision == "fp16" else _GRAPH
    options = _options(package, graph)
    assert (options["trt_fp16_enable"], options["trt_int8_enable"]) == (fp16, int8)


def test_int8_graphs_may_also_use_fp16(package: ModelPackage) -> None:
    options = _options(package, replace(_GRAPH, precision="int8"))
    assert (options["trt_fp16_enable"], options["trt_int8_enable"]) == ("True", "True")


def test_the_plans_path_is_relative_to_the_context_model(package: ModelPackage) -> None:
    options = _options(package)
    assert options["trt_engine_cache_path"] == "plans"
    without = ort_tensorrt.without_context(options, Path("cache/x"))
    assert without["trt_engine_cache_path"] == "cache/x/plans"
    assert not any("ep_context" in name for name in without)


def test_the_configuration_overrides_the_defaults(package: ModelPackage) -> None:
    assert _options(package, trt_timing_cache_enable="False")["trt_timing_cache_enable"] == "False"


def _key(package: ModelPackage, graph: ServingGraph = _GRAPH, gpu: Gpu = _GPU, **given: str) -> PlanKey:
    options = EngineOptions(cache_dir=Path("cache"), max_batch=4)
    return ort_tensorrt.plan_key(package, graph, options, given, (gpu,))


def test_each_full_configuration_has_an_entry_of_its_own(package: ModelPackage) -> None:
    keys = {
        _key(package).name,
        _key(package).name,
        _key(package, replace(_GRAPH, sha256="b" * 64)).name,
        _key(package, replace(_GRAPH, precision="fp16")).name,
        _key(package, replace(_GRAPH, max_batch=8)).name,
        _key(package, trt_dla_enable="True").name,
        _key(package, gpu=replace(_GPU, compute_capability="11.0")).name,
    }
    assert len(keys) == 6


def _built(cache: PlanCache, key: PlanKey) -> Path:
    directory = ort_tensorrt.prepared_directory(cache, key)
    (directory / "context.onnx").write_bytes(b"context")
    (directory / "plans" / "engine.plan").write_bytes(b"native code")
    cache.seal(key, {})
    return directory


def test_a_sealed_directory_is_used_again(tmp_path: Path, package: ModelPackage) -> None:
    cache, key = PlanCache(tmp_path), _key(package)
    directory = _built(cache, key)
    assert ort_tensorrt.prepared_directory(cache, key) == directory
    assert ort_tensorrt.context_model(directory) == directory / "context.onnx"
    assert (directory / "plans" / "engine.plan").exists()
    assert [entry.engine for entry in cache.entries()] == ["ort-tensorrt"]


@pytest.mark.parametrize("file", ["plans/engine.plan", "plans/another.plan", "entry.json"])
def test_a_directory_with_a_changed_foreign_or_missing_file_is_emptied(
    tmp_path: Path, package: ModelPackage, file: str
) -> None:
    cache, key = PlanCache(tmp_path), _key(package)
    (_built(cache, key) / file).write_bytes(b"other code")
    directory = ort_tensorrt.prepared_directory(cache, key)
    assert ort_tensorrt.context_model(directory) is None
    assert list((directory / "plans").iterdir()) == []


def test_a_directory_that_others_may_write_is_emptied(tmp_path: Path, package: ModelPackage) -> None:
    cache, key = PlanCache(tmp_path), _key(package)
    _built(cache, key).chmod(0o777)
    directory = ort_tensorrt.prepared_directory(cache, key)
    assert ort_tensorrt.context_model(directory) is None
    assert directory.stat().st_mode & 0o077 == 0


def test_a_directory_whose_build_was_cut_off_is_emptied(tmp_path: Path, package: ModelPackage) -> None:
    cache, key = PlanCache(tmp_path), _key(package)
    directory = ort_tensorrt.prepared_directory(cache, key)
    (directory / "plans" / "half.plan").write_bytes(b"half")
    ort_tensorrt.prepared_directory(cache, key)
    assert list((directory / "plans").iterdir()) == []


def test_a_forced_build_starts_from_nothing(tmp_path: Path, package: ModelPackage) -> None:
    cache, key = PlanCache(tmp_path), _key(package)
    _built(cache, key)
    directory = ort_tensorrt.prepared_directory(cache, key, is_forced=True)
    assert ort_tensorrt.context_model(directory) is None
