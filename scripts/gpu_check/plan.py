"""The list of checks in order, including those that are impossible on this machine, with the reason."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.demo import demo_package
from engines import Precision, ProbeResult

GPU_ENGINES = ("tensorrt", "ort-tensorrt", "ort-cuda")
MAX_BATCH = 4
_STEP_TIMEOUT_S = 3600.0
_SUITE_TIMEOUT_S = 7200.0
# One test may build several plans, which on a small board exceeds the time limits of pyproject.toml.
_TEST_TIMEOUT_S = 1800
_SUITE_NEEDS = ("pytest", "pytest_timeout", "hypothesis", "psutil")
_CUDA_MODULES = {"pycuda": "pycuda", "cuda-bindings": "cuda.bindings"}
_PLAN_CHECKS = {
    "tensorrt": ("loads_from_cache", "refuses_corrupt", "refuses_foreign", "survives_garbage", "keeps_its_memory"),
    "ort-tensorrt": ("loads_from_cache", "refuses_corrupt", "refuses_foreign"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One check: a job for ``scripts.gpu_check.cases``, a command, or neither if ``why_not`` gives a reason.

    ``does`` says what is done and what counts as passed. ``is_shown_only``: its failure is shown and not counted.
    """

    name: str
    does: str
    job: Mapping[str, object] | None = None
    command: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = _STEP_TIMEOUT_S
    is_shown_only: bool = False
    why_not: str = ""


def steps(probes: Sequence[ProbeResult], work: Path, *, is_quick: bool) -> list[Step]:
    """Return every step for a machine with these ``probes``. Files will be below ``work``; nothing is written yet."""
    able = [probe.name for probe in probes if probe.can_run and probe.name in GPU_ENGINES]
    reasons = {probe.name: probe.reason for probe in probes if not probe.can_run}
    found = list(_measured(able, reasons, work, is_quick=is_quick))
    found += _plans(able, reasons, work)
    found += _cuda_libraries(able, reasons, work)
    found += _rivals(able, reasons, work, is_quick=is_quick)
    if not is_quick:
        found += [_conformance(able), _gpu_tests(able, reasons)]
    return found


def resnet_package(work: Path) -> Path:
    """Path of the package with ResNet-18's architecture, which is written later."""
    return work / "packages" / "resnet-1.0.0"


def _measured(able: list[str], reasons: Mapping[str, str], work: Path, *, is_quick: bool) -> Iterator[Step]:
    precisions: tuple[Precision, ...] = ("fp32",) if is_quick else ("fp32", "fp16", "int8")
    models = [("demo", demo_package(), precisions, True)]
    if not is_quick:
        # With random weights the best classes are almost tied, so agreement is shown but does not count.
        models.append(("ResNet-18 shape", resnet_package(work), ("fp32", "fp16"), False))
    for label, package, each, must_agree in models:
        for precision in each:
            # The larger model is slow on a CPU, and most CPUs gain nothing from fp16.
            beside = ("ort-cpu",) if must_agree or precision == "fp32" else ()
            for engine in (*GPU_ENGINES, *beside):
                job = {
                    **_job(engine, precision, work, package=package),
                    "check": "measured",
                    "must_agree": must_agree,
                    "max_runs": 64 if is_quick else 1000,
                    "max_s": 2.0 if is_quick else 10.0,
                }
                yield Step(
                    name=f"{label}, {engine}, {precision}",
                    does=_measures(engine, must_agree=must_agree),
                    job=None if engine in reasons else job,
                    # The CPU's result is only there to compare with.
                    is_shown_only=engine not in able,
                    why_not=reasons.get(engine, ""),
                )


def _measures(engine: str, *, must_agree: bool) -> str:
    if engine == "ort-cpu":
        return "The same on the CPU, to compare the figures with. Shown, not counted."
    judged = "It must run in the requested precision and agree with `ort-cpu` in fp32 on the package's images"
    shown = "It must run in the requested precision; its weights are random, so agreement is shown but does not count"
    return f"Builds the engine, compares its results, times batches. {judged if must_agree else shown}."


def _plans(able: list[str], reasons: Mapping[str, str], work: Path) -> Iterator[Step]:
    for engine, names in _PLAN_CHECKS.items():
        for name in names:
            yield Step(
                name=f"{engine} {name.replace('_', ' ')}",
                does=_PLAN_TEXTS[name],
                job={**_job(engine, "fp32", work), "check": name} if engine in able else None,
                # A plan with the right hash is never garbage, so this is only informative.
                is_shown_only=name == "survives_garbage",
                why_not="" if engine in able else reasons.get(engine, f"{engine} was not probed"),
            )


_PLAN_TEXTS = {
    "loads_from_cache": "Opens the demo model again. Its plan must come from the cache.",
    "refuses_corrupt": "Flips one bit of the plan on disk. It must go into quarantine for its hash and be rebuilt.",
    "refuses_foreign": "Gives the plan the record of another GPU and another TensorRT. It must go into "
    "quarantine with both facts named, and be rebuilt.",
    "survives_garbage": "Gives TensorRT data that is no plan, and half a plan. It should report an error. "
    "Shown, not counted: the cache rejects such files before TensorRT sees them.",
    "keeps_its_memory": "Opens, runs and closes the engine repeatedly. The GPU's free memory must not shrink.",
}


def _cuda_libraries(able: list[str], reasons: Mapping[str, str], work: Path) -> Iterator[Step]:
    """Both Python packages for CUDA, not only the one that ``cuda_library: auto`` selects."""
    engine = "tensorrt"
    for library, module in _CUDA_MODULES.items():
        why_not = reasons.get(engine, "") if engine not in able else _why_absent(library, module)
        yield Step(
            name=f"{engine} through {library}",
            does=f"Runs the demo model's plan with `cuda_library: {library}`. The scores must be those of `auto`.",
            job=None if why_not else {**_job(engine, "fp32", work), "check": "works_through", "library": library},
            why_not=why_not,
        )


def _why_absent(library: str, module: str) -> str:
    try:
        is_installed = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # find_spec imports the parent package
        is_installed = False
    return "" if is_installed else f"the Python package {library} is not installed"


def _rivals(able: list[str], reasons: Mapping[str, str], work: Path, *, is_quick: bool) -> Iterator[Step]:
    """The same library called directly and through ONNX Runtime."""
    own, rival = "tensorrt", "ort-tensorrt"
    absent = [name for name in (own, rival) if name not in able]
    precisions: tuple[Precision, ...] = ("fp32",) if is_quick else ("fp32", "fp16")
    for precision in precisions:
        job = {
            **_job(own, precision, work),
            "check": "keeps_up",
            "rival": rival,
            "max_runs": 200 if is_quick else 1000,
        }
        yield Step(
            name=f"{own} keeps up with {rival}, {precision}",
            does="Calls both in alternation on the demo model. The median of the native engine must not be longer.",
            job=None if absent else job,
            why_not=reasons.get(absent[0], f"{absent[0]} was not probed") if absent else "",
        )


def _conformance(able: list[str]) -> Step:
    return Step(
        name="conformance suite",
        does=f"Runs the contract of an engine, `tests/conformance/test_engines.py`, on every engine. "
        f"{', '.join(able)} must not be skipped.",
        command=_pytest("tests/conformance/test_engines.py"),
        variables={"REQUIRE_ENGINES": ",".join(able), "REQUIRE_GPU": "1"},
        timeout_s=_SUITE_TIMEOUT_S,
        why_not=_why_no_tests(),
    )


def _gpu_tests(able: list[str], reasons: Mapping[str, str]) -> Step:
    return Step(
        name="tests on the GPU",
        does="Runs `tests/gpu`: every precision, graphs, two engines at once, a build that is stopped.",
        command=_pytest("tests/gpu"),
        variables={"REQUIRE_ENGINES": ",".join(able), "REQUIRE_GPU": "1"},
        timeout_s=_SUITE_TIMEOUT_S,
        why_not=reasons.get("tensorrt", "") or _why_no_tests(),
    )


def _pytest(path: str) -> tuple[str, ...]:
    return (
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"),
        # A CUDA driver keeps files open until the process ends: open them before leaks are looked for.
        *("-p", "tests.gpu.driver_first"),
        # Deprecations in other libraries must not fail this check.
        *("-W", "default"),
        *("-o", f"timeout={_TEST_TIMEOUT_S}", "-o", f"faulthandler_timeout={_TEST_TIMEOUT_S + 60}", path),
    )


def _why_no_tests() -> str:
    absent = [name for name in _SUITE_NEEDS if importlib.util.find_spec(name) is None]
    return f"the Python packages {', '.join(absent)} are not installed (the extra dev has them)" if absent else ""


def _job(engine: str, precision: Precision, work: Path, *, package: Path | None = None) -> dict[str, object]:
    return {
        "engine": engine,
        "precision": precision,
        "package": str(package or demo_package()),
        "cache": str(work / "cache"),
        "max_batch": MAX_BATCH,
    }
