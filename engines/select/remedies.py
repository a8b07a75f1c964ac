"""What to do about an engine that cannot run: one step that works on this board.

The step depends on what is missing (driver, library, provider in ONNX Runtime's build), so that it never installs
what is already there.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engines.host import l4t_release

Missing = Literal["driver", "library", "broken", "provider", "start"]
"""``library``: not installed. ``broken``: installed, but does not load. ``provider``: not compiled into this ONNX
Runtime. ``start``: compiled in, but does not start."""

_ELSEWHERE = "use a machine with an NVIDIA GPU; on this one choose another engine, such as ort-cpu"
_NVIDIA = "0x10de"  # PCI vendor id. Source: https://pci-ids.ucw.cz/read/PC/10de


@dataclass(frozen=True, slots=True)
class Board:
    """What a remedy depends on. ``l4t``: None if this is no Jetson. ``has_gpu``: an NVIDIA GPU is present."""

    l4t: str | None
    machine: str
    python: tuple[int, int]
    has_gpu: bool

    @property
    def jetpack(self) -> int | None:
        """JetPack's major version; None on other machines. Source: L4T archive, R36 is JetPack 6, R38 and later 7."""
        if self.l4t is None:
            return None
        release = self.l4t.split(".")[0]
        return max(4, min(7, int(release) - 30)) if release.isdigit() else None


def this_board(root: Path = Path("/")) -> Board:
    """Describe this machine; ``root`` is where ``/etc`` and ``/sys`` are read."""
    l4t = l4t_release(root)
    vendors = (_read(file) for file in (root / "sys/bus/pci/devices").glob("*/vendor"))
    return Board(
        l4t=l4t,
        machine=platform.machine(),
        python=(sys.version_info.major, sys.version_info.minor),
        has_gpu=l4t is not None or _NVIDIA in vendors,
    )


def remedy(engine: str, missing: Missing, board: Board) -> str:
    """Return one step, or a sentence that there is none on this board. ``engine`` is a canonical name."""
    if engine == "ort-cpu":
        return _ort_cpu(missing)
    if engine == "torch":
        return "install it: pip install torch"
    if engine == "ort-openvino":
        return _openvino(board)
    if engine not in ("tensorrt", "ort-tensorrt", "ort-cuda"):
        return "install a build of ONNX Runtime with this provider"
    if missing == "driver":
        return _driver(board)
    if not board.has_gpu:
        return _ELSEWHERE
    if engine == "tensorrt":
        return _tensorrt(missing, board)
    if missing == "start":
        needs = "the TensorRT" if engine == "ort-tensorrt" else "the CUDA and cuDNN"
        return f"install {needs} that this build of ONNX Runtime needs, or a build for the installed version"
    if missing == "broken":
        return "reinstall it: the installed build does not load"
    return _onnxruntime_gpu(engine, board)


def _ort_cpu(missing: Missing) -> str:
    if missing == "library":
        return "install it: pip install onnxruntime"
    return "reinstall it: pip install --force-reinstall onnxruntime"


def _openvino(board: Board) -> str:
    if board.machine != "x86_64":
        return f"there is no build of it for {board.machine}; choose another engine, such as ort-cpu"
    return "pip uninstall onnxruntime, then pip install onnxruntime-openvino: both have one import name"


def _driver(board: Board) -> str:
    if board.l4t is not None:
        return (
            "give this user access to the GPU: sudo usermod -aG video,render $USER, and log in again; "
            "a container needs --runtime nvidia"
        )
    if board.has_gpu:
        return "install NVIDIA's driver for this GPU; in a container, pass the GPU through (--gpus all)"
    return _ELSEWHERE


def _tensorrt(missing: Missing, board: Board) -> str:
    if board.l4t is not None:
        if missing == "library":
            return (
                "sudo apt-get install python3-libnvinfer, then sudo scripts/install-jetson: "
                "the environment must see the system's packages"
            )
        return "reinstall JetPack's packages: sudo apt-get install --reinstall nvidia-jetpack"
    if missing == "library":
        return "install TensorRT's Python package for this CUDA: pip install tensorrt-cu13 (or -cu12)"
    return "install TensorRT's libraries of the same version as its Python package"


def _onnxruntime_gpu(engine: str, board: Board) -> str:
    """Return where to get a build with the provider.

    PyPI's onnxruntime-gpu has both providers for x86-64; for aarch64 only CUDA's, from version 1.29 and Python 3.11.
    """
    # PyPI's aarch64 builds are for servers and JetPack 7. Boards with an older JetPack need the builds made for them.
    index = "the Jetson AI Lab package index"
    python = f"Python {board.python[0]}.{board.python[1]}"
    if board.l4t is not None and (board.jetpack != 7 or board.python < (3, 11) or engine == "ort-tensorrt"):
        return (
            f"download onnxruntime-gpu for JetPack {board.jetpack} and {python} from {index}: "
            "sudo scripts/install-jetson --onnxruntime FILE"
        )
    if board.machine == "aarch64":
        if engine == "ort-tensorrt":
            return "PyPI's build for aarch64 has no TensorRT; choose the engine tensorrt or ort-cuda"
        if board.python < (3, 11):
            return (
                f"PyPI has onnxruntime-gpu for aarch64 from Python 3.11 on, but this is {python}: use a newer Python"
            )
    replace = "pip uninstall onnxruntime, then pip install onnxruntime-gpu: both have one import name"
    return f"{replace}; if it has no kernels for this GPU, take it from {index}" if board.l4t is not None else replace


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
