"""What the engine needs of a CUDA library. Implementations translate each of their errors into ``CallFailed``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class CallFailed(Exception):
    """A CUDA call failed; the text names the call and has the driver's error message."""

    def __init__(self, text: str, *, is_memory: bool = False) -> None:
        """``is_memory``: memory ran out."""
        super().__init__(text)
        self.is_memory = is_memory


class LibraryUnusable(Exception):
    """A CUDA library cannot be used here; ``remedy`` is what to do about it."""

    def __init__(self, reason: str, *, remedy: str) -> None:
        """Set both."""
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


@dataclass(slots=True)
class HostMemory:
    """Pinned host memory. ``device_address`` is its address for the GPU, None if it is not mapped.

    ``array`` is a view: the library owns the memory, and ``CudaContext.free_host`` frees it.
    """

    array: npt.NDArray[Any]
    device_address: int | None
    owner: Any


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Device memory at ``address``; ``CudaContext.free_device`` frees it."""

    address: int
    owner: Any


class CudaContext(Protocol):
    """The primary context of one device, with one stream. Every method but ``push`` needs it current on the thread.

    TensorRT, ONNX Runtime and PyTorch use the primary context, and cannot see the memory of any other.
    """

    @property
    def stream(self) -> int:
        """The stream's handle, for TensorRT. The stream does not synchronise with the default stream."""
        ...

    def push(self) -> None:
        """Make the context current on this thread."""
        ...

    def pop(self) -> None:
        """Remove the context from this thread."""
        ...

    def open_stream(self, *, blocking_sync: bool) -> None:
        """Create the stream; with ``blocking_sync``, ``wait`` sleeps instead of spinning."""
        ...

    def wait(self) -> None:
        """Wait until the stream has finished its work."""
        ...

    def synchronize(self) -> None:
        """Wait for the whole context; raises a sticky error of an earlier call."""
        ...

    def free_bytes(self) -> int:
        """Return the free device memory."""
        ...

    def pinned(self, shape: tuple[int, ...], dtype: type[np.generic], *, is_mapped: bool) -> HostMemory:
        """Allocate host memory that the GPU reads directly."""
        ...

    def free_host(self, memory: HostMemory) -> None:
        """Free host memory; its array must not be used afterwards."""
        ...

    def allocate(self, size_bytes: int) -> DeviceMemory:
        """Allocate device memory."""
        ...

    def free_device(self, memory: DeviceMemory) -> None:
        """Free device memory."""
        ...

    def upload(self, address: int, array: npt.NDArray[Any]) -> None:
        """Enqueue a copy from pinned host memory, C-contiguous, to the device."""
        ...

    def download(self, array: npt.NDArray[Any], address: int) -> None:
        """Enqueue a copy from the device to pinned host memory, C-contiguous."""
        ...

    def close_stream(self) -> None:
        """Destroy the stream."""
        ...

    def release(self) -> None:
        """Release the primary context, which must not be current; other users in the process keep theirs."""
        ...


class CudaLibrary(Protocol):
    """A Python package for CUDA, imported and compatible with this driver."""

    @property
    def name(self) -> str:
        """Name of its distribution: ``pycuda`` or ``cuda-bindings``."""
        ...

    @property
    def version(self) -> str:
        """Its version."""
        ...

    def device_count(self) -> int:
        """Initialise CUDA and count the devices."""
        ...

    def device_name(self, device_id: int) -> str:
        """Name of a device."""
        ...

    def is_integrated(self, device_id: int) -> bool:
        """Whether the device shares its memory with the CPU."""
        ...

    def retain(self, device_id: int) -> CudaContext:
        """Retain the device's primary context without making it current."""
        ...
