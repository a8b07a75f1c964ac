"""`scripts/gpu-check` reports correctly without a GPU, and on a fake one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from engines import ProbeResult
from scripts.gpu_check.children import Outcome, run_step
from scripts.gpu_check.plan import Step, steps
from tests.fixtures.nvidia import FakeNvidia

pytestmark = pytest.mark.timeout(300)

_ROOT = Path(__file__).parents[2]
_WITH_TENSORRT = [
    ProbeResult("tensorrt", can_run=True),
    ProbeResult("ort-tensorrt", can_run=False, reason="no such provider"),
    ProbeResult("ort-cuda", can_run=False, reason="no such provider"),
    ProbeResult("ort-cpu", can_run=True),
]
_WITH_BOTH = [ProbeResult(name, can_run=True) for name in ("tensorrt", "ort-tensorrt")]
_WITH_CUDA_ALONE = [
    ProbeResult("tensorrt", can_run=False, reason="TensorRT does not load"),
    ProbeResult("ort-tensorrt", can_run=False, reason="TensorRT does not load"),
    ProbeResult("ort-cuda", can_run=True),
    ProbeResult("ort-cpu", can_run=True),
]


@pytest.fixture
def nvidia(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvidia]:
    fake = FakeNvidia(monkeypatch)
    yield fake
    fake.close()


def _check(folder: Path, nvidia: FakeNvidia, *more: str) -> tuple[int, str, str]:
    """Return exit code, output and report."""
    environment: Mapping[str, str] = {**os.environ, **nvidia.environment(), "PYTHON": sys.executable}
    done = subprocess.run(
        [str(_ROOT / "scripts" / "gpu-check"), "--quick", "--output", str(folder), *more],
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


def _words(found: list[Step]) -> list[str]:
    return [f"{step.name}: {'not possible' if step.why_not else 'done'}" for step in found]


def test_the_full_mode_covers_every_engine_model_and_precision_and_both_suites(tmp_path: Path) -> None:
    found = steps(_WITH_TENSORRT, tmp_path, is_quick=False)
    done = [step for step in found if not step.why_not]
    for model, precisions in (("demo", ("fp32", "fp16", "int8")), ("ResNet-18 shape", ("fp32", "fp16"))):
        for precision in precisions:
            assert f"{model}, tensorrt, {precision}" in [step.name for step in done]
        assert f"{model}, ort-cpu, fp32" in [step.name for step in done]
    assert [step.name for step in done[-7:]] == [
        *(f"tensorrt {name}" for name in ("loads from cache", "refuses corrupt", "refuses foreign")),
        *("tensorrt survives garbage", "tensorrt keeps its memory", "conformance suite", "tests on the GPU"),
    ]
    assert done[-2].variables["REQUIRE_ENGINES"] == "tensorrt"
    assert list(tmp_path.iterdir()) == []


def test_impossible_checks_are_planned_with_the_reason(tmp_path: Path) -> None:
    found = {step.name: step for step in steps(_WITH_CUDA_ALONE, tmp_path, is_quick=False)}
    assert found["demo, ort-cuda, int8"].job is not None
    assert found["conformance suite"].variables["REQUIRE_ENGINES"] == "ort-cuda"
    for name in ("demo, tensorrt, fp32", "tensorrt refuses foreign", "tests on the GPU"):
        assert found[name].why_not == "TensorRT does not load"
        assert found[name].job is None
    counted = [step for step in found.values() if not step.is_shown_only and not step.why_not]
    assert all("ort-cpu" not in step.name for step in counted)


def test_the_quick_mode_is_a_part_of_the_full_one(tmp_path: Path) -> None:
    quick = _words(steps(_WITH_TENSORRT, tmp_path, is_quick=True))
    full = _words(steps(_WITH_TENSORRT, tmp_path, is_quick=False))
    assert quick == [words for words in full if words in quick]
    assert len(quick) < len(full)


def test_without_a_gpu_it_says_so_and_checks_nothing(tmp_path: Path, nvidia: FakeNvidia) -> None:
    nvidia.set(devices=0)
    code, said, report = _check(tmp_path, nvidia)
    assert code == 69, said
    assert "No usable NVIDIA GPU here: cuInit failed with CUDA_ERROR_NO_DEVICE" in said
    assert "Nothing was checked" in report
    assert "## Results" not in report


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = subprocess.run(
        [str(_ROOT / "scripts" / "gpu-check"), "--output", str(tmp_path / "file")],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"gpu-check: the folder {tmp_path / 'file'} cannot be written: File exists.")


def test_on_a_gpu_every_check_passes_and_the_report_has_the_figures(tmp_path: Path, nvidia: FakeNvidia) -> None:
    code, said, report = _check(tmp_path, nvidia)
    assert code == 0, f"{said}\n{report}"
    assert "7 of 7 checks passed, 0 failed" in said
    for words in ("## Environment", "demo, tensorrt, fp32", "tensorrt refuses corrupt", "tensorrt refuses foreign"):
        assert words in report
    for library in ("pycuda 2026.1", "cuda-bindings 12.9.10"):
        assert f"ran through {library}; scores differ by at most 0.0e+00" in report
    assert "## Failures" not in report
    assert "| demo, tensorrt, fp32 | 4 |" in report
    assert "3 demo, ort-cuda, fp32" in report.partition("## Not possible here")[2]
    assert not (tmp_path / "work").exists()


def test_with_only_the_cuda_provider_the_report_lists_impossible_checks(tmp_path: Path, nvidia: FakeNvidia) -> None:
    nvidia.without_tensorrt()
    code, said, report = _check(tmp_path, nvidia)
    assert code == 0, f"{said}\n{report}"
    assert "1 of 1 checks passed, 0 failed" in said
    assert "| demo, ort-cuda, fp32 | passed |" in report
    assert "| 1 demo, tensorrt, fp32; 5 tensorrt loads from cache; " in report
    assert " | TensorRT does not load: ImportError: libnvinfer" in report
    assert "CUDAExecutionProvider |" in report


@pytest.mark.parametrize(
    ("fault", "check", "words"),
    [
        ("drift", "demo, tensorrt, fp32", "compared with ort-cpu fp32, the label agrees on"),
        ("no_plan", "demo, tensorrt, fp32", "Could not find any implementation for node conv1"),
        ("crash_on_load", "demo, tensorrt, fp32", "ended with signal 6"),
    ],
)
def test_a_planted_failure_is_shown_and_ends_with_1(
    tmp_path: Path, nvidia: FakeNvidia, fault: str, check: str, words: str
) -> None:
    nvidia.set(faults=fault)
    code, said, report = _check(tmp_path, nvidia, "--only", check)
    assert code == 1, f"{said}\n{report}"
    assert "**0 of 1 checks passed, 1 failed**" in report
    assert f"### 1. {check} (FAILED)" in report
    assert words in report
    assert (tmp_path / "work").is_dir()


def test_shown_and_impossible_checks_do_not_count_as_failures(tmp_path: Path) -> None:
    step = Step(name="false", does="Fails.", command=("false",))
    log = tmp_path / "log"
    assert run_step(step, log, variables=os.environ).result == "FAILED"
    assert log.read_text().startswith("$ false\n")
    shown = run_step(replace(step, is_shown_only=True), log, variables=os.environ)
    assert (shown.result, shown.counts_as_failed) == ("failed, not counted", False)
    absent = run_step(replace(step, why_not="there is no GPU"), log, variables=os.environ)
    assert (absent.result, absent.counts_as_failed, absent.text) == ("not possible", False, "there is no GPU")
    assert isinstance(absent, Outcome)


@pytest.mark.parametrize(
    ("engine", "rival", "keeps_up"), [("ort-cpu", "tensorrt", True), ("tensorrt", "ort-cpu", False)]
)
def test_the_slower_of_two_engines_does_not_keep_up(
    tmp_path: Path, nvidia: FakeNvidia, engine: str, rival: str, keeps_up: bool
) -> None:
    nvidia.set(faults="slow_run=20")
    (step,) = (
        step
        for step in steps(_WITH_BOTH, tmp_path, is_quick=True)
        if step.name == "tensorrt keeps up with ort-tensorrt, fp32"
    )
    assert step.job is not None
    job = {**step.job, "engine": engine, "rival": rival}
    outcome = run_step(replace(step, job=job), tmp_path / "log", variables={**os.environ, **nvidia.environment()})
    assert outcome.has_passed is keeps_up, outcome.text
    assert re.search(rf"its median is \d+\.\d{{3}} times that of {rival}, \d", outcome.text)
