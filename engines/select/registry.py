"""The engines by name: which exist, which can run on this device, and the order of ``auto``."""

from __future__ import annotations

import difflib
import functools
from dataclasses import dataclass, replace

from engines.backends.onnxruntime.options import engine_of, provider_of
from engines.base import Rejection
from engines.environment import Gpu, gpus_from_answer
from engines.errors import OptionsRejected
from engines.probes.child import ChildAnswer, run_child
from engines.select.remedies import Board, Missing, remedy, this_board

AUTO_ORDER = ("tensorrt", "ort-tensorrt", "ort-cuda", "torch", "ort-openvino", "ort-cpu")
CHOOSERS = ("auto", "fastest")
REMOTE = "triton"
"""The engine of another machine. ``auto`` never selects it: images leave this device only if somebody says so."""

_ALIASES = {
    "trt": "tensorrt",
    "ort-trt": "ort-tensorrt",
    "onnxruntime": "ort-cpu",
    "ort": "ort-cpu",
    "cpu": "ort-cpu",
    "cuda": "ort-cuda",
    "openvino": "ort-openvino",
    "pytorch": "torch",
}
_CUDA_LIBRARY_PROBE = "engines.backends.tensorrt.cuda.probe_child"
# Azure's provider sends the tensors to a server.
_NOT_HERE = ("AzureExecutionProvider",)


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Whether an engine can run on this device; ``reason`` and ``remedy`` are empty if it can."""

    name: str
    can_run: bool
    reason: str = ""
    remedy: str = ""
    detail: str = ""

    def as_rejection(self) -> Rejection:
        """Return the record of a rejected engine."""
        return Rejection(engine=self.name, reason=self.reason, remedy=self.remedy)


def canonical_name(name: str) -> str:
    """Return the engine's name in the documentation.

    Raises:
        OptionsRejected: there is no such engine; names the nearest and all that exist.
    """
    wanted = name.strip().lower().replace("_", "-")
    wanted = _ALIASES.get(wanted, wanted)
    allowed = (*CHOOSERS, *AUTO_ORDER, REMOTE)
    if wanted in allowed or (wanted.startswith("ort-") and _has_provider(provider_of(wanted))):
        return wanted
    near = difflib.get_close_matches(wanted, (*allowed, *_ALIASES), n=1, cutoff=0.5)
    hint = f"did you mean {_ALIASES.get(near[0], near[0])}? " if near else ""
    raise OptionsRejected(
        f"there is no engine {name!r}: {hint}Allowed are {', '.join(allowed)} and ort-<provider> for any other "
        "execution provider of the installed ONNX Runtime",
        engine=name,
    )


class Prober:
    """Finds out what can run: each probe once and in its own process, CUDA first and TensorRT only after it."""

    def __init__(self) -> None:
        """Probe nothing yet."""
        self._results: dict[str, ProbeResult] = {}

    @functools.cached_property
    def cuda(self) -> ChildAnswer:
        """The CUDA driver's answer."""
        return run_child("cuda_child", timeout_s=20.0)

    @functools.cached_property
    def onnxruntime(self) -> ChildAnswer:
        """Whether ONNX Runtime loads, its version and the providers compiled into it."""
        return run_child("import_child", "onnxruntime", timeout_s=60.0)

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The CUDA devices."""
        return gpus_from_answer(self.cuda)

    @property
    def providers(self) -> tuple[str, ...]:
        """Providers compiled into ONNX Runtime; that says nothing about whether they work here."""
        listed = self.onnxruntime.values.get("providers")
        return tuple(map(str, listed)) if isinstance(listed, list) else ()

    def names(self) -> tuple[str, ...]:
        """Every known engine, in the order of ``auto``, then ONNX Runtime's other providers."""
        others = [engine_of(p) for p in self.providers if p not in _NOT_HERE]
        return (*AUTO_ORDER, *(name for name in others if name not in AUTO_ORDER))

    def probe(self, name: str) -> ProbeResult:
        """Probe one engine by its canonical name; the answer is cached."""
        if name not in self._results:
            probes = {"tensorrt": self._tensorrt, "torch": self._torch, REMOTE: self._remote}
            self._results[name] = probes[name]() if name in probes else self._onnxruntime(name)
        return self._results[name]

    @functools.cached_property
    def _board(self) -> Board:
        board = this_board()
        # A GPU that answers is there, also where the machine does not list it (WSL, some containers).
        return replace(board, has_gpu=board.has_gpu or not self.cuda.failure)

    def _cannot(self, name: str, missing: Missing, reason: str) -> ProbeResult:
        return ProbeResult(name, can_run=False, reason=reason, remedy=remedy(name, missing, self._board))

    def _tensorrt(self) -> ProbeResult:
        # Without a driver TensorRT 8.6 crashes, so its probe would report a signal instead of the cause.
        if self.cuda.failure:
            return self._cannot("tensorrt", "driver", f"CUDA does not answer: {self.cuda.failure}")
        answer = run_child("tensorrt_child", timeout_s=120.0)
        if answer.failure:
            return self._cannot("tensorrt", _missing(answer), f"TensorRT does not load: {answer.failure}")
        return self._cuda_library(f"TensorRT {answer.text('version')}")

    def _cuda_library(self, tensorrt: str) -> ProbeResult:
        answer = run_child(_CUDA_LIBRARY_PROBE, timeout_s=60.0)
        library = answer.text("library")
        if library is None:
            reason = answer.failure or answer.text("reason")
            step = answer.text("remedy") or remedy("tensorrt", "library", self._board)
            return ProbeResult("tensorrt", can_run=False, reason=f"{tensorrt} loads; {reason}", remedy=step)
        return ProbeResult("tensorrt", can_run=True, detail=f"{tensorrt} on {self._gpu()}, CUDA through {library}")

    def _torch(self) -> ProbeResult:
        answer = run_child("torch_child", timeout_s=120.0)
        if answer.failure:
            return self._cannot("torch", _missing(answer), f"PyTorch does not load: {answer.failure}")
        if not answer.values.get("right"):
            return self._cannot("torch", "start", "PyTorch computed a wrong product")
        device = self._gpu() if answer.values.get("cuda") else "the CPU"
        return ProbeResult("torch", can_run=True, detail=f"PyTorch {answer.text('version')} on {device}")

    def _remote(self) -> ProbeResult:
        # Only its server can tell, and opening the engine asks it.
        return ProbeResult(REMOTE, can_run=True, detail="a server elsewhere")

    def _onnxruntime(self, name: str) -> ProbeResult:
        provider = provider_of(name)
        if self.onnxruntime.failure:
            missing = _missing(self.onnxruntime)
            return self._cannot(name, missing, f"ONNX Runtime does not load: {self.onnxruntime.failure}")
        version = self.onnxruntime.text("version")
        if provider not in self.providers:
            reason = f"ONNX Runtime {version} has no {provider}; it has {', '.join(self.providers)}"
            return self._cannot(name, "provider", reason)
        if provider in ("CUDAExecutionProvider", "TensorrtExecutionProvider") and self.cuda.failure:
            return self._cannot(name, "driver", f"CUDA does not answer: {self.cuda.failure}")
        # Every build has the CPU provider, and importing the library has shown that it loads.
        if provider == "CPUExecutionProvider":
            return ProbeResult(name, can_run=True, detail=f"ONNX Runtime {version}")
        return self._started(name, provider, str(version))

    def _started(self, name: str, provider: str, version: str) -> ProbeResult:
        answer = run_child("onnxruntime_child", provider, timeout_s=180.0)
        if answer.failure:
            return self._cannot(name, "start", f"{provider} does not start: {answer.failure}")
        if answer.text("provider") != provider:
            why = f": {answer.last_error}" if answer.last_error else ""
            return self._cannot(
                name, "start", f"ONNX Runtime used {answer.text('provider')} instead of {provider}{why}"
            )
        if not answer.values.get("right"):
            return self._cannot(name, "start", f"{provider} computed a wrong convolution")
        return ProbeResult(name, can_run=True, detail=f"ONNX Runtime {version}, {provider}")

    def _gpu(self) -> str:
        return self.gpus[0].name if self.gpus else "the GPU"


def probe() -> tuple[ProbeResult, ...]:
    """Return for every engine whether it can run here, and if not why and how to get it; takes a few seconds."""
    prober = Prober()
    return tuple(prober.probe(name) for name in prober.names())


def _missing(answer: ChildAnswer) -> Missing:
    # The failure is the last line of the traceback, which begins with the class of the exception.
    return "library" if "ModuleNotFoundError" in str(answer.failure) else "broken"


@functools.cache
def _installed_providers() -> tuple[str, ...]:
    return Prober().providers


def _has_provider(provider: str) -> bool:
    return provider in _installed_providers() and provider not in _NOT_HERE
