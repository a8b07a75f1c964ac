"""Faults beside the model: no process for a probe, a plan that does not load, PyTorch. All are EngineErrors."""

from __future__ import annotations

import contextlib
import errno
import itertools
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest

from engines import (
    Engine,
    EngineInfo,
    EngineLost,
    EngineOptions,
    EngineUnavailable,
    InferenceFailed,
    ModelPackage,
    OutOfMemory,
    load_package,
    open_engine,
)
from engines.backends.tensorrt.crash_counter import STARTS
from engines.backends.tensorrt.engine import open_tensorrt
from engines.backends.torch import TorchEngine
from engines.select.candidate import machine_errors
from tests.fixtures.colour_packages import colour_model, write_colour_package
from tests.fixtures.engine_faults import broken_library
from tests.fixtures.nvidia import FakeNvidia


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    return load_package(write_colour_package(tmp_path / "package", model=colour_model(side=32), side=32, golden=False))


@pytest.fixture
def nvidia(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvidia]:
    fake = FakeNvidia(monkeypatch)
    yield fake
    fake.close()


@pytest.mark.parametrize("engine", ["tensorrt", "fastest", "auto"])
def test_a_machine_without_a_free_process_gives_an_engine_error(
    monkeypatch: pytest.MonkeyPatch, package: ModelPackage, tmp_path: Path, engine: str
) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    (tmp_path / "cache/selections").mkdir(parents=True)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(EngineUnavailable, match="Resource temporarily unavailable"):
        open_engine(package, EngineOptions(cache_dir=tmp_path / "cache", engine=engine, strict=True, sandbox=None))


def test_a_plan_that_python_cannot_load_is_an_engine_error_and_no_crash_of_the_plan(
    nvidia: FakeNvidia, package: ModelPackage, tmp_path: Path
) -> None:
    options = EngineOptions(cache_dir=tmp_path / "cache", engine="tensorrt", strict=True, sandbox=None)

    def open_plan() -> Engine:
        with machine_errors("tensorrt", options):
            return open_tensorrt(package, options)[0]

    open_plan().close()
    faults = ((MemoryError(), OutOfMemory), (RuntimeError("planted"), EngineUnavailable))
    for fault, error in itertools.islice(itertools.cycle(faults), STARTS):
        with broken_library("tensorrt", fault), pytest.raises(error):
            open_plan()
    open_plan().close()


def _torch_engine(package: ModelPackage, serve: Callable[[Any], Any], library: Any) -> TorchEngine:
    info = EngineInfo(
        name="torch",
        requested="torch",
        precision="fp32",
        requested_precision="fp32",
        device="a GPU",
        max_batch=2,
        classes=package.signature.classes,
    )
    return TorchEngine(serve, torch=library, device="cuda", info=info, package=package)


def _raiser(fault: BaseException) -> Callable[..., NoReturn]:
    def call(*_: object) -> NoReturn:
        raise fault

    return call


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (MemoryError(), InferenceFailed),
        (AttributeError("dict has no attribute float"), InferenceFailed),
        (KeyError("logits"), InferenceFailed),
        (OSError(errno.ENOSPC, "No space left on device"), InferenceFailed),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), EngineLost),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_a_torch_program_raises_is_an_engine_error_and_closing_it_afterwards_is_harmless(
    package: ModelPackage, fault: BaseException, error: type[Exception]
) -> None:
    library = SimpleNamespace(
        inference_mode=contextlib.nullcontext,
        from_numpy=lambda array: SimpleNamespace(to=lambda _: array),
        cuda=SimpleNamespace(empty_cache=_raiser(RuntimeError("CUDA error: an illegal memory access"))),
    )
    engine = _torch_engine(package, _raiser(fault), library)
    with pytest.raises(error):
        engine.infer(np.zeros((1, 32, 32, 3), np.uint8))
    engine.close()
    with pytest.raises(InferenceFailed, match="closed"):
        engine.infer(np.zeros((1, 32, 32, 3), np.uint8))
