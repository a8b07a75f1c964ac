"""Every message, its topic and how it is sent: the one table for sending and for the documentation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, Literal

import orjson

from agent.mqtt.base import Packet
from agent.mqtt.messages import (
    AnyMessage,
    BriefHealth,
    CameraHealth,
    CompactResult,
    Event,
    Health,
    Latency,
    Message,
    Reply,
    Result,
    Runtime,
    State,
    Status,
)
from agent.mqtt.messages.thermal import Thermal

MAX_TOPIC_BYTES = 65535
"""Longest topic. Source: MQTT Version 5.0, section 1.5.4 (UTF-8 encoded string)."""

_FORBIDDEN = {"%": "%25", "/": "%2F", "+": "%2B", "#": "%23"}


@lru_cache(maxsize=1024)
def level(name: str) -> str:
    """``name`` as exactly one level of a topic.

    Names from the configuration pass unchanged. In any other string the characters with a meaning in topics
    (``/ + # %``), control characters, lone surrogates and a leading ``$`` are percent-encoded, so that two different
    names never share a topic; an empty name becomes ``%``.
    """
    if not name:
        return "%"
    escaped = "".join(_escape(character) for character in name)
    return f"%24{escaped[1:]}" if escaped.startswith("$") else escaped


def _escape(character: str) -> str:
    if character in _FORBIDDEN:
        return _FORBIDDEN[character]
    code = ord(character)
    if code < 0x20 or 0x7F <= code <= 0x9F or 0xD800 <= code <= 0xDFFF or (code & 0xFFFE) == 0xFFFE:
        return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
    return character


@dataclass(frozen=True, slots=True)
class Topics:
    """All topics of one device: ``<prefix>/<device>/...``. ``prefix`` may have several levels."""

    prefix: str
    device: str

    @property
    def root(self) -> str:
        """The common start of every topic of this device."""
        return f"{self.prefix}/{level(self.device)}"

    @property
    def status(self) -> str:
        """Whether the agent is running; also the topic of the last will."""
        return f"{self.root}/status"

    @property
    def runtime(self) -> str:
        """Versions, engines, cameras."""
        return f"{self.root}/runtime"

    @property
    def latency(self) -> str:
        """Latencies by model and stage."""
        return f"{self.root}/latency"

    @property
    def thermal(self) -> str:
        """Temperatures, power and the governor."""
        return f"{self.root}/thermal"

    @property
    def health(self) -> str:
        """A summary of the whole agent."""
        return f"{self.root}/health"

    def camera_health(self, camera: str) -> str:
        """State and frame counters of one camera."""
        return f"{self.root}/camera/{level(camera)}/health"

    def result(self, camera: str, classifier: str) -> str:
        """Every classification of one classifier."""
        return self._classifier(camera, classifier, "result")

    def state(self, camera: str, classifier: str) -> str:
        """The decided label of one classifier."""
        return self._classifier(camera, classifier, "state")

    def event(self, camera: str, classifier: str) -> str:
        """Each label of one classifier that comes or goes."""
        return self._classifier(camera, classifier, "event")

    def snapshot(self, camera: str) -> str:
        """The newest frame of one camera, JPEG."""
        return f"{self.root}/camera/{level(camera)}/snapshot"

    def command(self, verb: str) -> str:
        """Where one command is received."""
        return f"{self.root}/cmd/{verb}"

    def reply(self, verb: str) -> str:
        """The default topic of replies to one command."""
        return f"{self.root}/reply/{verb}"

    def _classifier(self, camera: str, classifier: str, kind: str) -> str:
        return f"{self.root}/camera/{level(camera)}/{level(classifier)}/{kind}"


_ANY = Topics("{prefix}", "{device}")
_NAMES = SimpleNamespace(camera="{camera}", classifier="{classifier}", verb="{verb}")
_STREAM_EXPIRY_S = 30
"""An MQTT 5 broker drops a result or latency message that it could not deliver by then."""


def encode(message: AnyMessage) -> bytes:
    """The UTF-8 JSON of ``message`` as it is sent.

    Raises:
        orjson.JSONEncodeError: a text holds half a surrogate, or an integer has more than 64 bits.
    """
    return orjson.dumps(message.sent() if isinstance(message, CompactResult) else message)


@dataclass(frozen=True, slots=True)
class Entry:
    """One kind of message. ``qos`` is None if the configuration sets it; ``topic`` reads the names in the topic
    (camera, classifier, verb) from the message."""

    message: type[AnyMessage]
    topic: Callable[[Topics, Any], str]
    qos: Literal[0, 1] | None
    retain: bool
    summary: str
    expiry_s: int | None = None

    @property
    def address(self) -> str:
        """The topic with names in braces, as in the documentation."""
        return self.topic(_ANY, _NAMES)

    @property
    def schema_name(self) -> str:
        """Name and version, as in the message's field ``schema``."""
        return str(self.message.__dataclass_fields__["schema"].default)

    @property
    def name(self) -> str:
        """The name without its version."""
        return self.schema_name.partition("/")[0]

    def packet(
        self, message: AnyMessage, topics: Topics, *, qos: Literal[0, 1] = 0, names: object | None = None
    ) -> Packet:
        """``message`` as a packet; ``qos`` applies if the table leaves it to the configuration. ``names`` has camera
        and classifier for the topic, if the message leaves them out.

        Raises:
            orjson.JSONEncodeError: see ``encode``.
        """
        return Packet(
            self.topic(topics, message if names is None else names),
            encode(message),
            qos if self.qos is None else self.qos,
            self.retain,
            self.expiry_s,
        )


STATUS = Entry(
    Status,
    lambda topics, _: topics.status,
    qos=1,
    retain=True,
    summary="Whether the agent is running. `offline` is its last will.",
)
RESULT = Entry(
    Result,
    lambda topics, message: topics.result(message.camera, message.classifier),
    qos=None,
    retain=False,
    summary="Every classification with all its fields, with `detail: full`.",
    expiry_s=_STREAM_EXPIRY_S,
)
COMPACT_RESULT = Entry(
    CompactResult,
    lambda topics, names: topics.result(names.camera, names.classifier),
    qos=None,
    retain=False,
    summary="Every classification: what changes from frame to frame. The rest is in `runtime`.",
    expiry_s=_STREAM_EXPIRY_S,
)
STATE = Entry(
    State,
    lambda topics, message: topics.state(message.camera, message.classifier),
    qos=1,
    retain=True,
    summary="What is decided: on change, and repeated to show that it still holds.",
)
EVENT = Entry(
    Event,
    lambda topics, message: topics.event(message.camera, message.classifier),
    qos=1,
    retain=False,
    summary="Each label that comes or goes, delivered at least once.",
)

CATALOG = (
    STATUS,
    Entry(
        Runtime,
        lambda topics, _: topics.runtime,
        qos=1,
        retain=True,
        summary="What runs on this device: versions, the engines that really run, cameras.",
    ),
    COMPACT_RESULT,
    RESULT,
    STATE,
    EVENT,
    Entry(
        CameraHealth,
        lambda topics, message: topics.camera_health(message.camera),
        qos=1,
        retain=True,
        summary="State and frame counters of one camera.",
    ),
    Entry(
        Latency,
        lambda topics, _: topics.latency,
        qos=0,
        retain=False,
        summary="Where the time of the last seconds went, by model and stage.",
        expiry_s=_STREAM_EXPIRY_S,
    ),
    Entry(
        Thermal,
        lambda topics, _: topics.thermal,
        qos=1,
        retain=True,
        summary="Temperatures, power and the governor's reaction.",
    ),
    Entry(
        Health,
        lambda topics, _: topics.health,
        qos=1,
        retain=True,
        summary="A summary of the whole agent, with frame counters.",
    ),
    Entry(
        BriefHealth,
        lambda topics, _: topics.health,
        qos=1,
        retain=True,
        summary="Instead of `health` on a broker that accepts only small packets.",
    ),
    Entry(
        Reply,
        lambda topics, message: topics.reply(message.verb),
        qos=1,
        retain=False,
        summary="The reply to a command: one for each.",
    ),
)
_BY_TYPE = {entry.message: entry for entry in CATALOG}


def packet_from_message(message: Message, topics: Topics) -> Packet:
    """``message`` as a packet, sent as its entry of the catalog says.

    Raises:
        ValueError: the catalog has no entry for this kind of message.
        orjson.JSONEncodeError: see ``encode``.
    """
    entry = _BY_TYPE.get(type(message))
    if entry is None:
        raise ValueError(f"the catalog has no entry for {message.schema!r}")
    return entry.packet(message, topics)
