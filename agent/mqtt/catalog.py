"""Every message, its topic and how it is sent: the public interface in one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agent.mqtt.messages import CameraHealth, Event, Health, Latency, Message, Reply, Result, Runtime, State, Status
from agent.mqtt.messages.thermal import Thermal
from agent.mqtt.topics import Topics

_ANY = Topics("{prefix}", "{device}")
_CLASSIFIER = ("{camera}", "{classifier}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One kind of message. ``qos`` is None where the configuration says it; ``address`` holds names in braces."""

    message: type[Message]
    address: str
    qos: Literal[0, 1] | None
    retain: bool
    summary: str

    @property
    def schema_name(self) -> str:
        """Name and version, as in the message's field ``schema``."""
        return str(self.message.__dataclass_fields__["schema"].default)

    @property
    def name(self) -> str:
        """The name without its version."""
        return self.schema_name.partition("/")[0]


CATALOG = (
    Entry(Status, _ANY.status, qos=1, retain=True, summary="Whether the agent is there. `offline` is its last will."),
    Entry(
        Runtime,
        _ANY.runtime,
        qos=1,
        retain=True,
        summary="What runs on this device: versions, engines really used, cameras.",
    ),
    Entry(Result, _ANY.result(*_CLASSIFIER), qos=None, retain=False, summary="Every classification."),
    Entry(
        State,
        _ANY.state(*_CLASSIFIER),
        qos=1,
        retain=True,
        summary="The decided label: on change, and again to show that it holds.",
    ),
    Entry(
        Event,
        _ANY.event(*_CLASSIFIER),
        qos=1,
        retain=False,
        summary="Each change of the decided label, delivered at least once.",
    ),
    Entry(CameraHealth, _ANY.camera_health("{camera}"), qos=1, retain=True, summary="How one camera is."),
    Entry(
        Latency,
        _ANY.latency,
        qos=0,
        retain=False,
        summary="Where the time of the last seconds went, by model and stage.",
    ),
    Entry(
        Thermal, _ANY.thermal, qos=1, retain=True, summary="Temperatures, power and what the governor makes of them."
    ),
    Entry(Health, _ANY.health, qos=1, retain=True, summary="One record of everything, with the frame accounting."),
    Entry(Reply, _ANY.reply("{verb}"), qos=1, retain=False, summary="The one answer to each command."),
)
