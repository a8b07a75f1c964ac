"""What to do about an engine that cannot run, as a step that can be followed on this board.

What lacks is told apart first (the driver, the library, a provider in ONNX Runtime's build), so that nobody is told to
install what is there already.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engines.host import l4t_release

Missing = Literal["driver", "library", "broken", "provider", "start"]
"""``library`` is not installed; ``broken`` is, and does not load; ``provider`` is not compiled into this ONNX Runtime;
``start`` is compiled in and does not come up."""

_ELSEWHERE = "use a machine with an NVIDIA GPU; on this one choose another engine, such as ort-cpu"
_NVIDIA = "0x10de"  # PCI vendor, Source: https://pci-ids.ucw.cz/read/PC/10de


@dataclass(frozen=True, slots=True)
class Board:
    """What decides which steps can be followed. ``l4t`` is None off a Jetson; ``has_gpu`` means one of NVIDIA."""

    l4t: str | None
    machine: str
    python: tuple[int, int]
    has_gpu: bool

    @property
    def jetpack(self) -> int | None:
        """The first number of JetPack, None off a Jetson. Source: NVIDIA's L4T archive, R36 is JetPack 6, R38 on 7."""
        if self.l4t is None:
            return None
        release = self.l4t.split(".")[0]
        return max(4, min(7, int(release) - 30)) if release.isdigit() else None


def this_board(root: Path = Path("/")) -> Board:
    """Look at this machine below ``root``."""
    l4t = l4t_release(root)
    vendors = (_read(file) for file in (root / "sys/bus/pci/devices").glob("*/vendor"))
    return Board(
        l4t=l4t,
        machine=platform.machine(),
        python=(sys.version_info.major, sys.version_info.minor),
        has_gpu=l4t is not None or _NVIDIA in vendors,
    )


def remedy(engine: str, missing: Missing, board: Board) -> str:
    """One step, or the sentence that there is none on this board. ``engine`` is a canonical name."""
    if engine == "ort-cpu":
        return _ort_cpu(missing)
    if engine == "torch":
        return "install the extra: pip install 'edge-inference-agent[torch]'"
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
        return f"install {needs} that this build of ONNX Runtime was made for, or a build for what is here"
    if missing == "broken":
        return "reinstall it: the build that is here does not load"
    return _onnxruntime_gpu(engine, board)


def _ort_cpu(missing: Missing) -> str:
    if missing == "library":
        return "install the extra: pip install 'edge-inference-agent[cpu]'"
    return "reinstall it: pip install --force-reinstall onnxruntime"


def _openvino(board: Board) -> str:
    if board.machine != "x86_64":
        return f"there is no build of it for {board.machine}; choose another engine, such as ort-cpu"
    return "install onnxruntime-openvino in place of onnxruntime"


def _driver(board: Board) -> str:
    if board.l4t is not None:
        return (
            "let this user reach the GPU: sudo usermod -aG video,render $USER, and log in again; "
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
        return "reinstall what JetPack brings: sudo apt-get install --reinstall nvidia-jetpack"
    if missing == "library":
        return "install TensorRT's Python package for this CUDA: pip install tensorrt-cu13 (or -cu12)"
    return "install TensorRT's libraries of the same version as its Python package"


def _onnxruntime_gpu(engine: str, board: Board) -> str:
    """A build with the provider. PyPI's onnxruntime-gpu has both providers for x86-64, and CUDA's alone for aarch64,
    from 1.29 and Python 3.11 on."""
    index = "the Jetson AI Lab package index"
    python = f"Python {board.python[0]}.{board.python[1]}"
    if board.l4t is not None and (board.jetpack != 7 or board.python < (3, 11) or engine == "ort-tensorrt"):
        return (
            f"take onnxruntime-gpu for JetPack {board.jetpack} and {python} from {index}: "
            "sudo scripts/install-jetson --onnxruntime FILE"
        )
    if board.machine == "aarch64":
        if engine == "ort-tensorrt":
            return "PyPI's build for aarch64 has no TensorRT; choose the engine tensorrt or ort-cuda"
        if board.python < (3, 11):
            return f"PyPI has onnxruntime-gpu for aarch64 from Python 3.11 on, this is {python}: use a newer Python"
    replace = "pip uninstall onnxruntime, then pip install onnxruntime-gpu: both have one import name"
    return f"{replace}; if it holds no code for this GPU, {index}" if board.l4t is not None else replace


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
