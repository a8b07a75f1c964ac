"""Opens a package on a backend by the engine's name; the one file that imports every backend."""

from __future__ import annotations

from collections.abc import Mapping

from engines.backends.onnxruntime.engine import open_onnxruntime
from engines.backends.onnxruntime.options import known_options
from engines.backends.tensorrt.load import open_tensorrt
from engines.backends.tensorrt.options import OPTION_NAMES as TENSORRT_OPTIONS
from engines.backends.torch import OPTION_NAMES as TORCH_OPTIONS
from engines.backends.torch import open_torch
from engines.base import Engine, EngineOptions
from engines.graph.precision import precise_graph
from engines.package.load import ModelPackage


def options_for(engine: str, options: Mapping[str, object]) -> dict[str, object]:
    """Keep the options that ``engine`` knows, of options that were written for another one."""
    known = options_of(engine)
    return {name: value for name, value in options.items() if known is None or name in known}


def options_of(engine: str) -> frozenset[str] | None:
    """Name the options of an engine; None where they cannot be known before it is asked."""
    if engine == "tensorrt":
        return TENSORRT_OPTIONS
    if engine == "torch":
        return frozenset(TORCH_OPTIONS)
    return known_options(engine)


def open_backend(package: ModelPackage, options: EngineOptions, name: str) -> tuple[Engine, tuple[str, ...]]:
    if name == "torch":
        return open_torch(package, options), ()
    if name == "tensorrt":
        return open_tensorrt(package, options)
    precise = precise_graph(package, cache_dir=options.cache_dir, precision=options.precision, engine=name)
    return open_onnxruntime(package, options, engine=name, graph=precise.graph), precise.kept_layers
