"""The graph as ONNX Runtime optimises it for this CPU, kept beside the serving graph for a fast start."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

from engines.backends.onnxruntime.options import SessionSettings
from engines.backends.onnxruntime.session import CPU, session_options
from engines.errors import EngineUnavailable
from engines.graph.fp16 import LAYERS
from engines.graph.ort_library import library, library_errors
from engines.host import cpu_model
from engines.store.files import cache_errors, content_address, read_with_checksum, write_with_checksum


@dataclass(frozen=True, slots=True)
class CpuGraph:
    """A graph to open on the CPU. ``is_optimised`` is False where the optimised one could not be kept."""

    path: Path
    is_optimised: bool


def cpu_graph(model: Path, settings: SessionSettings) -> CpuGraph:
    """Give the optimised form of ``model``, made the first time; it is of this machine and this version alone."""
    ort = library()
    stamp = content_address([str(ort.__version__), cpu_model(), _cpu_flags()], chars=16)
    kept = model.with_name(f"{model.stem}.cpu-{stamp}.onnx")
    if _is_intact(kept):
        return CpuGraph(kept, is_optimised=True)
    options = session_options(settings)
    try:
        with tempfile.TemporaryDirectory(prefix="optimise-") as work, warnings.catch_warnings():
            # The library warns that the file is of this machine alone, which its name says.
            warnings.simplefilter("ignore")
            made = Path(work) / "optimised.onnx"
            options.optimized_model_filepath = str(made)
            ort.InferenceSession(str(model), options, providers=[CPU], enable_fallback=0)
            content = made.read_bytes()
        with cache_errors(kept.parent):
            write_with_checksum(kept, content)
    except _keeping_errors():
        # A model that cannot be loaded says so when it is opened; a full disk costs a slower start and no more.
        return CpuGraph(model, is_optimised=False)
    return CpuGraph(kept, is_optimised=True)


def computes_in_half(graph: CpuGraph) -> bool:
    """Whether the CPU computes the layers of an fp16 graph in fp16, read from what ONNX Runtime made of it.

    Where the CPU has no such instructions it converts the weights to fp32 when it loads the model.
    """
    if not graph.is_optimised:
        return True
    model = onnx.load(graph.path)
    half = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    return any(name in half for node in model.graph.node if node.op_type in LAYERS for name in node.input)


def _keeping_errors() -> tuple[type[Exception], ...]:
    return (EngineUnavailable, *library_errors())


def _is_intact(file: Path) -> bool:
    try:
        return read_with_checksum(file) is not None
    except OSError:
        return False


def _cpu_flags() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    return next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
