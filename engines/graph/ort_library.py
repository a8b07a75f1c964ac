"""The boundary to ONNX Runtime as a library: import, exceptions, error text."""

from __future__ import annotations

import functools
import os
from typing import Any

from engines.errors import EngineUnavailable

_FATAL = 4


@functools.cache
def library() -> Any:
    """Import ONNX Runtime once, with its log silent and its telemetry off.

    From 1.31 on its Linux builds store events in the user's cache and send them. Only this variable, set before the
    import, prevents both. Source: Privacy.md in the package.

    Raises:
        EngineUnavailable: it is not installed, or cannot be loaded.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
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
    """Return ONNX Runtime's exceptions; they have no common base below Exception."""
    state = library().capi.onnxruntime_pybind11_state
    own = [value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception)]
    found: tuple[type[Exception], ...] = (*own, RuntimeError, ValueError, OSError)
    return found


def one_line(error: BaseException) -> str:
    """Return an error text on one line, cut to the length of a log line; its kind if it has no text."""
    return " ".join(str(error).split()).rstrip(".")[:500] or type(error).__name__
