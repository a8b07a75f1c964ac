"""CUDA through PyCUDA, which is compiled against the board's CUDA.

Source: PyCUDA documentation, "Device Interface Reference".
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.backends.tensorrt.cuda.contract import CallFailed, DeviceMemory, HostMemory, LibraryUnusable

NAME = "pycuda"


def load_pycuda() -> PyCuda:
    """Import PyCUDA.

    Raises:
        LibraryUnusable: it is absent, or does not load.
    """
    try:
        module = importlib.import_module("pycuda.driver")
        version = str(getattr(importlib.import_module("pycuda"), "VERSION_TEXT", "unknown"))
    except (ImportError, OSError) as exc:
        raise LibraryUnusable(f"PyCUDA cannot be imported: {exc}", remedy="pip install pycuda") from exc
    return PyCuda(module, version)


class PyCuda:
    """See ``engines.backends.tensorrt.cuda.contract.CudaLibrary``."""

    name = NAME

    def __init__(self, driver: Any, version: str) -> None:
        """Use PyCUDA's ``driver`` module."""
        self._driver = driver
        self.version = version

    def device_count(self) -> int:
        """Initialise CUDA and count the devices."""
        with _translated(self._driver):
            self._driver.init()
            return int(self._driver.Device.count())

    def device_name(self, device_id: int) -> str:
        """Return the name of a device."""
        with _translated(self._driver):
            return str(self._driver.Device(device_id).name())

    def is_integrated(self, device_id: int) -> bool:
        """Whether the device shares the CPU's memory."""
        with _translated(self._driver):
            device = self._driver.Device(device_id)
            return bool(device.get_attribute(self._driver.device_attribute.INTEGRATED))

    def retain(self, device_id: int) -> PyCudaContext:
        """Retain the primary context; ``pycuda.autoinit`` would create a second context instead."""
        with _translated(self._driver):
            return PyCudaContext(self._driver, self._driver.Device(device_id).retain_primary_context())


class PyCudaContext:
    """See ``engines.backends.tensorrt.cuda.contract.CudaContext``.

    PyCUDA frees an object with the last reference to it, and aborts the process if a thread ends with a context still
    pushed.
    """

    def __init__(self, driver: Any, context: Any) -> None:
        """Take ownership of a retained context."""
        self._driver = driver
        self._context = context
        self._stream: Any = None
        self._done: Any = None

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream.handle)

    def push(self) -> None:
        """Make the context current."""
        with _translated(self._driver):
            self._context.push()

    def pop(self) -> None:
        """Remove the context from the thread."""
        with _translated(self._driver):
            self._driver.Context.pop()

    def open_stream(self, *, blocking_sync: bool) -> None:
        """Create the stream, and the event that ``wait`` waits for."""
        flags = self._driver.event_flags
        with _translated(self._driver):
            self._stream = self._driver.Stream(flags=1)  # CU_STREAM_NON_BLOCKING, which PyCUDA does not define
            sync = flags.BLOCKING_SYNC if blocking_sync else flags.DEFAULT
            self._done = self._driver.Event(sync | flags.DISABLE_TIMING)

    def wait(self) -> None:
        """Wait for the stream."""
        with _translated(self._driver):
            self._done.record(self._stream)
            self._done.synchronize()

    def synchronize(self) -> None:
        """Wait for the context."""
        with _translated(self._driver):
            self._driver.Context.synchronize()

    def free_bytes(self) -> int:
        """Return the free device memory."""
        with _translated(self._driver):
            return int(self._driver.mem_get_info()[0])

    def pinned(self, shape: tuple[int, ...], dtype: type[np.generic], *, is_mapped: bool) -> HostMemory:
        """Allocate pinned memory."""
        flags = self._driver.host_alloc_flags
        with _translated(self._driver):
            array: npt.NDArray[Any] = self._driver.pagelocked_empty(
                shape, dtype, mem_flags=flags.DEVICEMAP if is_mapped else flags.PORTABLE
            )
            # The allocation itself: it knows the device address, and is freed with its last array.
            owner: Any = array.base
            return HostMemory(array, int(owner.get_device_pointer()) if is_mapped else None, owner)

    def free_host(self, memory: HostMemory) -> None:
        """Drop the references: PyCUDA frees the memory with the last array."""
        memory.array = np.empty(0, memory.array.dtype)
        memory.owner = None

    def allocate(self, size_bytes: int) -> DeviceMemory:
        """Allocate device memory."""
        with _translated(self._driver):
            owner = self._driver.mem_alloc(size_bytes)
            return DeviceMemory(int(owner), owner)

    def free_device(self, memory: DeviceMemory) -> None:
        """Free device memory."""
        with _translated(self._driver):
            memory.owner.free()

    def upload(self, address: int, array: npt.NDArray[Any]) -> None:
        """Enqueue a copy to the device."""
        with _translated(self._driver):
            self._driver.memcpy_htod_async(address, array, self._stream)

    def download(self, array: npt.NDArray[Any], address: int) -> None:
        """Enqueue a copy to the host."""
        with _translated(self._driver):
            self._driver.memcpy_dtoh_async(array, address, self._stream)

    def close_stream(self) -> None:
        """Drop stream and event."""
        self._stream = None
        self._done = None

    def release(self) -> None:
        """Drop the context."""
        self._context = None


@contextlib.contextmanager
def _translated(driver: Any) -> Iterator[None]:
    # PyCUDA's MemoryError and Error share only their names with the built-in exceptions, not their classes.
    try:
        yield
    except driver.MemoryError as exc:
        raise CallFailed(str(exc), is_memory=True) from exc
    except driver.Error as exc:
        raise CallFailed(str(exc)) from exc
