"""The agent, put together in the order in which a frame travels.

    source ─► camera thread ─► inbox ─► worker thread (resize, engine, decide) ─► publisher thread ─► sink
     sensor ─► thermal monitor (governor) ─► rate of every camera      main thread: signals, reports, supervision

``startup`` opens everything, ``main_loop`` watches over it, ``shutdown`` closes it in reverse. A new configuration
(SIGHUP) goes through ``reload``; the parts go over to it by themselves: ``Pipeline``, ``Uplink`` (the way to the
broker), ``ThermalInForce``.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from types import FrameType

import agent
from agent.cameras.sources.base import make_source
from agent.commands.opening import make_desk, with_kept_changes
from agent.config.loader import LoadedConfig
from agent.config.model import ModelConfig
from agent.config.problems import at, dotted
from agent.config.thermal import ThermalConfig
from agent.daemon.exit_deadline import LastResort
from agent.daemon.notify import Notifier
from agent.daemon.start_backoff import FailedStarts
from agent.daemon.state_directory import StateDirectory
from agent.inference.pipeline import Parts, Pipeline, PipelineStatistics, RateMeter
from agent.inference.supervision import HangWatch
from agent.mqtt.base import Sink
from agent.mqtt.identity import Identity
from agent.mqtt.messages import utc_text
from agent.mqtt.settings import BrokerAddress
from agent.mqtt.topics import Topics
from agent.publish.publisher import PublisherStatistics
from agent.publish.uplink import Uplink
from agent.reload import Reloader, load_packages
from agent.runtime.clock import Clock, SystemClock
from agent.runtime.errors import AgentError, SourceUnavailable, StageFailed
from agent.runtime.heartbeat import stuck_stages
from agent.runtime.logs import get_logger
from agent.telemetry.engine_changes import EngineNews
from agent.telemetry.reporter import Parts as ReportedParts
from agent.telemetry.reporter import Reporter
from agent.telemetry.runtime import runtime_message
from agent.thermal.governor import GovernorDecision
from agent.thermal.monitor import ThermalMonitor
from agent.thermal.reloadable import ThermalInForce
from agent.thermal.sensors.choose import make_sensor
from engines import (
    Building,
    Engine,
    EngineError,
    EngineLost,
    EngineOptions,
    ModelPackage,
    OptionsRejected,
    describe,
    open_engine,
)

log = get_logger(__name__)

_TICK_S = 0.1
_START_WITHIN_S = 180.0
"""TimeoutStartSec of the unit."""
_FAULT = "failed by a fault of the program"
_FAULT_CODE = AgentError.exit_code
_LOST_WITHIN_S = 0.7
SWITCH_INTERVAL_S = 0.0002
"""How long a Python thread may hold the interpreter while others wait. The default, 5 ms, is added to an inference
whenever another thread computes (measured: 3.7 ms alone, 9.0 ms beside one busy thread, 3.9 ms with this setting)."""


@dataclass(frozen=True, slots=True)
class AgentStatistics:
    """Everything that the parts count, at one moment."""

    pipeline: PipelineStatistics
    publisher: PublisherStatistics


class Agent:
    """One run of the agent in this process.

    ``run`` may be called once, on the main thread where signals are to be heeded. ``extra_sinks`` see every message
    besides the broker.
    """

    def __init__(
        self,
        loaded: LoadedConfig,
        *,
        extra_sinks: Sequence[Sink] = (),
        clock: Clock | None = None,
        notifier: Notifier | None = None,
    ) -> None:
        self._loaded = loaded
        self._extra_sinks = tuple(extra_sinks)
        self._clock = clock or SystemClock()
        self._notifier = notifier or Notifier(None)
        self._hangs = HangWatch()
        self._resources = ExitStack()
        self._stop_requested = False
        self._reload_requested = False
        self._last_resort = LastResort()
        self._signals = 0
        self._watchdog_due_s = 0.0
        self._outcome = _FAULT
        self._exit_code = _FAULT_CODE
        self._announcing = threading.Lock()

    def run(self, *, for_s: float | None = None, on_ready: Callable[[], None] | None = None) -> None:
        """Work until a signal, `request_stop`, the end of every file, or ``for_s`` seconds after being ready.

        Raises:
            AgentError, EngineError: it could not start, or had to end; everything has been closed.
        """
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        successor = self._run_once(for_s, on_ready)
        while successor is not None:
            # Another device id, say, which is part of every topic: everything is opened anew, in the same process.
            self._loaded = successor
            successor = self._run_once(for_s, None)

    def _run_once(self, for_s: float | None, on_ready: Callable[[], None] | None) -> LoadedConfig | None:
        """From start-up to shutdown; the configuration to go on with, None to end."""
        self._outcome, self._exit_code = _FAULT, _FAULT_CODE
        successor = None
        try:
            self.startup()
            if on_ready is not None and not self._stop_requested:
                on_ready()
            successor = self.main_loop(for_s)
            self._outcome, self._exit_code = "stopped as it was told to, or at the end of its files", 0
        except (AgentError, EngineError) as exc:
            self._outcome, self._exit_code = f"failed with exit code {exc.exit_code}: {exc.message}", exc.exit_code
            if isinstance(exc, EngineLost):
                # Nothing on the device works any more: be gone soon, however long a camera or a broker takes to stop.
                log.critical("engine.lost", error=exc.message)
                self._record_exit()
                self._last_resort.arm(_LOST_WITHIN_S, exc.exit_code)
            raise
        finally:
            if successor is None:
                self._notifier.stopping()
            self.shutdown()
            self._last_resort.disarm()
        return successor

    def request_stop(self) -> None:
        """Ask `run` to return; any thread."""
        self._stop_requested = True

    def handle_signals(self) -> None:
        """Stop at SIGTERM and SIGINT, at once at the second one; reload at SIGHUP. Main thread only."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGHUP, self._on_hangup)

    @property
    def broker_address(self) -> BrokerAddress:
        """Where the broker is; known once `run` calls ``on_ready``."""
        return self._uplink.address

    @property
    def is_stop_requested(self) -> bool:
        """A signal came, or `request_stop` was called."""
        return self._stop_requested

    def request_reload(self) -> None:
        """Ask for the configuration to be read again; any thread."""
        self._reload_requested = True

    def statistics(self) -> AgentStatistics:
        """From any thread, between ``on_ready`` and the end of `run` and after it."""
        return AgentStatistics(self._pipeline.statistics(), self._uplink.publisher.statistics())

    def startup(self) -> None:
        """Open everything, in the order in which it depends on each other."""
        loaded = self._loaded = with_kept_changes(self._loaded)
        enter = self._resources.enter_context
        for warning in loaded.warnings:
            log.warning("config.warning", text=warning)
        self._state = enter(StateDirectory(loaded.state_dir))
        self._failures = FailedStarts(loaded.state_dir, loaded.sha256)
        self._resources.callback(self._record_exit)
        if not self._hold_back():
            return
        packages = load_packages(loaded)
        identity = self._identity = self._make_identity(self._state.session)
        self._reporter = Reporter(identity, self._hangs, clock=self._clock)
        uplink = self._uplink = Uplink(
            loaded,
            identity,
            clock=self._clock,
            extra_sinks=self._extra_sinks,
            on_result_sent=self._reporter.result_sent,
        )
        self._resources.callback(uplink.close)
        self._pipeline = self._make_pipeline(packages)
        # Closed in reverse: the pipeline stops first, so that the last words hold the final figures.
        self._thermal = ThermalInForce(loaded.config.thermal, self._make_monitor, on_decision=self._obey)
        parts = self._parts = ReportedParts(self._pipeline, uplink.publisher, self._thermal)
        self._resources.callback(self._reporter.send_last_words, parts)
        enter(self._pipeline)
        self._resources.callback(self._thermal.stop)
        self._reloader = self._make_reloader(packages)
        self._resources.callback(self._reloader.stop)
        self._desk = make_desk(
            lambda: self._loaded, identity, uplink.inbound, parts, self._reloader, clock=self._clock
        )
        self._resources.callback(self._desk.stop, 1.0)
        self._resources.callback(self._reloader.abandon)
        self._news = EngineNews(self._notifier, usual=self._status)
        uplink.publisher.start()
        self._thermal.start()
        self._pipeline.start_workers()
        self._environment = describe()
        self._wait_for_engines()
        if self._stop_requested:
            return
        self._announce(loaded, packages)
        self._pipeline.start_cameras()
        self._notifier.ready(self._status())
        self._failures.ready()
        log.info("agent.ready", device=identity.device, session=identity.session, config_sha256=loaded.sha256[:12])

    def main_loop(self, for_s: float | None = None) -> LoadedConfig | None:
        """Watch over the threads until there is a reason to end; a configuration where everything is to start anew.

        Raises:
            AgentError, EngineError: a thread ended by an exception, or hangs; or the files that were to be read gave
                not one frame.
        """
        began_s = time.monotonic()
        while not self._stop_requested:
            self._check()
            self._feed_watchdog()
            self._reporter.tick(self._parts)
            self._uplink.tick()
            self._tell_of_engines()
            if self._pipeline.is_done:
                log.info("agent.sources_ended")
                self._refuse_silence()
                return None
            if for_s is not None and time.monotonic() - began_s >= for_s:
                return None
            if self._reload_requested:
                self._reload_requested = False
                self._reloader.request()
            self._reloader.tick()
            if self._reloader.successor is not None:
                return self._reloader.successor
            time.sleep(_TICK_S)
        return None

    def _refuse_silence(self) -> None:
        """Every source has ended: one that gave nothing may be a slip, all of them are a failure."""
        cameras = [camera.statistics() for camera in self._pipeline.cameras.values()]
        if any(camera.counts.captured for camera in cameras):
            return
        reasons = "; ".join(f"{camera.name}: {camera.error or 'the source holds no frame'}" for camera in cameras)
        raise SourceUnavailable(f"no camera gave a frame, and all of them have ended: {reasons}")

    def shutdown(self) -> None:
        """Close everything in reverse; harmless when repeated."""
        self._resources.close()

    def _hold_back(self) -> bool:
        """After several failed starts that a service manager repeats, wait; False when told to stop meanwhile."""
        wait_s = self._failures.wait_s() if self._notifier.is_listened_to else 0.0
        if wait_s:
            why = f"{self._failures.count} starts in a row failed, the last one {self._state.previous_exit}"
            log.warning("agent.holds_back", seconds=wait_s, why=why)
            self._notifier.extend_timeout(wait_s + _START_WITHIN_S, f"Waits {wait_s:.0f} s: {why}")
        until_s = time.monotonic() + wait_s
        while not self._stop_requested and time.monotonic() < until_s:
            time.sleep(_TICK_S)
        return not self._stop_requested

    def _record_exit(self) -> None:
        self._failures.note(self._exit_code)
        self._state.record_exit(self._outcome)

    def _check(self) -> None:
        self._pipeline.check()
        if self._thermal.failure is not None:
            raise StageFailed(f"the thermal monitor ended by {self._thermal.failure!r}") from self._thermal.failure
        if self._desk.failure is not None:
            raise StageFailed(f"the commands ended by {self._desk.failure!r}") from self._desk.failure
        if self._uplink.publisher.failure is not None:
            raise self._uplink.publisher.failure
        for worker in self._pipeline.workers.values():
            self._hangs.look(worker.statistics(), worker.interrupt)

    def _feed_watchdog(self) -> None:
        """Tell the service manager that every stage turns; where one does not, leave word why and be restarted."""
        now_s = time.monotonic()
        if self._notifier.watchdog_s is None or now_s < self._watchdog_due_s:
            return
        self._watchdog_due_s = now_s + self._notifier.watchdog_s / 3
        stuck = stuck_stages((*self._pipeline.hearts, self._uplink.publisher.heartbeat))
        if not stuck:
            self._notifier.alive()
            return
        why = "; ".join(map(str, stuck))
        log.error("watchdog.not_fed", stuck=why)
        self._notifier.status(f"Stuck: {why}")
        self._state.record_exit(f"the watchdog was not fed: {why}")

    def _make_identity(self, session: int) -> Identity:
        return Identity(
            device=self._loaded.device_id,
            session=session,
            agent=agent.__version__,
            started=utc_text(self._clock.utc_ns()),
            topics=Topics(self._loaded.config.mqtt.prefix, self._loaded.device_id),
        )

    def _make_reloader(self, packages: Mapping[str, ModelPackage]) -> Reloader:
        return Reloader(
            self._loaded,
            packages,
            self._pipeline,
            others=(self._uplink.prepare, self._thermal.prepare),
            on_applied=self._announce,
            amend=with_kept_changes,
        )

    def _make_pipeline(self, packages: Mapping[str, ModelPackage]) -> Pipeline:
        make = partial(make_source, base_dir=self._loaded.base_dir, clock=self._clock)
        return Pipeline(
            self._loaded.config,
            packages,
            Parts(self._open_engine, make),
            clock=self._clock,
            emit=self._uplink.publisher.offer,
            on_camera_change=self._reporter.camera_changed,
        )

    def _make_monitor(self, config: ThermalConfig) -> ThermalMonitor:
        meter = RateMeter(self._pipeline)
        return ThermalMonitor(
            config,
            make_sensor(config, clock=self._clock, rate_hz=meter.rate_hz),
            clock=self._clock,
            device=self._identity.device,
            session=self._identity.session,
            on_decision=self._obey,
            on_message=self._uplink.publisher.offer,
        )

    def _obey(self, decision: GovernorDecision) -> None:
        """Runs on the thermal monitor's thread."""
        self._pipeline.set_ratio(decision.ratio)

    def _open_engine(self, key: str, config: ModelConfig, package: ModelPackage, building: Building) -> Engine:
        """Runs on a thread of the worker's."""
        options = EngineOptions(
            engine=config.engine,
            precision=config.precision,
            strict=config.strict,
            max_batch=config.batching.most,
            options=config.options,
            cache_dir=self._state.cache_dir,
            workers=len(self._pipeline.workers),
            building=building,
        )
        try:
            engine = open_engine(package, options)
        except OptionsRejected as exc:
            raise OptionsRejected(self._with_place(key, config, exc), model=key, **exc.fields) from exc
        info = engine.info
        log.info("engine.loaded", model=key, engine=info.name, precision=info.precision, load_ms=round(info.load_ms))
        if info.degraded is not None:
            log.warning("engine.degraded", model=key, reason=info.degraded)
        return engine

    def _with_place(self, key: str, config: ModelConfig, error: OptionsRejected) -> str:
        option = error.fields.get("option")
        path = ("models", key, "options", option) if isinstance(option, str) else ("models", key)
        document = self._loaded.document
        if config != self._loaded.config.models.get(key):
            # It is of a configuration that is not in force yet, where it may stand on another line.
            return f"{dotted(path)}: {error.message}"
        return at(document, path, error.message).text(document.name)

    def _wait_for_engines(self) -> None:
        """Wait for every worker, and say that we still do."""
        for worker in self._pipeline.workers.values():
            while not self._stop_requested and not worker.wait_ready(_TICK_S):
                self._news.wait(worker.statistics())
                self._reporter.tick(self._parts)

    def _announce(self, loaded: LoadedConfig, packages: Mapping[str, ModelPackage]) -> None:
        """A configuration is in force. Called on the main thread, and on those that go over to another one."""
        with self._announcing:
            self._loaded = loaded
            cameras = loaded.config.cameras
            self._reporter.set_disabled([name for name, camera in cameras.items() if not camera.enabled])
            self._say_what_runs(packages)

    def _tell_of_engines(self) -> None:
        """A plan that was built meanwhile has taken over, or could not: subscribers are to know."""
        changed = self._news.changes(self._pipeline.worker_statistics(), arriving=self._pipeline.arriving_statistics())
        if changed is not None:
            with self._announcing:
                packages = {key: worker.package for key, worker in self._pipeline.workers.items()}
                self._say_what_runs(packages, changed=changed)

    def _say_what_runs(self, packages: Mapping[str, ModelPackage], *, changed: str | None = None) -> None:
        runtime = runtime_message(
            self._loaded,
            packages,
            self._pipeline,
            identity=self._identity,
            environment=self._environment,
            at=utc_text(self._clock.utc_ns()),
            previous_exit=self._state.previous_exit,
            changed=changed,
        )
        self._uplink.announce(self._loaded, runtime)
        self._notifier.status(self._status())

    def _status(self) -> str:
        engines = {worker.info.name for worker in self._pipeline.statistics().workers if worker.info is not None}
        return f"{len(self._pipeline.cameras)} camera(s), engine {', '.join(sorted(engines))}"

    def _on_hangup(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the handler's signature
        self._reload_requested = True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the handler's signature
        # Only plain attributes: anything with a lock can deadlock in a handler that interrupts itself.
        self._signals += 1
        self._stop_requested = True
        if self._signals > 1:
            os._exit(128 + number)
