"""Builds and replacements of engines, for the log and the publisher; extends the service manager's time limit."""

from __future__ import annotations

import time
from collections.abc import Iterable

from agent.daemon.notify import Notifier
from agent.inference.worker import WorkerStatistics
from agent.runtime.logs import get_logger

log = get_logger(__name__)

_EVERY_S = 10.0
_EXTEND_BY_S = 60.0


class EngineChanges:
    """Looks at the workers at each tick. Used by the main loop alone."""

    def __init__(self, notifier: Notifier, *, every_s: float = _EVERY_S) -> None:
        self._notifier = notifier
        self._every_s = every_s
        self._began_s = time.monotonic()
        self._due_s = self._began_s + every_s
        self._seen: dict[str, int] = {}

    def wait(self, worker: WorkerStatistics) -> None:
        """While an engine loads at the start: log it and extend the service manager's time limit, every ten
        seconds."""
        if not self._is_due():
            return
        elapsed_s = round(time.monotonic() - self._began_s)
        self._log_build(worker)
        if worker.building is None:
            log.info("engine.loading", model=worker.model, elapsed_s=elapsed_s)
        self._notifier.extend_timeout(_EXTEND_BY_S)

    def changes(self, workers: Iterable[WorkerStatistics], *, arriving: Iterable[WorkerStatistics] = ()) -> str | None:
        """Replacements since the last call as text, None without any. Builds are logged, also those of workers that
        are ``arriving`` with a new configuration."""
        workers = tuple(workers)
        building = [worker for worker in (*workers, *arriving) if worker.building is not None]
        if building and self._is_due():
            for worker in building:
                self._log_build(worker)
        # A worker of a new configuration begins at 0 changes; the reload announces that one.
        changed = [
            worker for worker in workers if worker.changes and worker.changes != self._seen.get(worker.model, 0)
        ]
        self._seen = {worker.model: worker.changes for worker in workers}
        return "; ".join(f"{worker.model}: {worker.last_change}" for worker in changed) or None

    def _log_build(self, worker: WorkerStatistics) -> None:
        build = worker.building
        if build is None:
            return
        log.info(
            "engine.building",
            model=worker.model,
            engine=build.engine,
            phase=build.phase,
            elapsed_s=round(build.elapsed_s),
            done_ratio=None if build.done_ratio is None else round(build.done_ratio, 2),
        )

    def _is_due(self) -> bool:
        now_s = time.monotonic()
        if now_s < self._due_s:
            return False
        self._due_s = now_s + self._every_s
        return True
