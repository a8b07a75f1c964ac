"""One CUDA device with its primary context and a stream; a failed call becomes one of `engines.errors`.

A context is current for one thread: it is pushed for each operation and popped after it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from engines.backends.tensorrt.cuda.contract import CallFailed, CudaContext, DeviceMemory, HostMemory
from engines.backends.tensorrt.cuda.libraries import AUTO, cuda_library
from engines.errors import EngineError, EngineLost, EngineUnavailable, InferenceFailed, OutOfMemory

# After these nothing on the device works any more in this process. Source: CUDA driver API, cuGetErrorString.
_STICKY_WORDS = (
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
    """One GPU's primary context with a stream of its own. Everything is freed on the thread that made it."""

    def __init__(self, device_id: int, *, blocking_sync: bool = False, library: str = AUTO) -> None:
        """Retain the primary context and make the stream; ``library`` is a name of ``libraries.LIBRARIES`` or
        ``auto``.

        Raises:
            EngineUnavailable: no CUDA library, or no such device. OutOfMemory: not even a context fits.
        """
        self._library = cuda_library(library)
        try:
            count = self._library.device_count()
            if device_id >= count:
                raise EngineUnavailable(
                    f"option device_id is {device_id}, this machine has {count} CUDA device(s). Name a lower one",
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
        """Device memory that is free; call it while the context is current."""
        with self.errors("asking for free memory"):
            return self.context.free_bytes()

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make the context current for this thread."""
        context = self.context
        try:
            context.push()
        except CallFailed as exc:
            raise EngineLost(f"the CUDA context cannot be used: {exc}. The process must restart") from exc
        try:
            yield
        finally:
            with contextlib.suppress(CallFailed):  # a lost device; what happened inside is told by then
                context.pop()

    @contextlib.contextmanager
    def errors(self, what: str) -> Iterator[None]:
        """Translate what a CUDA call raises for ``what``."""
        try:
            yield
        except CallFailed as exc:
            if not exc.is_memory:
                raise self.failure(what, str(exc)) from exc
            raise OutOfMemory(
                f"the GPU has no memory left for {what}: {exc}. Lower batching.max_size, or stop what else uses it",
                engine="tensorrt",
                reason="the GPU has too little free memory",
                remedy="stop what else uses the GPU",
            ) from exc

    def failure(self, what: str, text: str) -> EngineError:
        """The exception for a failed operation: lost where the device no longer answers at all."""
        after = self._sticky_error()
        if after is not None or any(word in text.lower() for word in _STICKY_WORDS):
            words = text if after is None or after in text else f"{text}; then {after}"
            return EngineLost(
                f"the GPU is lost after {what}: {words}. Nothing on it works until the program restarts",
                engine="tensorrt",
            )
        return InferenceFailed(f"{what} failed: {text}. Three in a row reload the engine", engine="tensorrt")

    def _sticky_error(self) -> str | None:
        """An error that stays: CUDA gives it to every later call too. None where the device still answers."""
        try:
            self.context.synchronize()
        except CallFailed as exc:
            return str(exc)
        return None

    def finish(self) -> None:
        """Wait until everything on the stream is done; call it while the context is current."""
        with self.errors("waiting for the GPU"):
            self.context.wait()

    def pinned(self, shape: tuple[int, ...], dtype: type[np.generic]) -> HostMemory:
        """Host memory that the GPU reads directly; on an integrated device the GPU may work on it in place."""
        with self.errors("pinned memory"):
            return self.context.pinned(shape, dtype, is_mapped=self.is_integrated)

    def allocate(self, size_bytes: int) -> DeviceMemory:
        """Device memory."""
        with self.errors(f"{size_bytes} bytes"):
            return self.context.allocate(size_bytes)

    def close(self) -> None:
        """Let stream and context go; harmless when called twice."""
        if self._context is not None:
            with contextlib.suppress(EngineError, CallFailed), self.current():
                self._context.close_stream()
            with contextlib.suppress(CallFailed):  # a lost device gives nothing back
                self._context.release()
            self._context = None
