"""The checks, one a process: ``python -m scripts.gpu_check.cases JOB`` with a JSON object that names the check."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from engines import Building, BuildProgress, Engine, EngineOptions, ModelPackage, Precision, load_package
from engines.cache import PlanCache
from engines.candidate import open_candidate, open_unproven
from engines.certify import compare_with_reference
from engines.parity import pictures_of
from engines.registry import Prober

Job = Mapping[str, object]
_WARM_UP_S = 0.5


def measured(job: Job) -> dict[str, object]:
    """Build or load, compare with the reference, and time single pictures and full batches."""
    package, options, name = _package(job), _options(job), str(job["engine"])
    phases: list[str] = []

    def note(progress: BuildProgress) -> None:
        if not phases or phases[-1] != progress.phase:
            phases.append(progress.phase)

    began_s = time.monotonic()
    engine, kept_layers = open_unproven(package, replace(options, building=Building(on_progress=note)), name)
    with engine:
        ready_s = time.monotonic() - began_s
        certificate = compare_with_reference(
            package, engine, options.cache_dir, pictures_of(package), kept_layers=kept_layers
        )
        times = {
            f"batch_{size}": _timed(engine, package, size, runs=int(str(job["runs"])))
            for size in sorted({1, engine.info.max_batch})
        }
        info = engine.info
    must_agree = bool(job["must_agree"])
    return {
        "passed": certificate.has_passed or not must_agree,
        "text": certificate.why_not or f"agreement {certificate.agreement:.4f}",
        "ready_s": round(ready_s, 2),
        "build_phases": phases,
        "agreement": certificate.agreement,
        "max_abs_difference": certificate.max_abs_difference,
        "cosine": certificate.cosine,
        "precision": info.precision,
        "placement": dict(info.placement),
        "versions": dict(info.versions),
        "device": info.device,
        "details": dict(info.details),
        "times": times,
    }


def loads_from_cache(job: Job) -> dict[str, object]:
    """Open what was built before: it must not be built again."""
    began_s = time.monotonic()
    with _opened(job) as engine:
        why, load_s = engine.info.details.get("why_built"), time.monotonic() - began_s
    return {"passed": why is None, "text": f"built again: {why}" if why else f"loaded in {load_s:.2f} s"}


def refuses_corrupt(job: Job) -> dict[str, object]:
    """Flip one bit of a plan in the cache: it must be moved away and built anew, never loaded."""
    cache, path = _plan_file(job)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with _opened(job) as engine:
        why = str(engine.info.details.get("why_built"))
    quarantined = list((cache.root.parent / "quarantine").glob("*.txt"))
    return {"passed": "sha256" in why and bool(quarantined), "text": why}


def refuses_foreign(job: Job) -> dict[str, object]:
    """Give a plan the record of another GPU and another TensorRT: both facts must be told."""
    _, path = _plan_file(job)
    record_path = path.with_name("entry.json")
    record = json.loads(record_path.read_text())
    record["facts"].update({"gpu": "Another GPU", "tensorrt": "1.2.3"})
    record_path.write_text(json.dumps(record))
    with _opened(job) as engine:
        why = str(engine.info.details.get("why_built"))
    return {"passed": "Another GPU" in why and "1.2.3" in why, "text": why}


def survives_garbage(job: Job) -> dict[str, object]:
    """Hand what is no plan to TensorRT itself: an exception with its words, and no crash."""
    from engines.backends.tensorrt.cuda import CudaDevice
    from engines.backends.tensorrt.library import library
    from engines.backends.tensorrt.session import PlanSession
    from engines.errors import EngineUnavailable

    _, path = _plan_file(job)
    real, classes = path.read_bytes(), _package(job).signature.classes

    def words(content: bytes) -> str | None:
        try:
            PlanSession(library(), CudaDevice(0), content, max_batch=1, classes=classes).close()
        except EngineUnavailable as exc:
            return exc.message
        return None

    texts = {"garbage": words(b"no plan" * 1000), "half a plan": words(real[: len(real) // 2])}
    said = " | ".join(f"{what}: {text or 'was taken'}" for what, text in texts.items())
    return {"passed": all(texts.values()), "text": said}


def keeps_its_memory(job: Job) -> dict[str, object]:
    """Open, run and close again and again: the device's free memory must come back."""
    from engines.backends.tensorrt.cuda import CudaDevice

    device = CudaDevice(0)
    free = []
    for _ in range(4):
        with _opened(job) as engine:
            _timed(engine, _package(job), 1, runs=20)
        with device.current():
            free.append(device.free_bytes())
    lost = free[1] - free[-1]
    device.close()
    return {"passed": lost < 16 * 2**20, "text": f"{lost / 2**20:.1f} MiB less after three more rounds"}


CHECKS: dict[str, Callable[[Job], dict[str, object]]] = {
    check.__name__: check
    for check in (measured, loads_from_cache, refuses_corrupt, refuses_foreign, survives_garbage, keeps_its_memory)
}


def _package(job: Job) -> ModelPackage:
    return load_package(Path(str(job["package"])))


def _options(job: Job) -> EngineOptions:
    return EngineOptions(
        cache_dir=Path(str(job["cache"])),
        engine=str(job["engine"]),
        precision=cast("Precision", job["precision"]),
        strict=True,
        max_batch=int(str(job["max_batch"])),
    )


def _opened(job: Job) -> Engine:
    return open_candidate(_package(job), _options(job), str(job["engine"]), _prober())


@functools.cache
def _prober() -> Prober:
    return Prober()


def _plan_file(job: Job) -> tuple[PlanCache, Path]:
    """The plan of the job's model and precision, built first where it is not there."""
    _opened(job).close()
    cache, package = PlanCache(Path(str(job["cache"]))), _package(job)
    (entry,) = (
        entry
        for entry in cache.entries()
        if (entry.engine, entry.precision) == ("tensorrt", job["precision"])
        and entry.model == f"{package.name}-{package.version}"
    )
    return cache, entry.directory / "engine.plan"


def _timed(engine: Engine, package: ModelPackage, size: int, *, runs: int) -> dict[str, float]:
    """Wall time of one call, transfers included, in ms; the percentiles are times that occurred."""
    random = np.random.default_rng(1)
    batch = random.integers(0, 256, (size, package.input.height, package.input.width, 3), dtype=np.uint8)
    until_s = time.monotonic() + _WARM_UP_S
    while time.monotonic() < until_s:
        engine.infer(batch)
    times = np.empty(runs)
    for index in range(runs):
        began_ns = time.perf_counter_ns()
        engine.infer(batch)
        times[index] = (time.perf_counter_ns() - began_ns) / 1e6
    p50, p90, p99 = np.percentile(times, (50, 90, 99), method="inverted_cdf")
    return {"p50_ms": float(p50), "p90_ms": float(p90), "p99_ms": float(p99), "images_per_s": size * 1e3 / float(p50)}


def main() -> None:
    job = json.loads(sys.argv[1])
    print(json.dumps(CHECKS[job["check"]](job)))


if __name__ == "__main__":
    main()
