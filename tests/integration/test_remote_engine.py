"""`engine: triton` with a real package: checks, and what serves while its server cannot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engines import Building, EngineInfo, EngineOptions, EngineUnavailable, ModelPackage, load_package, open_engine
from tests.fixtures.colour_packages import colour_model, write_colour_package
from tests.fixtures.v2_server import Model, http_server, served

SIDE = 32


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return load_package(write_colour_package(tmp_path_factory.mktemp("p"), model=colour_model(side=SIDE), side=SIDE))


@pytest.fixture(scope="module")
def server(package: ModelPackage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, dict[str, Model]]]:
    with served({"m": package}, tmp_path_factory.mktemp("s")) as models, http_server(models) as port:
        yield port, models


def _options(port: int, cache: Path, **changes: object) -> EngineOptions:
    given = {"url": f"127.0.0.1:{port}", "model": "m", "timeout_ms": 10000}
    options = EngineOptions(cache_dir=cache, engine="triton", options=given, max_batch=2, sandbox=None)
    return replace(options, **changes)  # type: ignore[arg-type]  # any field


def _info(package: ModelPackage, options: EngineOptions) -> EngineInfo:
    with open_engine(package, options) as engine:
        assert engine.infer(np.zeros((2, SIDE, SIDE, 3), np.uint8)).shape == (2, 4)
        return engine.info


def test_a_server_serves_as_requested_after_golden_images_and_accuracy_check(
    package: ModelPackage, server: tuple[int, dict[str, Model]], tmp_path: Path
) -> None:
    info = _info(package, _options(server[0], tmp_path, strict=True))
    assert (info.name, info.requested, info.away, info.degraded) == ("triton", "triton", None, None)
    assert info.accuracy is not None


def test_without_its_server_a_local_engine_serves_and_says_what_is_away(package: ModelPackage, tmp_path: Path) -> None:
    info = _info(package, _options(1, tmp_path, options={"url": "127.0.0.1:1", "model": "m"}))
    assert (info.requested, info.away) == ("triton", "triton")
    assert info.name != "triton"
    assert info.degraded is not None
    assert info.degraded.startswith(f"triton was requested, but {info.name} runs: model m at 127.0.0.1:1 (http):")


def test_another_model_on_the_server_is_found_by_the_golden_images(
    package: ModelPackage, server: tuple[int, dict[str, Model]], tmp_path: Path
) -> None:
    port, models = server
    right = models["m"].answer
    models["m"].answer = lambda batch: np.ascontiguousarray(right(batch)[:, ::-1])
    try:
        info = _info(package, _options(port, tmp_path))
        assert info.away == "triton"
        assert "golden image" in (info.degraded or "")
    finally:
        models["m"].answer = right


def test_strict_refuses_to_serve_without_the_server(package: ModelPackage, tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"model m at 127\.0\.0\.1:1"):
        open_engine(package, _options(1, tmp_path, strict=True))


def test_a_server_that_has_just_failed_is_not_asked_unless_strict(
    package: ModelPackage, server: tuple[int, dict[str, Model]], tmp_path: Path
) -> None:
    building = Building(failed_server="it did not answer in time")
    info = _info(package, _options(server[0], tmp_path, building=building))
    assert info.away == "triton"
    assert "it did not answer in time" in (info.degraded or "")
    assert _info(package, _options(server[0], tmp_path, building=building, strict=True)).name == "triton"


def test_only_the_requested_engine_is_opened_on_a_return(
    package: ModelPackage, server: tuple[int, dict[str, Model]], tmp_path: Path
) -> None:
    building = Building(requested_only=True)
    with pytest.raises(EngineUnavailable):
        open_engine(package, _options(1, tmp_path, building=building))
    assert _info(package, _options(server[0], tmp_path, building=building)).name == "triton"


def test_no_option_of_the_server_reaches_a_library_of_this_device(package: ModelPackage, tmp_path: Path) -> None:
    # ort-cpu would refuse any of them, and then no engine could serve.
    given = {"url": "127.0.0.1:1", "model": "m", "token_file": str(tmp_path / "none")}
    info = _info(package, _options(1, tmp_path, options=given))
    assert info.away == "triton"
    assert not set(given) & set(info.details)
