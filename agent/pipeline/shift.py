"""One thread's turn at serving a model: the engine that it opens, and how the next one is let in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from agent.records import Image, ServedModel
from engines import Building, Engine, EngineInfo, ModelPackage
from engines.resize import Resizer

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
