"""CUDA graphs through cuda-bindings, also if PyCUDA serves: it has no graphs, and a stream's handle works in both.

A graph replays upload, kernels and download as one launch. It contains the shapes and addresses of the execution
context that it was captured from, so each batch size has a context of its own.
Source: TensorRT developer guide, "CUDA Graphs"; CUDA driver API, "Stream Management" and "Graph Management".
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from engines.backends.tensorrt.cuda.bindings import Bindings, load_bindings
from engines.backends.tensorrt.cuda.contract import CallFailed, LibraryUnusable


class GraphsUnavailable(Exception):
    """A graph cannot be captured here; the text says why. The work is then enqueued call by call."""


class CapturedGraph:
    """One launch for everything that ``enqueue`` puts on a stream. The device's context must be current."""

    def __init__(self, stream: int, enqueue: Callable[[], bool]) -> None:
        """Capture on the idle stream with the handle ``stream``.

        Raises:
            GraphsUnavailable: capture or instantiation failed; the stream can still be used.
        """
        try:
            self._cuda = load_bindings()
            self._stream = stream
            self._executable = _instantiate(self._cuda, _capture(self._cuda, stream, enqueue))
        except LibraryUnusable as exc:
            raise GraphsUnavailable(exc.reason) from exc
        except CallFailed as exc:
            raise GraphsUnavailable(f"no graph can be captured: {exc}") from exc

    def launch(self) -> None:
        """Enqueue the graph on its stream.

        Raises:
            CallFailed: the launch failed.
        """
        self._cuda.call("cuGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """Free the graph; harmless when called twice."""
        executable, self._executable = self._executable, None
        if executable is not None:
            with contextlib.suppress(CallFailed):  # a lost device frees nothing
                self._cuda.call("cuGraphExecDestroy", executable)


def _capture(cuda: Bindings, stream: int, enqueue: Callable[[], bool]) -> Any:
    # Thread local: calls of other threads neither end up in the graph nor break the capture.
    mode = cuda.driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    cuda.call("cuStreamBeginCapture", stream, mode)
    with contextlib.ExitStack() as undo:
        # A stream stays in capture mode until its capture is ended, also after a failure.
        undo.callback(_abandon, cuda, stream)
        if not enqueue():
            raise GraphsUnavailable("TensorRT cannot enqueue the engine while a graph is captured")
        undo.pop_all()
    return cuda.call("cuStreamEndCapture", stream)


def _abandon(cuda: Bindings, stream: int) -> None:
    with contextlib.suppress(CallFailed):
        graph = cuda.call("cuStreamEndCapture", stream)
        if graph is not None:
            cuda.call("cuGraphDestroy", graph)


def _instantiate(cuda: Bindings, graph: Any) -> Any:
    try:
        return cuda.call("cuGraphInstantiate", graph, 0)
    finally:
        with contextlib.suppress(CallFailed):
            cuda.call("cuGraphDestroy", graph)
