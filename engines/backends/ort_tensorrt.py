"""What ONNX Runtime's TensorRT provider is given, and the directory that its plans live in.

The provider's own cache key leaves options out, so each full configuration has a directory of its own. A plan is
native code: what lies there is checked against the hashes written after the build before the provider may read it.
Source: ONNX Runtime documentation, TensorRT execution provider, and the options as ONNX Runtime 1.31 takes them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from engines.atomic import write_atomically
from engines.backends.ort_session import library
from engines.base import EngineOptions
from engines.environment import Gpu
from engines.graph import ServingGraph
from engines.package import ModelPackage

_CONTEXT = "context.onnx"
_CHECKSUMS = "checksums.json"
# Precision lives in the graph; up to TensorRT 10 the builder must be allowed to use it, from 11 on it has no flag.
_WEAK_TYPING_ENDS = 11


def plan_directory(
    graph: ServingGraph, options: EngineOptions, given: Mapping[str, str], gpus: tuple[Gpu, ...]
) -> Path:
    """Name the directory of one full configuration, below ``options.cache_dir``."""
    facts = {
        "graph": graph.sha256,
        "precision": graph.precision,
        "max_batch": graph.max_batch or options.max_batch,
        "options": dict(sorted(given.items())),
        "gpus": [f"{gpu.name} {gpu.compute_capability}" for gpu in gpus],
        "onnxruntime": str(library().__version__),
        "tensorrt": tensorrt_version(),
    }
    stamp = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    return options.cache_dir / "ort-tensorrt" / stamp


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


def prepare_directory(directory: Path, *, is_forced: bool = False) -> None:
    """Make the directory; empty it where what lies in it is not what was written, or not ours, or not wanted.

    Raises:
        OSError: it cannot be made.
    """
    if directory.exists() and (is_forced or not _is_intact(directory)):
        shutil.rmtree(directory)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    (directory / "plans").mkdir(mode=0o700, exist_ok=True)


def context_model(directory: Path) -> Path | None:
    """The context model of an earlier build: it opens without building. None where there is none."""
    path = directory / _CONTEXT
    return path if path.is_file() else None


def seal_directory(directory: Path) -> None:
    """Write down the hashes of what the provider has built."""
    hashes = {str(path.relative_to(directory)): _hash(path) for path in _files(directory)}
    write_atomically(directory / _CHECKSUMS, json.dumps(hashes, indent=1).encode())


def _is_intact(directory: Path) -> bool:
    status = directory.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        return False
    try:
        hashes = json.loads((directory / _CHECKSUMS).read_text())
        return isinstance(hashes, dict) and hashes == {
            str(path.relative_to(directory)): _hash(path) for path in _files(directory)
        }
    except (OSError, ValueError):
        return False


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file() and path.name != _CHECKSUMS)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _has_precision_flags() -> bool:
    major = tensorrt_version().split(".")[0]
    return not major.isdigit() or int(major) < _WEAK_TYPING_ENDS
