"""Birth and death of a session."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from agent.mqtt.messages.base import PUBLIC, Count, Duration, Instant, Message, Share

Scalar = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Status(Message):
    """Whether the agent is there. ``offline`` is sent by the broker when the agent dies or its connection breaks."""

    schema: Literal["status/1"] = "status/1"
    """Name and version of this message\'s form."""
    state: Literal["online", "offline", "stopped"]
    """`online`: connected; `offline`: gone without a word; `stopped`: ended as it was told to."""
    agent: str
    """Version of the agent."""
    since: Instant
    """Start of this session, UTC."""
    reason: Literal["moved"] | None = None
    """`moved`: the session goes on over another connection, to this broker or another one; null otherwise."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class RejectedEngine:
    """One engine that was considered and not taken."""

    engine: str
    """Name of the engine."""
    reason: str
    """Why it was not taken."""
    remedy: str
    """How to get it."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class ModelRuntime:
    """One model and what really runs it."""

    name: str
    """Name of the model package."""
    version: str
    """Version of the model package."""
    sha256: str
    """SHA-256 of the model file."""
    engine: str
    """Engine that runs, read back from the library."""
    requested_engine: str
    """Engine that the configuration asks for."""
    precision: Literal["fp32", "fp16", "int8"]
    """Arithmetic that runs."""
    requested_precision: Literal["fp32", "fp16", "int8"]
    """Arithmetic that the configuration asks for."""
    placement: dict[str, Count]
    """Number of the graph's nodes by execution provider."""
    device: str
    """Processor that the engine runs on."""
    degraded: str | None
    """What was asked for and not had; null where nothing is missing."""
    rejected: tuple[RejectedEngine, ...]
    """Engines that were considered and not taken."""
    accuracy: dict[str, float | str | bool] | None
    """Result of the accuracy check against the fp32 reference; null if the engine needs none."""
    labels: tuple[str, ...]
    """Labels by class index."""
    load_ms: Duration
    """Time that loading and warming up took, in milliseconds."""
    pending: str | None = None
    """Engine that is preferred and being built, while this one serves; null where none is."""
    details: dict[str, Scalar] = Field(default_factory=dict)
    """Figures of this engine alone: device memory, streams, why its plan was built ..."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class ClassifierRuntime:
    """One classifier of a camera."""

    model: str
    """Key under `models`."""
    roi: tuple[Share, Share, Share, Share]
    """Region of interest x0 y0 x1 y1 as shares of the picture."""
    when_classifier: str | None = None
    """Classifier of the same camera that this one waits for; null where it takes every frame."""
    when_labels: tuple[str, ...] = ()
    """Labels of that classifier that open the gate."""
    enter: Share | None = None
    """Confidence from which a result votes for its class."""
    exit: Share | None = None
    """Confidence below which the decided class stops being confirmed."""
    unknown: str = "unknown"
    """Label while no class is confirmed."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class CameraRuntime:
    """One camera and what is asked about its frames."""

    source: str
    """Kind of source: file, rtsp, v4l2 ..."""
    description: str
    """The source for people, without credentials."""
    rate_hz: Duration | None
    """Frames a second that are classified; null takes every frame."""
    classifiers: dict[str, ClassifierRuntime]
    """Classifiers by name."""
    enabled: bool = True
    """Whether it is read at all."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Runtime(Message):
    """What runs on this device: sent on every connection and whenever it changes."""

    schema: Literal["runtime/1"] = "runtime/1"
    """Name and version of this message\'s form."""
    at: Instant
    """When it was written, UTC."""
    agent: str
    """Version of the agent."""
    libraries: dict[str, str]
    """Versions of the libraries that take part."""
    board: dict[str, Scalar]
    """The machine: its model, system, processor, power mode and so on."""
    models: dict[str, ModelRuntime]
    """Models by their key in the configuration."""
    cameras: dict[str, CameraRuntime]
    """Cameras by name."""
    config_sha256: str
    """SHA-256 of the configuration in force."""
    previous_exit: str | None
    """How the session before this one ended; null where none is known."""
    changed: str | None = None
    """What changed about an engine while the agent ran; null in the first message of a session and after a reload."""
