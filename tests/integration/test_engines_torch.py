"""The PyTorch engine and ONNX Runtime give the same scores for the same images."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from engines import (
    EngineOptions,
    EngineUnavailable,
    ModelPackage,
    ModelRejected,
    OptionsRejected,
    load_package,
    open_engine,
)
from engines.base import Images
from engines.package.specs import InputSpec
from tests.fixtures.colour_packages import write_colour_package
from tests.fixtures.torch_packages import write_torch_package

pytest.importorskip("torch", reason="PyTorch is not installed here")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return load_package(write_torch_package(tmp_path_factory.mktemp("torch")))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return load_package(write_colour_package(tmp_path_factory.mktemp("onnx"), calibration=0))


def _noise() -> Images:
    return np.random.default_rng(2).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


def _scores(
    package: ModelPackage, cache_dir: Path, engine: str, **options: object
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    wanted = EngineOptions(cache_dir=cache_dir, engine=engine, strict=True, max_batch=3, options=options)
    with open_engine(package, wanted) as opened:
        return opened.infer(_noise())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"color": "bgr"},
        {"scale": 1.0, "mean": (100.0, 110.0, 120.0), "std": (200.0, 210.0, 220.0)},
        {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    ],
    ids=["plain", "bgr", "raw", "imagenet"],
)
def test_preprocessing_is_that_of_the_serving_graph(
    program: ModelPackage, model: ModelPackage, tmp_path: Path, changes: dict[str, object]
) -> None:
    spec: InputSpec = dataclasses.replace(model.input, **changes)  # type: ignore[arg-type] # fields of mixed types
    answers = [
        _scores(dataclasses.replace(package, input=spec, golden=()), tmp_path, engine)
        for package, engine in ((program, "torch"), (model, "ort-cpu"))
    ]
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-5)


def test_auto_selects_torch_if_no_other_engine_reads_the_package(program: ModelPackage, tmp_path: Path) -> None:
    with open_engine(program, EngineOptions(cache_dir=tmp_path)) as engine:
        assert engine.info.name == "torch"
        assert engine.info.degraded is None
        assert {one.engine for one in engine.info.rejected} >= {"tensorrt", "ort-tensorrt", "ort-cuda"}


@pytest.mark.parametrize("options", [{"device": "tpu"}, {"threads": 0}, {"compile": 1}, {"workspace": 1}])
def test_options_are_checked(program: ModelPackage, tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(OptionsRejected, match="engine torch"):
        _scores(program, tmp_path, "torch", **options)


def test_cuda_is_refused_without_a_device(program: ModelPackage, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(EngineUnavailable, match="finds no CUDA device"):
        _scores(program, tmp_path, "torch", device="cuda")


def test_a_program_that_is_cut_off_is_refused(program: ModelPackage, tmp_path: Path) -> None:
    broken = tmp_path / "model.pt2"
    broken.write_bytes(program.model_path.read_bytes()[:2000])
    with pytest.raises(ModelRejected, match=r"model\.pt2 is not a whole torch\.export archive"):
        _scores(dataclasses.replace(program, model_path=broken), tmp_path, "torch")
