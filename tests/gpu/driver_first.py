"""A plugin of pytest: opens the CUDA driver before the tests look for leaks for the first time.

The driver opens pipes, event descriptors and device files when the first context is made and closes them only when the
process ends. Made before the first snapshot of `tests/conftest.py`, they are nobody's leak.
"""

from __future__ import annotations

import contextlib
import ctypes


def pytest_sessionstart() -> None:
    """Retain the primary context of the first device to the end of the process, where there is one."""
    with contextlib.suppress(OSError):  # without a driver the tests say themselves what is absent
        driver = ctypes.CDLL("libcuda.so.1")
        device, context = ctypes.c_int(), ctypes.c_void_p()
        if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(device), 0) == 0:
            driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
