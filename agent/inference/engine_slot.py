"""One thread's turn at serving a model: the engine that it opens, and how the next one is let in."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from agent.runtime.records import Image, ServedModel, StageTimes
from engines import Building, BuildProgress, Engine, EngineInfo, ModelPackage
from engines.resize import Resizer

_TIMES_KEPT = 100_000

OpenEngine = Callable[[Building], Engine]
"""Opens the engine on the thread that calls it, see ``engines.open_engine``."""


@dataclass(frozen=True, slots=True)
class Serving:
    """A loaded engine with the buffers that belong to it; replaced as a whole when the engine is."""

    engine: Engine
    info: EngineInfo
    """The engine's own, or with what was learnt later about those that it stands in for."""
    served: ServedModel
    resizer: Resizer
    batch: Image
    """``(max_batch, H, W, 3)`` uint8 BGR, written anew for each call."""

    @property
    def runs_as(self) -> tuple[str, str]:
        """What tells one engine from another."""
        return self.info.name, self.info.precision


@dataclass(slots=True)
class Shift:
    """A successor with an open engine is ``is_ready``, and waits for ``admitted`` until the one before has left.

    ``is_forced``: it takes over also where it runs the same engine (another model, say).
    """

    open_engine: OpenEngine
    is_successor: bool = False
    is_forced: bool = False
    is_ready: bool = False
    admitted: threading.Event = field(default_factory=threading.Event)


@dataclass(slots=True)
class Progress:
    """What a worker counts, over all its engines; written by the thread that serves, read by any."""

    batches: int = 0
    frames: int = 0
    failures: int = 0
    failures_in_a_row: int = 0
    reloads: int = 0
    busy_since_ns: int | None = None
    building: BuildProgress | None = None
    changes: int = 0
    last_change: str | None = None
    times: deque[tuple[StageTimes, int]] = field(default_factory=lambda: deque(maxlen=_TIMES_KEPT))


def equipped(engine: Engine, *, key: str, package: ModelPackage, max_size: int) -> Serving:
    """Put to an engine what serving with it needs; a batch has ``max_size`` rows or what the engine takes."""
    info, spec = engine.info, package.input
    return Serving(
        engine=engine,
        info=info,
        served=ServedModel(
            key=key,
            name=package.name,
            version=package.version,
            sha256=package.sha256,
            engine=info.name,
            precision=info.precision,
            degraded=info.degraded is not None,
        ),
        resizer=Resizer(spec),
        batch=np.empty((min(max_size, info.max_batch), spec.height, spec.width, 3), np.uint8),
    )
