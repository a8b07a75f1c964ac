"""A model that is new to this device is loaded in a limited child first; a crash or hang ends that child only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

import agent.demo
from engines import (
    BuildCancelled,
    Building,
    BuildNeeded,
    BuildProgress,
    EngineError,
    EngineOptions,
    EngineUnavailable,
    ModelPackage,
    OptionsRejected,
    SandboxFailed,
    SandboxOptions,
    load_package,
    open_engine,
    serving_graph,
    verify,
)
from engines.backends.onnxruntime.engine import open_onnxruntime
from engines.check.package_check import check_package
from engines.graph.ort_library import library
from tests.fixtures.colour_packages import write_colour_package
from tests.fixtures.hostile_models import endless_model, model_of_4_terabytes, package_of, swelling_model
from tests.fixtures.nvidia import FakeNvidia

_NO_TIME = SandboxOptions(timeout_s=0.0)
"""Ends every child at once, so a model that still loads did not use one."""


@pytest.fixture(scope="module", autouse=True)
def _library_is_loaded() -> None:
    library()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return load_package(write_colour_package(tmp_path_factory.mktemp("package"), calibration=0))


@pytest.fixture
def options(tmp_path: Path) -> EngineOptions:
    return EngineOptions(cache_dir=tmp_path / "cache", engine="ort-cpu", max_batch=2, strict=True)


def _record(options: EngineOptions) -> Path:
    (found,) = (options.cache_dir / "sandboxed_loads").iterdir()
    return found


def test_a_model_that_has_loaded_once_needs_no_child(package: ModelPackage, options: EngineOptions) -> None:
    with open_engine(package, options) as engine:
        first = engine.infer(np.zeros((1, 32, 32, 3), np.uint8))
    assert _record(options).stat().st_mode & 0o077 == 0
    with open_engine(package, replace(options, sandbox=_NO_TIME)) as engine:
        assert np.array_equal(engine.infer(np.zeros((1, 32, 32, 3), np.uint8)), first)


@pytest.mark.parametrize("change", [{"max_batch": 3}, {"options": {"threads": 1}}, {"precision": "fp16"}])
def test_different_options_make_a_model_new_again(
    change: dict[str, object], package: ModelPackage, options: EngineOptions
) -> None:
    open_engine(package, options).close()
    changed = replace(options, sandbox=_NO_TIME, **change)  # type: ignore[arg-type]  # its own fields
    with pytest.raises(SandboxFailed, match=r"used \d+ s of time, but the limit is 0 s"):
        open_engine(package, changed)


@pytest.mark.parametrize("harm", ["others may write", "damaged", "of other facts", "gone"])
def test_an_untrusted_record_is_ignored(harm: str, package: ModelPackage, options: EngineOptions) -> None:
    open_engine(package, options).close()
    record = _record(options)
    if harm == "others may write":
        record.chmod(0o666)
    elif harm == "damaged":
        record.write_bytes(record.read_bytes()[:-9])
    elif harm == "of other facts":
        record.write_text(record.read_text().replace('"onnxruntime": "', '"onnxruntime": "0.'))
    else:
        shutil.rmtree(record.parent)
    with pytest.raises(SandboxFailed):
        open_engine(package, replace(options, sandbox=_NO_TIME))


def test_a_package_of_the_program_needs_no_sandbox(options: EngineOptions, tmp_path: Path) -> None:
    bundled = agent.demo.demo_package()
    hurried = replace(options, sandbox=_NO_TIME)
    open_engine(load_package(bundled), hurried).close()
    copy = shutil.copytree(bundled, tmp_path / "elsewhere" / bundled.name)
    with pytest.raises(SandboxFailed):
        open_engine(load_package(copy), hurried)


def test_an_endless_model_is_killed_at_the_time_limit(options: EngineOptions, tmp_path: Path) -> None:
    endless = package_of(endless_model(), tmp_path / "endless")
    with pytest.raises(
        SandboxFailed, match=r"trees-1\.0\.0 on ort-cpu in fp32 .* of time, but the limit is 4 s"
    ) as caught:
        open_engine(endless, replace(options, sandbox=SandboxOptions(timeout_s=4.0)))
    assert caught.value.exit_code == 69
    assert not (options.cache_dir / "sandboxed_loads").exists()


def test_a_growing_model_is_killed_at_the_memory_limit(options: EngineOptions, tmp_path: Path) -> None:
    swelling = package_of(swelling_model(900 << 20), tmp_path / "swelling")
    before = psutil.Process().memory_info().rss
    with pytest.raises(SandboxFailed, match=r"of memory, but the limit is 400 MiB"):
        open_engine(swelling, replace(options, sandbox=SandboxOptions(memory_bytes=400 << 20)))
    assert psutil.Process().memory_info().rss - before < 100 << 20


def test_a_model_that_asks_for_4_terabytes_is_an_ordinary_error(options: EngineOptions, tmp_path: Path) -> None:
    greedy = package_of(model_of_4_terabytes(), tmp_path / "greedy")
    with pytest.raises(EngineError) as caught:
        open_engine(greedy, options)
    assert caught.value.exit_code in (69, 78)


@pytest.fixture
def _library_that_crashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ONNX Runtime that kills each process that imports it; this process already has the real one."""
    planted = tmp_path / "planted" / "onnxruntime"
    planted.mkdir(parents=True)
    (planted / "__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(planted.parent), str(Path.cwd())]))


@pytest.mark.usefixtures("_library_that_crashes")
def test_a_model_that_kills_its_process_kills_the_child(package: ModelPackage, options: EngineOptions) -> None:
    with pytest.raises(SandboxFailed, match=r"colours-1\.0\.0 on ort-cpu .* ended with signal 11 \(SIGSEGV\)"):
        open_engine(package, options)
    with pytest.raises(EngineUnavailable, match=r"no engine can serve colours here.*ort-cpu: .*SIGSEGV"):
        open_engine(package, replace(options, strict=False))


def test_a_bug_in_this_program_is_not_blamed_on_the_model(
    package: ModelPackage, options: EngineOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that raises an unexpected exception."""
    planted = tmp_path / "planted" / "onnxruntime"
    planted.mkdir(parents=True)
    (planted / "__init__.py").write_text("raise KeyError('unforeseen')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(planted.parent), str(Path.cwd())]))
    with pytest.raises(SandboxFailed, match=r"KeyError: 'unforeseen'.*bug in this program") as caught:
        open_engine(package, options)
    assert "check where it comes from" not in caught.value.message


@pytest.mark.usefixtures("_library_that_crashes")
def test_package_check_and_verify_use_the_sandbox_too(package: ModelPackage, options: EngineOptions) -> None:
    with pytest.raises(SandboxFailed, match="SIGSEGV"):
        check_package(package)
    with pytest.raises(SandboxFailed, match="SIGSEGV"):
        verify(package, options)


def test_an_engine_error_in_the_child_is_raised_unchanged(package: ModelPackage, options: EngineOptions) -> None:
    with pytest.raises(OptionsRejected, match="no option") as caught:
        open_engine(package, replace(options, options={"thread": 1}))
    assert caught.value.exit_code == 78


def test_a_first_load_reports_progress_and_can_be_cancelled(options: EngineOptions, tmp_path: Path) -> None:
    endless = package_of(endless_model(), tmp_path / "endless")
    told: list[BuildProgress] = []
    building = Building(on_progress=told.append, is_cancelled=lambda: len(told) > 1)
    with pytest.raises(BuildCancelled, match=r"the first load of trees-1\.0\.0 on ort-cpu in fp32 was stopped"):
        open_engine(endless, replace(options, building=building))
    assert {one.engine for one in told} == {"ort-cpu"}
    assert told[-1].elapsed_s > 2


@pytest.fixture
def nvidia(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvidia]:
    fake = FakeNvidia(monkeypatch)
    yield fake
    fake.close()


def test_if_one_engine_crashes_on_a_model_the_next_serves(
    nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions
) -> None:
    nvidia.set(faults="crash_on_load")
    with open_engine(package, replace(options, engine="tensorrt", strict=False)) as engine:
        assert engine.info.name in {"ort-cpu", "ort-openvino"}
        assert engine.info.degraded is not None
        assert "signal 6 (SIGABRT)" in engine.info.degraded
    with pytest.raises(SandboxFailed, match="SIGABRT"):
        open_engine(package, replace(options, engine="tensorrt"))


def test_a_plan_built_by_the_child_is_not_built_again(
    nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions
) -> None:
    nvidia.set(build_s=2)
    told: list[BuildProgress] = []
    wanted = replace(options, engine="tensorrt", building=Building(on_progress=told.append))
    with open_engine(package, wanted) as engine:
        assert engine.info.details["why_built"] == "it was not in the cache"
    assert any("building" in one.phase for one in told), told
    with open_engine(package, replace(wanted, sandbox=_NO_TIME)) as engine:
        assert "why_built" not in engine.info.details


def test_the_serving_process_never_builds_a_plan_in_onnx_runtime(
    nvidia: FakeNvidia, package: ModelPackage, options: EngineOptions
) -> None:
    wanted = replace(options, engine="ort-tensorrt")
    graph = serving_graph(package, cache_dir=options.cache_dir)
    with pytest.raises(BuildNeeded):
        open_onnxruntime(package, wanted, engine="ort-tensorrt", graph=graph)
    with pytest.raises(EngineUnavailable, match="TensorrtExecutionProvider"):
        open_onnxruntime(package, replace(wanted, sandbox=None), engine="ort-tensorrt", graph=graph)
