"""The lock files hold what pyproject.toml asks for, with hashes and without an address."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from build.util import project_wheel_metadata
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_ROOT = Path(__file__).parents[2]
_PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
_SERVED = {"cpu", "demo", "gpio", "grpc", "serve"}
_EXTRAS = {"tests/requirements.lock": _SERVED | {"report", "dev"}, "scripts/demo.lock": _SERVED}


def _entries(lock: str) -> list[tuple[Requirement, list[str]]]:
    """Each pin of a lock file with its hashes."""
    text = (_ROOT / lock).read_text(encoding="utf-8")
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    return [(Requirement(line.partition(" --hash")[0]), re.findall(r"--hash=(\S+)", line)) for line in lines]


def _applies(marker: Marker | None, python: str, extra: str = "") -> bool:
    release = {"python_version": python, "python_full_version": f"{python}.9", "extra": extra}
    return marker is None or marker.evaluate({**release, "sys_platform": "linux", "os_name": "posix"})


def _pins(lock: str, python: str) -> dict[str, str]:
    """Version of every package that the lock installs for this Python on Linux."""
    return {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin, _ in _entries(lock)
        if _applies(pin.marker, python)
    }


@pytest.fixture(scope="module")
def requirements() -> list[Requirement]:
    """What the project requires, of each extra too; its markers name the extra."""
    metadata = project_wheel_metadata(_ROOT, isolated=False)
    return [Requirement(text) for text in metadata.get_all("Requires-Dist") or []]


@pytest.mark.parametrize("python", _PYTHONS)
@pytest.mark.parametrize("lock", _EXTRAS)
def test_lock_meets_every_requirement_of_the_project(lock: str, python: str, requirements: list[Requirement]) -> None:
    pins = _pins(lock, python)
    for requirement in requirements:
        if any(_applies(requirement.marker, python, extra) for extra in _EXTRAS[lock]):
            name = canonicalize_name(requirement.name)
            assert name in pins, f"{name} is missing for Python {python}: run scripts/dev/lock"
            assert requirement.specifier.contains(pins[name]), f"{name} {pins[name]} is not {requirement.specifier}"


@pytest.mark.parametrize("lock", _EXTRAS)
def test_every_line_of_a_lock_is_an_exact_version_with_hashes(lock: str) -> None:
    for pin, hashes in _entries(lock):
        assert re.fullmatch(r"==[\w.+!]+", str(pin.specifier)), pin
        assert hashes, pin
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in hashes), pin


@pytest.mark.parametrize("lock", _EXTRAS)
def test_lock_holds_the_build_backend(lock: str) -> None:
    assert "setuptools" in _pins(lock, "3.12")


@pytest.mark.parametrize("python", _PYTHONS)
def test_demo_runs_with_the_versions_that_are_tested(python: str) -> None:
    assert _pins("scripts/demo.lock", python).items() <= _pins("tests/requirements.lock", python).items()
