"""Builds every part of the agent from one configuration; a frame travels through them like this:

    source ─► camera thread ─► batcher ─► worker thread (resize, engine, decide) ─► publisher thread ─► sink
     sensor ─► thermal monitor (governor) ─► levers and rate of every camera     main thread: signals, supervision

Nothing runs yet when ``build`` returns; ``agent.supervise`` starts and supervises the parts, ``agent.app`` stops them.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import agent
from agent.cameras.sources.choose import make_source
from agent.commands.explanation import explain_camera
from agent.commands.handlers import CommandHandlers, HandlerParts
from agent.commands.overrides import forget_edited, with_kept_changes
from agent.commands.server import CommandCounters, CommandServer
from agent.config.loader import LoadedConfig
from agent.config.overridden import file_config
from agent.config.sections.thermal import ThermalConfig
from agent.daemon.control import ControlSocket
from agent.daemon.notify import Notifier
from agent.daemon.state_directory import StateDirectory
from agent.inference.engine_opening import EngineOpener
from agent.inference.heat_levers import CoolerEngines, LargeBatches
from agent.inference.pipeline import Parts as PipelineParts
from agent.inference.pipeline import Pipeline, RateMeter
from agent.inference.supervision import HangMonitor
from agent.mqtt.base import Received, Sink
from agent.mqtt.identity import Identity
from agent.mqtt.messages import utc_text
from agent.mqtt.topics import Topics
from agent.publish.uplink import Uplink
from agent.reload import Reloader, load_packages
from agent.runtime.clock import Clock
from agent.runtime.clock_sync import ClockWatch
from agent.runtime.errors import BROKEN_IMPORT, PartMissing
from agent.runtime.logs import watch_warnings
from agent.telemetry.reporter import ReportedParts, Reporter
from agent.telemetry.runtime import RuntimeAnnouncer
from agent.telemetry.thermal import thermal_message
from agent.thermal.clocks import clock_levers
from agent.thermal.decision import GovernorDecision
from agent.thermal.levers import Lever
from agent.thermal.minutes import FILE_NAME as MINUTES_NAME
from agent.thermal.minutes import MinuteFile, minutes_for_people, read_minutes
from agent.thermal.monitor import ThermalMonitor
from agent.thermal.reloadable import ReloadableMonitor
from agent.thermal.sensors.base import Sensor
from agent.thermal.sensors.choose import make_sensor
from engines import ModelPackage

if TYPE_CHECKING:
    from agent.web.metrics.exposition import Metrics, MetricsFile
    from agent.web.metrics.family import Sources
    from agent.web.page.feed import PageFeed
    from agent.web.page.sources import PageSources
    from agent.web.service import WebService

_COMMAND_IDS = "commands.json"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What does not depend on the configuration; shared by all configurations of this process."""

    clock: Clock
    notifier: Notifier
    control: ControlSocket
    extra_sinks: Sequence[Sink]


@dataclass(frozen=True, slots=True)
class Parts:
    """All parts. ``announcer.loaded`` is the configuration in force. ``web`` is None unless `serve` has an address."""

    surroundings: Surroundings
    identity: Identity
    packages: Mapping[str, ModelPackage]
    state: StateDirectory
    pipeline: Pipeline
    uplink: Uplink
    thermal: ReloadableMonitor
    commands: CommandServer
    reloader: Reloader
    reporter: Reporter
    reported: ReportedParts
    announcer: RuntimeAnnouncer
    hang_monitor: HangMonitor
    web: WebService | None
    metrics_file: MetricsFile | None


def build(loaded: LoadedConfig, state: StateDirectory, surroundings: Surroundings, resources: ExitStack) -> Parts:
    """Make the parts for ``loaded``; ``resources`` closes them in reverse, also those opened before an error.

    Raises:
        AgentError, EngineError: the configuration cannot be used here.
    """
    forget_edited(loaded)
    clock, packages = surroundings.clock, load_packages(loaded)
    identity, hang_monitor = _identity(loaded, state.session, clock), HangMonitor()
    reporter, feed = Reporter(identity, hang_monitor, clock=clock), _page_feed(loaded, identity, clock, resources)
    sinks = (*surroundings.extra_sinks, *([] if feed is None else [feed]))
    uplink = Uplink(loaded, identity, clock=clock, extra_sinks=sinks, on_result_sent=reporter.result_sent)
    resources.callback(uplink.close)
    opener = EngineOpener(
        lambda: announcer.loaded, cache_dir=lambda: state.cache_dir, workers=lambda: len(pipeline.workers)
    )
    pipeline = _pipeline(loaded, packages, opener, uplink, reporter, clock)
    announcer = RuntimeAnnouncer(
        loaded, identity, pipeline, uplink, reporter, previous_exit=state.previous_exit, clock=clock
    )
    monitors = _Monitors(pipeline, opener, uplink, identity, state, clock)
    thermal = ReloadableMonitor(loaded.config.thermal, monitors.make, on_decision=monitors.apply_decision)
    reported = ReportedParts(pipeline, uplink.publisher, thermal, (counters := CommandCounters()).counts)
    # Closed in reverse: the pipeline stops first, so that the final report holds the final figures.
    resources.callback(reporter.send_final_report, reported)
    resources.enter_context(pipeline)
    resources.callback(thermal.stop)
    reloader = _reloader(loaded, packages, pipeline, uplink, thermal, announcer, resources)
    commands = _command_server(lambda: announcer.loaded, identity, uplink, pipeline, reloader, counters, clock=clock)
    page = None if feed is None else _page(feed, identity, pipeline, announcer, state, commands.offer)
    web, metrics_file = _web(loaded, identity, reported, reporter, reloader, resources, page)
    resources.callback(commands.stop, 1.0)
    resources.callback(reloader.abandon)
    return Parts(
        surroundings=surroundings,
        identity=identity,
        packages=packages,
        state=state,
        pipeline=pipeline,
        uplink=uplink,
        thermal=thermal,
        commands=commands,
        reloader=reloader,
        reporter=reporter,
        reported=reported,
        announcer=announcer,
        hang_monitor=hang_monitor,
        web=web,
        metrics_file=metrics_file,
    )


def _identity(loaded: LoadedConfig, session: int, clock: Clock) -> Identity:
    return Identity(
        device=loaded.device_id,
        session=session,
        agent=agent.__version__,
        started=utc_text(clock.utc_ns()),
        topics=Topics(loaded.config.mqtt.prefix, loaded.device_id),
    )


def _pipeline(
    loaded: LoadedConfig,
    packages: Mapping[str, ModelPackage],
    opener: EngineOpener,
    uplink: Uplink,
    reporter: Reporter,
    clock: Clock,
) -> Pipeline:
    return Pipeline(
        loaded.config,
        packages,
        PipelineParts(
            opener.open, partial(make_source, base_dir=loaded.base_dir, clock=clock, state_dir=loaded.state_dir)
        ),
        clock=clock,
        emit=uplink.publisher.offer,
        on_camera_change=reporter.camera_changed,
    )


def _reloader(
    loaded: LoadedConfig,
    packages: Mapping[str, ModelPackage],
    pipeline: Pipeline,
    uplink: Uplink,
    thermal: ReloadableMonitor,
    announcer: RuntimeAnnouncer,
    resources: ExitStack,
) -> Reloader:
    """What reads the configuration again; ``resources`` stops it."""

    def applied(changed: LoadedConfig, served: Mapping[str, ModelPackage]) -> None:
        announcer.applied(changed, served)
        forget_edited(changed)

    reloader = Reloader(
        loaded,
        packages,
        pipeline,
        others=(uplink.prepare, thermal.prepare),
        on_applied=applied,
        expect_cameras=uplink.expect,
        amend=with_kept_changes,
    )
    resources.callback(reloader.stop)
    return reloader


def _metrics(loaded: LoadedConfig, identity: Identity, parts: ReportedParts, reporter: Reporter) -> Metrics | None:
    """The figures for Prometheus; None if nothing serves or writes them."""
    if not loaded.config.serve.is_on and loaded.config.serve.metrics_file is None:
        return None
    with _serve_part():
        from agent.web.metrics.collector import AgentCollector
        from agent.web.metrics.exposition import Metrics
    sources = replace(
        metric_sources(parts.pipeline, device=identity.device),
        publisher=parts.publisher.statistics,
        thermal=parts.thermal.statistics,
        commands=parts.commands,
    )
    reporter.watch_times(sources.histograms.observe)
    return Metrics(AgentCollector(sources))


def metric_sources(pipeline: Pipeline, *, device: str) -> Sources:
    """The figures of cameras, models and requests."""
    from agent.web.metrics.family import Sources

    return Sources(
        version=agent.__version__,
        device=device,
        started_unix_s=time.time(),
        pipeline=pipeline.statistics,
        served=lambda: {name: pipeline.request_statistics(name) for name in pipeline.config.served_models},
    )


def _metrics_file(loaded: LoadedConfig, metrics: Metrics) -> MetricsFile | None:
    path = loaded.config.serve.metrics_file
    if path is None:
        return None
    from agent.web.metrics.exposition import MetricsFile

    return MetricsFile(loaded.resolve(path), metrics)


def _page_feed(loaded: LoadedConfig, identity: Identity, clock: Clock, resources: ExitStack) -> PageFeed | None:
    """What keeps the messages for the page; None without one. ``resources`` ends its look at the log."""
    if not loaded.config.serve.page:
        return None
    from agent.web.page.feed import PageFeed

    feed = PageFeed(identity.topics, clock)
    resources.callback(watch_warnings(feed.log))
    return feed


def _page(
    feed: PageFeed,
    identity: Identity,
    pipeline: Pipeline,
    announcer: RuntimeAnnouncer,
    state: StateDirectory,
    receive: Callable[[Received], bool],
) -> PageSources:
    """What the page shows beside the messages in ``feed``, and where its commands go."""
    from agent.web.page.bundle import support_bundle
    from agent.web.page.sources import PageSources

    loaded = announcer.loaded
    commands = loaded.config.mqtt.commands
    return PageSources(
        feed=feed,
        topics=identity.topics,
        agent=identity.agent,
        verbs=tuple(commands.allow) if commands.enabled else (),
        newest_frame=lambda camera: pipeline.cameras[camera].newest_frame(),
        explain=lambda camera: explain_camera(camera, announcer.loaded.config.cameras[camera], pipeline),
        receive=receive,
        heat=lambda: minutes_for_people(read_minutes(state.path / MINUTES_NAME)),
        reports_dir=lambda: announcer.loaded.resolve(announcer.loaded.config.serve.reports_dir),
        bundle=partial(support_bundle, loaded.path),
    )


def _web(
    loaded: LoadedConfig,
    identity: Identity,
    parts: ReportedParts,
    reporter: Reporter,
    reloader: Reloader,
    resources: ExitStack,
    page: PageSources | None,
) -> tuple[WebService | None, MetricsFile | None]:
    """The server for programs and the writer of `serve.metrics_file`, which ``resources`` ends; None without one."""
    metrics = _metrics(loaded, identity, parts, reporter)
    if metrics is None:
        return None, None
    if (writer := _metrics_file(loaded, metrics)) is not None:
        resources.callback(writer.remove)
    if not loaded.config.serve.is_on:
        return None, writer
    web = make_web(loaded, parts.pipeline, reloader, metrics, page)
    reloader.add(web.prepare, drop=web.drop)
    resources.callback(web.stop)
    return web, writer


def make_web(
    loaded: LoadedConfig,
    pipeline: Pipeline,
    reloader: Reloader,
    metrics: Metrics | None = None,
    page: PageSources | None = None,
) -> WebService:
    """The server for programs; its libraries are imported here, so that an agent without one does not load them.

    Without ``metrics`` it has those of cameras, models and requests.

    Raises:
        Unavailable: they cannot be imported (PartMissing), or the address is in use.
        ConfigError: the tokens or the certificate cannot be used.
    """
    with _serve_part():
        from agent.web.metrics.collector import AgentCollector
        from agent.web.metrics.exposition import Metrics
        from agent.web.served_models import ModelControl, ServedModels
        from agent.web.service import WebService
    models = ServedModels(pipeline, ModelControl(reloader.load_model, reloader.unload_model))
    if metrics is None:
        metrics = Metrics(AgentCollector(metric_sources(pipeline, device=loaded.device_id)))
    return WebService(loaded, models, metrics, page)


def require_serve_part() -> None:
    """Import the libraries of the server for programs.

    Raises:
        PartMissing: one is missing or damaged.
    """
    with _serve_part():
        importlib.import_module("agent.web.service")


@contextmanager
def _serve_part() -> Iterator[None]:
    """Imports of libraries that only `serve` needs."""
    try:
        yield
    except BROKEN_IMPORT as exc:
        raise PartMissing("the server for programs, with its page and metrics,", "serve", exc) from exc


@dataclass(frozen=True, slots=True)
class _Monitors:
    """Makes the thermal monitor of each configuration."""

    pipeline: Pipeline
    opener: EngineOpener
    uplink: Uplink
    identity: Identity
    state: StateDirectory
    clock: Clock

    def make(self, config: ThermalConfig) -> ThermalMonitor:
        """See ReloadableMonitor."""
        meter = RateMeter(self.pipeline)
        sensor = make_sensor(config, clock=self.clock, rate_hz=meter.rate_hz)
        return ThermalMonitor(
            config,
            sensor,
            clock=self.clock,
            on_decision=self.apply_decision,
            on_snapshot=lambda snapshot: self.uplink.publisher.offer(thermal_message(snapshot, self.identity)),
            levers=self._levers(config, sensor),
            minutes=MinuteFile(self.state.path / MINUTES_NAME),
        )

    def _levers(self, config: ThermalConfig, sensor: Sensor) -> list[Lever]:
        cooler = CoolerEngines(self.pipeline, self.opener, cache_dir=self.state.cache_dir)
        clocks = clock_levers(config, sensor, state_dir=self.state.path)
        return [LargeBatches(self.pipeline), cooler, *clocks]

    def apply_decision(self, decision: GovernorDecision) -> None:
        """Runs on the thermal monitor's thread."""
        self.pipeline.set_ratio(decision.ratio)


def _command_server(
    in_force: Callable[[], LoadedConfig],
    identity: Identity,
    uplink: Uplink,
    pipeline: Pipeline,
    reloader: Reloader,
    counters: CommandCounters,
    *,
    clock: Clock,
) -> CommandServer:
    """The command server, started if commands are enabled."""
    loaded = in_force()

    def base() -> LoadedConfig:
        now = in_force()
        return replace(now, config=file_config(now))

    handlers = CommandHandlers(
        HandlerParts(
            pipeline=pipeline,
            topics=identity.topics,
            state_dir=loaded.state_dir,
            base=base,
            publish=uplink.publisher.offer,
            adjust=reloader.adjust,
            reload=reloader.reload_now,
            rebirth=uplink.publisher.rebirth,
        )
    )
    config = loaded.config.mqtt.commands
    server = CommandServer(
        config,
        identity,
        handlers,
        uplink.publisher.offer,
        ids_file=loaded.state_dir / _COMMAND_IDS,
        clock=clock,
        clock_state=ClockWatch().state,
        counters=counters,
    )
    if config.enabled:
        for topic in server.subscriptions:
            uplink.inbound.listen(topic, server.receive)
        server.start()
    return server
