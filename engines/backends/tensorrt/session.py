"""A loaded plan and what it needs to run: contexts, buffers, stream and graphs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from engines.backends.tensorrt.buffers import IoBuffers
from engines.backends.tensorrt.cuda import CudaDevice
from engines.backends.tensorrt.cuda.graphs import CapturedGraph, GraphsUnavailable
from engines.backends.tensorrt.library import LIBRARY_ERRORS, Log, is_out_of_memory, log_of
from engines.base import Images, Scores
from engines.errors import EngineError, EngineLost, EngineUnavailable, InferenceFailed, ModelRejected, OutOfMemory

_MAX_GRAPHS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensors:
    """The plan's input and output by name; ``fixed_batch`` is None where the plan takes several batch sizes.

    ``is_dynamic``: the shape must be set for each run, also where the profile allows only one.
    """

    images: str
    scores: str
    height: int
    width: int
    classes: int
    fixed_batch: int | None
    is_dynamic: bool


class PlanSession:
    """One plan on one device. Used by one thread, which must not hold the context itself."""

    def __init__(
        self, trt: Any, device: CudaDevice, plan: bytes, *, max_batch: int, classes: int, dla_core: int | None = None
    ) -> None:
        """Deserialise ``plan``, on a DLA core if it was built for one, and allocate buffers for ``max_batch`` images.

        Raises:
            EngineUnavailable: TensorRT rejects the plan. OutOfMemory: it does not fit.
            ModelRejected: its tensors are not those of a serving graph.
        """
        self._trt = trt
        self._device = device
        self._log: Log = log_of(trt)
        self._graphs: dict[int, CapturedGraph] = {}
        self._contexts: list[Any] = []
        self._buffers: IoBuffers | None = None
        self.why_no_graphs: str | None = "not captured"
        self.device_copies = 0
        """Host-to-device copies per image in the last enqueued run; a graph repeats that run."""
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            with device.current():
                self._runtime, self._engine = self._deserialised(plan, dla_core)
                self.tensors = _tensors(trt, self._engine, classes)
                rows = self.tensors.fixed_batch or max_batch
                self._buffers = IoBuffers(
                    device, rows=rows, height=self.tensors.height, width=self.tensors.width, classes=classes
                )
                self._plain = self._new_context()
            undo.pop_all()

    @property
    def device_memory_bytes(self) -> int:
        """Device memory of one execution context; TensorRT 10 renamed the attribute."""
        value = getattr(self._engine, "device_memory_size_v2", None)
        return int(getattr(self._engine, "device_memory_size", 0) if value is None else value)

    @property
    def streams(self) -> int:
        """Streams that a run uses: ours and the auxiliary ones of the plan (8.6 and later)."""
        return 1 + int(getattr(self._engine, "num_aux_streams", 0))

    @property
    def layers(self) -> int:
        """Layers of the plan."""
        return int(self._engine.num_layers)

    @property
    def graph_sizes(self) -> tuple[int, ...]:
        """Batch sizes that are replayed as one launch."""
        return tuple(sorted(self._graphs))

    def run(self, batch: Images) -> Scores:
        """Return the scores of a batch as a fresh array.

        Raises:
            InferenceFailed, EngineLost: see ``engines.base.Engine``.
        """
        count = len(batch)
        buffers = self._buffers
        if buffers is None:
            raise self._device.failure("a run on a closed plan", "closed")
        rows = self.tensors.fixed_batch or count
        buffers.images[:count] = batch
        # A fixed batch computes all rows; zeros keep images of an earlier call out of it.
        buffers.images[count:rows] = 0
        with self._device.current():
            mark = self._log.mark()
            graph = self._graphs.get(rows)
            if graph is None:
                with self._device.errors(f"a batch of {count}"), self._library_errors(f"a batch of {count}"):
                    if not self._enqueue(self._plain, rows):
                        raise self._device.failure(f"a batch of {count}", self._log.errors(mark))
            else:
                what = f"the graph of a batch of {count}"
                with self._device.errors(what), self._library_errors(what):
                    graph.launch()
            self._device.finish()
        # A copy, because the next run overwrites the pinned buffer.
        scores: Scores = np.array(buffers.scores[:count])
        return scores

    def capture(self) -> None:
        """Capture a graph for each batch size; a size that cannot be captured is enqueued call by call."""
        rows = self.tensors.fixed_batch or len(self._images())
        sizes = [self.tensors.fixed_batch] if self.tensors.fixed_batch else _sizes(rows)
        with self._device.current():
            self.why_no_graphs = next(filter(None, map(self._why_not_captured, sizes)), None)

    def close(self) -> None:
        """Free everything in order of dependency; harmless when called twice."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(EngineError):  # a lost device cannot free anything
                stack.enter_context(self._device.current())
            for graph in self._graphs.values():
                graph.close()
            self._graphs = {}
            self._contexts = []
            self._plain = None
            self._engine = None
            self._runtime = None
            if self._buffers is not None:
                self._buffers.close()
                self._buffers = None
        self._device.close()

    @contextlib.contextmanager
    def _library_errors(self, what: str) -> Iterator[None]:
        """Translate an exception of TensorRT itself, which usually reports errors by its return values."""
        try:
            yield
        except LIBRARY_ERRORS as exc:
            raise self._device.failure(what, str(exc) or type(exc).__name__) from exc

    def _why_not_captured(self, rows: int) -> str | None:
        """Capture one size; return why that failed, or None."""
        try:
            self._graphs[rows] = self._captured(rows)
        except EngineLost:
            raise
        except (GraphsUnavailable, OutOfMemory, InferenceFailed) as exc:
            return str(exc)
        return None

    def _images(self) -> Images:
        if self._buffers is None:
            raise RuntimeError("the plan is closed")
        return self._buffers.images

    def _deserialised(self, plan: bytes, dla_core: int | None) -> tuple[Any, Any]:
        mark = self._log.mark()
        try:
            runtime = self._trt.Runtime(self._log.native)
        except TypeError as exc:  # pybind11: the factory returned nullptr
            raise EngineUnavailable(
                f"TensorRT gives no runtime: {self._log.errors(mark)}. See: agent doctor", engine="tensorrt"
            ) from exc
        if dla_core is not None:
            # The core of the build is not in the plan. Source: TensorRT developer guide, "Working with DLA".
            runtime.DLA_core = dla_core
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise self._refusal("refuses the plan", mark)
        return runtime, engine

    def _new_context(self) -> Any:
        mark = self._log.mark()
        context = self._engine.create_execution_context()
        if context is None:
            raise self._refusal("gives no execution context", mark)
        self._contexts.append(context)
        return context

    def _refusal(self, what: str, mark: int) -> EngineError:
        reason = self._log.errors(mark)
        kind = OutOfMemory if is_out_of_memory(reason) else EngineUnavailable
        return kind(
            f"TensorRT {self._trt.__version__} {what}: {reason}. Build it again: agent build --force",
            engine="tensorrt",
            reason=f"TensorRT {what}: {reason}",
            remedy="agent build --force",
        )

    def _enqueue(self, context: Any, rows: int, *, is_prepared: bool = False) -> bool:
        """Enqueue copy, run and copy; return False if TensorRT refuses."""
        buffers, device = self._buffers, self._device
        if buffers is None:
            return False
        # All on one stream, so each step starts after the one before; ``finish`` waits for the last.
        self.device_copies = buffers.upload(rows)
        if not is_prepared and not self._prepare(context, rows):
            return False
        if not context.execute_async_v3(device.context.stream):
            return False
        buffers.download(rows)
        return True

    def _prepare(self, context: Any, rows: int) -> bool:
        """Set the shape and addresses of a run."""
        tensors, buffers = self.tensors, self._buffers
        if buffers is None:
            return False
        shape = (rows, tensors.height, tensors.width, 3)
        if tensors.is_dynamic and not context.set_input_shape(tensors.images, shape):
            return False
        return bool(
            context.set_tensor_address(tensors.images, buffers.images_address)
            and context.set_tensor_address(tensors.scores, buffers.scores_address)
        )

    def _captured(self, rows: int) -> CapturedGraph:
        """Return a graph on its own execution context, which runs once before the capture."""
        mark = self._log.mark()
        context = self._engine.create_execution_context()
        if context is None:
            raise GraphsUnavailable(f"no further execution context: {self._log.errors(mark)}")
        # In the first run after a change of shape TensorRT updates its state, which a graph must not record. Source:
        # TensorRT developer guide, "CUDA Graphs".
        what = "a run before a capture"
        with self._device.errors(what), self._library_errors(what):
            if not (self._prepare(context, rows) and self._enqueue(context, rows, is_prepared=True)):
                raise GraphsUnavailable(f"a run before the capture was refused: {self._log.errors(mark)}")
            self._device.finish()
            graph = CapturedGraph(self._device.context.stream, lambda: self._enqueue(context, rows, is_prepared=True))
        # Kept: the graph uses the memory of the context that it was captured from.
        self._contexts.append(context)
        return graph


def _sizes(rows: int) -> list[int]:
    """Return all batch sizes if there are few, else the powers of two and the largest."""
    if rows <= _MAX_GRAPHS:
        return list(range(1, rows + 1))
    return sorted({*(2**power for power in range(rows.bit_length()) if 2**power <= rows), rows})


def _tensors(trt: Any, engine: Any, classes: int) -> Tensors:
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    outputs = [name for name in names if name not in inputs]
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelRejected(
            f"the plan has inputs {inputs} and outputs {outputs}, but one of each is needed. Build it again"
        )
    images, scores = inputs[0], outputs[0]
    shape, answer = tuple(engine.get_tensor_shape(images)), tuple(engine.get_tensor_shape(scores))
    types = (engine.get_tensor_dtype(images), engine.get_tensor_dtype(scores))
    if types != (trt.DataType.UINT8, trt.DataType.FLOAT) or len(shape) != 4 or answer[1:] != (classes,):
        raise ModelRejected(
            f"the plan takes {shape} {types[0]} and gives {answer} {types[1]}; wanted are (N, H, W, 3) uint8 and "
            f"(N, {classes}) float32. Build it again: agent build --force"
        )
    batch = int(shape[0])
    smallest, _, largest = engine.get_tensor_profile_shape(images, 0) if batch < 0 else ((batch,),) * 3
    return Tensors(
        images=images,
        scores=scores,
        height=int(shape[1]),
        width=int(shape[2]),
        classes=classes,
        fixed_batch=int(largest[0]) if smallest[0] == largest[0] else None,
        is_dynamic=batch < 0,
    )
