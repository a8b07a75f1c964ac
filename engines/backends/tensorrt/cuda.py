"""The boundary to CUDA through PyCUDA: the primary context, pinned and mapped memory, streams, events, errors.

TensorRT, ONNX Runtime and PyTorch all use the device's primary context; `pycuda.autoinit` would make another one whose
memory they cannot see. A context is current for one thread: it is pushed for each operation and popped after it, since
PyCUDA aborts the process when a thread ends with one still pushed.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

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


def driver() -> Any:
    """Import PyCUDA's driver module and initialise CUDA: the probe that must precede any object of TensorRT.

    Raises:
        EngineUnavailable: PyCUDA or the driver is absent, or there is no device.
    """
    try:
        module = importlib.import_module("pycuda.driver")
    except (ImportError, OSError) as exc:
        raise EngineUnavailable(
            f"PyCUDA cannot be used: {exc}. Install it beside the CUDA toolkit: "
            "pip install 'edge-inference-agent[jetson]'",
            engine="tensorrt",
            reason=f"PyCUDA cannot be used: {exc}",
            remedy="pip install pycuda",
        ) from exc
    try:
        module.init()
        count = int(module.Device.count())
    except module.Error as exc:
        raise EngineUnavailable(f"CUDA does not start: {exc}. See: agent doctor", engine="tensorrt") from exc
    if count < 1:
        raise EngineUnavailable("CUDA starts and shows no device. See: agent doctor", engine="tensorrt")
    return module


class CudaDevice:
    """One GPU's primary context with a stream of its own. Everything is freed on the thread that made it."""

    def __init__(self, device_id: int, *, blocking_sync: bool = False) -> None:
        """Retain the primary context and make the stream.

        Raises:
            EngineUnavailable: there is no such device. OutOfMemory: not even a context fits.
        """
        self.driver = driver()
        count = int(self.driver.Device.count())
        if device_id >= count:
            raise EngineUnavailable(
                f"option device_id is {device_id}, this machine has {count} CUDA device(s). Name a lower one",
                engine="tensorrt",
            )
        try:
            self._device = self.driver.Device(device_id)
            self._context: Any | None = self._device.retain_primary_context()
        except self.driver.Error as exc:
            kind = OutOfMemory if isinstance(exc, self.driver.MemoryError) else EngineUnavailable
            raise kind(f"the GPU gives no context: {exc}. See: agent doctor", engine="tensorrt") from exc
        flags = self.driver.event_flags
        with self.current(), self.errors("a stream"):
            # A stream that does not wait for the default one: other libraries in the process use that.
            self.stream = self.driver.Stream(flags=1)
            sync = flags.BLOCKING_SYNC if blocking_sync else flags.DEFAULT
            self.done = self.driver.Event(sync | flags.DISABLE_TIMING)

    @property
    def name(self) -> str:
        """The device's name."""
        return str(self._device.name())

    @property
    def version(self) -> str:
        """PyCUDA's version."""
        return str(getattr(importlib.import_module("pycuda"), "VERSION_TEXT", "unknown"))

    @property
    def is_integrated(self) -> bool:
        """Whether it shares its memory with the CPU, so that nothing needs to be copied."""
        return bool(self._device.get_attribute(self.driver.device_attribute.INTEGRATED))

    def free_bytes(self) -> int:
        """Device memory that is free; call it while the context is current."""
        return int(self.driver.mem_get_info()[0])

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make the context current for this thread."""
        context = self._context
        if context is None:
            raise InferenceFailed("the CUDA context was used after it was closed. Open the engine again")
        try:
            context.push()
        except self.driver.Error as exc:
            raise EngineLost(f"the CUDA context cannot be used: {exc}. The process must restart") from exc
        try:
            yield
        finally:
            with contextlib.suppress(self.driver.Error):  # a lost device; what happened inside is told by then
                self.driver.Context.pop()

    @contextlib.contextmanager
    def errors(self, what: str) -> Iterator[None]:
        """Translate what PyCUDA raises for ``what``."""
        try:
            yield
        except self.driver.MemoryError as exc:
            raise OutOfMemory(
                f"the GPU has no memory left for {what}: {exc}. Lower batching.max_size, or stop what else uses it",
                engine="tensorrt",
                reason="the GPU has too little free memory",
                remedy="stop what else uses the GPU",
            ) from exc
        except self.driver.Error as exc:
            raise self.failure(what, str(exc)) from exc

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
            self.driver.Context.synchronize()
        except self.driver.Error as exc:
            return str(exc)
        return None

    def finish(self) -> None:
        """Wait until everything on the stream is done; call it while the context is current."""
        with self.errors("waiting for the GPU"):
            self.done.record(self.stream)
            self.done.synchronize()

    def pinned(self, shape: tuple[int, ...], dtype: type[np.generic]) -> npt.NDArray[Any]:
        """Host memory that the GPU reads directly; on an integrated device the GPU may work on it in place."""
        flags = self.driver.host_alloc_flags
        with self.errors("pinned memory"):
            array: npt.NDArray[Any] = self.driver.pagelocked_empty(
                shape, dtype, mem_flags=flags.DEVICEMAP if self.is_integrated else flags.PORTABLE
            )
        return array

    def allocate(self, size_bytes: int) -> Any:
        """Device memory; ``int()`` of it is its address, ``free()`` gives it back."""
        with self.errors(f"{size_bytes} bytes"):
            return self.driver.mem_alloc(size_bytes)

    def close(self) -> None:
        """Let stream and context go; harmless when called twice."""
        if self._context is not None:
            with contextlib.suppress(EngineError), self.current():
                del self.stream, self.done
            self._context = None
