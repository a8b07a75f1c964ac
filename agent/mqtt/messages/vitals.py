"""How the agent and its cameras are."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from agent.mqtt.messages.base import PUBLIC, Count, Duration, Instant, Message, Share


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class CameraHealth(Message):
    """How one camera is. captured = classified + the sum of dropped + in_flight."""

    schema: Literal["camera-health/1"] = "camera-health/1"
    """Name and version of this message\'s form."""
    at: Instant
    """When it was written, UTC."""
    camera: str
    """Name of the camera."""
    state: Literal["connecting", "connected", "lost", "ended", "disabled"]
    """`ended`: a file that was read to its end; `lost`: it delivered frames and no longer does."""
    mark: str | None
    """What is wrong with the newest picture (`black`, `frozen` ...); null when nothing is."""
    fps: Duration
    """Frames a second that the source delivers."""
    captured: Count
    """Frames that the source delivered in this session."""
    classified: Count
    """Of those, frames that went through the classifiers."""
    dropped: dict[str, Count]
    """Of those, frames that were given up, by reason."""
    in_flight: Count
    """Of those, frames on their way."""
    reconnects: Count
    """Times that the source was opened again in this session."""
    last_frame_age_s: Duration | None
    """Seconds since the newest frame; null before the first."""
    error: str | None
    """The newest error while it lasts, without credentials."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Percentiles:
    """Spread of one stage over the window, in milliseconds."""

    p50: Duration
    """Half of the frames took at most this, ms."""
    p95: Duration
    """95 of 100 frames took at most this, ms."""
    p99: Duration
    """99 of 100 frames took at most this, ms."""
    max: Duration
    """The slowest frame, ms."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class ModelLatency:
    """Latency of one model's frames; a stage is null where no frame of the window went through it."""

    count: Count
    """Frames of the window."""
    batch_mean: Duration
    """Frames that the engine answered together, on average; 0 where there was none."""
    capture: Percentiles | None
    """Fetching and decoding."""
    queue: Percentiles | None
    """Waiting for the worker."""
    preprocess: Percentiles | None
    """Cropping and resizing."""
    infer: Percentiles | None
    """The engine."""
    decide: Percentiles | None
    """From the scores to the label."""
    publish: Percentiles | None
    """From the decision until the result was handed to the network."""
    total: Percentiles | None
    """From the start of the capture until the result was handed to the network."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Latency(Message):
    """Where the time of the last few seconds went."""

    schema: Literal["latency/1"] = "latency/1"
    """Name and version of this message\'s form."""
    at: Instant
    """End of the window, UTC."""
    window_s: Duration
    """Length of the window in seconds."""
    throttled: bool | None
    """Whether the board cut its clocks in this window; null where it does not tell."""
    models: dict[str, ModelLatency]
    """By the model's key in the configuration."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class CameraAccounting:
    """Where the frames of a camera went: captured = classified + the sum of dropped + in_flight."""

    captured: Count
    """Frames that the source delivered in this session."""
    classified: Count
    """Of those, frames that went through the classifiers."""
    dropped: dict[str, Count]
    """Of those, frames that were given up, by reason."""
    in_flight: Count
    """Of those, frames on their way."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class ClassifierAccounting:
    """Where a classifier's frames went: offered = classified + skipped + the sum of dropped + in_flight."""

    offered: Count
    """Frames that reached the classifier in this session."""
    classified: Count
    """Of those, frames that it answered."""
    skipped: Count
    """Of those, frames at which its gate (`when`) was closed."""
    dropped: dict[str, Count]
    """Of those, frames that were given up, by reason."""
    in_flight: Count
    """Of those, frames on their way."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class ModelHealth:
    """One model's engine."""

    engine: str
    """Engine that runs."""
    precision: str
    """Arithmetic that runs."""
    degraded: str | None
    """What was asked for and not had; null where nothing is missing."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class EngineBuild:
    """An engine that is being built on the device, which takes minutes."""

    engine: str
    """Engine that is built."""
    phase: str
    """What the build does at the moment."""
    elapsed_s: Duration
    """Seconds since its start."""
    done_ratio: Share | None
    """How much of the phase is done; null where the library does not tell."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class PublisherHealth:
    """What became of the messages of this session."""

    sent: Count
    """Messages handed to the network; at QoS 1 those that the broker confirmed."""
    dropped: dict[str, Count]
    """Messages that were given up, by reason."""
    thinned: Count
    """Results left out because of `results.max_hz`."""
    queued: Count
    """Messages that wait for the publisher."""
    stored: Count
    """Events that wait for the broker's confirmation."""
    durability: Literal["each", "grouped", "memory"] = "memory"
    """How safe they are at the moment: on the disk as they come, within a second, or in memory alone."""
    reason: str | None = None
    """Why that is less than what the configuration asks for; null where it is not."""
    denied: dict[str, str] = field(default_factory=dict)
    """What the broker's access list forbids, by topic, with the broker's reason; empty where it takes everything."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Process:
    """The agent as the system sees it."""

    rss_mib: Duration
    """Resident memory in MiB."""
    cpu_percent: Duration
    """Processor time since the last record; 100 is one core."""
    threads: Count
    """Threads."""
    fds: Count
    """Open file descriptors."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Connection:
    """The connection to the broker."""

    state: Literal["connecting", "connected", "disconnected", "stopped"]
    """`connected` only after the broker granted it."""
    broker: str
    """Address of the broker, without credentials."""
    protocol: str | None
    """MQTT version that was agreed on; null before the first connection."""
    since: Instant | None
    """Since when this state holds, UTC."""
    reason: str | None
    """Why there is no connection; null while there is one."""
    reconnects: Count
    """Connections after the first one in this session."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class ThermalHealth:
    """Temperature in short; the topic `thermal` has all of it."""

    source: str
    """Where the figures come from: jtop, sysfs, simulated or none."""
    hottest_zone: str | None
    """Zone with the highest temperature; null where none is known."""
    hottest_celsius: float | None
    """Its temperature in degrees Celsius."""
    total_watts: float | None
    """Power in watts, as the board totals it; null where it does not tell."""
    governor: str
    """What the governor does."""
    rate_ratio: Share
    """Share of the configured rate that may be classified."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Health(Message):
    """One record of everything."""

    schema: Literal["health/1"] = "health/1"
    """Name and version of this message\'s form."""
    at: Instant
    """When it was written, UTC."""
    uptime_s: Duration
    """Seconds since the start of the session."""
    cameras: dict[str, CameraAccounting]
    """By camera."""
    classifiers: dict[str, dict[str, ClassifierAccounting]]
    """By camera, then by classifier."""
    models: dict[str, ModelHealth]
    """By the model's key in the configuration."""
    builds: dict[str, EngineBuild] = Field(default_factory=dict)
    """Builds that run at the moment, by the model's key; the model is served by another engine unless it is strict."""
    publisher: PublisherHealth
    """Messages."""
    process: Process
    """The agent's process."""
    connection: Connection
    """The broker."""
    thermal: ThermalHealth
    """Temperature and the governor."""
