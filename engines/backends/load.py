"""Opens a package on a backend by engine name. The only file that imports every backend, each when it is opened."""

from __future__ import annotations

from collections.abc import Mapping

from engines.backends.onnxruntime.options import known_options
from engines.base import Engine, EngineOptions
from engines.package.load import ModelPackage


def options_for(engine: str, options: Mapping[str, object]) -> dict[str, object]:
    """Keep the options that ``engine`` knows; the others were written for another engine."""
    known = options_of(engine)
    return {name: value for name, value in options.items() if known is None or name in known}


def options_of(engine: str) -> frozenset[str] | None:
    """Return the option names of an engine; None if only the library itself knows them."""
    if engine == "tensorrt":
        from engines.backends.tensorrt.options import OPTION_NAMES as TENSORRT_OPTIONS

        return TENSORRT_OPTIONS
    if engine == "torch":
        from engines.backends.torch import OPTION_NAMES as TORCH_OPTIONS

        return frozenset(TORCH_OPTIONS)
    if engine == "triton":
        from engines.backends.triton.options import OPTION_NAMES as TRITON_OPTIONS

        return TRITON_OPTIONS
    return known_options(engine)


def open_backend(package: ModelPackage, options: EngineOptions, name: str) -> tuple[Engine, tuple[str, ...]]:
    """Open ``package`` on engine ``name`` in this process, without any check of its scores.

    Returns the engine and the names of the layers that its graph keeps in fp32. The caller closes the engine.

    Raises:
        EngineUnavailable, OptionsRejected, ModelRejected, PrecisionRejected, InferenceFailed: as in
        ``engines.open_engine``.
    """
    if name == "torch":
        from engines.backends.torch import open_torch

        return open_torch(package, options), ()
    if name == "triton":
        from engines.backends.triton.engine import open_triton

        return open_triton(package, options), ()
    if name == "tensorrt":
        from engines.backends.tensorrt.engine import open_tensorrt

        return open_tensorrt(package, options)
    from engines.backends.onnxruntime.engine import open_onnxruntime
    from engines.graph.precision import precise_graph

    precise = precise_graph(package, cache_dir=options.cache_dir, precision=options.precision, engine=name)
    return open_onnxruntime(package, options, engine=name, graph=precise.graph), precise.kept_layers
