"""Opening an engine on this machine: what is selected, what is refused, and what is reported about the rest."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import engines
from engines import (
    EngineInfo,
    EngineOptions,
    EngineUnavailable,
    GoldenMismatch,
    ImageRejected,
    Measurement,
    ModelPackage,
    OptionsRejected,
    Precision,
    PrecisionRejected,
    load_package,
    open_engine,
)
from engines.graph.ort_library import library
from engines.select.registry import AUTO_ORDER, Prober
from tests.fixtures.colour_packages import outlier_model, write_colour_package


@pytest.fixture(scope="module", autouse=True)
def _library_is_loaded() -> None:
    library()


@pytest.fixture(scope="module")
def prober() -> Prober:
    return Prober()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return load_package(write_colour_package(tmp_path_factory.mktemp("package")))


def _info(
    package: ModelPackage,
    cache_dir: Path,
    engine: str,
    *,
    precision: Precision = "fp32",
    strict: bool = False,
    options: dict[str, object] | None = None,
) -> EngineInfo:
    wanted = EngineOptions(
        cache_dir=cache_dir, engine=engine, precision=precision, strict=strict, max_batch=2, options=options or {}
    )
    with open_engine(package, wanted) as engine_:
        assert engine_.infer(np.zeros((2, 32, 32, 3), np.uint8)).shape == (2, 4)
        return engine_.info


def _absent(prober: Prober, *names: str) -> str:
    for name in names:
        if not prober.probe(name).can_run:
            return name
    pytest.skip(f"all of {', '.join(names)} can run here, so none can be missed")


def test_the_reference_runs_as_requested(package: ModelPackage, tmp_path: Path) -> None:
    info = _info(package, tmp_path, "ort-cpu", strict=True)
    assert (info.name, info.requested, info.precision) == ("ort-cpu", "ort-cpu", "fp32")
    assert info.degraded is None
    assert info.rejected == ()
    assert info.load_ms > 0
    if info.placement:
        assert set(info.placement) == {"CPUExecutionProvider"}


def test_auto_selects_the_first_that_works_and_lists_the_rejected(package: ModelPackage, tmp_path: Path) -> None:
    info = _info(package, tmp_path, "auto")
    assert info.requested == "auto"
    before = AUTO_ORDER[: AUTO_ORDER.index(info.name)]
    assert [one.engine for one in info.rejected] == list(before)
    assert all(one.reason and one.remedy for one in info.rejected)


def test_strict_refuses_an_engine_that_cannot_run(package: ModelPackage, tmp_path: Path, prober: Prober) -> None:
    name = _absent(prober, "tensorrt", "ort-tensorrt", "ort-cuda")
    with pytest.raises(EngineUnavailable, match=rf"{name} cannot run here: .+ To get it, .+") as caught:
        _info(package, tmp_path, name, strict=True)
    assert caught.value.exit_code == 69


def test_an_engine_that_cannot_run_is_replaced_and_degraded_says_so(
    package: ModelPackage, tmp_path: Path, prober: Prober
) -> None:
    name = _absent(prober, "tensorrt", "ort-tensorrt", "ort-cuda")
    info = _info(package, tmp_path, name)
    assert info.name != name
    assert info.degraded is not None
    assert info.degraded.startswith(f"{name} was requested, but {info.name} runs: ")
    assert info.rejected[0].engine == name


def test_an_engine_refuses_a_package_in_another_format(package: ModelPackage, tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"torch needs a torch\.export program .*holds model\.onnx"):
        _info(package, tmp_path, "torch", strict=True)


@pytest.mark.parametrize("engine", ["ort-cpu", "fastest"])
def test_an_image_that_can_no_longer_be_read_is_named(engine: str, tmp_path: Path) -> None:
    """int8 is calibrated on it, and a remembered selection depends on it."""
    package = load_package(write_colour_package(tmp_path / "package"))
    gone = package.calibration[0]
    gone.unlink()
    options = EngineOptions(cache_dir=tmp_path / "cache", engine=engine, precision="int8", strict=True)
    (options.cache_dir / "selections").mkdir(parents=True)
    with pytest.raises(ImageRejected, match=rf"image .*{gone.name} cannot be read: No such file"):
        open_engine(package, options)


def test_fp16_computed_in_fp32_is_refused_or_degraded(package: ModelPackage, tmp_path: Path) -> None:
    info = _info(package, tmp_path, "ort-cpu", precision="fp16")
    assert info.requested_precision == "fp16"
    if info.precision == "fp16":
        pytest.skip("this CPU computes in fp16")
    assert info.degraded is not None
    assert "fp16 was requested" in info.degraded
    with pytest.raises(PrecisionRejected, match="in fp32 on this device"):
        _info(package, tmp_path, "ort-cpu", precision="fp16", strict=True)


def test_int8_serves_with_its_certificate(tmp_path: Path) -> None:
    package = load_package(write_colour_package(tmp_path / "p", evaluation=22))
    info = _info(package, tmp_path, "ort-cpu", precision="int8", strict=True)
    assert info.precision == "int8"
    assert info.degraded is None
    assert info.accuracy is not None
    assert (info.accuracy["passed"], info.accuracy["proven"], info.accuracy["images"]) == (True, True, 92)


def test_int8_on_too_few_images_serves_degraded_and_is_refused_by_strict(
    package: ModelPackage, tmp_path: Path
) -> None:
    """32 calibration images: half of them and the 4 golden ones are left to judge it."""
    info = _info(package, tmp_path, "ort-cpu", precision="int8")
    assert (info.name, info.precision) == ("ort-cpu", "int8")
    assert info.accuracy is not None
    assert (info.accuracy["passed"], info.accuracy["proven"]) == (True, False)
    assert info.degraded is not None
    for fact in ("int8 is not proven", "20 images", "88 are needed", "68 are missing", "evaluation: evaluation/"):
        assert fact in info.degraded
    with pytest.raises(EngineUnavailable, match=r"68 are missing.* strict is set") as caught:
        _info(package, tmp_path, "ort-cpu", precision="int8", strict=True)
    assert caught.value.exit_code == 69


def test_a_certificate_is_made_once(package: ModelPackage, tmp_path: Path) -> None:
    first = _info(package, tmp_path, "ort-cpu", precision="int8")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "certificates").iterdir()}
    assert _info(package, tmp_path, "ort-cpu", precision="int8").accuracy == first.accuracy
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "certificates").iterdir()} == files


def test_int8_that_changes_labels_falls_back_to_the_next_safer_precision(tmp_path: Path) -> None:
    package = load_package(write_colour_package(tmp_path / "p", model=outlier_model(layers=2)))
    info = _info(package, tmp_path, "ort-cpu", precision="int8")
    assert info.precision in ("fp16", "fp32")
    assert info.requested_precision == "int8"
    assert info.degraded is not None
    assert info.degraded.startswith("int8 was requested and fails: int8 does not keep the answers of fp32")
    with pytest.raises(PrecisionRejected):
        _info(package, tmp_path, "ort-cpu", precision="int8", strict=True)


def test_int8_keeps_the_sensitive_layer_in_fp32_and_names_it(tmp_path: Path) -> None:
    package = load_package(write_colour_package(tmp_path / "p", model=outlier_model(layers=1), evaluation=22))
    assert _info(package, tmp_path, "ort-cpu", precision="int8", strict=True).kept_layers == ("conv2",)


def test_wrong_golden_images_are_refused_by_every_engine(package: ModelPackage, tmp_path: Path) -> None:
    first, second, *rest = package.golden
    swapped = (dataclasses.replace(first, label=second.label), second, *rest)
    wrong = dataclasses.replace(package, golden=swapped)
    for engine in ("auto", "ort-cpu", "tensorrt"):
        with pytest.raises(GoldenMismatch):
            _info(wrong, tmp_path, engine)


def test_fastest_measures_once_and_then_remembers(package: ModelPackage, tmp_path: Path) -> None:
    first = _info(package, tmp_path, "fastest")
    assert first.measurements[0].engine == first.name
    assert all(one.runs >= 64 for one in first.measurements)
    told = {one.engine for one in first.rejected} | {one.engine for one in first.measurements}
    assert told >= set(AUTO_ORDER)
    again = _info(package, tmp_path, "fastest")
    assert again.measurements == first.measurements
    assert again.rejected == first.rejected
    assert {one.batch for one in first.measurements} == {2}, "it serves batches of up to 2"
    (record,) = (tmp_path / "selections").glob("*.json")
    stored = json.loads(record.read_text())
    stored["value"]["measured_at"] = "2020-01-01T00:00:00+00:00"
    record.write_text(json.dumps(stored))
    assert _info(package, tmp_path, "auto").measurements == first.measurements, "auto never measures"
    assert _info(package, tmp_path, "fastest").measurements != first.measurements, "measured again after 30 days"


def test_auto_selects_the_measured_fastest_engine(package: ModelPackage, tmp_path: Path) -> None:
    options = EngineOptions(cache_dir=tmp_path, max_batch=2)
    table = [Measurement(engine="ort-cpu", precision="fp32", runs=64, p50_ms=1.0, p90_ms=1.1)]
    engines.remember_selection(package, options, table)
    info = _info(package, tmp_path, "auto")
    assert info.name == "ort-cpu"
    assert info.measurements == tuple(table)


def test_a_remembered_engine_that_no_longer_runs_is_replaced(
    package: ModelPackage, tmp_path: Path, prober: Prober
) -> None:
    gone = _absent(prober, "ort-cuda", "ort-tensorrt", "ort-openvino")
    options = EngineOptions(cache_dir=tmp_path, max_batch=2)
    table = [Measurement(engine=gone, precision="fp32", runs=64, p50_ms=0.1, p90_ms=0.1)]
    engines.remember_selection(package, options, table)
    assert _info(package, tmp_path, "auto").name != gone
    measured = _info(package, tmp_path, "fastest")
    assert measured.name != gone
    assert measured.measurements[0].engine == measured.name


@pytest.mark.parametrize(
    ("engine", "options"),
    [("ort-cpu", {"workspace": 1}), ("auto", {"no_such_option": 1}), ("ort-cpu", {"threads": "many"})],
)
def test_an_option_that_does_not_exist_is_always_refused(
    package: ModelPackage, tmp_path: Path, engine: str, options: dict[str, object]
) -> None:
    with pytest.raises(OptionsRejected) as caught:
        _info(package, tmp_path, engine, options=options)
    assert caught.value.exit_code == 78


def test_options_of_an_absent_engine_do_not_stop_its_replacement(
    package: ModelPackage, tmp_path: Path, prober: Prober
) -> None:
    _absent(prober, "ort-cuda")
    info = _info(package, tmp_path, "ort-cuda", options={"use_tf32": False, "threads": 1})
    assert info.name != "ort-cuda"


def test_a_cache_that_cannot_be_written_is_named(package: ModelPackage, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(EngineUnavailable, match="cache directory"):
        _info(package, tmp_path / "file", "ort-cpu")


def test_an_unused_gpu_is_degraded_and_refused_if_strict(
    package: ModelPackage, tmp_path: Path, prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    if prober.gpus:
        pytest.skip("this machine has a GPU, so it may be used")
    monkeypatch.setenv("AGENT_L4T", "36.4.3")
    info = _info(package, tmp_path, "auto")
    assert info.degraded is not None
    assert info.degraded.startswith("the GPU of this Jetson (L4T 36.4.3) is not used")
    assert "tensorrt: CUDA does not answer" in info.degraded
    with pytest.raises(EngineUnavailable, match="strict is set") as caught:
        _info(package, tmp_path, "auto", strict=True)
    assert caught.value.exit_code == 69
    assert _info(package, tmp_path, "ort-cpu", strict=True).degraded is None


def test_a_package_that_no_installed_engine_reads_is_refused(
    package: ModelPackage, tmp_path: Path, prober: Prober
) -> None:
    if prober.probe("torch").can_run:
        pytest.skip("PyTorch is here and reads such packages")
    program = dataclasses.replace(package, format="pt2", model_path=package.model_path.with_suffix(".pt2"))
    with pytest.raises(EngineUnavailable, match=r"no engine can serve colours here") as caught:
        _info(program, tmp_path, "auto")
    for name in AUTO_ORDER:
        assert f"{name}: " in caught.value.message
