"""Builds one engine, checks its accuracy and times its calls."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from agent.runtime.statistics import percentiles
from engines import Building, BuildProgress, Engine, EngineOptions, ModelPackage, Precision, load_package
from engines.base import Images
from engines.check.reference import compare_with_reference
from engines.graph.image_set import image_set_of
from engines.sandbox.load import REFERENCE
from engines.select.candidate import open_unchecked

Job = Mapping[str, object]
_BUILDERS = ("tensorrt", "ort-tensorrt")
_WARM_UP_S = 0.5
# A slow engine stops at the time limit, but not before this many runs, which a median needs.
_MIN_RUNS = 32
_WARM_UP_RUNS = 3


def measured(job: Job) -> dict[str, object]:
    """Build again, compare with the reference, and time single images and full batches."""
    package, options, name = package_of(job), options_of(job), str(job["engine"])
    phases: list[str] = []
    building = Building(force=True, on_progress=lambda progress: _note(phases, progress))
    began_s = time.monotonic()
    engine, kept_layers = open_unchecked(package, replace(options, building=building), name)
    with engine:
        ready_s = time.monotonic() - began_s
        certificate = compare_with_reference(
            package, engine, options, image_set_of(package, precision=options.precision), kept_layers=kept_layers
        )
        info = engine.info
        times = {
            str(size): timed(engine, package, size, max_runs=int(str(job["max_runs"])), max_s=float(str(job["max_s"])))
            for size in sorted({1, info.max_batch})
        }
    notes = [f"top-1 agreement {certificate.comparison.agreement:.4f} on {certificate.images} images"]
    failures: list[str] = []
    if info.precision != options.precision:
        text = f"{options.precision} was requested, but it computes in {info.precision}"
        # On a CPU without fp16 the reference computes in fp32; its times are still useful to compare with.
        (notes if name == REFERENCE else failures).append(text)
    if certificate.why_not and (job["must_agree"] or certificate.non_finite):
        failures.append(certificate.why_not)
    return {
        "passed": not failures,
        "text": "; ".join(failures or notes),
        "ready_s": round(ready_s, 2),
        "was_built": name in _BUILDERS and (bool(phases) or "why_built" in info.details),
        "agreement": certificate.comparison.agreement,
        "max_abs_difference": certificate.max_abs_difference,
        "cosine": certificate.cosine,
        "precision": info.precision,
        "placement": dict(info.placement),
        "versions": dict(info.versions),
        "device": info.device,
        "details": dict(info.details),
        "times": times,
    }


def _note(phases: list[str], progress: BuildProgress) -> None:
    if not phases or phases[-1] != progress.phase:
        phases.append(progress.phase)


def timed(
    engine: Engine, package: ModelPackage, size: int, *, max_runs: int, max_s: float
) -> dict[str, float | int | None]:
    """Wall time of one call, transfers included, in ms; the percentiles are times that occurred.

    It ends after ``max_runs`` calls or ``max_s`` seconds; a 99th percentile of fewer than 100 calls is None.
    """
    batch = _drawn(package, size)
    until_s = time.monotonic() + _WARM_UP_S
    while time.monotonic() < until_s:
        engine.infer(batch)
    times: list[float] = []
    until_s = time.monotonic() + max_s
    while len(times) < max_runs and (len(times) < _MIN_RUNS or time.monotonic() < until_s):
        began_ns = time.perf_counter_ns()
        engine.infer(batch)
        times.append((time.perf_counter_ns() - began_ns) / 1e6)
    p50, p90, p99 = percentiles(times, (50, 90, 99))
    return {
        "runs": len(times),
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": p99 if len(times) >= 100 else None,
        "images_per_s": size * len(times) * 1e3 / sum(times),
    }


def times_of(engine: Engine, package: ModelPackage, size: int, *, runs: int) -> list[float]:
    """Wall times in ms of ``runs`` calls with random images, after a few uncounted ones."""
    batch = _drawn(package, size)
    times = []
    for run in range(_WARM_UP_RUNS + runs):
        began_ns = time.perf_counter_ns()
        engine.infer(batch)
        if run >= _WARM_UP_RUNS:
            times.append((time.perf_counter_ns() - began_ns) / 1e6)
    return times


def _drawn(package: ModelPackage, size: int) -> Images:
    shape = (size, package.input.height, package.input.width, 3)
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def package_of(job: Job) -> ModelPackage:
    """Load the job's package."""
    return load_package(Path(str(job["package"])))


def options_of(job: Job) -> EngineOptions:
    """Options for the job's engine and precision, without fallbacks."""
    return EngineOptions(
        cache_dir=Path(str(job["cache"])),
        engine=str(job["engine"]),
        precision=cast("Precision", job["precision"]),
        strict=True,
        max_batch=int(str(job["max_batch"])),
    )
