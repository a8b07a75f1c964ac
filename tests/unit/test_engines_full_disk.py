"""Nothing but EngineError leaves `open_engine` when the disk of the cache is full, at whatever point of a build."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from engines import EngineError, EngineOptions, EngineUnavailable, ModelPackage, describe, load_package, open_engine
from engines.select.registry import Prober
from tests.fixtures.colour_packages import colour_model, write_colour_package
from tests.fixtures.nvidia import FakeNvidia

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a small file system can only be mounted by root")


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    return load_package(write_colour_package(tmp_path / "package", model=colour_model(side=32), side=32, golden=False))


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for few files."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m,nr_inodes=16", "tmpfs", str(folder)], check=False
    ).returncode:
        pytest.skip(reason="this system does not let us mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def _empty(folder: Path) -> None:
    for ballast in folder.glob("ballast-*"):
        ballast.unlink()


def _fill(folder: Path, *, free: int) -> None:
    """Leave room for ``free`` more files."""
    made = 0
    with suppress(OSError):
        while True:
            (folder / f"ballast-{made}").touch()
            made += 1
    for number in range(free):
        (folder / f"ballast-{number}").unlink()


@pytest.mark.parametrize("free", [6, 7, 8])
def test_a_plan_that_cannot_be_built_for_want_of_space_is_an_engine_error_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, package: ModelPackage, small: Path, free: int
) -> None:
    nvidia = FakeNvidia(monkeypatch)
    try:
        _fill(small, free=free)
        options = EngineOptions(cache_dir=small / "cache", engine="tensorrt", strict=True, sandbox=None)
        with pytest.raises(EngineError) as caught:
            open_engine(package, options)
    finally:
        nvidia.close()
    assert isinstance(caught.value, EngineUnavailable), repr(caught.value)
    assert "space" in caught.value.message


@pytest.mark.parametrize("engine", ["ort-cpu", "fastest"])
def test_a_graph_or_selection_that_cannot_be_kept_for_want_of_space_is_an_engine_error(
    monkeypatch: pytest.MonkeyPatch, package: ModelPackage, small: Path, engine: str
) -> None:
    monkeypatch.setattr(Prober, "names", lambda _: ("ort-cpu",))
    monkeypatch.setattr("engines.select.selection.describe", functools.cache(describe))  # it starts several probes
    options = EngineOptions(cache_dir=small / "cache", engine=engine, sandbox=None)
    refused = 0
    for free in range(12):
        _fill(small, free=free)
        try:
            open_engine(package, options).close()
        except EngineError as exc:
            assert isinstance(exc, EngineUnavailable), repr(exc)
            assert "space" in exc.message
            refused += 1
        else:
            break
        shutil.rmtree(small / "cache", ignore_errors=True)
        _empty(small)
    assert refused, "the disk was never full"
    assert free > 2, "the cache was not used"
