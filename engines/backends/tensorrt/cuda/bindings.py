"""CUDA through cuda-bindings, NVIDIA's own package: the driver API as functions that return an error code first.

Source: CUDA driver API, https://docs.nvidia.com/cuda/cuda-driver-api/; the package's documentation, "driver".
"""

from __future__ import annotations

import ctypes
import importlib
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.backends.tensorrt.cuda.contract import CallFailed, DeviceMemory, HostMemory, LibraryUnusable

NAME = "cuda-bindings"
_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY
# No driver or one without the function, an error code that the package does not know, no memory for its arguments.
_PACKAGE_ERRORS = (AttributeError, RuntimeError, ValueError, TypeError, LookupError, OverflowError, MemoryError)


def load_bindings() -> Bindings:
    """Import cuda-bindings and compare its version with the driver's.

    Raises:
        LibraryUnusable: it is absent, does not load, finds no driver, or needs a newer one.
    """
    try:
        module = importlib.import_module("cuda.bindings.driver")
        version = str(getattr(importlib.import_module("cuda.bindings"), "__version__", "unknown"))
    except (ImportError, OSError, RuntimeError) as exc:
        raise LibraryUnusable(
            f"cuda-bindings cannot be imported: {exc}", remedy="pip install 'cuda-bindings==12.*' (13.* for CUDA 13)"
        ) from exc
    bindings = Bindings(module, version)
    try:
        known = int(bindings.call("cuDriverGetVersion"))
    except CallFailed as exc:
        raise LibraryUnusable(
            f"cuda-bindings {version} finds no NVIDIA driver: {exc}", remedy="install the driver"
        ) from exc
    wanted = int(module.CUDA_VERSION)
    # A newer minor version works with an older driver, a newer major version does not.
    # Source: CUDA compatibility guide, "Minor Version Compatibility".
    if wanted // 1000 > known // 1000:
        raise LibraryUnusable(
            f"cuda-bindings {version} needs a driver for CUDA {wanted // 1000}, but this one has "
            f"{_cuda_version(known)}",
            remedy=f"pip install 'cuda-bindings=={known // 1000}.*'",
        )
    return bindings


class Bindings:
    """See ``engines.backends.tensorrt.cuda.contract.CudaLibrary``."""

    name = NAME

    def __init__(self, driver: Any, version: str) -> None:
        """Use the ``driver`` module of cuda-bindings."""
        self.driver = driver
        self.version = version

    def call(self, name: str, *arguments: Any) -> Any:
        """Call one function of the driver and return its first value, None if it has none.

        Raises:
            CallFailed: the function failed, or the driver or the package does not have it.
        """
        try:
            code, *values = getattr(self.driver, name)(*arguments)
        except _PACKAGE_ERRORS as exc:
            raise CallFailed(f"{name} failed: {str(exc) or type(exc).__name__}") from exc
        if int(code):
            raise CallFailed(f"{name} failed: {self._error_text(code)}", is_memory=int(code) == _OUT_OF_MEMORY)
        return values[0] if values else None

    def _error_text(self, code: Any) -> str:
        failed, text = self.driver.cuGetErrorString(code)
        return f"error {int(code)}" if int(failed) or not text else text.decode(errors="replace")

    def device_count(self) -> int:
        """Initialise CUDA and count the devices."""
        self.call("cuInit", 0)
        return int(self.call("cuDeviceGetCount"))

    def device_name(self, device_id: int) -> str:
        """Return the name of a device."""
        name: bytes = self.call("cuDeviceGetName", 256, self.call("cuDeviceGet", device_id))
        return name.split(b"\0", 1)[0].decode(errors="replace")

    def is_integrated(self, device_id: int) -> bool:
        """Whether the device shares the CPU's memory."""
        attribute = self.driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_INTEGRATED
        return bool(self.call("cuDeviceGetAttribute", attribute, self.call("cuDeviceGet", device_id)))

    def retain(self, device_id: int) -> BindingsContext:
        """Retain the primary context."""
        device = self.call("cuDeviceGet", device_id)
        return BindingsContext(self, device, self.call("cuDevicePrimaryCtxRetain", device))


class BindingsContext:
    """See ``engines.backends.tensorrt.cuda.contract.CudaContext``. Nothing is freed automatically."""

    def __init__(self, bindings: Bindings, device: Any, context: Any) -> None:
        """Take ownership of a retained context."""
        self._cuda = bindings
        self._device = device
        self._context = context
        self._stream: Any = None
        self._done: Any = None

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream)

    def push(self) -> None:
        """Make the context current."""
        self._cuda.call("cuCtxPushCurrent", self._context)

    def pop(self) -> None:
        """Remove the context from the thread."""
        self._cuda.call("cuCtxPopCurrent")

    def open_stream(self, *, blocking_sync: bool) -> None:
        """Create the stream, and the event that ``wait`` waits for."""
        driver = self._cuda.driver
        flags = int(driver.CUevent_flags.CU_EVENT_DISABLE_TIMING)
        if blocking_sync:
            flags |= int(driver.CUevent_flags.CU_EVENT_BLOCKING_SYNC)
        self._stream = self._cuda.call("cuStreamCreate", int(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
        self._done = self._cuda.call("cuEventCreate", flags)

    def wait(self) -> None:
        """Wait for the stream."""
        self._cuda.call("cuEventRecord", self._done, self._stream)
        self._cuda.call("cuEventSynchronize", self._done)

    def synchronize(self) -> None:
        """Wait for the context."""
        self._cuda.call("cuCtxSynchronize")

    def free_bytes(self) -> int:
        """Return the free device memory."""
        # cuMemGetInfo returns free and total memory; ``call`` returns the first value.
        return int(self._cuda.call("cuMemGetInfo"))

    def pinned(self, shape: tuple[int, ...], dtype: type[np.generic], *, is_mapped: bool) -> HostMemory:
        """Allocate pinned memory."""
        driver = self._cuda.driver
        size_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        flag = driver.CU_MEMHOSTALLOC_DEVICEMAP if is_mapped else driver.CU_MEMHOSTALLOC_PORTABLE
        address = int(self._cuda.call("cuMemHostAlloc", size_bytes, int(flag)))
        mapped = int(self._cuda.call("cuMemHostGetDevicePointer", address, 0)) if is_mapped else None
        # The array does not own this memory: ``free_host`` frees it and empties the array.
        buffer = (ctypes.c_uint8 * size_bytes).from_address(address)
        return HostMemory(np.frombuffer(memoryview(buffer), dtype).reshape(shape), mapped, address)

    def free_host(self, memory: HostMemory) -> None:
        """Free host memory."""
        memory.array = np.empty(0, memory.array.dtype)
        address, memory.owner = memory.owner, None
        if address is not None:
            self._cuda.call("cuMemFreeHost", address)

    def allocate(self, size_bytes: int) -> DeviceMemory:
        """Allocate device memory."""
        owner = self._cuda.call("cuMemAlloc", size_bytes)
        return DeviceMemory(int(owner), owner)

    def free_device(self, memory: DeviceMemory) -> None:
        """Free device memory."""
        self._cuda.call("cuMemFree", memory.owner)

    def upload(self, address: int, array: npt.NDArray[Any]) -> None:
        """Enqueue a copy to the device."""
        self._cuda.call("cuMemcpyHtoDAsync", address, _address_of(array), array.nbytes, self._stream)

    def download(self, array: npt.NDArray[Any], address: int) -> None:
        """Enqueue a copy to the host."""
        self._cuda.call("cuMemcpyDtoHAsync", _address_of(array), address, array.nbytes, self._stream)

    def close_stream(self) -> None:
        """Destroy stream and event."""
        stream, done, self._stream, self._done = self._stream, self._done, None, None
        # If destroying the event fails, the stream must still be destroyed.
        try:
            if done is not None:
                self._cuda.call("cuEventDestroy", done)
        finally:
            if stream is not None:
                self._cuda.call("cuStreamDestroy", stream)

    def release(self) -> None:
        """Release the context."""
        context, self._context = self._context, None
        if context is not None:
            self._cuda.call("cuDevicePrimaryCtxRelease", self._device)


def _address_of(array: npt.NDArray[Any]) -> int:
    if not array.flags.c_contiguous:
        raise CallFailed("the array is not contiguous, so its memory cannot be copied as one block")
    return int(array.ctypes.data)


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
