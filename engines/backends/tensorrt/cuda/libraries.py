"""Selects the CUDA library: PyCUDA if it loads, else cuda-bindings; the option ``cuda_library`` names one of them."""

from __future__ import annotations

from collections.abc import Callable

from engines.backends.tensorrt.cuda.bindings import NAME as CUDA_BINDINGS
from engines.backends.tensorrt.cuda.bindings import load_bindings
from engines.backends.tensorrt.cuda.contract import CallFailed, CudaLibrary, LibraryUnusable
from engines.backends.tensorrt.cuda.pycuda import NAME as PYCUDA
from engines.backends.tensorrt.cuda.pycuda import load_pycuda
from engines.errors import EngineUnavailable

LIBRARIES: dict[str, Callable[[], CudaLibrary]] = {
    PYCUDA: load_pycuda,
    CUDA_BINDINGS: load_bindings,
}
"""By name, in the order in which ``auto`` tries them."""

AUTO = "auto"


def cuda_library(wanted: str = AUTO) -> CudaLibrary:
    """Load a library and start CUDA. Call it before TensorRT is used: without a device TensorRT 8.6 crashes.

    Raises:
        EngineUnavailable: no library can be used, CUDA does not start, or there is no device.
    """
    refusals = []
    for name in LIBRARIES if wanted == AUTO else (wanted,):
        try:
            library = LIBRARIES[name]()
        except LibraryUnusable as exc:
            refusals.append(exc)
            continue
        _require_device(library)
        return library
    reason = "; ".join(one.reason.rstrip(".") for one in refusals)
    remedy = refusals[-1].remedy
    raise EngineUnavailable(
        f"no CUDA library for Python can be used: {reason}. Remedy: {remedy}",
        engine="tensorrt",
        reason=f"no CUDA library for Python can be used: {reason}",
        remedy=remedy,
    )


def _require_device(library: CudaLibrary) -> None:
    try:
        count = library.device_count()
    except CallFailed as exc:
        raise EngineUnavailable(
            f"CUDA does not start through {library.name} {library.version}: {exc}. See: agent doctor",
            engine="tensorrt",
        ) from exc
    if count < 1:
        raise EngineUnavailable("CUDA starts and shows no device. See: agent doctor", engine="tensorrt")
