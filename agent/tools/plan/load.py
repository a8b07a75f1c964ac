"""What a configuration needs of CPU, engines, GPU and memory, against what the device has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.config.loader import LoadedConfig
from agent.config.model import ModelConfig
from agent.runtime.errors import UsageError
from agent.tools.benchmark.report import EngineResult, Report
from agent.tools.plan.figures import Figure
from agent.tools.plan.needs import CHOOSERS, FURTHER_CAMERA, enabled_cameras, gather, stated_rate, used_models
from engines import available_cores, canonical_name
from engines.sandbox.memory import available_bytes, limited_groups

_MS_PER_S = 1000.0
_GPU_ENGINES = ("tensorrt", "ort-tensorrt", "ort-cuda")


CARRIED_HZ = 200.0
"""Results a second of one process above which the device has to be measured.

Two fifths of the limit in docs/scale.md (2-core x86-64 cloud CPU, 2026-12-01), because a core of a board is slower.
"""

KEEP_FREE = 0.2
"""Share of every resource that is left unused for peaks, unless another is stated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One thing of which the device has only so much. ``parts``: who needs what of it, in ``unit``."""

    name: str
    unit: str
    available: float
    parts: dict[str, float]

    @property
    def needed(self) -> float:
        """What all parts need together."""
        return sum(self.parts.values())

    @property
    def ratio(self) -> float:
        """Needed over available."""
        return self.needed / self.available if self.available > 0 else float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What there is: cores, and memory that this agent may take."""

    cores: int
    memory_mib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityPlan:
    """Whether the device carries the configuration with ``keep_free`` (0 to 1) of everything left."""

    limits: tuple[Limit, ...]
    figures: dict[str, Figure]
    keep_free: float
    warnings: tuple[str, ...]

    @property
    def first(self) -> Limit:
        """The limit that is hit first."""
        return max(self.limits, key=lambda one: one.ratio)

    @property
    def fits(self) -> bool:
        """Whether every limit is kept."""
        return self.first.ratio <= 1.0 - self.keep_free


def this_device() -> Device:
    """Cores and memory that this process may use now.

    Raises:
        OSError: the system does not say how much memory is available.
    """
    free = available_bytes()
    if free is None:
        raise OSError("/proc/meminfo has no MemAvailable")
    rooms = [free, *(group.left_bytes for group in limited_groups())]
    return Device(cores=available_cores(), memory_mib=max(0, min(rooms)) / (1 << 20))


def plan(
    loaded: LoadedConfig,
    *,
    device: Device,
    reports: Mapping[str, Report],
    clips: Mapping[str, Path],
    stated: Mapping[str, float],
    keep_free: float,
    accepts_invalid: bool = False,
) -> CapacityPlan:
    """Compare what ``loaded`` needs with what ``device`` has. ``reports`` by the name of their file.

    Raises:
        UsageError, Unavailable: see ``gather``.
    """
    known = gather(loaded, reports=reports, clips=clips, stated=stated, accepts_invalid=accepts_invalid)
    values = {name: figure.value for name, figure in known.figures.items()}
    limits = [_cpu(loaded, values, device), *_engines(loaded, values), *_gpu(loaded, values, known.engines)]
    limits.append(_memory(loaded, values, device))
    return CapacityPlan(
        limits=tuple(limits),
        figures=known.figures,
        keep_free=keep_free,
        warnings=(*known.warnings, *_remarks(loaded, values)),
    )


def _rate(name: str, loaded: LoadedConfig, values: Mapping[str, float]) -> float:
    given = values.get(f"cameras.{name}.rate_hz")
    return given if given is not None else stated_rate(loaded.config.cameras[name]) or 0.0


def _cpu(loaded: LoadedConfig, values: Mapping[str, float], device: Device) -> Limit:
    parts: dict[str, float] = {}
    for name, camera in enabled_cameras(loaded).items():
        rate = _rate(name, loaded, values)
        decoding = values.get(f"cameras.{name}.decode_ms", 0.0)
        parts[f"decoding of {name}"] = decoding + rate * values.get(f"cameras.{name}.convert_ms", 0.0)
        for use in camera.classify:
            parts[f"{use.key} of {name}"] = rate * values[f"models.{use.model}.cpu_ms"]
    return Limit(name="CPU", unit="ms/s", available=device.cores * _MS_PER_S, parts=parts)


def _engines(loaded: LoadedConfig, values: Mapping[str, float]) -> Iterator[Limit]:
    for key in used_models(loaded):
        yield Limit(name=f"engine of {key}", unit="ms/s", available=_MS_PER_S, parts=_busy(key, loaded, values))


def _busy(key: str, loaded: LoadedConfig, values: Mapping[str, float]) -> dict[str, float]:
    """For how long the cameras keep the engine of one model busy, in a second."""
    return {
        f"{use.key} of {name}": _rate(name, loaded, values) * values[f"models.{key}.infer_ms"]
        for name, camera in enabled_cameras(loaded).items()
        for use in camera.classify
        if use.model == key
    }


def _gpu(loaded: LoadedConfig, values: Mapping[str, float], engines: Mapping[str, EngineResult]) -> Iterator[Limit]:
    """Models on one GPU take turns there. With one model, the row of its engine says the same."""
    models = used_models(loaded)
    if len(models) == 1:
        return
    shared = [key for key, model in models.items() if _is_on_gpu(key, model, engines.get(key))]
    if len(shared) > 1:
        parts = {key: sum(_busy(key, loaded, values).values()) for key in shared}
        yield Limit(name="GPU", unit="ms/s", available=_MS_PER_S, parts=parts)


def _is_on_gpu(key: str, model: ModelConfig, measured: EngineResult | None) -> bool:
    if measured is not None:
        return measured.name in _GPU_ENGINES or (measured.name == "torch" and not measured.device.startswith("CPU"))
    name = canonical_name(model.engine)
    if name in (*CHOOSERS, "torch"):
        raise UsageError(
            f"models share a GPU or not, which depends on the engine, but {key} has engine: {name} and no report says "
            "which runs: give its report with --report, or name the engine"
        )
    return name in _GPU_ENGINES


def _memory(loaded: LoadedConfig, values: Mapping[str, float], device: Device) -> Limit:
    models = list(used_models(loaded))
    largest = max(models, key=lambda key: values[f"models.{key}.memory_mib"])
    parts = {f"agent with {largest} and one camera": values[f"models.{largest}.memory_mib"]}
    parts |= {f"model {key}": values[f"models.{key}.further_mib"] for key in models if key != largest}
    further = len(enabled_cameras(loaded)) - 1
    if further > 0:
        parts[f"{further} further cameras"] = further * values[FURTHER_CAMERA]
    return Limit(name="memory", unit="MiB", available=device.memory_mib, parts=parts)


def _remarks(loaded: LoadedConfig, values: Mapping[str, float]) -> Iterator[str]:
    rates = {name: _rate(name, loaded, values) for name in enabled_cameras(loaded)}
    results_hz = sum(rates[name] * len(camera.classify) for name, camera in enabled_cameras(loaded).items())
    if results_hz > CARRIED_HZ:
        yield (
            f"it gives {results_hz:.0f} results a second, but one process was seen to carry up to {CARRIED_HZ:g} for "
            "certain (docs/scale.md): its Python runs on one core at a time. Measure it on this device, or share the "
            "cameras out to two agents"
        )
    for name, camera in enabled_cameras(loaded).items():
        gated = [use.key for use in camera.classify if use.when is not None]
        if gated:
            yield f"{', '.join(gated)} of {name}: counted as if its gate (`when`) were always open"
    for key in loaded.config.served_models:
        yield f"{key} is served to programs: what they ask for is not counted"
