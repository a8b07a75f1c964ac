"""The pipeline's levers against heat besides a lower rate. See ``agent.thermal.levers.Lever``."""

from __future__ import annotations

import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Literal

from agent.inference.engine_opening import EngineOpener
from agent.inference.pipeline import Pipeline
from agent.inference.worker import Worker
from agent.runtime.logs import get_logger
from engines import Precision, prepared_precisions

log = get_logger(__name__)

_CHECK_PERIOD_S = 60.0


class LargeBatches:
    """Frames of several cameras wait for each other, so one call of the engine classifies more of them."""

    name: Literal["batches"] = "batches"

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    @property
    def is_available(self) -> bool:
        """See Lever: true if several cameras share a model whose engine takes more than one frame."""
        shared = Counter(
            model
            for camera in self._pipeline.cameras.values()
            for model in {use.model for use in camera.config.classify}
        )
        infos = ((key, worker.statistics().info) for key, worker in self._pipeline.workers.items())
        return any(shared[key] > 1 and info is not None and info.max_batch > 1 for key, info in infos)

    def engage(self, level: float) -> None:
        """See Lever; called again, it also reaches workers that a reload has created since."""
        for worker in self._pipeline.workers.values():
            worker.wants_large_batches = level > 0.0

    def release(self) -> None:
        """See Lever."""
        self.engage(0.0)


class CoolerEngines:
    """Switches models to a cheaper precision that is already built on this device, and back. It never builds."""

    name: Literal["engine"] = "engine"

    def __init__(self, pipeline: Pipeline, opener: EngineOpener, *, cache_dir: Path) -> None:
        self._pipeline = pipeline
        self._opener = opener
        self._cache_dir = cache_dir
        self._lock = threading.Lock()
        self._moved: dict[str, Worker] = {}
        self._tried_s = self._checked_s = float("-inf")
        self._is_prepared = False

    @property
    def is_available(self) -> bool:
        """See Lever: true if a prepared engine exists (checked once a minute) or a model has switched to one."""
        with self._lock:
            now_s = time.monotonic()
            if now_s - self._checked_s >= _CHECK_PERIOD_S:
                self._checked_s = now_s
                workers = self._pipeline.workers.values()
                self._is_prepared = any(self._prepared_for(worker) for worker in workers)
            return self._is_prepared or bool(self._moved)

    def engage(self, level: float) -> None:  # noqa: ARG002 - there is one step
        """See Lever."""
        with self._lock:
            if time.monotonic() - self._tried_s < _CHECK_PERIOD_S:
                return
            self._tried_s = time.monotonic()
            for key, worker in self._pipeline.workers.items():
                if self._moved.get(key) is not worker:
                    self._move(key, worker)

    def release(self) -> None:
        """See Lever."""
        with self._lock:
            self._tried_s = float("-inf")
            for key, worker in tuple(self._moved.items()):
                is_current = self._pipeline.workers.get(key) is worker
                # False while the switch to the cheaper engine is still under way: retried at the next call.
                if not is_current or worker.replace_engine(partial(self._opener.open_configured, worker)):
                    del self._moved[key]

    def _prepared_for(self, worker: Worker) -> tuple[Precision, ...]:
        info = worker.statistics().info
        if worker.config.strict or info is None or info.pending is not None:
            return ()
        return prepared_precisions(worker.package, self._cache_dir, info)

    def _move(self, key: str, worker: Worker) -> None:
        prepared = self._prepared_for(worker)
        if not prepared:
            return
        # Only the best one: a chain of attempts would produce heat for nothing.
        open_prepared = partial(self._opener.open_prepared, worker, prepared[0])
        if worker.replace_engine(open_prepared, even_if_same=False):
            self._moved[key] = worker
            log.info("thermal.cooler_engine_requested", model=key, precision=prepared[0])
