"""The boundary to TensorRT's Python package: import, version, renamed members, log.

Enum members are looked up by name at run time, because their numbers changed between 10 and 11; a name that a version
does not have is None. Nothing here creates a builder or a runtime: without a CUDA device TensorRT 8.6 crashes the
process.
"""

from __future__ import annotations

import functools
import importlib
import threading
from collections import deque
from typing import Any

from engines.errors import EngineUnavailable

MIN_VERSION = (8, 5)
"""The first version with the named-tensor calls."""

# From 11 on all networks are strongly typed, and the precision flags are gone.
_LAST_WEAKLY_TYPED = 10
_KEPT = 32
LIBRARY_ERRORS = (RuntimeError, ValueError, IndexError, OverflowError, TypeError)
"""What a call into TensorRT can raise: C++ exceptions as pybind11 translates them, besides MemoryError.

Source: pybind11 documentation, "Built-in C++ to Python exception translation".
"""
# TensorRT reports missing memory only as text; 2 is cudaErrorMemoryAllocation.
_MEMORY_WORDS = ("out of memory", "outofmemory", "cudamalloc", "insufficient memory", "error code 2")


def library() -> Any:
    """Import TensorRT.

    Raises:
        EngineUnavailable: it is absent, does not load, or is too old.
    """
    try:
        trt = importlib.import_module("tensorrt")
    except (ImportError, OSError, RuntimeError, AttributeError) as exc:
        raise EngineUnavailable(
            f"TensorRT cannot be imported: {exc}. On a Jetson: apt install python3-libnvinfer; elsewhere install "
            "TensorRT's Python package for this CUDA",
            engine="tensorrt",
            reason=f"TensorRT cannot be imported: {exc}",
            remedy="install TensorRT's Python package",
        ) from exc
    if version_of(trt) < MIN_VERSION:
        raise EngineUnavailable(
            f"TensorRT is {trt.__version__}, but this program needs {'.'.join(map(str, MIN_VERSION))} or later. "
            "Update JetPack, or use ort-tensorrt",
            engine="tensorrt",
            reason=f"TensorRT {trt.__version__} is too old",
            remedy="update JetPack",
        )
    return trt


def version_of(trt: Any) -> tuple[int, int]:
    """Major and minor version."""
    major, minor, *_ = str(trt.__version__).split(".")
    return int(major), int(minor)


def member(owner: Any, name: str) -> Any | None:
    """Return an enum member or attribute by name; None if this version does not have it."""
    return getattr(owner, name, None)


def has_precision_flags(trt: Any) -> bool:
    """Return whether precision is a builder flag (up to 10); from 11 on only the graph holds it."""
    return version_of(trt)[0] <= _LAST_WEAKLY_TYPED and member(trt.BuilderFlag, "FP16") is not None


class Log:
    """TensorRT's log: its errors go into our exceptions. Written by any of TensorRT's threads."""

    def __init__(self, trt: Any) -> None:
        self._lines: deque[tuple[int, str]] = deque(maxlen=_KEPT)
        self._warnings: deque[str] = deque(maxlen=_KEPT)
        self._count = 0
        self._lock = threading.Lock()
        self.native = _native_logger(trt, self)
        """What TensorRT is given."""

    def mark(self) -> int:
        """Return the current position, for ``errors``."""
        return self._count

    def errors(self, since: int) -> str:
        """Return the errors since a mark on one line; says so if TensorRT gave no reason."""
        with self._lock:
            lines = [line for number, line in self._lines if number > since]
        return "; ".join(lines[-3:]) or "TensorRT gave no reason"

    @property
    def warnings(self) -> tuple[str, ...]:
        """The latest warnings."""
        return tuple(self._warnings)

    def take(self, line: str, *, is_error: bool) -> None:
        """Add a line."""
        text = " ".join(line.split())[:600]
        with self._lock:
            if is_error:
                self._count += 1
                self._lines.append((self._count, text))
            else:
                self._warnings.append(text)


@functools.cache
def log_of(trt: Any) -> Log:
    """Return the process's only log: TensorRT keeps the first logger it gets and warns about others."""
    return Log(trt)


def is_out_of_memory(text: str) -> bool:
    """Return whether an error text of TensorRT means that memory ran out."""
    lowered = text.lower()
    return any(word in lowered for word in _MEMORY_WORDS)


def _native_logger(trt: Any, log: Log) -> Any:
    severity = trt.ILogger.Severity
    errors = (severity.ERROR, severity.INTERNAL_ERROR)

    class NativeLogger(trt.ILogger):  # type: ignore[misc]  # the base is known at run time only
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, level: Any, message: str) -> None:
            if level in errors:
                log.take(message, is_error=True)
            elif level == severity.WARNING:
                log.take(message, is_error=False)

    return NativeLogger()
