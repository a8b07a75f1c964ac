"""This machine: processor, cores, board, driver, installed libraries, control groups.

The limit of a control group holds for all groups below it. Source: Linux, cgroups(7), /proc/pid/cgroup; cgroup-v2.rst,
"Namespace".
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path, PurePosixPath

MAX_THREADS = 1024
"""The most an engine may be given. A library starts as many as it is given, and thousands take minutes to end."""
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
    """Return the version in a library's package metadata, None if no package provides it."""
    # Several distributions provide one import name.
    names = _DISTRIBUTIONS.get(library, (library,))
    found = [one.version for name in names for one in distributions(name=name)]
    return found[0] if found else None


def available_cores(root: Path = _ROOT) -> int:
    """Return the number of cores that this process may use: its CPU affinity, limited by the quota of its cgroups."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for directory, is_v2 in group_directories("cpu", root):
        names = ("cpu.max",) if is_v2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        quota = [word for name in names for word in read_or_empty(directory / name).split()]
        # "max" or -1 is no quota.
        if len(quota) == 2 and quota[0].isdigit() and quota[1].isdigit() and int(quota[1]):
            cores = min(cores, max(1, round(int(quota[0]) / int(quota[1]))))
    return max(1, cores)


def cpu_model(root: Path = _ROOT) -> str | None:
    """Return the CPU's name; None if the system does not say."""
    text = read_or_empty(root / "proc/cpuinfo")
    match = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    return match.group(1).strip() if match else None


def l4t_release(root: Path = _ROOT) -> str | None:
    """Return the L4T release of this Jetson, None elsewhere; ``AGENT_L4T`` overrides it in a container."""
    return os.environ.get("AGENT_L4T") or installed_l4t(root)


def board_name(root: Path) -> str | None:
    """Return the board's name; None if the system does not say."""
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
    """Return the JetPack generation of an L4T release, as ``6.x``; None if it is unknown."""
    majors = {"32": "4", "35": "5", "36": "6", "38": "7", "39": "7"}
    major = majors.get(l4t.split(".")[0]) if l4t else None
    return f"{major}.x" if major else None


def power_mode(root: Path) -> str | None:
    """Return the number of the board's power mode (nvpmodel); None if this is no Jetson."""
    match = re.search(r"\d+", read_or_empty(root / "var/lib/nvpmodel/status"))
    return str(int(match.group())) if match else None


def driver_version(root: Path = _ROOT) -> str | None:
    """Return the version of NVIDIA's kernel module; None without one."""
    text = read_or_empty(root / "proc/driver/nvidia/version")
    match = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return match.group(1) if match else None


def os_name(root: Path) -> str:
    """Return the name of the Linux distribution."""
    match = re.search(r'^PRETTY_NAME="?([^"\n]+)', read_or_empty(root / "etc/os-release"), re.MULTILINE)
    return match.group(1) if match else platform.platform()


def read_or_empty(path: Path) -> str:
    """Return a text file's content; empty if it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def group_directories(controller: str, root: Path) -> Iterator[tuple[Path, bool]]:
    """Yield each directory that may limit ``controller`` (``memory``, ``cpu``), and whether it is cgroup v2.

    ``root`` is where ``/proc`` and ``/sys`` are read. The directories need not exist.
    """
    for line in _groups(root):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        is_v2 = not controllers
        if not is_v2 and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" if is_v2 else root / "sys/fs/cgroup" / controller
        own = PurePosixPath(path.lstrip("/"))
        # In a container the path may be the host's, which does not exist inside: then the mount is the group itself.
        inside = () if ".." in own.parts else (own, *own.parents)
        for place in dict.fromkeys([*inside, PurePosixPath()]):
            yield mount / place, is_v2


def _groups(root: Path) -> list[str]:
    try:
        return (root / "proc/self/cgroup").read_text(errors="replace").splitlines()
    except OSError:  # hidden: assume the mounted group
        return ["0::/"]
