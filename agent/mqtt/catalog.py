"""Every message, its topic and how it is sent: the one table from which messages are sent and documented."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

from agent.mqtt.base import Packet
from agent.mqtt.messages import (
    CameraHealth,
    Event,
    Health,
    Latency,
    Message,
    Reply,
    Result,
    Runtime,
    State,
    Status,
    encode,
)
from agent.mqtt.messages.thermal import Thermal
from agent.mqtt.topics import Topics

_ANY = Topics("{prefix}", "{device}")
_NAMES = SimpleNamespace(camera="{camera}", classifier="{classifier}", verb="{verb}")
_STREAM_EXPIRY_S = 30
"""An MQTT 5 broker drops a result or latency message that no subscriber has taken by then."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One kind of message. ``qos`` is None where the configuration sets it; ``topic`` takes the names in the topic
    (camera, classifier, verb) from the message."""

    message: type[Message]
    topic: Callable[[Topics, Any], str]
    qos: Literal[0, 1] | None
    retain: bool
    summary: str
    expiry_s: int | None = None

    @property
    def address(self) -> str:
        """The topic with names in braces, as documents show it."""
        return self.topic(_ANY, _NAMES)

    @property
    def schema_name(self) -> str:
        """Name and version, as in the message's field ``schema``."""
        return str(self.message.__dataclass_fields__["schema"].default)

    @property
    def name(self) -> str:
        """The name without its version."""
        return self.schema_name.partition("/")[0]

    def packet(self, message: Message, topics: Topics, *, qos: Literal[0, 1] = 0) -> Packet:
        """``message`` ready to be sent; ``qos`` counts where the table leaves it to the configuration.

        Raises:
            orjson.JSONEncodeError: see ``encode``.
        """
        return Packet(
            self.topic(topics, message),
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
    summary="Every classification.",
    expiry_s=_STREAM_EXPIRY_S,
)
STATE = Entry(
    State,
    lambda topics, message: topics.state(message.camera, message.classifier),
    qos=1,
    retain=True,
    summary="The decided label: on change, and again to show that it holds.",
)
EVENT = Entry(
    Event,
    lambda topics, message: topics.event(message.camera, message.classifier),
    qos=1,
    retain=False,
    summary="Each change of the decided label, delivered at least once.",
)

CATALOG = (
    STATUS,
    Entry(
        Runtime,
        lambda topics, _: topics.runtime,
        qos=1,
        retain=True,
        summary="What runs on this device: versions, engines really used, cameras.",
    ),
    RESULT,
    STATE,
    EVENT,
    Entry(
        CameraHealth,
        lambda topics, message: topics.camera_health(message.camera),
        qos=1,
        retain=True,
        summary="How one camera is.",
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
        summary="Temperatures, power and how the governor reacts to them.",
    ),
    Entry(
        Health,
        lambda topics, _: topics.health,
        qos=1,
        retain=True,
        summary="One record of everything, with the frame accounting.",
    ),
    Entry(
        Reply,
        lambda topics, message: topics.reply(message.verb),
        qos=1,
        retain=False,
        summary="The one answer to each command.",
    ),
)
_BY_TYPE = {entry.message: entry for entry in CATALOG}


def packet_from_message(message: Message, topics: Topics) -> Packet:
    """``message`` ready to be sent, as its entry of the catalog says.

    Raises:
        ValueError: the catalog has no entry for this kind of message.
        orjson.JSONEncodeError: see ``encode``.
    """
    entry = _BY_TYPE.get(type(message))
    if entry is None:
        raise ValueError(f"the catalog has no entry for {message.schema!r}")
    return entry.packet(message, topics)
