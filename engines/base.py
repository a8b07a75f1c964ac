"""The contract between the agent and an engine, and the records that both sides exchange."""

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

INPUT_NAME = "images"
OUTPUT_NAME = "scores"
"""Names of the input and the output of every serving graph."""

Images = npt.NDArray[np.uint8]
"""A batch at the model's size: ``(N, H, W, 3)`` uint8 BGR, C-contiguous."""

FEATURES_NAME = "serving/features"
"""Name of the second output, of a serving graph that gives embeddings too."""

Scores = npt.NDArray[np.float32]
"""Probabilities: ``(N, classes)`` float32, 0 to 1."""

Features = npt.NDArray[np.float32]
"""Embeddings: ``(N, length)`` float32, as the model gives them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildProgress:
    """Progress of a build; ``done_ratio`` is 0 to 1 within the phase, None if the library does not report it."""

    engine: str
    model: str
    phase: str
    elapsed_s: float
    done_ratio: float | None = None


def _ignore(progress: BuildProgress) -> None:
    """Ignore progress."""


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Building:
    """How to open an engine now: one that must first be built, which takes minutes, or one whose server has failed.

    ``defer`` skips the engine instead of building it, and ``EngineInfo.pending`` names it; ``strict`` overrides
    ``defer``. ``force`` builds again although the plan is cached. ``on_progress`` is called about once per second
    during a build, and ``is_cancelled`` several times per second (True ends the build with BuildCancelled); both on
    the thread that opens the engine.

    ``failed_server`` says why a remote engine must not be tried now; ``strict`` overrides it. ``requested_only`` opens
    the requested engine or none.
    """

    defer: bool = False
    force: bool = False
    on_progress: Callable[[BuildProgress], None] = _ignore
    is_cancelled: Callable[[], bool] = _never
    failed_server: str | None = None
    requested_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxOptions:
    """Limits of the child process that loads a model for the first time on this device.

    ``timeout_s`` is for loading and the first runs; a build or int8 calibration has its own time on top.
    ``memory_bytes`` limits resident memory; None is three quarters of the machine's memory, or of the control group's
    limit.
    """

    timeout_s: float = 120.0
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What the configuration asks for.

    ``engine``: a name from docs/engines.md (``ort-cpu``, ``tensorrt``, ``auto``, ``fastest`` ...). ``strict``: refuse
    anything less than requested. ``max_batch``: the largest N of ``infer``. ``options``: of this engine only (threads,
    workspace ...), validated by it. ``cache_dir``: graphs, quantised graphs and plans. ``workers``: number of engines
    that share this device's CPU; an engine without a ``threads`` option takes its share of the cores. ``sandbox``:
    None to load a new model in this process, which is then a sandbox itself.
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
    """An engine that was considered and not selected."""

    engine: str
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """How fast an engine classifies ``batch`` images in one call on this device, from ``runs`` calls of ``infer``."""

    engine: str
    precision: Precision
    runs: int
    p50_ms: float
    p90_ms: float
    batch: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What really runs, read back from the library, never copied from the request.

    ``placement``: nodes of the graph by execution provider. ``degraded``: None, or one sentence on what was requested
    and is missing. ``versions``: of each library involved. ``max_batch``: the largest N of ``infer``. ``accuracy``:
    the result of the accuracy check. ``measurements``: those that selected this engine, fastest first.
    ``kept_layers``: layers of an int8 model that stay in fp32 for accuracy. ``pending``: an engine that would be
    preferred and must be built first. ``away``: the requested remote engine, while another one serves because its
    server cannot; it may come back. ``gains_by_batches``: a batch takes much less time than its images one by one,
    as on a GPU. ``details``: figures of this engine only (device memory, streams ...).
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
    accuracy: Mapping[str, float | str | bool] | None = None
    measurements: tuple[Measurement, ...] = ()
    kept_layers: tuple[str, ...] = ()
    pending: str | None = None
    away: str | None = None
    gains_by_batches: bool = True
    details: Mapping[str, str | int | float | bool] = field(default_factory=dict)


class Engine(Protocol):
    """A loaded and warmed-up model.

    One thread opens, uses and closes an engine: a CUDA context is bound to a thread.
    """

    @property
    def info(self) -> EngineInfo:
        """What runs; constant while the engine is open."""
        ...

    def infer(self, batch: Images) -> Scores:
        """Classify ``batch``, ``(N, H, W, 3)`` uint8 BGR with 1 <= N <= ``info.max_batch``.

        The batch is read before the call returns and stays the caller's. The scores, ``(N, classes)`` float32
        probabilities, are a fresh array that the caller owns.

        Raises:
            ValueError: wrong shape, dtype or N; a bug in the caller.
            InferenceFailed: the library failed, or gave NaN or infinity for a whole batch.
            EngineLost: the device is gone for the rest of this process.
        """
        ...

    def interrupt(self) -> None:
        """Ask the running ``infer`` to end with InferenceFailed; returns at once, from any thread.

        No effect if no call runs, or if the library cannot be interrupted; the caller then ends the process after its
        deadline.
        """
        ...

    def close(self) -> None:
        """Free everything; harmless when called twice. ``infer`` raises InferenceFailed afterwards."""
        ...

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def features_of(engine: Engine) -> Features | None:
    """The embeddings of the newest batch that ``infer`` of ``engine`` classified, a fresh array that the caller owns.

    None from an engine that was opened without ``ModelPackage.with_features``.
    """
    found: Features | None = getattr(engine, "features", None)
    return found
