"""CUDA graphs through cuda-bindings, on PyCUDA's stream: PyCUDA itself has none.

A graph replays copy, kernels and copy as one launch. It belongs to the execution context that it was captured from,
with its shapes and addresses, so each batch size has a context of its own.
Source: TensorRT developer guide, "CUDA Graphs"; CUDA runtime API, stream capture.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import Any


class GraphsUnavailable(Exception):
    """A CUDA graph cannot be used here; the text says why. The work is then enqueued call by call."""


def runtime() -> Any:
    """The runtime module of cuda-bindings.

    Raises:
        GraphsUnavailable: it is absent or does not load.
    """
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except (ImportError, OSError, RuntimeError) as exc:
        raise GraphsUnavailable(f"cuda-bindings cannot be imported: {exc}") from exc


class CapturedGraph:
    """Everything that ``enqueue`` puts on a stream, replayed as one launch. Use it while the device's context is
    current.
    """

    def __init__(self, stream: int, enqueue: Callable[[], bool]) -> None:
        """Capture on the stream with the handle ``stream``, which must be idle.

        Raises:
            GraphsUnavailable: capture or instantiation was refused; the stream is as before.
        """
        self._cudart = runtime()
        self._stream = stream
        self._executable = _instantiate(self._cudart, _capture(self._cudart, stream, enqueue))

    def launch(self) -> str | None:
        """Enqueue the graph on its stream; return the error text, or None."""
        (code,) = self._cudart.cudaGraphLaunch(self._executable, self._stream)
        return None if int(code) == 0 else str(code)

    def close(self) -> None:
        """Free it; harmless when called twice."""
        executable, self._executable = self._executable, None
        if executable is not None:
            self._cudart.cudaGraphExecDestroy(executable)


def _capture(cudart: Any, stream: int, enqueue: Callable[[], bool]) -> Any:
    # Thread-local mode: CUDA calls of other threads neither enter the graph nor invalidate the capture.
    mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    _require(cudart.cudaStreamBeginCapture(stream, mode), "beginning a capture")
    was_enqueued = False
    try:
        was_enqueued = enqueue()
    finally:
        # A failed capture must be ended too, and its error cleared, or the next CUDA call on this thread reports it.
        code, graph = cudart.cudaStreamEndCapture(stream)
        if not was_enqueued or int(code) != 0:
            cudart.cudaGetLastError()
    if not was_enqueued:
        raise GraphsUnavailable("the engine cannot be enqueued while a graph is captured")
    _require((code,), "ending a capture")
    return graph


def _instantiate(cudart: Any, graph: Any) -> Any:
    try:
        code, executable = cudart.cudaGraphInstantiate(graph, 0)
        _require((code,), "instantiating a graph")
    finally:
        with contextlib.suppress(GraphsUnavailable):
            _require(cudart.cudaGraphDestroy(graph), "freeing a graph")
    return executable


def _require(answer: tuple[Any, ...], what: str) -> None:
    if int(answer[0]) != 0:
        raise GraphsUnavailable(f"{what} gave {answer[0]}")
