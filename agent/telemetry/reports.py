"""From the statistics of the parts to the messages about the agent itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from agent.cameras.camera import Camera, CameraStatistics
from agent.cameras.frame_counters import CameraCounts, ClassifierCounts
from agent.config.model import AgentConfig, ClassifierConfig
from agent.inference.fair_queue import DEFAULT_RATE_HZ
from agent.mqtt.messages import (
    CameraAccounting,
    CameraHealth,
    CameraRuntime,
    ClassifierAccounting,
    ClassifierRuntime,
    LabelRuntime,
    Line,
    ModelLatency,
    ModelRuntime,
    Percentiles,
    PublisherHealth,
    RejectedEngine,
    WaitingTopic,
    utc_text,
)
from agent.publish.publisher import PublisherStatistics
from agent.runtime.records import StageTimes
from agent.runtime.statistics import percentiles as percentiles_of
from agent.telemetry.starvation import CameraUse
from engines import EngineInfo, ModelPackage, Task

_MAX_WAITING = 20
"""Waiting topics that are named, those that have waited longest."""


def percentiles(values_ms: Sequence[float]) -> Percentiles | None:
    """Percentiles and maximum of ``values_ms``; None without values."""
    if not values_ms:
        return None
    p50, p95, p99, highest = (round(one, 4) for one in percentiles_of(values_ms, (50, 95, 99, 100)))
    return Percentiles(p50=p50, p95=p95, p99=p99, max=highest)


def model_latency(times: Sequence[tuple[StageTimes, int]], publish_ms: Sequence[float]) -> ModelLatency:
    """One model's window. ``times`` are the stage times of each frame, with the size of its batch."""
    stages = [stage for stage, _ in times]
    # Results are published in the order of their decisions, so the newest of both lists belong together.
    totals = [stage.total_ms for stage in stages]
    paired = min(len(totals), len(publish_ms))
    to_network = [a + b for a, b in zip(totals[-paired:], publish_ms[-paired:], strict=True)] if paired else []
    return ModelLatency(
        count=len(times),
        batch_mean=round(sum(size for _, size in times) / len(times), 3) if times else 0.0,
        capture=percentiles([stage.capture_ms for stage in stages]),
        queue=percentiles([stage.queue_ms for stage in stages]),
        preprocess=percentiles([stage.preprocess_ms for stage in stages]),
        infer=percentiles([stage.infer_ms for stage in stages]),
        decide=percentiles([stage.decide_ms for stage in stages]),
        publish=percentiles(publish_ms),
        total=percentiles(to_network),
    )


def camera_accounting(counts: CameraCounts) -> CameraAccounting:
    """The frame counters of one camera."""
    return CameraAccounting(
        captured=counts.captured,
        classified=counts.classified,
        dropped=dict(counts.dropped),
        in_flight=counts.in_flight,
    )


def classifier_accounting(counts: ClassifierCounts) -> ClassifierAccounting:
    """The frame counters of one classifier."""
    return ClassifierAccounting(
        offered=counts.offered,
        classified=counts.classified,
        skipped=counts.skipped,
        dropped=dict(counts.dropped),
        in_flight=counts.in_flight,
    )


def camera_health(
    statistics: CameraStatistics, *, device: str, session: int, utc_ns: int, starved: str | None = None
) -> CameraHealth:
    """The health of one camera."""
    age_s = statistics.last_frame_age_s
    counts = statistics.counts
    return CameraHealth(
        device=device,
        session=session,
        at=utc_text(utc_ns),
        camera=statistics.name,
        state=statistics.state,
        image_fault=statistics.image_fault,
        fps=round(statistics.fps, 2),
        captured=counts.captured,
        classified=counts.classified,
        dropped=dict(counts.dropped),
        in_flight=counts.in_flight,
        skipped=dict(statistics.skipped),
        reconnects=statistics.reconnects,
        last_frame_age_s=None if age_s is None else round(age_s, 3),
        error=statistics.error,
        starved=starved,
    )


def camera_uses(camera: Camera) -> Iterator[CameraUse]:
    """The camera's use of each of its models, over all of its classifiers."""
    counts, config = camera.counters.counts().classifiers, camera.config
    for model in {use.model for use in config.classify}:
        mine = [counts[use.key] for use in config.classify if use.model == model and use.key in counts]
        yield CameraUse(
            camera=camera.name,
            model=model,
            weight=config.rate_hz or DEFAULT_RATE_HZ,
            offered=sum(one.offered - one.skipped - one.in_flight for one in mine),
            classified=sum(one.classified for one in mine),
        )


def disabled_health(camera: str, *, device: str, session: int, utc_ns: int) -> CameraHealth:
    """The health of a camera that is configured as disabled."""
    return CameraHealth(
        device=device,
        session=session,
        at=utc_text(utc_ns),
        camera=camera,
        state="disabled",
        image_fault=None,
        fps=0.0,
        captured=0,
        classified=0,
        dropped={},
        in_flight=0,
        skipped={},
        reconnects=0,
        last_frame_age_s=None,
        error=None,
    )


def publisher_health(publisher: PublisherStatistics, now_ns: int) -> PublisherHealth:
    """The counters of messages at monotonic ``now_ns``."""
    delivery, line = publisher.delivery, publisher.line
    named = sorted(delivery.held.items(), key=lambda one: one[1].since_utc_ns)[:_MAX_WAITING]
    return PublisherHealth(
        sent=publisher.sent,
        dropped=dict(publisher.dropped),
        rate_limited=publisher.rate_limited,
        queued=publisher.queued,
        stored=publisher.stored,
        durability=publisher.durability,
        reason=publisher.durability_reason,
        denied=dict(publisher.denied),
        refused=dict(publisher.refused),
        rejected=dict(publisher.rejected),
        waiting={
            topic: WaitingTopic(
                reason=held.reason,
                since=utc_text(held.since_utc_ns),
                attempts=held.attempts,
                next_s=round(max(0, held.due_ns - now_ns) / 1e9, 1),
            )
            for topic, held in named
        },
        oldest_event_s=None if delivery.oldest_event_s is None else round(delivery.oldest_event_s, 3),
        line=Line(
            bytes_per_s=None if line.bytes_per_s is None else round(line.bytes_per_s, 1),
            queued_bytes=line.queued_bytes,
        ),
    )


def model_runtime(info: EngineInfo, package: ModelPackage) -> ModelRuntime:
    """One model and the engine that really runs it."""
    return ModelRuntime(
        name=package.name,
        version=package.version,
        sha256=package.sha256,
        engine=info.name,
        requested_engine=info.requested,
        precision=info.precision,
        requested_precision=info.requested_precision,
        placement=dict(info.placement),
        device=info.device,
        degraded=info.degraded,
        rejected=tuple(
            RejectedEngine(engine=rejection.engine, reason=rejection.reason, remedy=rejection.remedy)
            for rejection in info.rejected
        ),
        accuracy=None if info.accuracy is None else dict(info.accuracy),
        labels=package.labels,
        task=package.output.task.value,
        load_ms=round(info.load_ms, 1),
        pending=info.pending,
        details=dict(info.details),
    )


def camera_runtimes(
    config: AgentConfig, descriptions: Mapping[str, str], packages: Mapping[str, ModelPackage]
) -> dict[str, CameraRuntime]:
    """Every camera with its classifiers. ``descriptions`` by camera, without credentials; ``packages`` by model."""
    return {
        name: CameraRuntime(
            source=camera.source.type,
            description=descriptions.get(name, "disabled"),
            rate_hz=camera.rate_hz,
            triggered=camera.trigger is not None,
            classifiers={
                classifier.key: _classifier_runtime(classifier, packages.get(classifier.model))
                for classifier in camera.classify
            },
            enabled=camera.enabled,
        )
        for name, camera in config.cameras.items()
    }


def _classifier_runtime(classifier: ClassifierConfig, package: ModelPackage | None) -> ClassifierRuntime:
    decide, rule = classifier.decide, classifier.decide.rule()
    labels: dict[str, LabelRuntime] = {}
    if package is not None and package.output.task is Task.MULTI_LABEL:
        stated = dict(package.output.stated)
        rules = {label: decide.rule(label, stated=stated.get(label)) for label in package.labels}
        labels = {
            label: LabelRuntime(enter=one.enter, exit=one.exit, needed=one.figure(one.needed))
            for label, one in rules.items()
        }
    return ClassifierRuntime(
        model=classifier.model,
        roi=classifier.roi,
        when_classifier=None if classifier.when is None else classifier.when.classifier,
        when_labels=() if classifier.when is None else classifier.when.labels,
        mean_with=classifier.mean_with,
        enter=decide.enter,
        exit=decide.exit,
        unknown=decide.unknown,
        needed=rule.figure(rule.needed),
        window=rule.figure(rule.window),
        hold_s=decide.hold_s,
        labels=labels,
    )


def library_versions(infos: Iterable[EngineInfo]) -> dict[str, str]:
    """The library versions of all running engines."""
    versions: dict[str, str] = {}
    for info in infos:
        versions.update(info.versions)
    return versions
