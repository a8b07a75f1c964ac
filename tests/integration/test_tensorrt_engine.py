"""The native engine from package to scores, on fakes of CUDA and TensorRT, in every supported version."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from engines import (
    BuildFailed,
    Building,
    Engine,
    EngineLost,
    EngineOptions,
    EngineUnavailable,
    InferenceFailed,
    ModelPackage,
    OptionsRejected,
    OutOfMemory,
    Precision,
    load_package,
    open_engine,
)
from engines.backends.tensorrt.engine import open_tensorrt
from engines.backends.tensorrt.plans import plan_request
from engines.store.plan_cache import PlanCache
from tests.fixtures.colour_packages import LABELS, colour_image, colour_model, write_colour_package
from tests.fixtures.nvidia import TENSORRT_VERSIONS, FakeNvidia
from tests.fixtures.packages import PackageFiles, TinyModel

_SIDE = 40
_IMAGES = np.stack([colour_image(label, side=_SIDE) for label in LABELS])


@pytest.fixture
def nvidia(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvidia]:
    fake = FakeNvidia(monkeypatch)
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return load_package(
        write_colour_package(
            tmp_path_factory.mktemp("package"), model=colour_model(side=_SIDE), side=_SIDE, evaluation=22
        )
    )


@pytest.fixture
def options(tmp_path: Path) -> EngineOptions:
    return EngineOptions(cache_dir=tmp_path / "cache", engine="tensorrt", max_batch=3, strict=True)


def _open(package: ModelPackage, options: EngineOptions) -> Engine:
    """Open without probes and accuracy check, which have tests of their own."""
    return open_tensorrt(package, options)[0]


def _notes(options: EngineOptions) -> dict[str, object]:
    (entry,) = PlanCache(options.cache_dir).entries()
    return dict(entry.notes)


def _header(options: EngineOptions) -> str:
    (entry,) = PlanCache(options.cache_dir).entries()
    return (entry.directory / "engine.plan").read_bytes().split(b"\n")[1].decode()


@pytest.mark.parametrize("version", TENSORRT_VERSIONS)
def test_every_version_builds_once_and_agrees_with_the_reference(
    version: str, nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions
) -> None:
    nvidia.set(tensorrt=version)
    with open_engine(package, options) as engine:
        first = engine.infer(_IMAGES[:3])
        assert engine.info.name == "tensorrt"
        assert engine.info.degraded is None
        assert engine.info.versions["tensorrt"] == version
        assert engine.info.accuracy is not None
        assert engine.info.details["device_memory_bytes"] == 4096
        assert engine.info.details["device_copies"] == 1
        assert engine.info.details["why_built"] == "it was not in the cache"
        assert [LABELS[row.argmax()] for row in first] == list(LABELS[:3])
    with open_engine(package, options) as again:
        assert "why_built" not in again.info.details, "it was built a second time"
        np.testing.assert_array_equal(again.infer(_IMAGES[:3]), first)


@pytest.mark.parametrize(("version", "flags"), [("8.5.2.2", ["FP16"]), ("10.16.2.10", ["FP16"]), ("11.4.0.106", [])])
def test_fp16_is_a_flag_up_to_10_and_in_the_graph_from_11(
    version: str, flags: list[str], nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions
) -> None:
    nvidia.set(tensorrt=version)
    with open_engine(package, replace(options, precision="fp16")) as engine:
        assert engine.info.precision == "fp16"
    header = _header(options)
    assert f'"flags": {flags}'.replace("'", '"') in header
    (entry,) = PlanCache(options.cache_dir).entries()
    is_converted = b"__half" in (entry.directory / "engine.plan").read_bytes()
    assert is_converted == (not flags)


def test_int8_is_explicit_and_its_flag_is_set_if_there_is_one(
    nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions
) -> None:
    with open_engine(package, replace(options, precision="int8")) as engine:
        assert engine.info.precision == "int8"
    assert '"flags": ["INT8"]' in _header(options)
    (entry,) = PlanCache(options.cache_dir).entries()
    assert b"QuantizeLinear" in (entry.directory / "engine.plan").read_bytes()


def test_one_profile_covers_the_batches_and_options_reach_the_builder(
    nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions
) -> None:
    given = {"workspace_mib": 64, "builder_level": 1, "opt_batch": 2}
    with _open(package, replace(options, options=given)) as engine:
        assert engine.info.max_batch == 3
    header = _header(options)
    assert '"profile": [[1, 40, 40, 3], [2, 40, 40, 3], [3, 40, 40, 3]]' in header
    assert '"pools": {"WORKSPACE": 67108864}' in header
    assert '"level": 1' in header


def test_a_dla_core_gets_one_batch_size_fp16_and_a_count_of_what_falls_back(
    nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions
) -> None:
    wanted = replace(options, precision="fp16", options={"dla_core": 1})
    for built in (True, False):
        with open_engine(package, wanted) as engine:
            info = engine.info
            assert ("why_built" in info.details) == built
            assert info.max_batch == 3
            assert info.placement["TensorRT on the DLA"] >= 4
            names = str(info.details["layers_not_on_dla"]).split(", ")
            assert info.placement["TensorRT on the GPU"] == len(names)
            assert {"serving/cast", "serving/softmax"} <= set(names)
            # Fewer images than the one batch size are padded, and each gives its own scores.
            both = engine.infer(_IMAGES[:2])
            np.testing.assert_array_equal(both[1:], engine.infer(_IMAGES[1:2]))
            assert [LABELS[row.argmax()] for row in both] == list(LABELS[:2])
    header = _header(options)
    assert '"profile": [[3, 40, 40, 3], [3, 40, 40, 3], [3, 40, 40, 3]]' in header
    assert '"dla": 1' in header
    assert "GPU_FALLBACK" in header


@pytest.mark.parametrize(
    ("given", "precision", "words"),
    [
        ({"dla_core": 0}, "fp32", "precision is fp32, and a DLA core computes fp16 and int8 only"),
        ({"dla_core": 0, "opt_batch": 1}, "fp16", "opt_batch of engine tensorrt is 1, but .* exactly the largest"),
    ],
)
def test_what_a_dla_core_cannot_do_is_refused_before_a_build(
    given: dict[str, object],
    precision: Precision,
    words: str,
    nvidia: FakeNvidia,
    package: ModelPackage,
    options: EngineOptions,
) -> None:
    with pytest.raises(OptionsRejected, match=words):
        _open(package, replace(options, precision=precision, options=given))


def test_layers_that_cannot_run_on_the_dla_are_an_error_without_gpu_fallback(
    nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions
) -> None:
    given = {"dla_core": 0, "gpu_fallback": False}
    with pytest.raises(BuildFailed, match="serving/cast cannot run on DLA"):
        _open(package, replace(options, precision="fp16", options=given))


@pytest.mark.parametrize(("layout", "color"), [("NCHW", "rgb"), ("NHWC", "bgr")])
def test_a_uint8_model_is_built_and_agrees_with_the_reference(
    layout: str, color: str, nvidia: FakeNvidia, tmp_path: Path
) -> None:
    """TensorRT takes uint8 only as an input that feeds a Cast."""
    tiny = TinyModel(dtype="uint8", layout=layout, batch="N")
    package = load_package(PackageFiles.of(tiny, color=color).write(tmp_path))
    options = EngineOptions(cache_dir=tmp_path / "cache", engine="tensorrt", max_batch=2, strict=True)
    with open_engine(package, options) as engine:
        assert engine.info.name == "tensorrt"
        assert engine.info.accuracy is not None
        assert float(engine.info.accuracy["max_abs_difference"]) < 1e-6


@pytest.mark.parametrize(
    ("settings", "fact"),
    [
        ({"multiprocessors": "16"}, "multiprocessors 8"),
        ({"gib": "64"}, "memory_gib 8"),
    ],
)
def test_another_gpu_has_its_own_plan_and_timing_cache(
    settings: dict[str, str], fact: str, nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions
) -> None:
    """Every Orin is called "Orin" and has 8.7."""
    _open(package, options).close()
    nvidia.set(**settings)
    with _open(package, options) as engine:
        assert f"it was built for {fact}, but this device has" in str(engine.info.details["why_built"])
    assert len(list((options.cache_dir / "timing").glob("*.bin"))) == 2


@pytest.mark.parametrize(("variable", "name"), [("AGENT_BOARD", "board"), ("AGENT_L4T", "l4t")])
def test_another_board_or_l4t_has_its_own_plan(
    variable: str,
    name: str,
    nvidia: FakeNvidia,
    package: ModelPackage,
    options: EngineOptions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, "one")
    _open(package, options).close()
    monkeypatch.setenv(variable, "two")
    with _open(package, options) as engine:
        assert f"it was built for {name} one, but this device has two" in str(engine.info.details["why_built"])


def test_an_option_that_this_version_lacks_is_noted(
    nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions
) -> None:
    nvidia.set(tensorrt="8.5.2.2")
    _open(package, replace(options, options={"builder_level": 1})).close()
    assert "builder_level is not known to TensorRT 8.5.2.2" in str(_notes(options)["notes"])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"worspace_mib": 64}, "did you mean workspace_mib"),
        ({"builder_level": 9}, "from 0 to 5"),
        ({"cuda_graph": 1}, "true or false"),
        ({"cuda_library": "numba"}, "auto or pycuda or cuda-bindings"),
        ({"cuda_library": 1}, "auto or pycuda or cuda-bindings"),
    ],
)
def test_wrong_options_are_refused_with_the_valid_ones(
    given: dict[str, object], words: str, nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions
) -> None:
    with pytest.raises(OptionsRejected, match=words):
        _open(package, replace(options, options=given))


def test_a_fixed_batch_is_padded_and_needs_no_profile(nvidia: FakeNvidia, tmp_path: Path) -> None:
    model = colour_model(side=_SIDE, batch=3)
    model.graph.node[-1].output[0] = "free"
    model.graph.node.append(helper.make_node("Reshape", ["free", "three"], ["logits"], "baked"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([3, len(LABELS)], np.int64), "three"))
    package = load_package(write_colour_package(tmp_path / "p", model=model, side=_SIDE))
    options = EngineOptions(cache_dir=tmp_path / "cache", engine="tensorrt", max_batch=8, strict=True)
    with _open(package, options) as engine:
        assert engine.info.max_batch == 3
        both = engine.infer(_IMAGES[:2])
        np.testing.assert_array_equal(both[:1], engine.infer(_IMAGES[:1]))
    assert '"profile": null' in _header(options)


@pytest.mark.parametrize(
    ("version", "graphs"), [("8.6.2.3", ""), ("10.3.0", "1,2,3")], ids=["one context a profile", "shared profile"]
)
def test_graphs_are_captured_if_the_version_supports_them(
    version: str, graphs: str, nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions
) -> None:
    nvidia.set(tensorrt=version)
    with _open(package, options) as engine:
        assert engine.info.details["cuda_graphs"] == graphs
        before = nvidia.state.launches
        engine.infer(_IMAGES[:2])
        assert nvidia.state.launches - before == (1 if graphs else 0)
        assert ("why_no_cuda_graph" in engine.info.details) == (not graphs)


@pytest.mark.parametrize("cause", ["no_bindings", "no_capture", "capture_invalidated", "option"])
def test_without_a_graph_work_is_enqueued_with_the_same_scores(
    cause: str, nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions
) -> None:
    with _open(package, options) as engine:
        expected = engine.infer(_IMAGES[:2])
    if cause == "no_bindings":
        nvidia.set(no_bindings=1, tensorrt="10.3.0")
    elif cause == "option":
        options = replace(options, options={"cuda_graph": False})
    else:
        nvidia.set(faults=cause)
    with _open(package, options) as engine:
        assert engine.info.details["cuda_graphs"] == ""
        np.testing.assert_array_equal(engine.infer(_IMAGES[:2]), expected)


def test_an_integrated_gpu_uses_pinned_memory_in_place(
    nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions
) -> None:
    nvidia.set(integrated=1)
    with _open(package, options) as engine:
        scores = engine.infer(_IMAGES[:3])
        assert [LABELS[row.argmax()] for row in scores] == list(LABELS[:3])
        assert nvidia.state.allocations == 0, "device memory was allocated although it is shared"
        assert engine.info.details["device_copies"] == 0


@pytest.mark.parametrize(
    ("wanted", "settings", "used"),
    [
        ("auto", {}, "pycuda 2026.1"),
        ("cuda-bindings", {}, "cuda-bindings 12.9.10"),
        ("auto", {"no_pycuda": 1}, "cuda-bindings 12.9.10"),
    ],
)
def test_the_cuda_library_is_selected_reported_and_changes_no_score(
    wanted: str,
    settings: dict[str, float],
    used: str,
    nvidia: FakeNvidia,
    package: ModelPackage,
    options: EngineOptions,
) -> None:
    with _open(package, options) as engine:
        expected = engine.infer(_IMAGES[:3])
    nvidia.set(tensorrt="10.3.0", **settings)
    with _open(package, replace(options, options={"cuda_library": wanted})) as engine:
        assert engine.info.details["cuda"] == used
        name, version = used.split()
        assert engine.info.versions[name] == version
        assert "why_built" not in engine.info.details, "the library changed the plan"
        assert engine.info.details["cuda_graphs"] == "1,2,3"
        np.testing.assert_array_equal(engine.infer(_IMAGES[:3]), expected)
    assert (nvidia.state.memory, nvidia.state.host_bytes, nvidia.state.retained) == ({}, 0, 0)


def test_memory_is_given_back(nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions) -> None:
    with _open(package, options) as engine:
        engine.infer(_IMAGES[:1])
        assert nvidia.state.memory
    assert nvidia.state.memory == {}
    assert nvidia.state.graphs == {}


def test_a_sticky_error_loses_the_engine_and_a_failed_run_does_not(
    nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions
) -> None:
    options = replace(options, options={"cuda_graph": False})
    with _open(package, options) as engine:
        nvidia.set(faults="refuse_run")
        with pytest.raises(InferenceFailed, match=r"enqueueV3.*address is not set") as failed:
            engine.infer(_IMAGES[:1])
        assert not isinstance(failed.value, EngineLost)
        nvidia.set(faults=f"sticky_at_run={nvidia.state.runs + 1}")
        with pytest.raises(EngineLost, match="illegal memory access"):
            engine.infer(_IMAGES[:1])
        with pytest.raises(EngineLost):
            engine.infer(_IMAGES[:1])


def test_a_lost_device_is_noticed_in_a_graph_too(
    nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions
) -> None:
    with _open(package, options) as engine:
        nvidia.set(faults=f"sticky_at_run={nvidia.state.runs + 1}")
        for _ in range(2):
            with pytest.raises(EngineLost):
                engine.infer(_IMAGES[:1])


@pytest.mark.parametrize("cause", ["no_memory", "no_context_memory", "no_context"])
def test_too_little_memory_is_out_of_memory_and_leaves_nothing(
    cause: str, nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions
) -> None:
    _open(package, options).close()
    nvidia.set(faults=cause)
    with pytest.raises(OutOfMemory):
        open_tensorrt(package, options)
    assert nvidia.state.memory == {}


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        ("parser", "UNSUPPORTED_NODE"),
        ("no_plan", "Could not find any implementation"),
        ("crash_in_build", "signal 11"),
    ],
)
def test_a_failed_build_reports_tensorrt_s_own_error(
    faults: str, words: str, nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions
) -> None:
    nvidia.set(faults=faults)
    with pytest.raises(BuildFailed, match=words):
        _open(package, options)
    assert PlanCache(options.cache_dir).entries() == []
    assert list((options.cache_dir / "building").iterdir()) == []


def test_drifting_scores_are_refused_and_the_next_engine_serves(
    nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions
) -> None:
    nvidia.set(faults="drift")
    with open_engine(package, replace(options, strict=False)) as engine:
        assert engine.info.name == "ort-cpu"
        assert engine.info.degraded is not None
        assert "tensorrt was requested" in engine.info.degraded


@pytest.mark.parametrize("version", ["8.6.2.3", "10.3.0"])
def test_without_a_device_no_tensorrt_object_is_created(
    version: str, nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions
) -> None:
    """TensorRT 8.6 crashes in that case."""
    nvidia.set(tensorrt=version, devices=0)
    with pytest.raises(EngineUnavailable, match="CUDA"):
        open_engine(package, options)
    with pytest.raises(EngineUnavailable, match="CUDA"):
        open_tensorrt(package, options)


def test_bindings_without_their_libraries_are_reported(
    nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions
) -> None:
    nvidia.set(no_tensorrt=1)
    with pytest.raises(EngineUnavailable, match="libnvinfer"):
        open_engine(package, options)


def test_a_plan_of_another_version_or_board_is_built_again_with_the_reason(
    nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions
) -> None:
    _open(package, options).close()
    nvidia.set(tensorrt="10.13.3.9")
    with _open(package, options) as engine:
        assert "built for tensorrt 10.3.0, but this device has 10.13.3.9" in str(engine.info.details["why_built"])
    nvidia.set(capability="11.0", name="Thor")
    with _open(package, options) as engine:
        why = str(engine.info.details["why_built"])
        assert "compute_capability 8.7, but this device has 11.0" in why
        assert "gpu Orin, but this device has Thor" in why
    assert len(PlanCache(options.cache_dir).entries()) == 3


def test_every_fact_that_changes_a_plan_changes_its_key(
    nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions
) -> None:
    def stem(**changes: Any) -> str:
        return plan_request(package, replace(options, **changes)).key.stem

    usual = stem()
    others = [
        stem(precision="fp16"),
        stem(max_batch=4),
        *(stem(options={name: value}) for name, value in {"builder_level": 2, "opt_batch": 3, "tf32": False}.items()),
    ]
    nvidia.set(cuda=13000)
    others.append(stem())
    assert len({usual, *others}) == len(others) + 1
    nvidia.set(cuda=None)
    assert stem(options={"blocking_sync": True, "cuda_graph": False}) == usual, "these change no plan"


def test_a_forced_build_builds_again(nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions) -> None:
    _open(package, options).close()
    with _open(package, replace(options, building=Building(force=True))) as engine:
        assert engine.info.details["why_built"] == "a new build was requested"


@pytest.mark.parametrize("engine", ["auto", "tensorrt", "fastest"])
def test_a_deferred_build_selects_the_next_engine_and_names_the_pending_one(
    engine: str, nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions
) -> None:
    deferring = replace(options, engine=engine, strict=False, building=Building(defer=True))
    with open_engine(package, deferring) as served:
        assert (served.info.name, served.info.pending) == ("ort-cpu", "tensorrt")
        (rejected,) = [one for one in served.info.rejected if one.engine == "tensorrt"]
        assert "its plan must be built first" in rejected.reason
    assert PlanCache(options.cache_dir).entries() == []
    assert not (options.cache_dir / "selections").exists(), "a measurement that lacks it was kept"


def test_strict_is_never_deferred(nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions) -> None:
    with open_engine(package, replace(options, building=Building(defer=True))) as engine:
        assert (engine.info.name, engine.info.pending) == ("tensorrt", None)


def test_fastest_measures_the_native_engine_after_its_build(
    nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions
) -> None:
    with open_engine(package, replace(options, engine="fastest", strict=False)) as engine:
        assert {one.engine for one in engine.info.measurements} == {"tensorrt", "ort-cpu"}
