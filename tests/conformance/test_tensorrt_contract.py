"""The native engine keeps the contract of every engine, on fakes of the versions and memory kinds that differ most.

`test_engines.py` runs the same contract on the real TensorRT where there is one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from engines import Engine, EngineOptions, Images, ModelPackage, Scores, load_package, open_engine
from engines.backends.tensorrt.engine import open_tensorrt
from engines.select.candidate import machine_errors
from tests.conformance.engine_contract import CONTRACT, MAX_BATCH, EngineCase
from tests.fixtures.colour_packages import LABELS, colour_image, colour_model, write_colour_package
from tests.fixtures.engine_faults import broken_library, faults_of
from tests.fixtures.nvidia import FakeNvidia

SIDE = 32
_KINDS = ("good", "tied", "failing")
_DEVICES: dict[str, dict[str, str | float]] = {
    "8.6, enqueued call by call": {"tensorrt": "8.6.2.3"},
    "10.3, memory shared with the CPU": {"tensorrt": "10.3.0", "integrated": 1},
    "11.4, graphs": {"tensorrt": "11.4.0.106"},
    "8.6, cuda-bindings alone": {"tensorrt": "8.6.2.3", "no_pycuda": 1},
    "10.3, cuda-bindings alone, memory shared with the CPU": {"tensorrt": "10.3.0", "no_pycuda": 1, "integrated": 1},
    "11.4, cuda-bindings alone, graphs": {"tensorrt": "11.4.0.106", "no_pycuda": 1},
}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelPackage]:
    folder = tmp_path_factory.mktemp("packages")
    return {
        kind: load_package(
            write_colour_package(
                folder / kind,
                model=colour_model(side=SIDE, is_tied=kind == "tied", fails_on_black=kind == "failing"),
                side=SIDE,
                golden=False,
            )
        )
        for kind in _KINDS
    }


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def images() -> Images:
    rows = [cv2.resize(colour_image(label, seed=40 + number), (SIDE, SIDE)) for number, label in enumerate(LABELS)]
    return np.stack(rows).astype(np.uint8)


@pytest.fixture(scope="module")
def expected(packages: dict[str, ModelPackage], cache: Path, images: Images) -> Scores:
    with open_engine(packages["good"], EngineOptions(cache_dir=cache, engine="ort-cpu", max_batch=1)) as engine:
        return np.concatenate([engine.infer(image[None]) for image in images])


@pytest.fixture(params=_DEVICES)
def case(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    packages: dict[str, ModelPackage],
    cache: Path,
    images: Images,
    expected: Scores,
) -> Iterator[EngineCase]:
    nvidia = FakeNvidia(monkeypatch)
    nvidia.set(**_DEVICES[request.param])
    options = EngineOptions(cache_dir=cache, engine="tensorrt", strict=True, max_batch=MAX_BATCH)

    def open_kind(kind: str) -> Engine:
        with machine_errors("tensorrt", options):
            return open_tensorrt(packages[kind], options)[0]

    good, tied, failing = (functools.partial(open_kind, kind) for kind in _KINDS)
    yield EngineCase(
        open=good,
        open_tied=tied,
        open_failing=failing,
        images=images,
        expected=expected,
        tolerance=1e-5,
        names=frozenset({"tensorrt"}),
        broken=functools.partial(broken_library, "tensorrt"),
        faults=faults_of("tensorrt"),
    )
    nvidia.close()


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_the_native_engine_keeps_the_contract(case: EngineCase, promise: Callable[[EngineCase], None]) -> None:
    promise(case)
