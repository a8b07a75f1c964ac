"""`scripts/gpu-check` says what it found on any machine: nothing without a GPU, everything on a stand-in for one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from agent.demo import demo_package
from scripts.gpu_check.children import run_case
from tests.fixtures.nvidia import FakeNvidia

pytestmark = pytest.mark.timeout(300)

_ROOT = Path(__file__).parents[2]


@pytest.fixture
def nvidia(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvidia]:
    fake = FakeNvidia(monkeypatch)
    yield fake
    fake.close()


def _check(folder: Path, nvidia: FakeNvidia) -> tuple[int, str, str]:
    """Exit code, what it said and the report."""
    environment: Mapping[str, str] = {**os.environ, **nvidia.environment(), "PYTHON": sys.executable}
    done = subprocess.run(
        [str(_ROOT / "scripts" / "gpu-check"), "--quick", "--output", str(folder)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
        check=False,
    )
    report = folder / "report.md"
    assert report.is_file(), f"it ended with {done.returncode} and wrote no report:\n{done.stdout}"
    return done.returncode, done.stdout, report.read_text(encoding="utf-8")


def test_without_a_gpu_it_says_so_and_checks_nothing(tmp_path: Path, nvidia: FakeNvidia) -> None:
    nvidia.set(devices=0)
    code, said, report = _check(tmp_path, nvidia)
    assert code == 69, said
    assert "There is no NVIDIA GPU that could be used here: cuInit failed with CUDA_ERROR_NO_DEVICE" in said
    assert "Nothing was checked" in report
    assert "## Results" not in report


def test_on_a_gpu_every_check_passes_and_the_report_has_the_figures(tmp_path: Path, nvidia: FakeNvidia) -> None:
    code, said, report = _check(tmp_path, nvidia)
    assert code == 0, f"{said}\n{report}"
    assert "checks passed, 0 failed" in said
    for words in ("## Environment", "demo, tensorrt, fp32", "tensorrt refuses corrupt", "tensorrt refuses foreign"):
        assert words in report
    assert "## Failures" not in report
    assert "| demo, tensorrt, fp32 | 4 |" in report


def test_wrong_answers_and_crashes_fail_a_check(tmp_path: Path, nvidia: FakeNvidia) -> None:
    job = {
        "check": "measured",
        "package": str(demo_package()),
        "engine": "tensorrt",
        "precision": "fp32",
        "cache": str(tmp_path),
        "max_batch": 2,
        "runs": 8,
        "must_agree": True,
    }
    nvidia.set(faults="drift")
    drifting = run_case("drift", job, timeout_s=120)
    assert not drifting.has_passed
    assert "top-1 agreement with ort-cpu fp32 is" in drifting.text
    nvidia.set(faults="crash_on_load")
    crashing = run_case("crash", job, timeout_s=120)
    assert not crashing.has_passed
    assert crashing.text.startswith("ended with signal 6")
