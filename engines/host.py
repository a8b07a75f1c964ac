"""What this machine is and has: processor, cores, board, driver, installed libraries, control groups.

A limit of a control group holds for all below it. Source: Linux, cgroups(7), /proc/pid/cgroup; cgroup-v2.rst,
"Namespace".
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path, PurePosixPath

_ROOT = Path("/")
_DISTRIBUTIONS = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"),
    "tensorrt": ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
    "torch": ("torch",),
    "numpy": ("numpy",),
    "opencv": ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python"),
    "onnx": ("onnx",),
}


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
        quota = [word for name in names for word in read_or_empty(directory / name).split()]
        if len(quota) == 2 and quota[0].isdigit() and quota[1].isdigit() and int(quota[1]):
            cores = min(cores, max(1, round(int(quota[0]) / int(quota[1]))))
    return max(1, cores)


def cpu_model(root: Path = _ROOT) -> str | None:
    """Name the CPU; None where the system does not say."""
    text = read_or_empty(root / "proc/cpuinfo")
    match = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    return match.group(1).strip() if match else None


def l4t_release(root: Path = _ROOT) -> str | None:
    """Give the L4T release of this Jetson, None elsewhere; ``AGENT_L4T`` stands in where a container hides it."""
    return os.environ.get("AGENT_L4T") or installed_l4t(root)


def board_name(root: Path) -> str | None:
    for place in ("proc/device-tree/model", "sys/class/dmi/id/product_name"):
        name = read_or_empty(root / place).strip("\0 \n")
        if name:
            return name
    return None


def installed_l4t(root: Path) -> str | None:
    """Read the L4T release. Source: /etc/nv_tegra_release, ``# R36 (release), REVISION: 4.3, ...``."""
    match = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", read_or_empty(root / "etc/nv_tegra_release"))
    return f"{match.group(1)}.{match.group(2)}" if match else None


def jetpack_of(l4t: str | None) -> str | None:
    majors = {"32": "4", "35": "5", "36": "6", "38": "7", "39": "7"}
    major = majors.get(l4t.split(".")[0]) if l4t else None
    return f"{major}.x" if major else None


def power_mode(root: Path) -> str | None:
    """Give the number of the board's power mode as nvpmodel keeps it, None off a Jetson."""
    match = re.search(r"\d+", read_or_empty(root / "var/lib/nvpmodel/status"))
    return str(int(match.group())) if match else None


def driver_version(root: Path = _ROOT) -> str | None:
    """Give the version of NVIDIA's driver as the kernel module tells it; None where there is none."""
    text = read_or_empty(root / "proc/driver/nvidia/version")
    match = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return match.group(1) if match else None


def os_name(root: Path) -> str:
    match = re.search(r'^PRETTY_NAME="?([^"\n]+)', read_or_empty(root / "etc/os-release"), re.MULTILINE)
    return match.group(1) if match else platform.platform()


def read_or_empty(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def group_directories(controller: str, root: Path) -> Iterator[tuple[Path, bool]]:
    """Give each directory that may limit ``controller`` (``memory``, ``cpu``), and whether it is of version 2.

    ``root`` is where ``/proc`` and ``/sys`` are read. Directories need not exist.
    """
    for line in _groups(root):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        is_v2 = not controllers
        if not is_v2 and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" if is_v2 else root / "sys/fs/cgroup" / controller
        own = PurePosixPath(path.lstrip("/"))
        # A container may see the path that its host knows, which does not exist inside: there the mount is its group.
        inside = () if ".." in own.parts else (own, *own.parents)
        for place in dict.fromkeys([*inside, PurePosixPath()]):
            yield mount / place, is_v2


def _groups(root: Path) -> list[str]:
    try:
        return (root / "proc/self/cgroup").read_text(errors="replace").splitlines()
    except OSError:  # hidden: what is mounted is all there is
        return ["0::/"]
