"""Which topic, quality of service and retention each message has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from agent.mqtt.base import Packet
from agent.mqtt.messages import CameraHealth, Event, Message, Result, State, encode
from agent.mqtt.topics import Topics

RESULT_EXPIRY_S = 30
LATENCY_EXPIRY_S = 30
"""A broker that speaks MQTT 5 gives up what no subscriber has taken by then."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message that is ready to be encoded."""

    topic: str
    message: Message
    qos: Literal[0, 1] = 0
    retain: bool = False
    expiry_s: int | None = None
    is_kept: bool = False
    """It waits in the outbox until the broker has confirmed it."""
    correlation: bytes | None = None

    def packet(self) -> Packet:
        """The encoded message."""
        return Packet(
            self.topic, encode(self.message), self.qos, self.retain, self.expiry_s, correlation=self.correlation
        )


def result_outgoing(message: Result, topics: Topics, *, qos: Literal[0, 1]) -> Outgoing:
    """Every classification: a stream, old ones are worth nothing."""
    return Outgoing(topics.result(message.camera, message.classifier), message, qos=qos, expiry_s=RESULT_EXPIRY_S)


def state_outgoing(message: State, topics: Topics) -> Outgoing:
    """The decided label: retained, so that who comes later sees it at once."""
    return Outgoing(topics.state(message.camera, message.classifier), message, qos=1, retain=True)


def event_outgoing(message: Event, topics: Topics) -> Outgoing:
    """A change of the label: delivered at least once."""
    return Outgoing(topics.event(message.camera, message.classifier), message, qos=1)


_PLAIN: dict[str, Callable[[Topics], str]] = {
    "runtime": lambda topics: topics.runtime,
    "thermal": lambda topics: topics.thermal,
    "health": lambda topics: topics.health,
}


def vital_outgoing(message: Message, topics: Topics) -> Outgoing:
    """For what the agent says about itself: runtime, thermal, health, camera health (retained) and latency.

    Raises:
        ValueError: no topic is known for this kind of message.
    """
    kind = message.schema.partition("/")[0]
    if isinstance(message, CameraHealth):
        return Outgoing(topics.camera_health(message.camera), message, qos=1, retain=True)
    if kind == "latency":
        return Outgoing(topics.latency, message, expiry_s=LATENCY_EXPIRY_S)
    if kind in _PLAIN:
        return Outgoing(_PLAIN[kind](topics), message, qos=1, retain=True)
    raise ValueError(f"no topic is known for {message.schema!r}")
