"""The options of ONNX Runtime's TensorRT provider, and the directory of its plans.

The provider's own cache key leaves options out, so each full configuration has its own directory. A plan is native
code: the files are checked against the hashes taken after the build before the provider may read them.
Source: ONNX Runtime documentation, TensorRT execution provider, and the options of ONNX Runtime 1.31.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from engines.base import EngineOptions
from engines.environment import Gpu, device_facts
from engines.graph.ort_library import library
from engines.graph.serving import ServingGraph
from engines.package.load import ModelPackage
from engines.store.plan_cache import PlanCache, PlanKey

_CONTEXT = "context.onnx"
# The graph holds the precision. Up to TensorRT 10 the builder needs a flag to use it; 11 has no such flag.
_WEAK_TYPING_ENDS = 11


def plan_key(
    package: ModelPackage,
    graph: ServingGraph,
    options: EngineOptions,
    given: Mapping[str, str],
    gpus: tuple[Gpu, ...],
) -> PlanKey:
    """Return the cache key of one full configuration."""
    facts: dict[str, object] = {
        "model": package.sha256,
        "graph": graph.sha256,
        "batch": graph.max_batch or options.max_batch,
        "options": dict(sorted(given.items())),
        "gpus": [device_facts(gpu) for gpu in gpus],
        "onnxruntime": str(library().__version__),
        "tensorrt": tensorrt_version(),
    }
    return PlanKey("ort-tensorrt", f"{package.name}-{package.version}", graph.precision, facts)


def tensorrt_version() -> str:
    """Return the version of TensorRT, from the imported module if there is one."""
    import sys

    loaded = sys.modules.get("tensorrt")
    if loaded is not None:
        return str(getattr(loaded, "__version__", "unknown"))
    try:
        return version("tensorrt")
    except PackageNotFoundError:
        return "unknown"


def profile_shapes(package: ModelPackage, graph: ServingGraph, max_batch: int) -> dict[str, str]:
    """Return the smallest, usual and largest input shape; the provider wants all three. Empty for a fixed batch."""
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
    """Return all options of the provider; the configuration overrides ours."""
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
    """Return the options without a context model, for a graph that TensorRT cannot take as a whole."""
    kept = {name: value for name, value in options.items() if "ep_context" not in name}
    return {**kept, "trt_engine_cache_path": str(directory / "plans")}


def prepared_directory(cache: PlanCache, key: PlanKey, *, is_forced: bool = False) -> Path:
    """Return the entry's directory: intact and sealed, or else emptied for a new build.

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
    """Return the context model of an earlier build, which opens without building; None if there is none."""
    path = directory / _CONTEXT
    return path if path.is_file() else None


def _has_precision_flags() -> bool:
    major = tensorrt_version().split(".")[0]
    return not major.isdigit() or int(major) < _WEAK_TYPING_ENDS
