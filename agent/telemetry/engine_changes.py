"""Builds and changes of engines, told to the log, to the service manager and to whoever publishes what runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from agent.daemon.notify import Notifier
from agent.inference.worker import WorkerStatistics
from agent.runtime.logs import get_logger

log = get_logger(__name__)

_EVERY_S = 10.0
_EXTEND_BY_S = 60.0


class EngineNews:
    """Looks at the workers a few times a second. Used by the main loop alone."""

    def __init__(
        self, notifier: Notifier, *, every_s: float = _EVERY_S, usual: Callable[[], str] = lambda: ""
    ) -> None:
        """``usual`` is what the service manager is told of the agent while nothing is built."""
        self._notifier = notifier
        self._usual = usual
        self._has_told = False
        self._every_s = every_s
        self._began_s = time.monotonic()
        self._next_word_s = self._began_s + every_s
        self._seen: dict[str, int] = {}

    def wait(self, worker: WorkerStatistics) -> None:
        """While starting: an engine is not there yet. Ask the service manager for patience, now and then."""
        if not self._is_due():
            return
        elapsed_s = round(time.monotonic() - self._began_s)
        self._tell_of_build(worker)
        if worker.building is None:
            log.info("engine.loading", model=worker.model, elapsed_s=elapsed_s)
        doing = "loading" if worker.building is None else worker.building.phase
        self._notifier.extend_timeout(_EXTEND_BY_S, f"Model {worker.model}: {doing}, {elapsed_s} s so far")

    def changes(self, workers: Iterable[WorkerStatistics], *, arriving: Iterable[WorkerStatistics] = ()) -> str | None:
        """What is new about the engines since the last call, None where nothing is; builds go to the log, also those
        of models that are ``arriving`` with another configuration."""
        workers = tuple(workers)
        building = [worker for worker in (*workers, *arriving) if worker.building is not None]
        if building and self._is_due():
            for worker in building:
                self._tell_of_build(worker)
        elif self._has_told and not building:
            self._has_told = False
            self._notifier.status(self._usual())
        # A worker that took the place of another begins at 0; that a configuration changed is told elsewhere.
        news = [worker for worker in workers if worker.changes and worker.changes != self._seen.get(worker.model, 0)]
        self._seen = {worker.model: worker.changes for worker in workers}
        return "; ".join(f"{worker.model}: {worker.last_change}" for worker in news) or None

    def _tell_of_build(self, worker: WorkerStatistics) -> None:
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
        self._has_told = True
        self._notifier.status(f"Building {build.engine} for {worker.model}: {build.phase}, {build.elapsed_s:.0f} s")

    def _is_due(self) -> bool:
        now_s = time.monotonic()
        if now_s < self._next_word_s:
            return False
        self._next_word_s = now_s + self._every_s
        return True
