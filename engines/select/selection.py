"""Measures engines on this device and remembers the fastest until something that it depends on changes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np

from engines.base import Engine, EngineOptions, Measurement, Precision, Rejection
from engines.environment import EnvironmentRecord, describe
from engines.graph.precision import conversion
from engines.graph.serving import graph_address
from engines.host import installed_version
from engines.package.load import ModelPackage
from engines.percentiles import percentile
from engines.select.registry import AUTO_ORDER
from engines.store.files import cache_errors
from engines.store.records import JsonRecord, record_path

# A p90 with 99 % confidence needs 64 runs. Source: MLPerf LoadGen, early stopping.
RUNS = 64
# Raised when an engine of this program becomes faster or slower, so that old measurements are not used.
_FORM = 2
_BLOCK = 16
# Drivers, other programs and the device's dust change in that time, and no key has them.
MAX_AGE = timedelta(days=30)
# Long enough for slow imports: a library that does not answer would change the key, and every start would measure
# again.
_DESCRIBE_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Selection:
    """The fastest engine, all measurements (fastest first), and the engines that could not be measured."""

    engine: str
    measured_at: str
    measurements: tuple[Measurement, ...]
    unmeasured: tuple[Rejection, ...] = ()

    def is_aged(self, now: datetime) -> bool:
        """Whether ``fastest`` measures again; a clock that was set back since ages nothing."""
        return now - datetime.fromisoformat(self.measured_at) > MAX_AGE

    @property
    def rejections(self) -> tuple[Rejection, ...]:
        """Why the others were not selected: not able to run, or slower and by how much."""
        best = self.measurements[0]
        slower = (
            Rejection(
                one.engine,
                f"measured slower: p50 {one.p50_ms:.2f} ms, p90 {one.p90_ms:.2f} ms in {one.runs} runs of batch "
                f"{one.batch}; "
                f"{best.engine} has p50 {best.p50_ms:.2f} ms, p90 {best.p90_ms:.2f} ms",
                f"set engine: {one.engine}",
            )
            for one in self.measurements[1:]
        )
        return (*self.unmeasured, *slower)


class SelectionStore:
    """Selections, one record per device, power mode, model and versions, below ``cache_dir``."""

    def __init__(self, cache_dir: Path) -> None:
        """Read nothing yet."""
        self._cache_dir = cache_dir
        self._folder = cache_dir / "selections"

    def is_used(self) -> bool:
        """Whether anything was ever saved; if not, no key needs to be computed."""
        return self._folder.is_dir()

    def load(self, key: Mapping[str, object]) -> Selection | None:
        """Return the selection for ``key``, None if there is none that can be read."""
        return self._record(key).load()

    def save(self, key: Mapping[str, object], selection: Selection) -> None:
        """Write a selection.

        Raises:
            EngineUnavailable: the cache directory cannot be written.
        """
        with cache_errors(self._cache_dir):
            self._record(key).save(selection)

    def _record(self, key: Mapping[str, object]) -> JsonRecord[Selection]:
        path = record_path(self._folder, key)
        return JsonRecord(path, encode=asdict, decode=_selection_from_dict, facts=key)


def _selection_from_dict(values: dict[str, Any]) -> Selection:
    measurements = tuple(Measurement(**one) for one in values["measurements"])
    if not measurements:
        raise ValueError("no engine was measured")
    if datetime.fromisoformat(str(values["measured_at"])).tzinfo is None:
        raise ValueError("the time of the measurement has no time zone")
    unmeasured = tuple(Rejection(**one) for one in values["unmeasured"])
    return Selection(str(values["engine"]), str(values["measured_at"]), measurements, unmeasured)


def remember_selection(
    package: ModelPackage,
    options: EngineOptions,
    measurements: Sequence[Measurement],
    unmeasured: Sequence[Rejection] = (),
) -> Selection:
    """Let ``auto`` and ``fastest`` use these measurements for this package and options on this device.

    Raises:
        ValueError: there is no measurement.
        EngineUnavailable: the cache directory cannot be written.
    """
    if not measurements:
        raise ValueError("no engine was measured, so there is nothing to select")
    selection = select_fastest(measurements, unmeasured)
    SelectionStore(options.cache_dir).save(selection_key_here(package, options), selection)
    return selection


def selection_key_here(package: ModelPackage, options: EngineOptions) -> dict[str, object]:
    """Return the key of a selection on this device."""
    return selection_key(package, options, describe(timeout_s=_DESCRIBE_TIMEOUT_S))


def selection_key(package: ModelPackage, options: EngineOptions, environment: EnvironmentRecord) -> dict[str, object]:
    """Return everything that a selection depends on, power mode and versions included.

    The graph's address covers the model and its preprocessing, ``conversion`` the conversion to other precisions.
    """
    return {
        "form": _FORM,
        "package": package.digest,
        "graph": graph_address(package),
        "precision": options.precision,
        "conversion": conversion(package, options.precision, AUTO_ORDER),
        # A TensorRT plan is built for one largest batch.
        "max_batch": options.max_batch,
        "device": environment.device,
        "gpus": [[gpu.name, gpu.compute_capability, gpu.multiprocessors] for gpu in environment.gpus],
        "board": environment.board,
        "l4t": environment.l4t,
        "power_mode": environment.power_mode,
        "cores": environment.cpu_cores // max(1, options.workers),
        "driver": environment.driver,
        "options": {name: str(value) for name, value in sorted(options.options.items())},
        "onnxruntime": environment.onnxruntime,
        "providers": list(environment.onnxruntime_providers),
        "tensorrt": environment.tensorrt,
        "torch": environment.torch,
        # TensorRT replays CUDA graphs only with cuda-bindings.
        "bindings": {name: installed_version(name) for name in ("pycuda", "cuda-bindings")},
    }


def select_fastest(measurements: Sequence[Measurement], unmeasured: Sequence[Rejection] = ()) -> Selection:
    """Select the lowest p50; among engines within 2 % of it, the lowest p90."""
    best = min(one.p50_ms for one in measurements)
    near = [one for one in measurements if one.p50_ms <= best * 1.02]
    winner = min(near, key=lambda one: one.p90_ms)
    rest = sorted((one for one in measurements if one is not winner), key=lambda one: one.p50_ms)
    measured_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return Selection(winner.engine, measured_at, (winner, *rest), tuple(unmeasured))


def measure(
    engines: Mapping[str, Engine], package: ModelPackage, *, batch: int = 1, runs: int = RUNS
) -> tuple[Measurement, ...]:
    """Time calls on open engines, in rounds of a few runs so that all see the same conditions.

    All get ``batch`` images in a call, the largest number that they will serve, or fewer if one of them takes only
    fewer. The first run of each round is not counted: it warms the caches that the engine before has filled.
    """
    random = np.random.default_rng(3)
    size = min(batch, *(engine.info.max_batch for engine in engines.values()))
    images = random.integers(0, 256, (size, package.input.height, package.input.width, 3), dtype=np.uint8)
    times_ns: dict[str, list[int]] = {name: [] for name in engines}
    while min(map(len, times_ns.values())) < runs:
        for name, engine in engines.items():
            engine.infer(images)
            for _ in range(min(_BLOCK, runs)):
                started = time.perf_counter_ns()
                engine.infer(images)
                times_ns[name].append(time.perf_counter_ns() - started)
    return tuple(
        _measurement(name, engines[name].info.precision, times, batch=size) for name, times in times_ns.items()
    )


def _measurement(name: str, precision: Precision, times_ns: list[int], *, batch: int) -> Measurement:
    ordered = sorted(times_ns)
    return Measurement(
        engine=name,
        precision=precision,
        runs=len(ordered),
        p50_ms=percentile(ordered, 50) / 1e6,
        p90_ms=percentile(ordered, 90) / 1e6,
        batch=batch,
    )
