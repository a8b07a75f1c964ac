"""The configuration as one frozen tree: every field has a type, a range, its unit and a line of documentation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from agent.config.broker_address import EMBEDDED, BrokerAddress
from agent.config.sections.base import ClientId, DeviceId, Name, PlacedError, Section, TopicPrefix
from agent.config.sections.broker import ProfileName, ProxyConfig, TlsConfig, WebSocketConfig, addresses_of
from agent.config.sections.decide import DecideConfig, Ratio
from agent.config.sections.image_checks import ImageChecksConfig
from agent.config.sections.serve import ServeConfig
from agent.config.sections.sources import SourceConfig
from agent.config.sections.subscribers import CommandsConfig, HomeAssistantConfig, MaxRateConfig, OutboxConfig
from agent.config.sections.thermal import ThermalConfig
from agent.config.sections.triggers import TriggerConfig


class DeviceConfig(Section):
    """Who this agent is to its subscribers."""

    id: Literal["auto"] | DeviceId = "auto"
    """Level of every topic; `auto` derives it from the machine's id."""
    name: str = Field(default="", max_length=128)
    """Name for people; the id if empty."""


_USUAL_BATCH = 4


class BatchingConfig(Section):
    """How frames of several cameras are combined into one call of the engine."""

    max_size: int | None = Field(default=None, ge=1, le=64)
    """Maximum number of frames in one call; null is 4 on a GPU and 1 on a CPU, where batches only add latency."""
    max_delay_ms: float = Field(default=0.0, ge=0.0, le=1000.0)
    """How long a frame may wait for others to fill the batch; 0 never waits."""
    min_share_ratio: float = Field(default=0.05, ge=0.0, le=0.1)
    """Share of the results that each lower camera priority keeps beside a busy higher one; 0 gives it none."""

    @property
    def engine_batch(self) -> int:
        """The largest batch that the engine is built for."""
        return self.max_size or _USUAL_BATCH


class ModelConfig(Section):
    """One model and the engine that serves it on this device."""

    package: str = Field(min_length=1)
    """Directory of the model package, relative to the configuration file, or `demo` for the bundled one."""
    engine: str = "auto"
    """Engine by name (see `agent doctor`), `auto` or `fastest`."""
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """Arithmetic of the model; fp16 and int8 are used only if they pass the accuracy check."""
    max_file_mib: int = Field(default=512, ge=1, le=2000)
    """Largest model file with its external data, in MiB; reading one takes about six times its size in memory."""
    strict: bool = False
    """Refuse to start (exit code 69) instead of running with less than what is configured."""
    serve: bool = False
    """Also serve programs, over the addresses of `serve`; the model is loaded even if no camera uses it."""
    features: bool = False
    """Publish 32 numbers made from each frame's embedding, to find drift; its package must name the embedding."""
    batching: BatchingConfig = BatchingConfig()
    """How frames are combined into one call of the engine."""
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Options of that engine (threads, workspace, DLA core ...), validated by it."""

    @property
    def max_file_bytes(self) -> int:
        """``max_file_mib`` in bytes."""
        return self.max_file_mib << 20


class WhenConfig(Section):
    """Run this classifier only on frames to which another classifier of the same camera gave one of these labels."""

    classifier: Name
    """Name of the other classifier."""
    labels: tuple[str, ...] = Field(min_length=1)
    """Labels that open the gate; the best class of the frame, or each label found in it, is compared with them."""


class ClassifierConfig(Section):
    """One use of a model on one camera."""

    model: Name
    """Key of the model under `models`."""
    name: Name | None = None
    """Name of the classifier and a level of its topic; null takes the model's key."""
    roi: tuple[Ratio, Ratio, Ratio, Ratio] = (0.0, 0.0, 1.0, 1.0)
    """Region of interest x0 y0 x1 y1 as shares of the frame, 0 to 1."""
    when: WhenConfig | None = None
    """Run only if another classifier of the camera gave certain labels; null runs on every frame."""
    mean_with: Name | None = None
    """Another classifier of the camera, with the same labels: the mean of both probabilities is decided."""
    decide: DecideConfig = DecideConfig()
    """How results become a stable label."""

    @model_validator(mode="after")
    def _roi_has_an_area(self) -> ClassifierConfig:
        x0, y0, x1, y1 = self.roi
        if x1 <= x0 or y1 <= y0:
            raise ValueError(f"roi {list(self.roi)} has no area: x1 must be above x0 and y1 above y0")
        return self

    @model_validator(mode="after")
    def _follows_one(self) -> ClassifierConfig:
        if self.when is not None and self.mean_with is not None:
            raise ValueError(
                f"when waits for labels of {self.when.classifier}, but mean_with takes every frame of "
                f"{self.mean_with}: remove one, or give {self.mean_with} the gate"
            )
        return self

    @property
    def follows(self) -> str | None:
        """The classifier of the same camera that must answer to a frame first; None if there is none."""
        return self.mean_with if self.when is None else self.when.classifier

    @property
    def key(self) -> str:
        """The classifier's name, unique within its camera."""
        return self.name if self.name is not None else self.model


class CameraConfig(Section):
    """One source of frames and the classifiers that run on them."""

    source: SourceConfig = Field(discriminator="type")
    """Where the frames come from."""
    rate_hz: float | None = Field(default=None, gt=0.0, le=1000.0)
    """Frames per second to classify; null classifies every frame, and reads files as fast as possible."""
    trigger: TriggerConfig | None = None
    """Classify only frames that a command or a GPIO line asks for; null classifies all, or `rate_hz` of them."""
    priority: int = Field(default=1, ge=1, le=9)
    """1 is the most important: served first, and slowed down last by the thermal governor."""
    enabled: bool = True
    """False disables the camera but keeps it in the file."""
    min_fps_ratio: Ratio = 0.2
    """Reconnect a live camera that sends less than this share of its announced or usual rate for 10 s; 0 never."""
    image_checks: ImageChecksConfig = ImageChecksConfig()
    """When a frame counts as black, frozen, covered or blurred."""
    classify: tuple[ClassifierConfig, ...] = Field(min_length=1)
    """The classifiers that run on its frames."""

    @model_validator(mode="after")
    def _trigger_is_alone(self) -> CameraConfig:
        if self.trigger is not None and self.rate_hz is not None:
            raise ValueError("rate_hz and trigger are both given, but a camera with a trigger has no rate: remove one")
        if self.trigger is not None and self.source.type == "folder":
            raise ValueError(
                "trigger is given, but a watched folder classifies each image when it comes: remove trigger, or use "
                "`type: images` to take one image of a folder per trigger"
            )
        return self


class ResultsConfig(Section):
    """The stream of every result."""

    qos: Literal[0, 1] = 0
    """MQTT quality of service."""
    max_hz: float | None = Field(default=None, gt=0.0, le=1000.0)
    """Most results per second of one classifier; null publishes all."""
    detail: Literal["compact", "full"] = "compact"
    """`compact` sends what changes from frame to frame, `full` every field; `runtime` has what is left out."""


_MAX_USERNAME_BYTES = 65535
"""Source: MQTT Version 5.0, section 1.5.4 (UTF-8 encoded string)."""


def _text_from_number(value: object) -> object:
    """YAML reads the version 5 as a number."""
    return "5" if type(value) is int and value == 5 else value


class MqttConfig(Section):
    """The broker and what is sent to it."""

    broker: str | tuple[str, ...] = "mqtt://127.0.0.1:1883"
    """`mqtt://host:port`, `mqtts://...`, `ws://...`, `wss://...`, `unix:///path`, a list of them, or `embedded`."""
    return_after_s: int = Field(default=300, ge=10, le=86400)
    """Seconds on another address than the first, until one before it is tried again; doubles while that fails."""
    profile: ProfileName | None = None
    """Service whose limits `agent config check` and `agent doctor` apply; null applies none."""
    username: str | None = Field(default=None, max_length=65535)
    """User name for the broker, at most 65,535 bytes."""
    password_file: str | None = None
    """File with the password on its first line; null uses `mqtt-password` beside this file, or a credential."""
    tls: TlsConfig = TlsConfig()
    """Certificates and names, for `mqtts://` and `wss://`."""
    websocket: WebSocketConfig = WebSocketConfig()
    """Headers, for `ws://` and `wss://`."""
    proxy: ProxyConfig | None = None
    """Proxy to the broker; null connects directly."""
    prefix: TopicPrefix = "edge"
    """First levels of every topic."""
    client_id: ClientId | None = None
    """MQTT client id; null is `<prefix>-<device>`."""
    keepalive_s: int = Field(default=15, ge=5, le=600)
    """Keep-alive interval; a silent broker is detected after twice this time."""
    protocol: Annotated[Literal["auto", "5", "3.1.1"], BeforeValidator(_text_from_number)] = "auto"
    """Version of MQTT; `auto` is 5, or 3.1.1 if the broker is older."""
    results: ResultsConfig = ResultsConfig()
    """How results are sent."""
    max_rate: MaxRateConfig = MaxRateConfig()
    """Limits over all topics."""
    outbox: OutboxConfig = OutboxConfig()
    """Where events wait until the broker has confirmed them."""
    commands: CommandsConfig = CommandsConfig()
    """What subscribers may ask for."""
    home_assistant: HomeAssistantConfig = HomeAssistantConfig()
    """Home Assistant's discovery."""

    @model_validator(mode="after")
    def _broker_is_an_address(self) -> MqttConfig:
        addresses_of(self.broker)
        size = len((self.username or "").encode())
        if size > _MAX_USERNAME_BYTES:
            raise ValueError(f"username has {size} bytes, but MQTT carries {_MAX_USERNAME_BYTES}; shorten it")
        return self

    @property
    def is_embedded(self) -> bool:
        """Whether the broker starts with the agent."""
        return self.broker == EMBEDDED

    @property
    def addresses(self) -> tuple[BrokerAddress, ...]:
        """The broker's addresses in order; empty for an embedded one."""
        return addresses_of(self.broker)


class AgentConfig(Section):
    """The whole configuration file."""

    version: Literal[1]
    """Version of the file format."""
    device: DeviceConfig = DeviceConfig()
    """Who this agent is to its subscribers."""
    models: dict[Name, ModelConfig] = Field(min_length=1)
    """Models by a name of your choice."""
    cameras: dict[Name, CameraConfig] = Field(default_factory=dict)
    """Cameras by a name of your choice; at least one, unless a model is served to programs."""
    mqtt: MqttConfig = MqttConfig()
    """The broker and what is sent to it."""
    thermal: ThermalConfig = ThermalConfig()
    """Temperature, power and the governor."""
    serve: ServeConfig = ServeConfig()
    """Models for programs, over HTTP; off by default."""
    state_dir: str = Field(default="auto", min_length=1)
    """Where the agent keeps its state; `auto` is $STATE_DIRECTORY, else ~/.local/state/agent."""

    @model_validator(mode="after")
    def _has_work(self) -> AgentConfig:
        if not self.cameras and not self.served_models:
            raise PlacedError(
                "there is no camera, and no model is served to programs: add a camera, or write an address under "
                "`serve` and `serve: true` at a model",
                "cameras",
            )
        return self

    @property
    def served_models(self) -> tuple[str, ...]:
        """The keys of the models that programs may use."""
        return tuple(key for key, model in self.models.items() if model.serve and self.serve.is_on)

    @property
    def camera_models(self) -> frozenset[str]:
        """The keys of the models that an enabled camera uses."""
        enabled = [camera for camera in self.cameras.values() if camera.enabled]
        return frozenset(use.model for camera in enabled for use in camera.classify)

    @property
    def used_models(self) -> frozenset[str]:
        """The keys of the models that an enabled camera uses, or that are served."""
        return self.camera_models.union(self.served_models)
