"""What only a real GPU can show about the native engine. `scripts/gpu-check` runs it, and fails without a GPU."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from agent.demo import demo_package
from engines import (
    BuildCancelled,
    Building,
    Engine,
    EngineOptions,
    EngineUnavailable,
    ModelPackage,
    Precision,
    load_package,
    open_engine,
)
from engines.backends.tensorrt.cuda.libraries import LIBRARIES, cuda_library
from engines.graph.image_set import image_set_of
from engines.select.registry import Prober
from engines.store.plan_cache import PlanCache
from tests.fixtures.cuda_contract import (
    CHECKS,
    a_graph_repeats_what_was_captured,
    copies_happen_on_the_stream_and_come_back,
    free_memory_falls_by_what_is_allocated,
)

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(1800)]


# A test may build several plans, which takes minutes each on a small board.
_LIMIT_S = 1500.0
_MAX_BATCH = 4
# On a real GPU other programs change the free memory, and the driver allocates in larger pieces.
_STABLE_CHECKS = [check for check in CHECKS if check is not free_memory_falls_by_what_is_allocated]


@pytest.fixture(scope="module")
def package() -> ModelPackage:
    return load_package(demo_package())


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    probe = Prober().probe("tensorrt")
    if not probe.can_run:
        if os.environ.get("REQUIRE_GPU") and "tensorrt" in os.environ.get("REQUIRE_ENGINES", "").split(","):
            pytest.fail(f"TensorRT is required and cannot run: {probe.reason}")
        pytest.skip(f"TensorRT cannot run here: {probe.reason}")
    return tmp_path_factory.mktemp("plans")


def _open(package: ModelPackage, cache: Path, **more: object) -> Engine:
    options = EngineOptions(cache_dir=cache, engine="tensorrt", strict=True, max_batch=_MAX_BATCH, **more)  # type: ignore[arg-type]  # named fields
    return open_engine(package, options)


def _require_library(library: str) -> None:
    try:
        cuda_library(library)
    except EngineUnavailable as exc:
        pytest.skip(exc.message)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_precision_is_built_and_passes_the_accuracy_check(
    package: ModelPackage, cache: Path, precision: Precision
) -> None:
    with _open(package, cache, precision=precision) as engine:
        assert engine.info.precision == precision
        assert engine.info.accuracy is not None
        assert engine.info.accuracy["passed"] is True


@pytest.mark.parametrize("name", ["cuda_graph", "blocking_sync"])
def test_each_way_of_running_gives_the_same_scores(package: ModelPackage, cache: Path, name: str) -> None:
    images = image_set_of(package).batch[:4]
    with _open(package, cache, options={name: False}) as off, _open(package, cache, options={name: True}) as on:
        np.testing.assert_allclose(off.infer(images), on.infer(images), atol=1e-5)


@pytest.mark.parametrize("library", LIBRARIES)
def test_each_cuda_library_gives_the_same_scores(package: ModelPackage, cache: Path, library: str) -> None:
    _require_library(library)
    images = image_set_of(package).batch[:4]
    with _open(package, cache) as usual, _open(package, cache, options={"cuda_library": library}) as named:
        assert str(named.info.details["cuda"]).startswith(library)
        np.testing.assert_allclose(usual.infer(images), named.infer(images), atol=1e-5)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("check", _STABLE_CHECKS, ids=lambda check: check.__name__)
def test_each_cuda_library_keeps_the_contract(check: Callable[[str], None], cache: Path, library: str) -> None:
    _require_library(library)
    if check is a_graph_repeats_what_was_captured:
        # Graphs are captured through cuda-bindings, whichever library serves.
        _require_library("cuda-bindings")
    if check is copies_happen_on_the_stream_and_come_back and Prober().gpus[0].integrated:
        pytest.skip("an integrated GPU maps host memory instead of copying it")
    check(library)


def test_every_batch_size_has_a_graph_or_info_gives_the_reason(package: ModelPackage, cache: Path) -> None:
    """Before TensorRT 10 a dynamic profile belongs to one context, and without cuda-bindings there is no capture."""
    with _open(package, cache) as engine:
        details = engine.info.details
    sizes = ",".join(str(size) for size in range(1, _MAX_BATCH + 1))
    assert details["cuda_graphs"] == sizes or details.get("why_no_cuda_graph"), details


def test_images_are_copied_only_to_a_gpu_with_memory_of_its_own(package: ModelPackage, cache: Path) -> None:
    gpus = Prober().gpus
    with _open(package, cache) as engine:
        assert engine.info.details["device_copies"] == (0 if gpus[0].integrated else 1)


def test_batches_of_every_size_give_the_scores_of_single_images(package: ModelPackage, cache: Path) -> None:
    """Tactics may differ from size to size and round differently; rows must not be mixed up."""
    images = image_set_of(package).batch[:_MAX_BATCH]
    with _open(package, cache) as engine:
        alone = np.concatenate([engine.infer(image[None]) for image in images])
        for size in range(2, _MAX_BATCH + 1):
            np.testing.assert_allclose(engine.infer(images[:size]), alone[:size], atol=5e-3)


def test_two_threads_each_run_an_engine_and_one_may_end_first(package: ModelPackage, cache: Path) -> None:
    """As when a newly built engine takes over: it is opened on a thread of its own while the old one serves."""
    images = image_set_of(package).batch[:8]
    answers: dict[str, list[int]] = {}
    old_serves, new_is_open = threading.Event(), threading.Event()

    def classes(engine: Engine) -> list[int]:
        return [int(engine.infer(image[None])[0].argmax()) for image in images]

    def old() -> None:
        try:
            with _open(package, cache) as engine:
                answers["old"] = classes(engine)
                old_serves.set()
                while not new_is_open.is_set():
                    assert classes(engine) == answers["old"]
        finally:
            old_serves.set()

    def new() -> None:
        try:
            old_serves.wait(_LIMIT_S)
            with _open(package, cache) as engine:
                new_is_open.set()
                for _ in range(200):
                    answers["new"] = classes(engine)
        finally:
            new_is_open.set()

    threads = [threading.Thread(target=old), threading.Thread(target=new)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_LIMIT_S)
        assert not thread.is_alive(), f"no end within {_LIMIT_S} s"
    assert answers["old"] == answers["new"]


def test_a_cancelled_build_leaves_nothing(package: ModelPackage, tmp_path: Path, cache: Path) -> None:
    began = threading.Event()
    building = Building(force=True, on_progress=lambda _: began.set(), is_cancelled=began.is_set)
    with pytest.raises(BuildCancelled):
        _open(package, tmp_path / "other", building=building)
    assert list((tmp_path / "other" / "building").iterdir()) == []
    assert PlanCache(tmp_path / "other").entries() == []
