"""What the engine needs of a CUDA library. Implementations translate every error of theirs into `CallFailed`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class CallFailed(Exception):
    """A CUDA call failed: the text names the call and gives the driver's words for the error."""

    def __init__(self, text: str, *, is_memory: bool = False) -> None:
        """Keep the text; ``is_memory`` says that memory ran out."""
        super().__init__(text)
        self.is_memory = is_memory


class LibraryUnusable(Exception):
    """A CUDA library cannot be used here: ``reason`` says why, ``remedy`` is what to do."""

    def __init__(self, reason: str, *, remedy: str) -> None:
        """Keep both."""
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


@dataclass(slots=True)
class HostMemory:
    """Pinned host memory. ``device_address`` is where the GPU sees it, None where it was not mapped.

    ``array`` is a view: the memory belongs to the library and is gone after ``CudaContext.free_host``.
    """

    array: npt.NDArray[Any]
    device_address: int | None
    owner: Any


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Memory of the device, at ``address``; given back by ``CudaContext.free_device``."""

    address: int
    owner: Any


class CudaContext(Protocol):
    """The primary context of one device with one stream. All but ``push`` need it to be current on the thread.

    TensorRT, ONNX Runtime and PyTorch use the primary context; memory of any other context is unknown to them.
    """

    @property
    def stream(self) -> int:
        """The stream's handle, which TensorRT takes. The stream does not wait for the default stream."""
        ...

    def push(self) -> None:
        """Make it current for this thread."""
        ...

    def pop(self) -> None:
        """Take it off this thread."""
        ...

    def open_stream(self, *, blocking_sync: bool) -> None:
        """Make the stream; ``blocking_sync`` makes ``wait`` sleep instead of spin."""
        ...

    def wait(self) -> None:
        """Wait until everything on the stream is done."""
        ...

    def synchronize(self) -> None:
        """Wait for the whole context; raises an earlier error that stays."""
        ...

    def free_bytes(self) -> int:
        """Device memory that is free."""
        ...

    def pinned(self, shape: tuple[int, ...], dtype: type[np.generic], *, is_mapped: bool) -> HostMemory:
        """Allocate host memory that the GPU reads directly."""
        ...

    def free_host(self, memory: HostMemory) -> None:
        """Give it back; nobody may use its array afterwards."""
        ...

    def allocate(self, size_bytes: int) -> DeviceMemory:
        """Allocate device memory."""
        ...

    def free_device(self, memory: DeviceMemory) -> None:
        """Give it back."""
        ...

    def upload(self, address: int, array: npt.NDArray[Any]) -> None:
        """Put a copy from pinned host memory, C-contiguous, to the device on the stream."""
        ...

    def download(self, array: npt.NDArray[Any], address: int) -> None:
        """Put a copy from the device to pinned host memory, C-contiguous, on the stream."""
        ...

    def close_stream(self) -> None:
        """Destroy the stream."""
        ...

    def release(self) -> None:
        """Let the primary context go, while it is not current; other users in the process keep theirs."""
        ...


class CudaLibrary(Protocol):
    """A Python package for CUDA, imported and found to fit this driver."""

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
        """Retain the device's primary context, which does not become current."""
        ...
