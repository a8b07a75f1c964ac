"""How an int8 graph stores its numbers, and which form each engine gets on this machine.

TensorRT takes symmetric activations only. On a CPU asymmetric ones are faster: ONNX Runtime folds a Relu or Clip into
the quantised layer before it if the zero point is the type's minimum, and otherwise computes it in fp32 between two
conversions. The processor decides between signed and unsigned.

Source: ONNX Runtime, "Quantize ONNX Models", sections data type selection and reduce-range, and the documentation of
``quantize_static``; MLAS' table of kernels for ARM64 (pull request 9902 of ONNX Runtime).
"""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from engines.base import Precision

DETAIL: Final = "int8_form"
"""Key of the form in ``EngineInfo.details``."""

_CPUINFO = Path("/proc/cpuinfo")
# On a GPU ONNX Runtime supports signed activations only.
_ON_GPU = frozenset({"tensorrt", "ort-tensorrt", "ort-nvtensorrtrtx", "ort-cuda", "ort-rocm", "ort-migraphx"})
# XNNPACK has no kernel of unsigned activations with signed weights. Source: ONNX Runtime, XNNPACK provider.
_SIGNED_ONLY = frozenset({"ort-xnnpack"})
_VNNI = frozenset({"avx512_vnni", "avx_vnni"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Form:
    """How activations and weights are stored; weights are always signed, symmetric and per channel.

    ``has_7_bit_weights``: half of the weights' range is used, which keeps sums within 16 bits.
    """

    activations: Literal["int8", "uint8"]
    is_symmetric: bool
    has_7_bit_weights: bool = False

    @property
    def label(self) -> str:
        """The name in reports."""
        symmetric = "symmetric " if self.is_symmetric else ""
        return f"{symmetric}{self.activations} activations{', 7-bit weights' if self.has_7_bit_weights else ''}"

    def facts(self) -> dict[str, object]:
        """The values that identify a graph of this form in the cache."""
        return asdict(self)


SYMMETRIC: Final = Int8Form(activations="int8", is_symmetric=True)
SIGNED: Final = Int8Form(activations="int8", is_symmetric=False)
UNSIGNED: Final = Int8Form(activations="uint8", is_symmetric=False)
UNSIGNED_7_BIT: Final = Int8Form(activations="uint8", is_symmetric=False, has_7_bit_weights=True)


def int8_form(engine: str, *, machine: str | None = None, cpuinfo: Path = _CPUINFO) -> Int8Form:
    """Choose the form for ``engine`` on a processor of type ``machine``, this machine's by default.

    - x86-64: unsigned. Without VNNI (AVX2, AVX-512 of the first years) the product of unsigned and signed bytes is
      added in pairs by VPMADDUBSW, which saturates at 16 bits: 255 x 127 x 2 does not fit, 255 x 64 x 2 does. There
      the weights have 7 bits. If the flags cannot be read, no VNNI is assumed: that costs a bit of the weights, the
      opposite mistake costs accuracy.
    - ARM: signed. With dot products both types have a kernel; without them the signed one is the native one and
      unsigned activations are flipped in every call. 16-bit sums do not occur, so the weights keep all bits.
    """
    if engine in _ON_GPU:
        return SYMMETRIC
    machine = machine or platform.machine()
    if engine in _SIGNED_ONLY or machine.lower().startswith(("aarch64", "arm")):
        return SIGNED
    is_x86 = machine.lower() in ("x86_64", "amd64", "i686", "i386")
    return UNSIGNED_7_BIT if is_x86 and not _VNNI & _flags(cpuinfo) else UNSIGNED


def form_details(engine: str, precision: Precision) -> dict[str, str]:
    """Return the form for ``EngineInfo.details``; empty unless the precision is int8."""
    return {DETAIL: int8_form(engine).label} if precision == "int8" else {}


def _flags(cpuinfo: Path) -> frozenset[str]:
    """The processor's features as the kernel names them. Source: proc(5), arch/x86/include/asm/cpufeatures.h."""
    try:
        text = cpuinfo.read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())
