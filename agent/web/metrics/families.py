"""Every metric of the agent's own: its name, what it says, its labels, and where its value comes from.

Counters start at 0 with the process. A camera or model that leaves the configuration takes its series along.
Names and units: https://prometheus.io/docs/practices/naming.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from agent.cameras.frame_counters import Drop
from agent.publish.publisher import PublisherStatistics
from agent.thermal.monitor import ThermalStatistics
from agent.web.metrics.family import Family, Sample, Seen

_CAMERA_STATES = ("connecting", "connected", "lost", "ended")


def _cameras(value: Callable[..., float | None]) -> Callable[[Seen], Iterator[Sample]]:
    def samples(seen: Seen) -> Iterator[Sample]:
        for camera in seen.pipeline.cameras:
            found = value(camera)
            if found is not None:
                yield (camera.name,), found

    return samples


def _camera_drops(seen: Seen) -> Iterator[Sample]:
    for camera in seen.pipeline.cameras:
        yield from (((camera.name, reason), count) for reason, count in _by_reason(camera.counts.dropped))


def _by_reason(dropped: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Every reason, those that have not happened too: a series that begins at 1 hides its first increase."""
    return ((reason.value, dropped.get(reason.value, 0)) for reason in Drop)


def _camera_skips(seen: Seen) -> Iterator[Sample]:
    for camera in seen.pipeline.cameras:
        yield from (((camera.name, reason), count) for reason, count in camera.skipped.items())


def _camera_states(seen: Seen) -> Iterator[Sample]:
    for camera in seen.pipeline.cameras:
        yield from (((camera.name, state), float(camera.state == state)) for state in _CAMERA_STATES)


def _image_faults(seen: Seen) -> Iterator[Sample]:
    for camera in seen.pipeline.cameras:
        if camera.image_fault is not None:
            yield (camera.name, camera.image_fault), 1.0


def _classifiers(value: Callable[..., float]) -> Callable[[Seen], Iterator[Sample]]:
    def samples(seen: Seen) -> Iterator[Sample]:
        for camera in seen.pipeline.cameras:
            for name, counts in camera.counts.classifiers.items():
                yield (camera.name, name), value(counts)

    return samples


def _classifier_drops(seen: Seen) -> Iterator[Sample]:
    for camera in seen.pipeline.cameras:
        for name, counts in camera.counts.classifiers.items():
            yield from (((camera.name, name, reason), count) for reason, count in _by_reason(counts.dropped))


def _models(value: Callable[..., float | None]) -> Callable[[Seen], Iterator[Sample]]:
    def samples(seen: Seen) -> Iterator[Sample]:
        for worker in seen.pipeline.workers:
            found = value(worker)
            if found is not None:
                yield (worker.model,), found

    return samples


def _engines(seen: Seen) -> Iterator[Sample]:
    for worker in seen.pipeline.workers:
        if (info := worker.info) is not None:
            yield (worker.model, info.name, info.requested, info.precision), 1.0


def _counts(value: Callable[[Seen], Mapping[str, int]]) -> Callable[[Seen], Iterator[Sample]]:
    def samples(seen: Seen) -> Iterator[Sample]:
        yield from (((key,), count) for key, count in value(seen).items())

    return samples


def _one(value: Callable[[Seen], float | None]) -> Callable[[Seen], Iterator[Sample]]:
    def samples(seen: Seen) -> Iterator[Sample]:
        if (found := value(seen)) is not None:
            yield (), found

    return samples


def _of_publisher(value: Callable[[PublisherStatistics], float | None]) -> Callable[[Seen], Iterator[Sample]]:
    return _one(lambda seen: None if seen.publisher is None else value(seen.publisher))


def _of_thermal(value: Callable[[ThermalStatistics], float | None]) -> Callable[[Seen], Iterator[Sample]]:
    return _one(lambda seen: None if seen.thermal is None else value(seen.thermal))


def _hottest(seen: Seen) -> Iterator[Sample]:
    if seen.thermal is not None and seen.thermal.hottest_celsius is not None:
        yield (seen.thermal.hottest_zone or "",), seen.thermal.hottest_celsius


def _as_number(value: bool | None) -> float | None:
    return None if value is None else float(value)


_CAMERA = ("camera",)
_CLASSIFIER = ("camera", "classifier")
_MODEL = ("model",)

FAMILIES: tuple[Family, ...] = (
    Family(
        "agent_info",
        "gauge",
        "Version and device id of the agent; always 1.",
        ("version", "device"),
        lambda seen: [((seen.sources.version, seen.sources.device), 1.0)],
    ),
    Family(
        "agent_start_time_seconds",
        "gauge",
        "Start of the agent, Unix time.",
        (),
        _one(lambda seen: seen.sources.started_unix_s),
    ),
    Family(
        "agent_camera_state",
        "gauge",
        "1 for the state that the camera is in, 0 for the others.",
        ("camera", "state"),
        _camera_states,
    ),
    Family(
        "agent_camera_image_fault",
        "gauge",
        "1 while the newest frame has this fault; no series while it has none.",
        ("camera", "fault"),
        _image_faults,
    ),
    Family(
        "agent_camera_frames_captured_total",
        "counter",
        "Frames that the source delivered: classified + dropped + in flight.",
        _CAMERA,
        _cameras(lambda one: one.counts.captured),
    ),
    Family(
        "agent_camera_frames_classified_total",
        "counter",
        "Frames that went through the camera's classifiers.",
        _CAMERA,
        _cameras(lambda one: one.counts.classified),
    ),
    Family("agent_camera_frames_dropped_total", "counter", "Frames dropped.", ("camera", "reason"), _camera_drops),
    Family(
        "agent_camera_frames_in_flight",
        "gauge",
        "Frames neither classified nor dropped yet.",
        _CAMERA,
        _cameras(lambda one: one.counts.in_flight),
    ),
    Family(
        "agent_camera_skipped_total",
        "counter",
        "What the source could not decode and left out; these are no captured frames.",
        ("camera", "reason"),
        _camera_skips,
    ),
    Family(
        "agent_camera_reconnects_total",
        "counter",
        "How often the source was opened again.",
        _CAMERA,
        _cameras(lambda one: one.reconnects),
    ),
    Family(
        "agent_camera_frame_rate_hertz",
        "gauge",
        "Frames a second that the source delivers, mean of ten seconds.",
        _CAMERA,
        _cameras(lambda one: one.fps),
    ),
    Family(
        "agent_camera_last_frame_age_seconds",
        "gauge",
        "Age of the newest frame; no series before the first.",
        _CAMERA,
        _cameras(lambda one: one.last_frame_age_s),
    ),
    Family(
        "agent_classifier_frames_offered_total",
        "counter",
        "Frames that reached the classifier: classified + skipped + dropped + in flight.",
        _CLASSIFIER,
        _classifiers(lambda one: one.offered),
    ),
    Family(
        "agent_classifier_frames_classified_total",
        "counter",
        "Frames that the classifier classified.",
        _CLASSIFIER,
        _classifiers(lambda one: one.classified),
    ),
    Family(
        "agent_classifier_frames_skipped_total",
        "counter",
        "Frames left out because the classifier's gate was closed.",
        _CLASSIFIER,
        _classifiers(lambda one: one.skipped),
    ),
    Family(
        "agent_classifier_frames_dropped_total",
        "counter",
        "Frames dropped before the classifier.",
        ("camera", "classifier", "reason"),
        _classifier_drops,
    ),
    Family(
        "agent_model_engine_info",
        "gauge",
        "The engine that serves the model; always 1.",
        ("model", "engine", "requested", "precision"),
        _engines,
    ),
    Family(
        "agent_model_ready",
        "gauge",
        "1 while an engine serves the model.",
        _MODEL,
        _models(lambda one: float(one.info is not None)),
    ),
    Family(
        "agent_model_degraded",
        "gauge",
        "1 while less runs than was configured.",
        _MODEL,
        _models(lambda one: None if one.info is None else float(one.info.degraded is not None)),
    ),
    Family(
        "agent_model_build_seconds",
        "gauge",
        "Time since the running build of an engine began; no series while none runs.",
        _MODEL,
        _models(lambda one: None if one.building is None else one.building.elapsed_s),
    ),
    Family(
        "agent_model_engine_changes_total",
        "counter",
        "How often the engine was replaced, or what it says of itself changed.",
        _MODEL,
        _models(lambda one: one.changes),
    ),
    Family(
        "agent_model_batches_total",
        "counter",
        "Engine calls with frames of cameras.",
        _MODEL,
        _models(lambda one: one.batches),
    ),
    Family(
        "agent_model_frames_total",
        "counter",
        "Frames of cameras in these calls.",
        _MODEL,
        _models(lambda one: one.frames),
    ),
    Family(
        "agent_model_failures_total", "counter", "Engine calls that failed.", _MODEL, _models(lambda one: one.failures)
    ),
    Family(
        "agent_model_frames_waiting",
        "gauge",
        "Frames that wait for the engine.",
        _MODEL,
        _models(lambda one: one.waiting),
    ),
    Family(
        "agent_messages_sent_total",
        "counter",
        "MQTT messages sent; at QoS 1 those that the broker confirmed.",
        (),
        _of_publisher(lambda one: one.sent),
    ),
    Family(
        "agent_messages_dropped_total",
        "counter",
        "MQTT messages dropped.",
        ("reason",),
        _counts(lambda seen: {} if seen.publisher is None else seen.publisher.dropped),
    ),
    Family(
        "agent_messages_rate_limited_total",
        "counter",
        "Results left out because of results.max_hz.",
        (),
        _of_publisher(lambda one: one.rate_limited),
    ),
    Family(
        "agent_messages_queued",
        "gauge",
        "Messages that wait for the publisher's thread.",
        (),
        _of_publisher(lambda one: one.queued),
    ),
    Family(
        "agent_outbox_events",
        "gauge",
        "Events that wait for the broker's confirmation.",
        (),
        _of_publisher(lambda one: one.stored),
    ),
    Family(
        "agent_outbox_oldest_event_seconds",
        "gauge",
        "Age of the oldest of these events; no series without one.",
        (),
        _of_publisher(lambda one: one.delivery.oldest_event_s),
    ),
    Family(
        "agent_topics_waiting",
        "gauge",
        "Topics that wait because the broker refused them.",
        (),
        _of_publisher(lambda one: len(one.delivery.held)),
    ),
    Family(
        "agent_broker_connected",
        "gauge",
        "1 while the broker has accepted the connection.",
        (),
        _of_publisher(lambda one: float(one.connection.state == "connected")),
    ),
    Family(
        "agent_broker_reconnects_total",
        "counter",
        "Connections to the broker after the first one.",
        (),
        _of_publisher(lambda one: one.connection.reconnects),
    ),
    Family(
        "agent_broker_queued_bytes",
        "gauge",
        "Bytes for the broker that have not left this device.",
        (),
        _of_publisher(lambda one: one.line.queued_bytes),
    ),
    Family(
        "agent_commands_total",
        "counter",
        "Commands by outcome: done, failed, ignored, or why they were refused.",
        ("outcome",),
        _counts(lambda seen: seen.commands),
    ),
    Family(
        "agent_temperature_celsius",
        "gauge",
        "The hottest thermal zone.",
        ("zone",),
        _hottest,
    ),
    Family("agent_power_watts", "gauge", "Power of the board.", (), _of_thermal(lambda one: one.total_watts)),
    Family(
        "agent_throttled",
        "gauge",
        "1 while the board lowers its clocks; no series if it does not say.",
        (),
        _of_thermal(lambda one: _as_number(one.is_throttling)),
    ),
    Family(
        "agent_governor_rate_ratio",
        "gauge",
        "Share of the configured rate that the governor permits, 0 to 1.",
        (),
        _of_thermal(lambda one: one.rate_ratio),
    ),
)

STAGE_NAME = "agent_stage_duration_seconds"
STAGE_HELP = "Time of a frame in each stage, and in all of them (total); new frames are added every five seconds."
STAGE_LABELS = ("model", "stage")
