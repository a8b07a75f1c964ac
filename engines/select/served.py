"""The engine that callers get: a backend's engine, with how it was selected."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType

from engines.base import Engine, EngineInfo, Features, Images, Scores, features_of


class ServedEngine:
    """Forwards every call; ``info`` adds rejections, degradation and the accuracy check to the backend's own."""

    def __init__(self, engine: Engine, info: EngineInfo) -> None:
        """Take ownership of ``engine``: closing this closes it."""
        self._engine = engine
        self._info = info
        self._infer = engine.infer

    @property
    def info(self) -> EngineInfo:
        """What runs and why."""
        return self._info

    @property
    def stage_times_ms(self) -> Callable[[], Mapping[str, float]] | None:
        """Device times of the last call, in ms by stage; None if the backend has no device events."""
        found: Callable[[], Mapping[str, float]] | None = getattr(self._engine, "stage_times_ms", None)
        return found

    @property
    def features(self) -> Features | None:
        """See ``engines.base.features_of``."""
        return features_of(self._engine)

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
