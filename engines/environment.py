"""Describes the runtime of this device: what is there, in which version, and what is broken."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

from engines.control_groups import group_directories
from engines.probes.child import ChildAnswer, run_children

_ROOT = Path("/")
_OPTIONAL = ("onnxruntime", "tensorrt", "torch")
_DISTRIBUTIONS = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"),
    "tensorrt": ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
    "torch": ("torch",),
    "numpy": ("numpy",),
    "opencv": ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python"),
    "onnx": ("onnx",),
}
_DESCRIBE_TIMEOUT_S = 1.6


@dataclass(frozen=True, slots=True)
class Gpu:
    """One CUDA device; ``integrated`` shares its memory with the CPU, as on a Jetson."""

    name: str
    compute_capability: str
    memory_bytes: int
    integrated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentRecord:
    """The runtime of this device. None says absent; a text starting with ``broken:`` says present and not loadable.

    ``cuda`` is the newest CUDA version that the driver speaks, ``cpu_cores`` what this process may use.
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
    tensorrt: str | None
    onnxruntime: str | None
    onnxruntime_providers: tuple[str, ...]
    torch: str | None
    numpy: str | None
    opencv: str | None
    onnx: str | None

    def as_dict(self) -> dict[str, object]:
        """Give plain values for JSON."""
        return asdict(self)

    @property
    def device(self) -> str:
        """Name what computes here: the first GPU, else the CPU."""
        return self.gpus[0].name if self.gpus else (self.cpu or self.architecture)


def describe(
    *, root: Path = _ROOT, environ: Mapping[str, str] | None = None, timeout_s: float = _DESCRIBE_TIMEOUT_S
) -> EnvironmentRecord:
    """Describe this device without importing TensorRT, ONNX Runtime or PyTorch into this process.

    Optional packages are imported in processes of their own; one that does not answer within ``timeout_s`` is
    described by its installed version alone. ``AGENT_BOARD`` and ``AGENT_L4T`` in ``environ`` (the process's own by
    default) replace what a container cannot see. ``root`` is where ``/proc``, ``/etc`` and ``/sys`` are read.
    """
    environ = os.environ if environ is None else environ
    installed = [name for name in _OPTIONAL if _is_installed(name)]
    commands: list[tuple[str, ...]] = [("cuda_child",), *(("import_child", name) for name in installed)]
    cuda, *imports = run_children(commands, timeout_s=timeout_s)
    answers = dict(zip(installed, imports, strict=True))
    ort = answers.get("onnxruntime", ChildAnswer())
    providers = ort.values.get("providers")
    l4t = environ.get("AGENT_L4T") or _l4t(root)
    return EnvironmentRecord(
        board=environ.get("AGENT_BOARD") or _board(root),
        l4t=l4t,
        jetpack=_jetpack(l4t),
        power_mode=_power_mode(root),
        os=_os_name(root),
        kernel=platform.release(),
        architecture=platform.machine(),
        python=platform.python_version(),
        cpu=cpu_model(root),
        cpu_cores=available_cores(root),
        gpus=gpus_from_answer(cuda),
        driver=driver_version(root),
        cuda=cuda.text("cuda_driver"),
        tensorrt=_optional_version("tensorrt", answers),
        onnxruntime=_optional_version("onnxruntime", answers),
        onnxruntime_providers=tuple(map(str, providers)) if isinstance(providers, list) else (),
        torch=_optional_version("torch", answers),
        numpy=installed_version("numpy"),
        opencv=installed_version("opencv"),
        onnx=installed_version("onnx"),
    )


def gpus_from_answer(answer: ChildAnswer) -> tuple[Gpu, ...]:
    """Read the devices out of the CUDA probe's answer."""
    devices = answer.values.get("devices")
    if not isinstance(devices, list):
        return ()
    return tuple(
        Gpu(
            name=str(device.get("name")),
            compute_capability=str(device.get("compute_capability")),
            memory_bytes=int(device.get("memory_bytes", 0)),
            integrated=bool(device.get("integrated")),
        )
        for device in devices
        if isinstance(device, dict)
    )


def installed_version(library: str) -> str | None:
    """Give the version of a library from its installed metadata, None where it is not installed by a package."""
    names = _DISTRIBUTIONS.get(library, (library,))
    found = [one.version for name in names for one in distributions(name=name)]
    return found[0] if found else None


def available_cores(root: Path = _ROOT) -> int:
    """Count the cores that this process may use: its affinity, cut by the CPU quota of its control groups."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for directory, is_v2 in group_directories("cpu", root):
        names = ("cpu.max",) if is_v2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        quota = [word for name in names for word in _read(directory / name).split()]
        if len(quota) == 2 and quota[0].isdigit() and quota[1].isdigit() and int(quota[1]):
            cores = min(cores, max(1, round(int(quota[0]) / int(quota[1]))))
    return max(1, cores)


def cpu_model(root: Path = _ROOT) -> str | None:
    """Name the CPU; None where the system does not say."""
    text = _read(root / "proc/cpuinfo")
    match = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    return match.group(1).strip() if match else None


def l4t_release(root: Path = _ROOT) -> str | None:
    """Give the L4T release of this Jetson, None elsewhere; ``AGENT_L4T`` stands in where a container hides it."""
    return os.environ.get("AGENT_L4T") or _l4t(root)


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _optional_version(library: str, answers: Mapping[str, ChildAnswer]) -> str | None:
    answer = answers.get(library)
    if answer is None:
        return None
    if answer.failure and "no answer" not in answer.failure:
        return f"broken: {answer.failure}"
    return answer.text("version") or installed_version(library)


def _board(root: Path) -> str | None:
    for place in ("proc/device-tree/model", "sys/class/dmi/id/product_name"):
        name = _read(root / place).strip("\0 \n")
        if name:
            return name
    return None


def _l4t(root: Path) -> str | None:
    """Read the L4T release. Source: /etc/nv_tegra_release, ``# R36 (release), REVISION: 4.3, ...``."""
    match = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", _read(root / "etc/nv_tegra_release"))
    return f"{match.group(1)}.{match.group(2)}" if match else None


def _jetpack(l4t: str | None) -> str | None:
    majors = {"32": "4", "35": "5", "36": "6", "38": "7", "39": "7"}
    major = majors.get(l4t.split(".")[0]) if l4t else None
    return f"{major}.x" if major else None


def _power_mode(root: Path) -> str | None:
    """Give the number of the board's power mode as nvpmodel keeps it, None off a Jetson."""
    match = re.search(r"\d+", _read(root / "var/lib/nvpmodel/status"))
    return str(int(match.group())) if match else None


def driver_version(root: Path = _ROOT) -> str | None:
    """Give the version of NVIDIA's driver as the kernel module tells it; None where there is none."""
    text = _read(root / "proc/driver/nvidia/version")
    match = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return match.group(1) if match else None


def _os_name(root: Path) -> str:
    match = re.search(r'^PRETTY_NAME="?([^"\n]+)', _read(root / "etc/os-release"), re.MULTILINE)
    return match.group(1) if match else platform.platform()


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
