"""The checks, one a process: ``python -m scripts.gpu_check.cases JOB`` with a JSON object that names the check."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from agent.tools.benchmark.statistics import ratio_of
from engines import Building, BuildProgress, Engine, EngineError
from engines.select.candidate import open_candidate
from engines.select.registry import Prober
from engines.store.plan_cache import PlanCache
from scripts.gpu_check.measuring import Job, measured, options_of, package_of, timed, times_of

# What the driver itself keeps or gives back between two looks; where the CPU shares the memory, everything else on the
# board moves it too.
_SWAY_BYTES = 16 * 2**20
_SHARED_SWAY_BYTES = 96 * 2**20
_ROUNDS_BEFORE = 2
_ROUNDS = 6
_TURNS = 10


def loads_from_cache(job: Job) -> dict[str, object]:
    """Open a model whose plan is in the cache: it must not be built again."""
    _opened(job)[0].close()
    began_s = time.monotonic()
    engine, phases = _opened(job)
    load_s = time.monotonic() - began_s
    engine.close()
    return {"passed": not phases, "text": f"built again: {phases}" if phases else f"ready in {load_s:.2f} s"}


def refuses_corrupt(job: Job) -> dict[str, object]:
    """Flip one bit of a plan in the cache: it must be quarantined and built again, never loaded."""
    path = _max_file(job)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return _refused(job, ("sha256",))


def refuses_foreign(job: Job) -> dict[str, object]:
    """Give a plan the record of a different GPU and TensorRT: the message must name both facts."""
    record_path = _entry_directory(job) / "entry.json"
    record = json.loads(record_path.read_text())
    name = "gpu" if "gpu" in record["facts"] else "gpus"
    record["facts"].update({name: "Another GPU", "tensorrt": "1.2.3"})
    record_path.write_text(json.dumps(record))
    return _refused(job, ("Another GPU", "1.2.3"))


def survives_garbage(job: Job) -> dict[str, object]:
    """Give TensorRT an invalid plan: it must raise an exception with a text, not crash."""
    from engines.backends.tensorrt.cuda import CudaDevice
    from engines.backends.tensorrt.library import library
    from engines.backends.tensorrt.session import PlanSession

    real, classes = _max_file(job).read_bytes(), package_of(job).signature.classes

    def words(content: bytes) -> str | None:
        try:
            PlanSession(library(), CudaDevice(0), content, max_batch=1, classes=classes).close()
        except EngineError as exc:
            return exc.message
        return None

    texts = {"garbage": words(b"no plan" * 1000), "half a plan": words(real[: len(real) // 2])}
    said = " / ".join(f"{what}: {text or 'was taken'}" for what, text in texts.items())
    return {"passed": all(texts.values()), "text": said}


def keeps_its_memory(job: Job) -> dict[str, object]:
    """Open, run and close again and again: the device's free memory must come back."""
    from engines.backends.tensorrt.cuda import CudaDevice

    device = CudaDevice(0)
    free = []
    for _ in range(_ROUNDS_BEFORE + _ROUNDS):
        engine, _phases = _opened(job)
        with engine:
            timed(engine, package_of(job), 1, max_runs=20, max_s=1.0)
        with device.current():
            free.append(device.free_bytes())
    sway = _SHARED_SWAY_BYTES if device.is_integrated else _SWAY_BYTES
    lost = free[_ROUNDS_BEFORE - 1] - free[-1]
    device.close()
    text = f"{lost / 2**20:.1f} MiB less are free after {_ROUNDS} more rounds, allowed are {sway // 2**20}"
    return {"passed": lost < sway, "text": text}


def keeps_up(job: Job) -> dict[str, object]:
    """Call it and ``job["rival"]`` in alternating rounds: its median must not be longer."""
    package, rival = package_of(job), {**job, "engine": job["rival"]}
    runs = int(str(job["max_runs"])) // _TURNS
    times: tuple[list[list[float]], list[list[float]]] = ([], [])
    with _opened(job)[0] as own, _opened(rival)[0] as other:
        for turn in range(_TURNS):
            for side in (0, 1) if turn % 2 else (1, 0):
                times[side].append(times_of((own, other)[side], package, 1, runs=runs))
    ratio = ratio_of(times[1], times[0])
    text = (
        f"its median is {ratio.value:.3f} times that of {job['rival']}, {ratio.low:.3f} to {ratio.high:.3f} "
        "with 99 % confidence"
    )
    return {"passed": ratio.low <= 1.0, "text": text}


CHECKS: dict[str, Callable[[Job], dict[str, object]]] = {
    check.__name__: check
    for check in (
        measured,
        loads_from_cache,
        refuses_corrupt,
        refuses_foreign,
        survives_garbage,
        keeps_its_memory,
        keeps_up,
    )
}


def _opened(job: Job) -> tuple[Engine, list[str]]:
    """The engine, and the phases of its build, none where it was in the cache."""
    phases: list[str] = []

    def note(progress: BuildProgress) -> None:
        if progress.phase not in phases:
            phases.append(progress.phase)

    options = replace(options_of(job), building=Building(on_progress=note))
    return open_candidate(package_of(job), options, str(job["engine"]), _prober()), phases


@functools.cache
def _prober() -> Prober:
    return Prober()


def _entry_directory(job: Job) -> Path:
    """The cache's entry for the job's model, engine and precision, built first where it is not there."""
    _opened(job)[0].close()
    cache, package = PlanCache(Path(str(job["cache"]))), package_of(job)
    wanted = (job["engine"], job["precision"], f"{package.name}-{package.version}")
    found = [entry for entry in cache.entries() if (entry.engine, entry.precision, entry.model) == wanted]
    if not found:
        raise SystemExit(f"no plan of {' '.join(map(str, wanted))} is in the cache after the engine was opened")
    return found[0].directory


def _max_file(job: Job) -> Path:
    """The plan itself among the entry's files."""
    files = [path for path in _entry_directory(job).rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def _refused(job: Job, words: tuple[str, ...]) -> dict[str, object]:
    """Open the modified plan: it must be quarantined with this reason, and built again."""
    quarantine = Path(str(job["cache"])) / "quarantine"
    before = set(quarantine.glob("*.txt"))
    engine, phases = _opened(job)
    engine.close()
    reasons = [path.read_text(encoding="utf-8").strip() for path in set(quarantine.glob("*.txt")) - before]
    if not reasons:
        return {"passed": False, "text": "the engine opened, and nothing was put into quarantine: the plan was loaded"}
    text = reasons[0]
    missing = [word for word in words if word not in text]
    if missing:
        text = f"{text} (without telling {', '.join(missing)})"
    if not phases:
        text = f"{text} (and nothing was built in its place)"
    return {"passed": bool(phases) and not missing, "text": text}


def main() -> None:
    job = json.loads(sys.argv[1])
    print(json.dumps(CHECKS[job["check"]](job)))


if __name__ == "__main__":
    main()
