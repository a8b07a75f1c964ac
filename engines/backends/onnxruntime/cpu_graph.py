"""The graph as ONNX Runtime optimises it for this CPU, cached beside the serving graph for a fast start."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

from engines.backends.onnxruntime.options import SessionSettings
from engines.backends.onnxruntime.session import CPU, session_options
from engines.errors import EngineUnavailable
from engines.graph.ort_library import library, library_errors
from engines.host import cpu_model
from engines.store.files import cache_errors, content_address, read_with_checksum, write_with_checksum


@dataclass(frozen=True, slots=True)
class CpuGraph:
    """A graph to open on the CPU. ``is_optimised`` is False if the optimised graph could not be written."""

    path: Path
    is_optimised: bool


def cpu_graph(model: Path, settings: SessionSettings) -> CpuGraph:
    """Return the optimised form of ``model``, made on first use. It is valid for this CPU and this version only."""
    ort = library()
    # The optimised graph depends on the instruction sets, and machines may share a state directory.
    stamp = content_address([str(ort.__version__), cpu_model(), _cpu_flags()], chars=16)
    kept = model.with_name(f"{model.stem}.cpu-{stamp}.onnx")
    if _is_intact(kept):
        return CpuGraph(kept, is_optimised=True)
    options = session_options(settings)
    try:
        with tempfile.TemporaryDirectory(prefix="optimise-") as work, warnings.catch_warnings():
            # ONNX Runtime warns that the file is for this machine only; the name of the file says so too.
            warnings.simplefilter("ignore")
            made = Path(work) / "optimised.onnx"
            options.optimized_model_filepath = str(made)
            ort.InferenceSession(str(model), options, providers=[CPU], enable_fallback=0)
            content = made.read_bytes()
        with cache_errors(kept.parent):
            write_with_checksum(kept, content)
    except _keeping_errors():
        # A broken model fails when it is opened, with a better message; a full disk only costs a slower start.
        return CpuGraph(model, is_optimised=False)
    return CpuGraph(kept, is_optimised=True)


def computes_in_half(graph: CpuGraph) -> bool:
    """Return whether this CPU computes the layers of an fp16 graph in fp16.

    A CPU without fp16 instructions gets fp32 weights when ONNX Runtime loads the model, which shows in the optimised
    graph.
    """
    if not graph.is_optimised:
        return True
    import onnx

    from engines.graph.fp16 import LAYERS

    model = onnx.load(graph.path)
    half = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16}
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
