"""Creates an ONNX Runtime session that runs on the wanted provider, or fails.

ONNX Runtime falls back to the CPU without an exception in several ways. Each is switched off here, and the provider
that really runs is read back.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.backends.onnxruntime.options import SessionSettings
from engines.errors import EngineError, EngineLost, EngineUnavailable, InferenceFailed
from engines.graph.ort_library import library, library_errors, one_line

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"
XNNPACK = "XnnpackExecutionProvider"
ON_CPU = frozenset({CPU, OPENVINO, XNNPACK})
"""Providers that compute on the CPU; OpenVINO is only asked for its CPU device."""

_FATAL = 4
# CUDA errors after which the device is unusable for the rest of the process.
# Source: CUDA runtime API, cudaError: "the process must be terminated and relaunched".
_STICKY = re.compile(r"CUDA(?:_ERROR)?\s*(?:failure|error)?\s*:?\s*(46|7[01]\d|999)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPlan:
    """Everything that a session is made from. ``fallbacks`` may take nodes that ``provider`` does not support.

    ``is_exclusive`` makes a node on the CPU an error. ``is_optimised``: ``model`` is already ONNX Runtime's optimised
    graph.
    """

    engine: str
    provider: str
    model: Path
    settings: SessionSettings
    provider_options: Mapping[str, str] = field(default_factory=dict)
    fallbacks: Sequence[tuple[str, Mapping[str, str]]] = ()
    is_exclusive: bool = False
    is_optimised: bool = False


def load_libraries(provider: str) -> None:
    """Load the shared libraries that the provider is linked against, from the installed Python packages.

    Raises:
        EngineUnavailable: TensorRT's package is absent or broken.
    """
    ort = library()
    if provider == TENSORRT:
        try:
            import tensorrt  # noqa: F401 - importing it loads libnvinfer
        except (ImportError, OSError, RuntimeError) as exc:
            raise EngineUnavailable(
                f"{provider} needs TensorRT's libraries, which do not load: {exc}. Install TensorRT for this device",
                provider=provider,
            ) from exc
    if provider in (TENSORRT, CUDA) and hasattr(ort, "preload_dlls"):
        try:
            ort.preload_dlls()
        except library_errors() as exc:
            raise EngineUnavailable(
                f"{provider} needs CUDA's libraries, which do not load: {one_line(exc)}. See: agent doctor",
                provider=provider,
            ) from exc


def session_options(settings: SessionSettings) -> Any:
    """Return the options of every session: all optimisations, explicit threads, no log, placement recorded."""
    ort = library()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if settings.allow_spinning else "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def create_session(plan: SessionPlan) -> Any:
    """Create the session and check that the wanted provider comes first.

    Raises:
        EngineUnavailable: the library refuses, or another provider took the model.
    """
    ort = library()
    _require_compiled_in(plan)
    options = session_options(plan.settings)
    if plan.is_optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if plan.is_exclusive:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    providers = [
        (plan.provider, dict(plan.provider_options)),
        *((name, dict(given)) for name, given in plan.fallbacks),
    ]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            session = ort.InferenceSession(str(plan.model), options, providers=providers, enable_fallback=0)
            # enable_fallback=0 covers the creation only; a failing run would still move the session to the CPU.
            session.disable_fallback()
            actual = session.get_providers()
    except library_errors() as exc:
        raise EngineUnavailable(
            f"{plan.engine} cannot load {plan.model.name} on {plan.provider}: {one_line(exc)}. See: agent doctor",
            engine=plan.engine,
            provider=plan.provider,
        ) from exc
    if not actual or actual[0] != plan.provider:
        raise EngineUnavailable(
            f"{plan.engine} was asked to run on {plan.provider} and ONNX Runtime took {', '.join(actual) or 'none'}. "
            "Install what the provider needs (agent doctor names it) or choose another engine",
            engine=plan.engine,
            provider=plan.provider,
            actual=",".join(actual),
        )
    return session


def placement(session: Any) -> Mapping[str, int]:
    """Count the nodes of the optimised graph by execution provider; empty if the library is too old to say.

    Raises:
        EngineUnavailable: the library fails to say.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    counts: dict[str, int] = {}
    try:
        for part in session.get_provider_graph_assignment_info():
            counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
    except library_errors() as exc:
        raise EngineUnavailable(
            f"ONNX Runtime does not say where the model's nodes run: {one_line(exc)}. See: agent doctor"
        ) from exc
    return counts


def failure_from(engine: str, count: int, error: BaseException) -> EngineError:
    """Translate an exception of a run: EngineLost if the device is gone, else InferenceFailed."""
    text = one_line(error)
    if _STICKY.search(text) or type(error).__name__ == "DeviceReset":
        return EngineLost(
            f"{engine} lost its device on a batch of {count}: {text}. Nothing on it works until the program restarts",
            engine=engine,
            images=count,
        )
    return InferenceFailed(
        f"{engine} failed on a batch of {count}: {text}. Three in a row reload the engine", engine=engine, images=count
    )


def _require_compiled_in(plan: SessionPlan) -> None:
    ort = library()
    compiled_in = ort.get_available_providers()
    if plan.provider not in compiled_in:
        raise EngineUnavailable(
            f"{plan.engine} needs {plan.provider}, but this ONNX Runtime {ort.__version__} has "
            f"{', '.join(compiled_in)}. Install the build of ONNX Runtime that has it, see: agent doctor",
            engine=plan.engine,
            provider=plan.provider,
        )
