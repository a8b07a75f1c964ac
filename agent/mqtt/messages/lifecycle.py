"""The start and the end of a session."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from agent.mqtt.messages.base import PUBLIC, Amount, BuiltOnce, Count, Duration, Instant, Message, Share

Scalar = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Status(Message):
    """Whether the agent is running. The broker sends ``offline`` if the agent dies or its connection breaks."""

    schema: Literal["status/1"] = "status/1"
    """Name and version of the schema."""
    state: Literal["online", "offline", "stopped"]
    """`online`: connected; `offline`: connection lost without notice; `stopped`: ended normally."""
    agent: str
    """Version of the agent."""
    since: Instant
    """Start of this session, UTC."""
    reason: Literal["moved"] | None = None
    """`moved`: the session continues over another connection, to this or another broker; null otherwise."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class RejectedEngine(BuiltOnce):
    """An engine that was considered and not used."""

    engine: str
    """Name of the engine."""
    reason: str
    """Why it is not used."""
    remedy: str
    """How to make it usable."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class ModelRuntime(BuiltOnce):
    """A model and the engine that really runs it."""

    name: str
    """Name of the model package."""
    version: str
    """Version of the model package."""
    sha256: str
    """SHA-256 of the model file."""
    engine: str
    """The engine that runs, as reported by the library."""
    requested_engine: str
    """The configured engine."""
    precision: Literal["fp32", "fp16", "int8"]
    """The precision that runs."""
    requested_precision: Literal["fp32", "fp16", "int8"]
    """The configured precision."""
    placement: dict[str, Count]
    """Number of graph nodes by execution provider."""
    device: str
    """The processor that the engine runs on."""
    degraded: str | None
    """What was configured and is not running; null if nothing is missing."""
    rejected: tuple[RejectedEngine, ...]
    """Engines that were considered and not used."""
    accuracy: dict[str, float | str | bool] | None
    """Result of the accuracy check against the fp32 reference; null if the engine needs none."""
    labels: tuple[str, ...]
    """Labels by class index."""
    task: Literal["single_label", "multi_label", "binary"] = "single_label"
    """What the scores decide: one label, several, or yes and no."""
    load_ms: Duration
    """Time for loading and warm-up, in milliseconds."""
    pending: str | None = None
    """The preferred engine, being built while this one serves; null if there is none."""
    details: dict[str, Scalar] = Field(default_factory=dict)
    """Details specific to this engine: device memory, streams, why its plan was built ..."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class LabelRuntime(BuiltOnce):
    """The rule of one label of a model that finds several."""

    enter: Share
    """Minimum confidence for a result to vote for the label."""
    exit: Share
    """Minimum confidence for a result to confirm the label once it is decided."""
    needed: Amount
    """Votes that decide, with `hold_s` seconds."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class ClassifierRuntime(BuiltOnce):
    """A classifier of a camera."""

    model: str
    """Key of its model in `models`."""
    roi: tuple[Share, Share, Share, Share]
    """Region of interest x0, y0, x1, y1 as shares of the frame."""
    when_classifier: str | None = None
    """Classifier of the same camera whose label opens the gate; null if there is no gate."""
    when_labels: tuple[str, ...] = ()
    """Labels of that classifier that open the gate."""
    mean_with: str | None = None
    """Classifier of the same camera; the mean of its probabilities and this model's is decided; null: this one's."""
    enter: Share | None = None
    """Minimum confidence for a result to vote for its class."""
    exit: Share | None = None
    """Minimum confidence for a result to confirm the decided class."""
    unknown: str = "unknown"
    """The state while results confirm no label."""
    needed: Amount | None = None
    """Votes in the window that decide, with `hold_s` seconds."""
    window: Amount | None = None
    """Number of newest results that vote, with `hold_s` seconds."""
    hold_s: Duration | None = None
    """Seconds for which a label must hold to be decided; null if results are counted."""
    labels: dict[str, LabelRuntime] = Field(default_factory=dict)
    """The rules of the single labels; empty for a model that chooses one label."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class CameraRuntime(BuiltOnce):
    """A camera and its classifiers."""

    source: str
    """Kind of source: file, rtsp, v4l2 ..."""
    description: str
    """Description of the source, without credentials."""
    rate_hz: Duration | None
    """Frames classified per second; null classifies every frame."""
    classifiers: dict[str, ClassifierRuntime]
    """Classifiers by name."""
    enabled: bool = True
    """False if the configuration or a command switched the camera off."""
    triggered: bool = False
    """True if only frames are classified that a command or a GPIO line asks for."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Runtime(Message):
    """What runs on this device: sent on every connection and whenever it changes."""

    schema: Literal["runtime/1"] = "runtime/1"
    """Name and version of the schema."""
    at: Instant
    """When the message was written, UTC."""
    agent: str
    """Version of the agent."""
    libraries: dict[str, str]
    """Versions of the libraries in use."""
    board: dict[str, Scalar]
    """The machine: its model, system, processor, power mode and so on."""
    models: dict[str, ModelRuntime]
    """Models by their key in the configuration."""
    cameras: dict[str, CameraRuntime]
    """Cameras by name."""
    config_sha256: str
    """SHA-256 of the configuration in force."""
    previous_exit: str | None
    """How the previous session ended; null if that is unknown."""
    protocol: str | None = None
    """Version of MQTT in use; null if there has been no connection yet."""
    protocol_reason: str | None = None
    """Why it is not the newest version; null if it is."""
    overridden: dict[str, Scalar] = Field(default_factory=dict)
    """Keys of the configuration that `set` changed, with their values in the file; `cameras` has those in force."""
    changed: str | None = None
    """The last change of an engine; null in the first message of a session and after a reload."""
