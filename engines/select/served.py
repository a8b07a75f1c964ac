"""The engine that callers get: a backend's engine with the whole truth about how it was chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType

from engines.base import Engine, EngineInfo, Images, Scores


class ServedEngine:
    """Passes every call on; ``info`` is the backend's own with rejections, degradation and parity added."""

    def __init__(self, engine: Engine, info: EngineInfo) -> None:
        """Take over ``engine``: closing this closes it."""
        self._engine = engine
        self._info = info
        self._infer = engine.infer

    @property
    def info(self) -> EngineInfo:
        """What runs and why."""
        return self._info

    @property
    def stage_times_ms(self) -> Callable[[], Mapping[str, float]] | None:
        """What the device's own events tell of the last call, in ms by stage; None where the backend has no events."""
        found: Callable[[], Mapping[str, float]] | None = getattr(self._engine, "stage_times_ms", None)
        return found

    def infer(self, batch: Images) -> Scores:
        """Classify a batch; see ``engines.base.Engine``."""
        return self._infer(batch)

    def interrupt(self) -> None:
        """Ask the running call to end; see ``engines.base.Engine``."""
        self._engine.interrupt()

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def __enter__(self) -> ServedEngine:
        """Use the engine for a while."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()
