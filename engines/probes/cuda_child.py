"""Asks the CUDA driver for its devices and prints one JSON object. Uses the standard library only.

Source: CUDA driver API, https://docs.nvidia.com/cuda/cuda-driver-api/ (Initialization, Version, Device Management).
"""

from __future__ import annotations

import ctypes
import json
import sys

_MAJOR, _MINOR, _INTEGRATED, _MULTIPROCESSORS = 75, 76, 18, 16  # CUdevice_attribute


def main() -> int:
    """Print driver version and devices; if there are none, print the reason to standard error and return 3."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return _fail(f"no NVIDIA driver: {error}")
    code = cuda.cuInit(0)
    if code:
        return _fail(f"cuInit failed with {_error_name(cuda, code)}")
    version, count = ctypes.c_int(), ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    code = cuda.cuDeviceGetCount(ctypes.byref(count))
    if code or not count.value:
        return _fail(f"the NVIDIA driver is loaded and shows {count.value} devices")
    devices = [_device(cuda, index) for index in range(count.value)]
    cuda_version = f"{version.value // 1000}.{version.value % 1000 // 10}"
    print(json.dumps({"cuda_driver": cuda_version, "devices": devices}))  # noqa: T201 the answer
    return 0


def _device(cuda: ctypes.CDLL, index: int) -> dict[str, object]:
    handle = ctypes.c_int()
    cuda.cuDeviceGet(ctypes.byref(handle), index)
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGetName(name, len(name), handle)
    memory = ctypes.c_size_t()
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
    return {
        "name": name.value.decode(errors="replace"),
        "compute_capability": f"{_attribute(cuda, _MAJOR, handle)}.{_attribute(cuda, _MINOR, handle)}",
        "memory_bytes": memory.value,
        "integrated": bool(_attribute(cuda, _INTEGRATED, handle)),
        "multiprocessors": _attribute(cuda, _MULTIPROCESSORS, handle),
    }


def _attribute(cuda: ctypes.CDLL, attribute: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return value.value


def _error_name(cuda: ctypes.CDLL, code: int) -> str:
    text = ctypes.c_char_p()
    cuda.cuGetErrorName(code, ctypes.byref(text))
    return text.value.decode() if text.value else f"error {code}"


def _fail(reason: str) -> int:
    print(reason, file=sys.stderr)  # noqa: T201 the answer
    return 3


if __name__ == "__main__":
    sys.exit(main())
