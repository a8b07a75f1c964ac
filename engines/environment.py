"""Describes the runtime of this device: which libraries are installed, in which version, and which are broken."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path

from engines.host import (
    available_cores,
    board_name,
    cpu_model,
    driver_version,
    installed_l4t,
    installed_version,
    jetpack_of,
    os_name,
    power_mode,
)
from engines.probes.child import ChildAnswer, run_children

_ROOT = Path("/")
_OPTIONAL = ("onnxruntime", "tensorrt", "torch")
_DESCRIBE_TIMEOUT_S = 1.6


@dataclass(frozen=True, slots=True)
class Gpu:
    """One CUDA device; ``integrated`` shares its memory with the CPU, as on a Jetson.

    ``multiprocessors`` is the number of its SMs, 0 if unknown.
    """

    name: str
    compute_capability: str
    memory_bytes: int
    integrated: bool
    multiprocessors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRecord:
    """The device itself. None: unknown, or there is none.

    ``cuda`` is the newest CUDA version that the driver supports, ``cpu_cores`` what this process may use.
    """

    board: str | None
    l4t: str | None
    jetpack: str | None
    power_mode: str | None
    os: str
    kernel: str
    architecture: str
    python: str
    cpu: str | None
    cpu_cores: int
    gpus: tuple[Gpu, ...]
    driver: str | None
    cuda: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentRecord(DeviceRecord):
    """The device and its libraries. None: not installed; ``broken: ...``: installed, but cannot be loaded."""

    tensorrt: str | None
    onnxruntime: str | None
    onnxruntime_providers: tuple[str, ...]
    torch: str | None
    numpy: str | None
    opencv: str | None
    onnx: str | None

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return asdict(self)

    @property
    def device(self) -> str:
        """The name of the first GPU, else of the CPU."""
        return self.gpus[0].name if self.gpus else (self.cpu or self.architecture)


def describe(
    *, root: Path = _ROOT, environ: Mapping[str, str] | None = None, timeout_s: float = _DESCRIBE_TIMEOUT_S
) -> EnvironmentRecord:
    """Describe this device without importing TensorRT, ONNX Runtime or PyTorch into this process.

    Optional packages are imported in child processes; for one that does not answer within ``timeout_s`` only the
    installed version is given. ``AGENT_BOARD`` and ``AGENT_L4T`` in ``environ`` (default: the process's environment)
    replace what a container cannot see. ``root`` is where ``/proc``, ``/etc`` and ``/sys`` are read.
    """
    environ = os.environ if environ is None else environ
    installed = [name for name in _OPTIONAL if _is_installed(name)]
    commands: list[tuple[str, ...]] = [("cuda_child",), *(("import_child", name) for name in installed)]
    cuda, *imports = run_children(commands, timeout_s=timeout_s)
    answers = dict(zip(installed, imports, strict=True))
    ort = answers.get("onnxruntime", ChildAnswer())
    providers = ort.values.get("providers")
    device = _device_record(cuda, root, environ)
    return EnvironmentRecord(
        **{field.name: getattr(device, field.name) for field in fields(device)},
        tensorrt=_optional_version("tensorrt", answers),
        onnxruntime=_optional_version("onnxruntime", answers),
        onnxruntime_providers=tuple(map(str, providers)) if isinstance(providers, list) else (),
        torch=_optional_version("torch", answers),
        numpy=installed_version("numpy"),
        opencv=installed_version("opencv"),
        onnx=installed_version("onnx"),
    )


def describe_device(
    *, root: Path = _ROOT, environ: Mapping[str, str] | None = None, timeout_s: float = _DESCRIBE_TIMEOUT_S
) -> DeviceRecord:
    """Describe the device alone, see ``describe``. Asks the CUDA driver in a child process, and imports no library."""
    (cuda,) = run_children([("cuda_child",)], timeout_s=timeout_s)
    return _device_record(cuda, root, os.environ if environ is None else environ)


def _device_record(cuda: ChildAnswer, root: Path, environ: Mapping[str, str]) -> DeviceRecord:
    l4t = environ.get("AGENT_L4T") or installed_l4t(root)
    return DeviceRecord(
        board=environ.get("AGENT_BOARD") or board_name(root),
        l4t=l4t,
        jetpack=jetpack_of(l4t),
        power_mode=power_mode(root),
        os=os_name(root),
        kernel=platform.release(),
        architecture=platform.machine(),
        python=platform.python_version(),
        cpu=cpu_model(root),
        cpu_cores=available_cores(root),
        gpus=gpus_from_answer(cuda),
        driver=driver_version(root),
        cuda=cuda.text("cuda_driver"),
    )


def device_facts(gpu: Gpu, *, root: Path = _ROOT, environ: Mapping[str, str] | None = None) -> dict[str, object]:
    """Return what tells the device of a plan from others, in its present power mode.

    Name and compute capability do not suffice: every Orin is called "Orin" and has 8.7, from Nano to AGX.
    """
    environ = os.environ if environ is None else environ
    return {
        "gpu": gpu.name,
        "compute_capability": gpu.compute_capability,
        "multiprocessors": gpu.multiprocessors,
        # Rounded: on a Jetson the kernel's own share, and with it the rest, changes with every update.
        "memory_gib": round(gpu.memory_bytes / 2**30),
        "board": environ.get("AGENT_BOARD") or board_name(root),
        "l4t": environ.get("AGENT_L4T") or installed_l4t(root),
        "power_mode": power_mode(root),
    }


def gpus_from_answer(answer: ChildAnswer) -> tuple[Gpu, ...]:
    """Return the devices in the CUDA probe's answer."""
    devices = answer.values.get("devices")
    if not isinstance(devices, list):
        return ()
    return tuple(
        Gpu(
            name=str(device.get("name")),
            compute_capability=str(device.get("compute_capability")),
            memory_bytes=int(device.get("memory_bytes", 0)),
            integrated=bool(device.get("integrated")),
            multiprocessors=int(device.get("multiprocessors", 0)),
        )
        for device in devices
        if isinstance(device, dict)
    )


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _optional_version(library: str, answers: Mapping[str, ChildAnswer]) -> str | None:
    answer = answers.get(library)
    if answer is None:
        return None
    # A slow import is not a broken one: then the installed version is all that is known.
    if answer.failure and "no answer" not in answer.failure:
        return f"broken: {answer.failure}"
    return answer.text("version") or installed_version(library)
