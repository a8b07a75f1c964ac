"""Starts the parts, and supervises their threads until there is a reason to stop."""

from __future__ import annotations

import time
from collections.abc import Callable

from agent.build import Parts
from agent.config.loader import LoadedConfig
from agent.daemon import heap
from agent.daemon.watchdog import Watchdog
from agent.runtime.errors import SourceUnavailable, StageFailed
from agent.runtime.logs import get_logger
from agent.telemetry.engine_changes import EngineChanges
from agent.telemetry.status import Observation, StatusLine, observe

log = get_logger(__name__)

TICK_S = 0.1


class Supervisor:
    """The main thread's work between ``build`` and the stop. ``is_stopping`` is True after a signal."""

    def __init__(self, parts: Parts, *, is_stopping: Callable[[], bool]) -> None:
        self._parts = parts
        self._is_stopping = is_stopping
        self._is_starting = True
        self._is_reload_requested = False
        surroundings = parts.surroundings
        self._engine_changes = EngineChanges(surroundings.notifier)
        self._watchdog = Watchdog(surroundings.notifier, parts.state.record_exit)
        self._status_line = StatusLine(surroundings.notifier, self._observe, clock=surroundings.clock)

    def request_reload(self) -> None:
        """Read the configuration again at the next tick. A signal handler may call it: it sets a plain attribute."""
        self._is_reload_requested = True

    def start(self) -> bool:
        """Start every thread, wait for the engines, let the cameras read; False if a signal came meanwhile.

        Raises:
            EngineError: an engine cannot be loaded.
        """
        parts = self._parts
        parts.pipeline.start_workers()
        parts.uplink.publisher.start()
        parts.pipeline.open_cameras()
        parts.thermal.start()
        if parts.web is not None:
            parts.web.start()
        parts.announcer.describe_device()
        self._wait_for_engines()
        if self._is_stopping():
            return False
        heap.trim()
        loaded = parts.announcer.loaded
        parts.announcer.applied(loaded, parts.packages)
        parts.pipeline.start_cameras()
        self._is_starting = False
        self._status_line.ready()
        parts.surroundings.control.ready()
        log.info(
            "agent.ready",
            device=parts.identity.device,
            session=parts.identity.session,
            config_sha256=loaded.sha256[:12],
        )
        return True

    def run(self, for_s: float | None = None) -> LoadedConfig | None:
        """Supervise until the stop; return a configuration if all parts must be built again with it.

        Raises:
            AgentError, EngineError: an exception ended a thread, or one hangs; or no file gave a single frame.
        """
        parts = self._parts
        began_s = time.monotonic()
        while not self._is_stopping():
            self._check()
            self._tick()
            if parts.pipeline.is_done:
                log.info("sources.ended")
                self._refuse_silence()
                return None
            if for_s is not None and time.monotonic() - began_s >= for_s:
                return None
            if parts.reloader.successor is not None:
                return parts.reloader.successor
            time.sleep(TICK_S)
        return None

    def _tick(self) -> None:
        parts = self._parts
        parts.pipeline.tick()
        self._watchdog.tick((*parts.pipeline.heartbeats, parts.uplink.publisher.heartbeat))
        parts.reporter.tick(parts.reported)
        if parts.metrics_file is not None:
            parts.metrics_file.tick()
        parts.uplink.tick()
        parts.announcer.tick()
        self._announce_engine_changes()
        self._status_line.tick()
        if self._is_reload_requested:
            self._is_reload_requested = False
            parts.reloader.request()
        parts.surroundings.control.tick(parts.reloader.request)
        parts.reloader.tick()

    def _check(self) -> None:
        """Raise the exception that ended a thread, and interrupt engine calls that hang."""
        parts = self._parts
        parts.pipeline.check()
        for name, failure in (
            ("thermal monitor", parts.thermal.failure),
            ("commands", parts.commands.failure),
            ("server", None if parts.web is None else parts.web.failure),
        ):
            if failure is not None:
                raise StageFailed(f"an exception ended the {name}: {type(failure).__name__}: {failure}") from failure
        if parts.uplink.publisher.failure is not None:
            raise parts.uplink.publisher.failure
        for worker in parts.pipeline.workers.values():
            parts.hang_monitor.check(worker.statistics(), worker.interrupt)

    def _wait_for_engines(self) -> None:
        """Wait for every worker, with log lines and more time from the service manager."""
        parts = self._parts
        for worker in parts.pipeline.workers.values():
            while not self._is_stopping() and not worker.wait_ready(TICK_S):
                self._engine_changes.wait(worker.statistics())
                self._status_line.tick()
                parts.surroundings.control.extend_timeout()
                parts.reporter.tick(parts.reported)

    def _announce_engine_changes(self) -> None:
        """Publish what runs now, if an engine was replaced or could not be."""
        pipeline = self._parts.pipeline
        changed = self._engine_changes.changes(pipeline.worker_statistics(), arriving=pipeline.loading_statistics())
        if changed is not None:
            heap.trim()
            self._parts.announcer.engines_changed(changed)

    def _observe(self) -> Observation:
        parts = self._parts
        return observe(
            parts.reported,
            refused=parts.reloader.refused,
            stuck=self._watchdog.stuck,
            is_starting=self._is_starting,
        )

    def _refuse_silence(self) -> None:
        """Fail if every source has ended and none gave a frame; one empty source may be a configuration mistake."""
        cameras = [camera.statistics() for camera in self._parts.pipeline.cameras.values()]
        if any(camera.counts.captured for camera in cameras):
            return
        reasons = "; ".join(f"{camera.name}: {camera.error or 'the source has no frame'}" for camera in cameras)
        raise SourceUnavailable(f"no camera gave a frame before the last of them ended: {reasons}")
