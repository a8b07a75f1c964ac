"""Engines that are already built in a precision with less work, and can replace a hot one without a build."""

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

_CHEAPER: Mapping[str, Mapping[Precision, tuple[Precision, ...]]] = {
    "tensorrt": {"fp32": ("int8", "fp16"), "fp16": ("int8",)},
    "ort-tensorrt": {"fp32": ("int8", "fp16"), "fp16": ("int8",)},
    "ort-cuda": {"fp32": ("fp16",)},
    "ort-cpu": {"fp32": ("int8",), "fp16": ("int8", "fp32")},
}
"""By engine and precision: the precisions with less work, least first.

Left out are precisions that save nothing on an engine: int8 is slower with ONNX Runtime's CUDA provider, and a CPU
computes fp16 in fp32.
"""


def prepared_precisions(package: ModelPackage, cache_dir: Path, running: EngineInfo) -> tuple[Precision, ...]:
    """Return the precisions with less work in which the ``running`` engine is already built for ``package``.

    This only looks at names in the cache; ``open_prepared`` finds out whether an entry still fits this device.
    """
    cheaper = _CHEAPER.get(running.name, {}).get(running.precision, ())
    if not cheaper:
        return ()
    model = f"{package.name}-{package.version}"
    if running.name in ("tensorrt", "ort-tensorrt"):
        entries = PlanCache(cache_dir).entries()
        built = {entry.precision for entry in entries if entry.engine == running.name and entry.model == model}
        return tuple(precision for precision in cheaper if precision in built)
    folder = cache_dir / "precision"
    return tuple(p for p in cheaper if p == "fp32" or any(folder.glob(f"{model}-{p}-*.onnx")))


def open_prepared(package: ModelPackage, options: EngineOptions) -> Engine:
    """Open the engine in the precision of ``options`` without a build, with the usual checks.

    Raises:
        EngineUnavailable: it is not built, fails a check, or cannot run here.
        EngineError: as in ``open_engine``.
    """
    name = options.engine
    # strict overrides defer, and would build the engine now.
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
        f"{name} in {options.precision} cannot take over without a build: {reason}. Build it: agent build",
        engine=name,
        precision=options.precision,
    )
