"""CUDA graphs through cuda-bindings, on the stream of whichever library is in use: PyCUDA itself has none.

A graph replays copy, kernels and copy as one launch. It belongs to the execution context that it was captured from,
with its shapes and addresses, so each batch size has a context of its own.
Source: TensorRT developer guide, "CUDA Graphs"; CUDA driver API, "Stream Management" and "Graph Management".
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from engines.backends.tensorrt.cuda.bindings import Bindings, load_bindings
from engines.backends.tensorrt.cuda.contract import CallFailed, LibraryUnusable


class GraphsUnavailable(Exception):
    """No graph can be had here; the text says why, and the work is enqueued call by call."""


class CapturedGraph:
    """One launch for all that ``enqueue`` puts on a stream. Used while the device's context is current."""

    def __init__(self, stream: int, enqueue: Callable[[], bool]) -> None:
        """Capture on the stream with the handle ``stream``, which must be idle.

        Raises:
            GraphsUnavailable: capture or instantiation was refused; the stream is as before.
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
        """Put the graph on its stream.

        Raises:
            CallFailed: that was refused.
        """
        self._cuda.call("cuGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """Free it; harmless when called twice."""
        executable, self._executable = self._executable, None
        if executable is not None:
            with contextlib.suppress(CallFailed):  # a lost device frees nothing any more
                self._cuda.call("cuGraphExecDestroy", executable)


def _capture(cuda: Bindings, stream: int, enqueue: Callable[[], bool]) -> Any:
    # Thread local: what other threads do meanwhile neither ends up in the graph nor breaks its capture.
    mode = cuda.driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    cuda.call("cuStreamBeginCapture", stream, mode)
    with contextlib.ExitStack() as undo:
        # A capture that failed must be ended all the same.
        undo.callback(_abandon, cuda, stream)
        if not enqueue():
            raise GraphsUnavailable("the engine cannot be enqueued while a graph is captured")
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
