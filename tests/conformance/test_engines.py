"""Every engine keeps the contract, and the contract catches engines that do not.

An engine that cannot run here is skipped, with the reason from its probe. `REQUIRE_ENGINES=ort-cpu,torch` names
engines that must not be skipped.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from engines import Engine, EngineOptions, Images, InferenceFailed, ModelPackage, Precision, load_package
from engines.select.candidate import open_candidate
from engines.select.registry import Prober
from tests.conformance import broken_engines as broken
from tests.conformance import engine_contract as contract
from tests.conformance.engine_contract import CONTRACT, MAX_BATCH, EngineCase
from tests.fixtures.colour_packages import LABELS, colour_image, colour_model, write_colour_package
from tests.fixtures.engine_faults import broken_library, faults_of
from tests.fixtures.torch_packages import write_torch_package
from tests.fixtures.v2_server import grpc_server, http_server, served

SIDE = 32
ENGINES = ("tensorrt", "ort-tensorrt", "ort-cuda", "torch", "ort-openvino", "ort-cpu")
# Tolerances of probabilities against ort-cpu in fp32: TF32 and int8 round, the others only sum in a different order.
_TOLERANCES = {"ort-cpu": 1e-5, "torch": 1e-4, "ort-openvino": 1e-3, "ort-cuda": 3e-3, "ort-tensorrt": 3e-3}
_COARSE = 0.02

_CASES: list[tuple[str, Precision, int | str]] = [
    *((name, "fp32", "batch") for name in ENGINES),
    *((name, "fp32", MAX_BATCH) for name in ENGINES),
    *((name, "int8", "batch") for name in ENGINES if name != "torch"),
    ("triton-http", "fp32", "batch"),
    ("triton-grpc", "fp32", "batch"),
]


@functools.cache
def _prober() -> Prober:
    return Prober()


def _require(name: str) -> None:
    result = _prober().probe(name)
    if result.can_run:
        return
    if name in os.environ.get("REQUIRE_ENGINES", "").split(","):
        pytest.fail(f"{name} is required and cannot run: {result.reason}")
    pytest.skip(f"{name} cannot run here: {result.reason}")


def _test_images() -> Images:
    rows = [cv2.resize(colour_image(label, seed=40 + number), (SIDE, SIDE)) for number, label in enumerate(LABELS)]
    return np.stack(rows).astype(np.uint8)


def _open(
    name: str, precision: Precision, package: ModelPackage, cache_dir: Path, options: Mapping[str, object]
) -> Engine:
    wanted = EngineOptions(
        cache_dir=cache_dir,
        engine=name,
        precision=precision,
        strict=True,
        max_batch=MAX_BATCH,
        options=options,
        sandbox=None,
    )
    return open_candidate(package, wanted, name, _prober())


@contextmanager
def _remote_options(
    name: str, packages: Mapping[str, ModelPackage], cache_dir: Path
) -> Iterator[dict[str, dict[str, object]]]:
    """The options of each package's engine; for a remote one, a server serves the packages while in the block."""
    _, _, protocol = name.partition("triton-")
    if not protocol:
        yield {kind: {} for kind in packages}
        return
    serve = grpc_server if protocol == "grpc" else http_server
    with served(packages, cache_dir) as models, serve(models) as port:
        yield {
            kind: {"url": f"127.0.0.1:{port}", "model": kind, "protocol": protocol, "timeout_ms": 10000}
            for kind in packages
        }


@pytest.fixture(scope="module", params=_CASES, ids=lambda case: "-".join(map(str, case)))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineCase]:
    name, precision, batch = request.param
    engine_name = "triton" if name.startswith("triton") else name
    _require(engine_name)
    directory = tmp_path_factory.mktemp(name)
    write = write_torch_package if name == "torch" else _write_onnx_package
    packages = {
        kind: load_package(
            write(directory / kind, batch=batch, is_tied=kind == "tied", fails_on_black=kind == "failing")
        )
        for kind in ("good", "tied", "failing")
    }
    images = _test_images()
    reference = load_package(_write_onnx_package(directory / "reference"))
    with _open("ort-cpu", "fp32", reference, directory / "cache", {}) as engine:
        expected = np.concatenate([engine.infer(image[None]) for image in images])
    with _remote_options(name, packages, directory / "cache") as options:
        good, tied, failing = (
            functools.partial(_open, engine_name, precision, package, directory / "cache", options[kind])
            for kind, package in packages.items()
        )
        yield EngineCase(
            open=good,
            open_tied=tied,
            open_failing=failing if precision != "int8" else None,
            images=images,
            expected=expected,
            tolerance=_COARSE if precision == "int8" else _TOLERANCES.get(name, 3e-3),
            names=frozenset({engine_name}),
            broken=functools.partial(broken_library, name),
            faults=faults_of(name),
        )


def _write_onnx_package(
    directory: Path, *, batch: int | str = "batch", is_tied: bool = False, fails_on_black: bool = False
) -> Path:
    model = colour_model(side=SIDE, batch=batch, is_tied=is_tied, fails_on_black=fails_on_black)
    return write_colour_package(directory, model=model, side=SIDE, golden=not is_tied)


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_engine_keeps_its_contract(case: EngineCase, promise: Callable[[EngineCase], None]) -> None:
    promise(case)


def _memory_case(kind: type[broken.GoodEngine]) -> EngineCase:
    images = _test_images()
    good = broken.GoodEngine(max_batch=len(images), side=SIDE)
    return EngineCase(
        open=lambda: kind(max_batch=MAX_BATCH, side=SIDE),
        open_tied=lambda: kind(max_batch=MAX_BATCH, side=SIDE, is_tied=True),
        open_failing=lambda: kind(max_batch=MAX_BATCH, side=SIDE, fails_on_black=True),
        images=images,
        expected=good.infer(images),
        tolerance=1e-5,
        names=frozenset({"memory"}),
        broken=broken.Library.broken,
        faults=broken.FAULTS,
    )


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_a_good_engine_in_memory_passes(promise: Callable[[EngineCase], None]) -> None:
    promise(_memory_case(broken.GoodEngine))


_FAULTS: list[tuple[type[broken.GoodEngine], Callable[[EngineCase], None]]] = [
    (broken.ReversesTheBatch, contract.keeps_the_order_of_a_batch),
    (broken.ReversesTheBatch, contract.agrees_with_the_reference),
    (broken.ReusesItsBuffer, contract.scores_belong_to_the_caller),
    (broken.ReturnsThePreviousBatch, contract.keeps_the_order_of_a_batch),
    (broken.GivesLogits, contract.gives_probabilities_of_every_class),
    (broken.GivesDoubles, contract.gives_probabilities_of_every_class),
    (broken.DropsTheLastClass, contract.gives_probabilities_of_every_class),
    (broken.SwallowsNan, contract.nan_is_never_a_class),
    (broken.FailsWithTheWholeBatch, contract.nan_is_never_a_class),
    (broken.StaysBrokenAfterAFailure, contract.a_failed_call_leaves_the_engine_usable),
    (broken.TakesAnyBatch, contract.refuses_an_oversized_and_an_empty_batch),
    (broken.TakesAnyBatch, contract.refuses_other_shapes_and_dtypes),
    (broken.ConvertsSilently, contract.refuses_other_shapes_and_dtypes),
    (broken.ReturnsRandomScores, contract.gives_the_same_scores_twice),
    (broken.BreaksTies, contract.ties_go_to_the_lowest_class),
    (broken.WritesIntoTheBatch, contract.reads_the_batch_before_it_returns),
    (broken.SwapsRedAndBlue, contract.agrees_with_the_reference),
    (broken.LeaksAtTheOpening, contract.a_library_that_fails_at_the_opening_is_an_engine_error),
    (broken.LeaksInARun, contract.a_library_that_fails_in_a_run_is_an_engine_error),
    (broken.LeaksAValueErrorInARun, contract.a_library_that_fails_in_a_run_is_an_engine_error),
    (broken.LeaksAtTheClose, contract.a_library_that_fails_at_the_close_is_an_engine_error_at_most),
    (broken.WorksWhenClosed, contract.is_closed_after_its_block),
    (broken.FailsOnTheSecondClose, contract.closing_twice_is_harmless),
    (broken.StaysInterrupted, contract.interrupting_nothing_is_harmless),
    (broken.HidesItsVersions, contract.says_what_runs),
]


@pytest.mark.parametrize(
    ("kind", "promise"), _FAULTS, ids=[f"{kind.__name__}-{promise.__name__}" for kind, promise in _FAULTS]
)
def test_the_contract_catches_a_broken_engine(
    kind: type[broken.GoodEngine], promise: Callable[[EngineCase], None]
) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception, RuntimeError, InferenceFailed)):
        promise(_memory_case(kind))


def test_every_promise_has_a_broken_engine_that_it_catches() -> None:
    assert {promise for _, promise in _FAULTS} == set(CONTRACT)
