"""Makes an ONNX Runtime session that runs where it was asked to run, or no session at all.

ONNX Runtime falls back to the CPU without an exception in several ways; each is closed here and the result read back.
This is the boundary to the library together with ``engines.backends.onnxruntime``.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engines.backends.ort_options import SessionSettings
from engines.environment import cpu_model
from engines.errors import EngineUnavailable

_FATAL = 4


@functools.cache
def library() -> Any:
    """Import ONNX Runtime once, with its own log and telemetry silent.

    Raises:
        EngineUnavailable: it is absent or cannot be loaded.
    """
    try:
        import onnxruntime
    except (ImportError, OSError, RuntimeError, AttributeError) as exc:
        raise EngineUnavailable(
            f"ONNX Runtime cannot be imported: {exc}. Install it: pip install onnxruntime", library="onnxruntime"
        ) from exc
    onnxruntime.set_default_logger_severity(_FATAL)
    if hasattr(onnxruntime, "disable_telemetry_events"):
        onnxruntime.disable_telemetry_events()
    return onnxruntime


@functools.cache
def library_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: its own exceptions have no common base below Exception."""
    state = library().capi.onnxruntime_pybind11_state
    own = [value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception)]
    found: tuple[type[Exception], ...] = (*own, RuntimeError, ValueError, OSError)
    return found


def open_session(
    model: Path, *, engine: str, provider: str, settings: SessionSettings, fallbacks: Sequence[str] = ()
) -> Any:
    """Open ``model`` on ``provider`` alone (the ``fallbacks`` may take single nodes), fully optimised.

    Raises:
        EngineUnavailable: the library is absent, refuses, or would run the model elsewhere.
    """
    options = session_options(settings)
    path = model
    if provider == "CPUExecutionProvider":
        path = _optimised_for_this_cpu(model, options, settings)
    return create_session(path, options, engine=engine, provider=provider, settings=settings, fallbacks=fallbacks)


def session_options(settings: SessionSettings) -> Any:
    """The options that every session gets: all optimisations, explicit threads, no log, placement recorded."""
    ort = library()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if settings.allow_spinning else "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def create_session(
    model: Path, options: Any, *, engine: str, provider: str, settings: SessionSettings, fallbacks: Sequence[str] = ()
) -> Any:
    """Create the session and prove that ``provider`` leads it.

    Raises:
        EngineUnavailable: the library refuses, or another provider took the model.
    """
    ort = library()
    compiled_in = ort.get_available_providers()
    if provider not in compiled_in:
        raise EngineUnavailable(
            f"{engine} needs {provider}, this ONNX Runtime {ort.__version__} has {', '.join(compiled_in)}. "
            "Install the build of ONNX Runtime that has it, see: agent doctor",
            engine=engine,
            provider=provider,
        )
    wanted: list[Any] = [(provider, dict(settings.provider)), *fallbacks]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            session = ort.InferenceSession(str(model), options, providers=wanted, enable_fallback=0)
    except library_errors() as exc:
        raise EngineUnavailable(
            f"{engine} cannot load {model.name}: {one_line(exc)}. Choose another engine, see: agent doctor",
            engine=engine,
            provider=provider,
        ) from exc
    session.disable_fallback()
    actual = session.get_providers()
    if not actual or actual[0] != provider:
        raise EngineUnavailable(
            f"{engine} was asked to run on {provider} and ONNX Runtime took {', '.join(actual) or 'nothing'}. "
            "Install what the provider needs (agent doctor names it) or choose another engine",
            engine=engine,
            provider=provider,
            actual=",".join(actual),
        )
    return session


def placement(session: Any) -> Mapping[str, int]:
    """Count the nodes of the optimised graph by execution provider; empty where the library is too old to say."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    counts: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
    return counts


def one_line(error: BaseException) -> str:
    """The library's words without line breaks and not longer than a log line."""
    return " ".join(str(error).split()).rstrip(".")[:500]


def _optimised_for_this_cpu(model: Path, options: Any, settings: SessionSettings) -> Path:
    """Give the graph that ONNX Runtime has optimised for this CPU, made and kept beside the model the first time.

    It starts in a tenth of the time. It is of this machine and this version alone, which its name says. Where it
    cannot be written the model itself is opened.
    """
    ort = library()
    stamp = hashlib.sha256(f"{ort.__version__} {cpu_model()} {_cpu_flags()}".encode()).hexdigest()[:16]
    kept = model.with_name(f"{model.stem}.cpu-{stamp}.onnx")
    checksum = kept.with_suffix(".sha256")
    if _is_intact(kept, checksum):
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        return kept
    writer = session_options(settings)
    try:
        with tempfile.TemporaryDirectory(dir=model.parent, prefix=".optimise-") as work:
            made = Path(work) / kept.name
            writer.optimized_model_filepath = str(made)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ort.InferenceSession(str(model), writer, providers=["CPUExecutionProvider"], enable_fallback=0)
            digest = hashlib.sha256(made.read_bytes()).hexdigest()
            (Path(work) / checksum.name).write_text(digest)
            os.replace(Path(work) / checksum.name, checksum)  # noqa: PTH105 replaces atomically
            os.replace(made, kept)  # noqa: PTH105
    except library_errors():
        return model
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return kept


def _is_intact(file: Path, checksum: Path) -> bool:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest() == checksum.read_text().strip()
    except OSError:
        return False


def _cpu_flags() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    return next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
