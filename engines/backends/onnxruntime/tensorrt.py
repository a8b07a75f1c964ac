"""What ONNX Runtime's TensorRT provider is given, and the directory that its plans live in.

The provider's own cache key leaves options out, so each full configuration has a directory of its own. A plan is
native code: what lies there is checked against the hashes written after the build before the provider may read it.
Source: ONNX Runtime documentation, TensorRT execution provider, and the options as ONNX Runtime 1.31 takes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from engines.base import EngineOptions
from engines.environment import Gpu
from engines.graph.ort_library import library
from engines.graph.serving import ServingGraph
from engines.host import l4t_release
from engines.package.load import ModelPackage
from engines.store.plan_cache import PlanCache, PlanKey

_CONTEXT = "context.onnx"
# Precision lives in the graph; up to TensorRT 10 the builder must be allowed to use it, from 11 on it has no flag.
_WEAK_TYPING_ENDS = 11


def plan_key(
    package: ModelPackage,
    graph: ServingGraph,
    options: EngineOptions,
    given: Mapping[str, str],
    gpus: tuple[Gpu, ...],
) -> PlanKey:
    """Name the cache entry of one full configuration."""
    facts: dict[str, object] = {
        "model": package.sha256,
        "graph": graph.sha256,
        "batch": graph.max_batch or options.max_batch,
        "options": dict(sorted(given.items())),
        "gpus": [f"{gpu.name} {gpu.compute_capability}" for gpu in gpus],
        "onnxruntime": str(library().__version__),
        "tensorrt": tensorrt_version(),
        "l4t": l4t_release(),
    }
    return PlanKey("ort-tensorrt", f"{package.name}-{package.version}", graph.precision, facts)


def tensorrt_version() -> str:
    """The installed TensorRT's version; the import has happened by the time a provider is opened."""
    import sys

    loaded = sys.modules.get("tensorrt")
    if loaded is not None:
        return str(getattr(loaded, "__version__", "unknown"))
    try:
        return version("tensorrt")
    except PackageNotFoundError:
        return "unknown"


def profile_shapes(package: ModelPackage, graph: ServingGraph, max_batch: int) -> dict[str, str]:
    """The smallest, usual and largest input, given together as the provider demands; empty for a fixed batch."""
    if graph.max_batch is not None:
        return {}
    size = f"{package.input.height}x{package.input.width}x3"
    return {
        "trt_profile_min_shapes": f"{graph.input_name}:1x{size}",
        "trt_profile_opt_shapes": f"{graph.input_name}:{max_batch}x{size}",
        "trt_profile_max_shapes": f"{graph.input_name}:{max_batch}x{size}",
    }


def provider_options(
    package: ModelPackage, graph: ServingGraph, options: EngineOptions, given: Mapping[str, str], directory: Path
) -> dict[str, str]:
    """All options of the provider; what the configuration gives wins over ours."""
    made = {
        "trt_engine_cache_enable": "True",
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(directory.parent),
        # Relative to the context model's directory: an absolute path in it would not be loaded again.
        "trt_engine_cache_path": "plans",
        "trt_dump_ep_context_model": "True",
        "trt_ep_context_file_path": str(directory / _CONTEXT),
        "trt_ep_context_embed_mode": "0",
        **profile_shapes(package, graph, graph.max_batch or options.max_batch),
    }
    if _has_precision_flags():
        made["trt_fp16_enable"] = str(graph.precision != "fp32")
        made["trt_int8_enable"] = str(graph.precision == "int8")
    return {**made, **given}


def without_context(options: Mapping[str, str], directory: Path) -> dict[str, str]:
    """The same without a context model, for a graph that TensorRT does not take whole."""
    kept = {name: value for name, value in options.items() if "ep_context" not in name}
    return {**kept, "trt_engine_cache_path": str(directory / "plans")}


def prepared_directory(cache: PlanCache, key: PlanKey, *, is_forced: bool = False) -> Path:
    """The entry's directory: as it was sealed, or empty where it was not, is not ours, or is not wanted.

    The caller holds the key's lock.

    Raises:
        EngineUnavailable: the cache cannot be written.
    """
    if is_forced or cache.read(key, is_locked=True) is None:
        cache.begin(key)
    plans = cache.directory(key) / "plans"
    plans.mkdir(mode=0o700, exist_ok=True)
    return plans.parent


def context_model(directory: Path) -> Path | None:
    """The context model of an earlier build: it opens without building. None where there is none."""
    path = directory / _CONTEXT
    return path if path.is_file() else None


def _has_precision_flags() -> bool:
    major = tensorrt_version().split(".")[0]
    return not major.isdigit() or int(major) < _WEAK_TYPING_ENDS
