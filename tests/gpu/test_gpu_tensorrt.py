"""What only a real GPU can show of the native engine. scripts/gpu-check runs it, and makes a missing GPU a failure."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from agent.demo import demo_package
from engines import Building, Engine, EngineOptions, ModelPackage, Precision, load_package, open_engine
from engines.parity import pictures_of
from engines.registry import Prober

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def package() -> ModelPackage:
    return load_package(demo_package())


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    probe = Prober().probe("tensorrt")
    if not probe.can_run:
        if os.environ.get("REQUIRE_GPU") and "tensorrt" in os.environ.get("REQUIRE_ENGINES", ""):
            pytest.fail(f"TensorRT is required and cannot run: {probe.reason}")
        pytest.skip(f"TensorRT cannot run here: {probe.reason}")
    return tmp_path_factory.mktemp("plans")


def _open(package: ModelPackage, cache: Path, **more: object) -> Engine:
    options = EngineOptions(cache_dir=cache, engine="tensorrt", strict=True, max_batch=4, **more)  # type: ignore[arg-type]  # named fields
    return open_engine(package, options)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_precision_is_built_and_proven(package: ModelPackage, cache: Path, precision: Precision) -> None:
    with _open(package, cache, precision=precision) as engine:
        assert engine.info.precision == precision
        assert engine.info.parity is not None
        assert engine.info.parity["passed"] is True


@pytest.mark.parametrize("name", ["cuda_graph", "blocking_sync"])
def test_each_way_of_running_gives_the_same_answers(package: ModelPackage, cache: Path, name: str) -> None:
    pictures = pictures_of(package).batch[:4]
    with _open(package, cache, options={name: False}) as off, _open(package, cache, options={name: True}) as on:
        np.testing.assert_allclose(off.infer(pictures), on.infer(pictures), atol=1e-6)


def test_an_integrated_gpu_copies_nothing_and_another_one_captures_graphs(package: ModelPackage, cache: Path) -> None:
    with _open(package, cache) as engine:
        graphs = str(engine.info.details["cuda_graphs"])
        why = engine.info.details.get("why_no_cuda_graph")
        assert graphs or why, "neither a graph nor a reason"


def test_two_threads_have_an_engine_each_and_one_may_end_before_the_other(package: ModelPackage, cache: Path) -> None:
    """As when a built engine takes over: it is opened on its own thread while another one serves."""
    pictures = pictures_of(package).batch
    answers: dict[str, list[int]] = {"old": [], "new": []}
    new_is_open = threading.Event()

    def old() -> None:
        with _open(package, cache) as engine:
            while not new_is_open.wait(0):
                answers["old"] = [int(engine.infer(picture[None])[0].argmax()) for picture in pictures[:8]]

    def new() -> None:
        with _open(package, cache) as engine:
            new_is_open.set()
            for _ in range(200):
                answers["new"] = [int(engine.infer(picture[None])[0].argmax()) for picture in pictures[:8]]

    threads = [threading.Thread(target=old), threading.Thread(target=new)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    assert answers["old"] == answers["new"]


def test_a_build_is_stopped_and_leaves_nothing(package: ModelPackage, tmp_path: Path, cache: Path) -> None:
    from engines import BuildCancelled

    began = threading.Event()
    building = Building(force=True, on_progress=lambda _: began.set(), is_cancelled=began.is_set)
    with pytest.raises(BuildCancelled):
        _open(package, tmp_path / "other", building=building)
    assert list((tmp_path / "other" / "building").iterdir()) == []
