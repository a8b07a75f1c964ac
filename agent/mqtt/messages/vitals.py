"""Health and latency of the agent and its cameras."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from agent.mqtt.messages.base import PUBLIC, BuiltOnce, Count, Duration, Instant, Message, Share


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class CameraHealth(Message):
    """State and frame counters of one camera. captured = classified + the sum of dropped + in_flight."""

    schema: Literal["camera-health/1"] = "camera-health/1"
    """Name and version of the schema."""
    at: Instant
    """When the message was written, UTC."""
    camera: str
    """Name of the camera."""
    state: Literal["connecting", "connected", "lost", "ended", "disabled"]
    """`ended`: a file was read to its end; `lost`: the camera delivered frames and stopped."""
    image_fault: str | None
    """What is wrong with the newest frame (`black`, `frozen` ...); null if nothing is."""
    fps: Duration
    """Frames a second that the source delivers."""
    captured: Count
    """Frames that the source delivered in this session."""
    classified: Count
    """Of those, frames that went through the classifiers."""
    dropped: dict[str, Count]
    """Of those, dropped frames by reason."""
    in_flight: Count
    """Of those, frames neither classified nor dropped yet."""
    skipped: dict[str, Count]
    """What the source could not decode and left out, by reason; these are no captured frames."""
    reconnects: Count
    """How often the source was reopened in this session."""
    last_frame_age_s: Duration | None
    """Seconds since the newest frame; null before the first."""
    error: str | None
    """The current error, without credentials; null if there is none."""
    starved: str | None = None
    """Why the camera gets no results, or far less than an equal share of its engine; null if it does not."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Percentiles(BuiltOnce):
    """Spread of one stage over the window, in milliseconds."""

    p50: Duration
    """Median: half of the frames took at most this long, ms."""
    p95: Duration
    """95 % of the frames took at most this long, ms."""
    p99: Duration
    """99 % of the frames took at most this long, ms."""
    max: Duration
    """The slowest frame, ms."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class ModelLatency(BuiltOnce):
    """Latency of one model's frames; a stage is null if no frame went through it in the window."""

    count: Count
    """Frames in the window."""
    batch_mean: Duration
    """Average number of frames in one engine call; 0 if there was no call."""
    capture: Percentiles | None
    """Fetching and decoding the frame."""
    queue: Percentiles | None
    """Waiting for the worker."""
    preprocess: Percentiles | None
    """Cropping and resizing."""
    infer: Percentiles | None
    """Running the engine."""
    decide: Percentiles | None
    """From the scores to the label."""
    publish: Percentiles | None
    """From the decision until the result was sent."""
    total: Percentiles | None
    """From the start of the capture until the result was sent."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Latency(Message):
    """Latencies of the last few seconds, by model and stage."""

    schema: Literal["latency/1"] = "latency/1"
    """Name and version of the schema."""
    at: Instant
    """End of the window, UTC."""
    window_s: Duration
    """Length of the window in seconds."""
    throttled: bool | None
    """Whether the board lowered its clocks in this window; null if the board does not report it."""
    models: dict[str, ModelLatency]
    """Latencies by the model's key in the configuration."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class CameraAccounting(BuiltOnce):
    """Frame counters of a camera: captured = classified + the sum of dropped + in_flight."""

    captured: Count
    """Frames that the source delivered in this session."""
    classified: Count
    """Of those, frames that went through the classifiers."""
    dropped: dict[str, Count]
    """Of those, dropped frames by reason."""
    in_flight: Count
    """Of those, frames neither classified nor dropped yet."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class ClassifierAccounting(BuiltOnce):
    """Frame counters of a classifier: offered = classified + skipped + the sum of dropped + in_flight."""

    offered: Count
    """Frames that reached the classifier in this session."""
    classified: Count
    """Of those, frames that it classified."""
    skipped: Count
    """Of those, frames skipped because its gate (`when`) was closed."""
    dropped: dict[str, Count]
    """Of those, dropped frames by reason."""
    in_flight: Count
    """Of those, frames neither classified nor dropped yet."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class ModelHealth(BuiltOnce):
    """One model's engine."""

    engine: str
    """The engine that runs."""
    precision: str
    """The precision that runs."""
    degraded: str | None
    """What was configured and is not running; null if nothing is missing."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class EngineBuild(BuiltOnce):
    """An engine that is being built on the device; this takes minutes."""

    engine: str
    """The engine being built."""
    phase: str
    """The current phase of the build."""
    elapsed_s: Duration
    """Seconds since the build started."""
    done_ratio: Share | None
    """Progress of the phase, 0 to 1; null if the library does not report it."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class WaitingTopic(BuiltOnce):
    """A topic that the broker refused. Its messages wait, and it is tried again less and less often."""

    reason: str
    """`not_authorised`, `quota_exceeded`, `refused`, or `closes_connection` if the broker closed the connection."""
    since: Instant
    """When it was refused first, UTC."""
    attempts: Count
    """How often it was refused since then."""
    next_s: Duration
    """Seconds until the next attempt; 0 if it is due."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Line(BuiltOnce):
    """The line to the broker."""

    bytes_per_s: Duration | None
    """The rate at which it drains, measured while bytes waited; null until some had to wait."""
    queued_bytes: Count
    """Bytes that have not left this device."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class PublisherHealth(BuiltOnce):
    """Counters of this session's messages."""

    sent: Count
    """Sent messages; at QoS 1 only those that the broker confirmed."""
    dropped: dict[str, Count]
    """Dropped messages by reason."""
    rate_limited: Count
    """Results left out because of `results.max_hz`."""
    queued: Count
    """Messages that wait for the publisher's thread."""
    stored: Count
    """Events that wait for the broker's confirmation."""
    durability: Literal["each", "grouped", "memory"] = "memory"
    """Where events wait now: written to disk at once, written once a second, or only in memory."""
    reason: str | None = None
    """Why that is less than configured; null if it is not."""
    denied: dict[str, str] = field(default_factory=dict)
    """Topics that the broker's access list forbids, with its reason; empty if it forbids none."""
    refused: dict[str, Count] = field(default_factory=dict)
    """Attempts that the broker refused, by reason; the messages are kept and sent again."""
    rejected: dict[str, str] = field(default_factory=dict)
    """Topics whose last message was dropped because the broker can never accept it, with the reason."""
    waiting: dict[str, WaitingTopic] = field(default_factory=dict)
    """Topics that wait because the broker refused them; the others go on."""
    oldest_event_s: Duration | None = None
    """Age of the oldest event that the broker has not confirmed; null if there is none."""
    line: Line = field(default_factory=lambda: Line(bytes_per_s=None, queued_bytes=0))
    """The line to the broker."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Process(BuiltOnce):
    """Resources of the agent's process."""

    rss_mib: Duration
    """Resident memory in MiB."""
    cpu_percent: Duration
    """CPU use since the previous message; 100 is one core."""
    threads: Count
    """Number of threads."""
    fds: Count
    """Number of open file descriptors."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Connection(BuiltOnce):
    """The connection to the broker."""

    state: Literal["connecting", "connected", "disconnected", "stopped"]
    """`connected` only after the broker accepted the connection."""
    broker: str
    """Address of the broker that is in use, or is tried next, without credentials."""
    protocol: str | None
    """MQTT version in use; null before the first connection."""
    since: Instant | None
    """Since when the connection is in this state, UTC."""
    reason: str | None
    """Why there is no connection; null while connected."""
    reconnects: Count
    """Connections after the first one in this session."""
    others: dict[str, str | None] = field(default_factory=dict)
    """The broker's other addresses in their order, and why each is not in use; null: nothing is known against it."""
    protocol_reason: str | None = None
    """Why it is not the newest version; null if it is."""
    limits: tuple[str, ...] = ()
    """What the broker does not offer, and what is done instead."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class InboundHealth(BuiltOnce):
    """Messages from the broker."""

    rejected: dict[str, Count] = field(default_factory=dict)
    """Messages that were dropped on arrival, by reason."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class ThermalHealth(BuiltOnce):
    """Summary of temperature and power; the topic `thermal` has the details."""

    source: str
    """Source of the readings: jtop, sysfs, simulated or none."""
    hottest_zone: str | None
    """The hottest thermal zone; null if no zone can be read."""
    hottest_celsius: float | None
    """Temperature of the hottest zone in degrees Celsius."""
    total_watts: float | None
    """The board's total power in watts; null if it is not measured."""
    throttled: bool | None
    """Whether the board lowers its clocks now; null if it does not report it."""
    throttle_causes: dict[Literal["heat", "over_current", "power_cap"], str]
    """Why the clocks are lowered: each cause with the reading that shows it."""
    over_current_hz: dict[str, Duration]
    """Over-current events a second, by counter."""
    governor: str
    """State of the governor."""
    rate_ratio: Share
    """Share of the configured rate that the governor permits."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Health(Message):
    """A summary of the whole agent."""

    schema: Literal["health/1"] = "health/1"
    """Name and version of the schema."""
    at: Instant
    """When the message was written, UTC."""
    uptime_s: Duration
    """Seconds since the start of the session."""
    cameras: dict[str, CameraAccounting]
    """Frame counters by camera."""
    classifiers: dict[str, dict[str, ClassifierAccounting]]
    """Frame counters by camera, then by classifier."""
    models: dict[str, ModelHealth]
    """Engines by the model's key in the configuration."""
    builds: dict[str, EngineBuild] = Field(default_factory=dict)
    """Builds that run now, by the model's key; another engine serves the model meanwhile, unless it is `strict`."""
    publisher: PublisherHealth
    """Counters of messages."""
    commands: dict[str, Count] = Field(default_factory=dict)
    """Commands of this session: `done`, `failed`, `ignored` (retained), or the reason why they were refused."""
    process: Process
    """The agent's process."""
    connection: Connection
    """The connection to the broker."""
    thermal: ThermalHealth
    """Temperature and the governor."""
    inbound: InboundHealth = field(default_factory=InboundHealth)
    """Messages from the broker."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class BriefHealth(Message):
    """The short form of `health`, for a broker whose largest packet is too small for it."""

    schema: Literal["health-brief/1"] = "health-brief/1"
    """Name and version of the schema."""
    at: Instant
    """When the message was written, UTC."""
    uptime_s: Duration
    """Seconds since the start of the session."""
    captured: Count
    """Frames that the sources delivered."""
    dropped: Count
    """Of those, dropped frames."""
    sent: Count
    """Sent messages."""
    lost: Count
    """Dropped messages."""
    stored: Count
    """Events that wait for the broker's confirmation."""
    waiting: Count
    """Topics that wait because the broker refused them."""
    degraded: Count
    """Models that run on less than what was configured."""
    throttled: bool | None
    """Whether the board lowers its clocks now; null if it does not report it."""


def brief_from_health(health: Health) -> BriefHealth:
    """The short form of ``health``."""
    cameras = health.cameras.values()
    return BriefHealth(
        device=health.device,
        session=health.session,
        at=health.at,
        uptime_s=health.uptime_s,
        captured=sum(camera.captured for camera in cameras),
        dropped=sum(sum(camera.dropped.values()) for camera in cameras),
        sent=health.publisher.sent,
        lost=sum(health.publisher.dropped.values()),
        stored=health.publisher.stored,
        waiting=len(health.publisher.waiting),
        degraded=sum(model.degraded is not None for model in health.models.values()),
        throttled=health.thermal.throttled,
    )
