"""Engines that are built already in a precision that costs less energy, and can take over without a build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from engines.backends.load import options_for
from engines.base import Engine, EngineInfo, EngineOptions, Precision
from engines.errors import EngineUnavailable
from engines.package.load import ModelPackage
from engines.select.candidate import open_candidate
from engines.select.registry import Prober
from engines.store.plan_cache import PlanCache

_COOLER: Mapping[str, Mapping[Precision, tuple[Precision, ...]]] = {
    "tensorrt": {"fp32": ("int8", "fp16"), "fp16": ("int8",)},
    "ort-tensorrt": {"fp32": ("int8", "fp16"), "fp16": ("int8",)},
    "ort-cuda": {"fp32": ("fp16",)},
    "ort-cpu": {"fp32": ("int8",), "fp16": ("int8", "fp32")},
}
"""By engine and precision, the precisions that do less work there, the best first. Not listed: what is slower on that
engine, as int8 with ONNX Runtime's CUDA provider, or fp16 on a CPU, which computes it in fp32."""


def prepared_precisions(package: ModelPackage, cache_dir: Path, running: EngineInfo) -> tuple[Precision, ...]:
    """The precisions in which the engine that is ``running`` is built for ``package``, and which cost less energy.

    Looks at names in the cache and opens nothing: whether one still fits is found when it is opened.
    """
    cooler = _COOLER.get(running.name, {}).get(running.precision, ())
    if not cooler:
        return ()
    model = f"{package.name}-{package.version}"
    if running.name in ("tensorrt", "ort-tensorrt"):
        entries = PlanCache(cache_dir).entries()
        built = {entry.precision for entry in entries if entry.engine == running.name and entry.model == model}
        return tuple(precision for precision in cooler if precision in built)
    folder = cache_dir / "precision"
    return tuple(p for p in cooler if p == "fp32" or any(folder.glob(f"{model}-{p}-*.onnx")))


def open_prepared(package: ModelPackage, options: EngineOptions) -> Engine:
    """Open the engine and precision that ``options`` name, from what is built already, and prove it as ever.

    Raises:
        EngineUnavailable: it would have to be built, does not keep the answers, or cannot run here.
        EngineError: as in ``open_engine``.
    """
    name = options.engine
    ready = replace(
        options,
        strict=False,
        options=options_for(name, options.options),
        building=replace(options.building, defer=True),
    )
    engine = open_candidate(package, ready, name, Prober())
    if engine.info.precision == options.precision:
        return engine
    reason = engine.info.degraded or f"it opened in {engine.info.precision}"
    engine.close()
    raise EngineUnavailable(
        f"{name} in {options.precision} was prepared and cannot serve: {reason}. Build it: agent build",
        engine=name,
        precision=options.precision,
    )
