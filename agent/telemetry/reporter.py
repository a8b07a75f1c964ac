"""Decides when the messages about the agent itself are due, and collects their figures."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from agent.inference.pipeline import Pipeline
from agent.inference.supervision import HangMonitor
from agent.mqtt.identity import Identity
from agent.mqtt.messages import (
    Connection,
    EngineBuild,
    Health,
    InboundHealth,
    Latency,
    ModelHealth,
    Process,
    ThermalHealth,
    utc_text,
)
from agent.publish.publisher import Publisher, PublisherStatistics
from agent.runtime.clock import Clock
from agent.runtime.records import Classification, StageTimes
from agent.telemetry.process import ProcessMeter, ProcessStatistics
from agent.telemetry.reports import (
    camera_accounting,
    camera_health,
    camera_uses,
    classifier_accounting,
    disabled_health,
    model_latency,
    publisher_health,
)
from agent.telemetry.starvation import StarvationMonitor
from agent.thermal.monitor import ThermalStatistics
from agent.thermal.reloadable import ReloadableMonitor

LATENCY_EVERY_NS = 5 * 1_000_000_000
HEALTH_EVERY_NS = 10 * 1_000_000_000
CAMERA_HEALTH_EVERY_NS = 10 * 1_000_000_000
_TIMES_KEPT = 100_000


@dataclass(frozen=True, slots=True)
class ReportedParts:
    """The parts that are reported on."""

    pipeline: Pipeline
    publisher: Publisher
    thermal: ReloadableMonitor
    commands: Callable[[], Mapping[str, int]] = dict
    """Counts of commands by outcome."""


class Reporter:
    """Publishes `latency`, `health` and the cameras' health when they are due.

    ``camera_changed``, ``configured`` and ``result_sent`` may be called from any thread, the rest from the main
    loop.
    """

    def __init__(self, identity: Identity, hangs: HangMonitor, *, clock: Clock) -> None:
        self._hang_monitor = hangs
        self._identity = identity
        self._clock = clock
        self._meter = ProcessMeter()
        self._on_times: Callable[[str, Sequence[StageTimes]], None] | None = None
        self._changed: deque[str] = deque()
        self._disabled: frozenset[str] = frozenset()
        self._publish_ms: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_TIMES_KEPT))
        now_ns = clock.monotonic_ns()
        self._building: set[str] = set()
        self._starvation = StarvationMonitor(now_ns)
        self._started_ns = now_ns
        self._window_began_ns = now_ns
        self._latency_due_ns = now_ns + LATENCY_EVERY_NS
        self._health_due_ns = now_ns
        self._cameras_due_ns = now_ns

    def watch_times(self, on_times: Callable[[str, Sequence[StageTimes]], None]) -> None:
        """Call ``on_times`` with a model and the stage times of its frames, every few seconds on the main thread."""
        self._on_times = on_times

    def camera_changed(self, name: str) -> None:
        """The camera's state has changed: send its health at the next tick."""
        self._changed.append(name)

    def configured(self, names: Collection[str], *, disabled: Collection[str]) -> None:
        """Other cameras are in force: send the health of each at the next tick, also of those without a frame yet.

        A reload may have replaced a camera that was connected by one that is not, and retained health would say
        otherwise until the next period. ``disabled`` are those of ``names`` that are switched off.
        """
        self._disabled = frozenset(disabled)
        self._changed.extend(names)

    def result_sent(self, result: Classification, sent_ns: int) -> None:
        """The result was handed to the network at monotonic ``sent_ns``."""
        self._publish_ms[result.served.key].append((sent_ns - result.decided_at_ns) / 1e6)

    def tick(self, parts: ReportedParts) -> None:
        """Publish what is due."""
        now_ns = self._clock.monotonic_ns()
        if now_ns >= self._latency_due_ns:
            self._latency_due_ns = now_ns + LATENCY_EVERY_NS
            parts.publisher.offer(self._latency(parts))
        if now_ns >= self._cameras_due_ns:
            self._cameras_due_ns = now_ns + CAMERA_HEALTH_EVERY_NS
            self._changed.extend((*parts.pipeline.cameras, *self._disabled))
        uses = (use for camera in parts.pipeline.cameras.values() for use in camera_uses(camera))
        self._changed.extend(self._starvation.tick(uses, now_ns))
        if self._changed:
            self._send_camera_health(parts)
        building = {key for key, worker in parts.pipeline.workers.items() if worker.statistics().building is not None}
        if now_ns >= self._health_due_ns or building != self._building:
            self._building = building
            self._health_due_ns = now_ns + HEALTH_EVERY_NS
            parts.publisher.offer(self._health(parts))

    def send_final_report(self, parts: ReportedParts) -> None:
        """Publish the final counters, after the pipeline has stopped."""
        self._changed.extend(parts.pipeline.cameras)
        self._send_camera_health(parts)
        parts.publisher.offer(self._latency(parts))
        parts.publisher.offer(self._health(parts))

    def _send_camera_health(self, parts: ReportedParts) -> None:
        names = {self._changed.popleft() for _ in range(len(self._changed))}
        cameras = parts.pipeline.cameras
        for name in sorted(names):
            device, session, now_ns = self._identity.device, self._identity.session, self._clock.utc_ns()
            if name in cameras:
                seen = cameras[name].statistics()
                starved = self._starvation.reasons.get(name)
                parts.publisher.offer(
                    camera_health(seen, device=device, session=session, utc_ns=now_ns, starved=starved)
                )
            elif name in self._disabled:
                parts.publisher.offer(disabled_health(name, device=device, session=session, utc_ns=now_ns))
            # Any other name has just left the configuration.

    def _latency(self, parts: ReportedParts) -> Latency:
        models = {}
        for key, worker in parts.pipeline.workers.items():
            times = worker.take_times()
            for stages, _ in times:
                self._hang_monitor.add_call(key, stages.infer_ms)
            if self._on_times is not None:
                self._on_times(key, [stages for stages, _ in times])
            published = self._publish_ms[key]
            models[key] = model_latency(times, [published.popleft() for _ in range(len(published))])
        now_ns = self._clock.monotonic_ns()
        window_s = (now_ns - self._window_began_ns) / 1e9
        throttled = parts.thermal.throttled_between(self._window_began_ns, now_ns)
        self._window_began_ns = now_ns
        return Latency(
            device=self._identity.device,
            session=self._identity.session,
            at=utc_text(self._clock.utc_ns()),
            window_s=round(window_s, 3),
            throttled=throttled,
            models=models,
        )

    def _health(self, parts: ReportedParts) -> Health:
        process, pipeline, publisher = self._meter.read(), parts.pipeline.statistics(), parts.publisher.statistics()
        return Health(
            device=self._identity.device,
            session=self._identity.session,
            at=utc_text(self._clock.utc_ns()),
            uptime_s=round((self._clock.monotonic_ns() - self._started_ns) / 1e9, 3),
            cameras={camera.name: camera_accounting(camera.counts) for camera in pipeline.cameras},
            classifiers={
                camera.name: {
                    name: classifier_accounting(counts) for name, counts in camera.counts.classifiers.items()
                }
                for camera in pipeline.cameras
            },
            models={
                worker.model: ModelHealth(
                    engine=worker.info.name, precision=worker.info.precision, degraded=worker.info.degraded
                )
                for worker in pipeline.workers
                if worker.info is not None
            },
            builds={
                worker.model: EngineBuild(
                    engine=build.engine,
                    phase=build.phase,
                    elapsed_s=round(build.elapsed_s, 1),
                    done_ratio=build.done_ratio,
                )
                for worker in pipeline.workers
                if (build := worker.building) is not None
            },
            publisher=publisher_health(publisher, self._clock.monotonic_ns()),
            commands=dict(parts.commands()),
            process=_process(process),
            connection=_connection(publisher),
            thermal=_thermal(parts.thermal.statistics()),
            inbound=InboundHealth(rejected=dict(publisher.connection.rejected)),
        )


def _process(usage: ProcessStatistics) -> Process:
    return Process(
        rss_mib=round(usage.rss_bytes / 2**20, 1),
        cpu_percent=round(100.0 * usage.cpu_ratio, 1),
        threads=usage.threads,
        fds=usage.fds,
    )


def _connection(publisher: PublisherStatistics) -> Connection:
    connection = publisher.connection
    return Connection(
        state=connection.state,
        broker=connection.address,
        protocol=connection.protocol,
        since=utc_text(connection.since_utc_ns),
        reason=connection.reason,
        reconnects=connection.reconnects,
        others={other.address: other.problem for other in connection.others},
        protocol_reason=connection.protocol_reason,
        limits=connection.limits,
    )


def _thermal(thermal: ThermalStatistics) -> ThermalHealth:
    return ThermalHealth(
        source=thermal.source,
        hottest_zone=thermal.hottest_zone,
        hottest_celsius=thermal.hottest_celsius,
        total_watts=None if thermal.total_watts is None else round(thermal.total_watts, 3),
        throttled=thermal.is_throttling,
        throttle_causes=dict(thermal.throttle_causes),
        over_current_hz={name: round(rate, 3) for name, rate in thermal.over_current_hz.items()},
        governor=thermal.state,
        rate_ratio=thermal.rate_ratio,
    )
