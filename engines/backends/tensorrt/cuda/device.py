"""One CUDA device with its primary context and a stream; translates failed calls into ``engines.errors``.

A context is current on one thread at a time, so each operation pushes it and pops it afterwards.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from engines.backends.tensorrt.cuda.contract import CallFailed, CudaContext, DeviceMemory, HostMemory
from engines.backends.tensorrt.cuda.libraries import AUTO, cuda_library
from engines.errors import EngineError, EngineLost, EngineUnavailable, InferenceFailed, OutOfMemory

# Errors after which nothing on the device works in this process. Matched as text: PyCUDA's errors have no code.
# Source: CUDA driver API, cuGetErrorString.
_STICKY_ERRORS = (
    "illegal memory access",
    "illegal address",
    "illegal instruction",
    "misaligned address",
    "invalid program counter",
    "invalid address space",
    "hardware stack error",
    "unspecified launch failure",
    "launch timed out",
    "device-side assert",
    "uncorrectable",
    "context is destroyed",
    "device is lost",
    "fallen off the bus",
    "unknown error",
    "devices unavailable",
)


class CudaDevice:
    """One GPU's primary context with a stream of its own. Create, use and close it on one thread."""

    def __init__(self, device_id: int, *, blocking_sync: bool = False, library: str = AUTO) -> None:
        """Retain the primary context and create the stream; ``library`` is a name of ``libraries.LIBRARIES`` or
        ``auto``.

        Raises:
            EngineUnavailable: no CUDA library, or no such device. OutOfMemory: not even a context fits.
        """
        self._library = cuda_library(library)
        try:
            count = self._library.device_count()
            if device_id >= count:
                raise EngineUnavailable(
                    f"option device_id is {device_id}, but this machine has {count} CUDA device(s). Name a lower one",
                    engine="tensorrt",
                )
            self.name = self._library.device_name(device_id)
            self.is_integrated = self._library.is_integrated(device_id)
            self._context: CudaContext | None = self._library.retain(device_id)
        except CallFailed as exc:
            kind = OutOfMemory if exc.is_memory else EngineUnavailable
            raise kind(f"the GPU gives no context: {exc}. See: agent doctor", engine="tensorrt") from exc
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            with self.current(), self.errors("a stream"):
                self.context.open_stream(blocking_sync=blocking_sync)
            undo.pop_all()

    @property
    def context(self) -> CudaContext:
        """The context.

        Raises:
            InferenceFailed: the device was closed.
        """
        if self._context is None:
            raise InferenceFailed("the CUDA context was used after it was closed. Open the engine again")
        return self._context

    @property
    def library(self) -> str:
        """The CUDA library in use: ``pycuda`` or ``cuda-bindings``."""
        return self._library.name

    @property
    def version(self) -> str:
        """The library's version."""
        return self._library.version

    def free_bytes(self) -> int:
        """Return the free device memory; the context must be current."""
        with self.errors("asking for free memory"):
            return self.context.free_bytes()

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make the context current on this thread for the block."""
        context = self.context
        try:
            context.push()
        except CallFailed as exc:
            raise EngineLost(f"the CUDA context cannot be used: {exc}. The process must restart") from exc
        try:
            yield
        finally:
            with contextlib.suppress(CallFailed):  # a lost device: the error of the block matters, not this one
                context.pop()

    @contextlib.contextmanager
    def errors(self, what: str) -> Iterator[None]:
        """Translate the ``CallFailed`` of a block; ``what`` names the operation in the message."""
        try:
            yield
        except CallFailed as exc:
            if not exc.is_memory:
                raise self.failure(what, str(exc)) from exc
            raise OutOfMemory(
                f"the GPU has no memory left for {what}: {exc}. Lower batching.max_size, or stop other "
                "programs that use the GPU",
                engine="tensorrt",
                reason="the GPU has too little free memory",
                remedy="stop other programs that use the GPU",
            ) from exc

    def failure(self, what: str, text: str) -> EngineError:
        """Return the exception for a failed operation: EngineLost if the device no longer works."""
        after = self._sticky_error()
        if after is not None or any(word in text.lower() for word in _STICKY_ERRORS):
            reason = text if after is None or after in text else f"{text}; then {after}"
            return EngineLost(
                f"the GPU is lost after {what}: {reason}. Nothing on it works until the program restarts",
                engine="tensorrt",
            )
        return InferenceFailed(f"{what} failed: {text}. Three in a row reload the engine", engine="tensorrt")

    def _sticky_error(self) -> str | None:
        """Return the error that CUDA reports to every later call too; None if the device still works."""
        try:
            self.context.synchronize()
        except CallFailed as exc:
            return str(exc)
        return None

    def finish(self) -> None:
        """Wait until the stream has finished its work; the context must be current."""
        with self.errors("waiting for the GPU"):
            self.context.wait()

    def pinned(self, shape: tuple[int, ...], dtype: type[np.generic]) -> HostMemory:
        """Allocate host memory that the GPU reads directly; an integrated GPU works on it in place."""
        with self.errors("pinned memory"):
            return self.context.pinned(shape, dtype, is_mapped=self.is_integrated)

    def allocate(self, size_bytes: int) -> DeviceMemory:
        """Allocate device memory."""
        with self.errors(f"{size_bytes} bytes"):
            return self.context.allocate(size_bytes)

    def close(self) -> None:
        """Destroy the stream and release the context; harmless when called twice."""
        if self._context is not None:
            with contextlib.suppress(EngineError, CallFailed), self.current():
                self._context.close_stream()
            with contextlib.suppress(CallFailed):  # a lost device frees nothing
                self._context.release()
            self._context = None
