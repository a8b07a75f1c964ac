"""The seam between the agent and whatever computes a model's answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")

Images = npt.NDArray[np.uint8]
"""A batch at the model's size: ``(N, H, W, 3)`` uint8 BGR, C-contiguous."""

Scores = npt.NDArray[np.float32]
"""Probabilities: ``(N, classes)`` float32, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildProgress:
    """How far the build of an engine is; ``done_ratio`` is 0 to 1 of the phase where the library tells, else None."""

    engine: str
    model: str
    phase: str
    elapsed_s: float
    done_ratio: float | None = None


def _ignore(progress: BuildProgress) -> None:
    """Takes progress that nobody asked for."""


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Building:
    """What is done about an engine that must be built on this device before it can run, which takes minutes.

    ``defer`` passes it over in place of building it, and ``EngineInfo.pending`` names it; with ``strict`` it is built
    all the same. ``force`` builds it anew although the cache has it. ``on_progress`` is called about once a second
    while a build runs, ``is_cancelled`` several times a second (true ends the build with BuildCancelled); both on the
    thread that opens the engine.
    """

    defer: bool = False
    force: bool = False
    on_progress: Callable[[BuildProgress], None] = _ignore
    is_cancelled: Callable[[], bool] = _never


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxOptions:
    """Bounds of the child process in which a model that is new to this device is opened first.

    ``timeout_s`` is for opening and first runs; what takes long by its nature (a build, int8) has its own time on top.
    ``memory_bytes`` bounds resident memory; None is three quarters of the machine's, or of the control group's limit.
    """

    timeout_s: float = 120.0
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What the configuration asks for.

    ``engine`` is a name of the table in the documentation (``ort-cpu``, ``tensorrt``, ``auto``, ``fastest`` ...).
    ``strict`` refuses anything less than what was asked for. ``max_batch`` is the largest N of ``infer``.
    ``options`` are of the engine alone (threads, workspace ...) and are validated by it.
    ``cache_dir`` holds what is derived from the model (serving graphs, quantised graphs, plans). ``workers`` is the
    number of engines that share this device's CPU: an engine that is not told its threads takes its share of cores.
    ``sandbox`` is None where a model need not be tried in a child first: this process is such a child itself.
    """

    cache_dir: Path
    engine: str = "auto"
    precision: Precision = "fp32"
    strict: bool = False
    max_batch: int = 1
    options: Mapping[str, object] = field(default_factory=dict)
    workers: int = 1
    building: Building = field(default_factory=Building)
    sandbox: SandboxOptions | None = field(default_factory=SandboxOptions)


@dataclass(frozen=True, slots=True)
class Rejection:
    """One engine that was considered and not taken."""

    engine: str
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """How fast one engine classifies a single image on this device, from ``runs`` calls of ``infer``."""

    engine: str
    precision: Precision
    runs: int
    p50_ms: float
    p90_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What really runs, read back from the library and never from the request.

    ``placement`` counts the graph's nodes by execution provider. ``degraded`` is None, or one sentence on what was
    asked for and not had. ``versions`` names each library that takes part. ``max_batch`` is the largest N that one
    call of ``infer`` takes. ``measurements`` are those that led to this engine, fastest first; ``kept_layers`` names
    the layers of an int8 model that stay in fp32 for the answers' sake. ``pending`` names an engine that would be
    preferred and must be built first. ``gains_by_batches`` says whether a batch takes much less time than its images
    one by one, as on a GPU. ``details`` are figures of this engine alone (device memory, streams ...).
    """

    name: str
    requested: str
    precision: Precision
    requested_precision: Precision
    device: str
    max_batch: int
    classes: int
    placement: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    degraded: str | None = None
    rejected: tuple[Rejection, ...] = ()
    load_ms: float = 0.0
    parity: Mapping[str, float | str | bool] | None = None
    measurements: tuple[Measurement, ...] = ()
    kept_layers: tuple[str, ...] = ()
    pending: str | None = None
    gains_by_batches: bool = True
    details: Mapping[str, str | int | float | bool] = field(default_factory=dict)


class Engine(Protocol):
    """A loaded and warmed-up model.

    One thread opens, uses and closes an engine (CUDA contexts are bound to a thread).
    """

    @property
    def info(self) -> EngineInfo:
        """What runs; does not change during the engine's life."""
        ...

    def infer(self, batch: Images) -> Scores:
        """Classify ``batch``, ``(N, H, W, 3)`` uint8 BGR with 1 <= N <= ``info.max_batch``.

        The batch is read before the call returns and stays the caller's. The scores, ``(N, classes)`` float32
        probabilities, are a fresh array that belongs to the caller.

        Raises:
            ValueError: wrong shape, dtype or N: a mistake of the program.
            InferenceFailed: the library refused or failed, or gave NaN or infinity for a whole batch.
            EngineLost: the device is gone; nothing on it works any more in this process.
        """
        ...

    def interrupt(self) -> None:
        """Ask the running ``infer`` to end with InferenceFailed; from any thread, without waiting for it.

        Does nothing where no call runs or where the library cannot be interrupted (the caller then ends the process
        after its deadline).
        """
        ...

    def close(self) -> None:
        """Give everything back; harmless when called twice. ``infer`` afterwards raises InferenceFailed."""
        ...

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
