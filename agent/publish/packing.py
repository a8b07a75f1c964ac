"""From the pipeline's records to packets: message, topic, quality of service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from agent.mqtt.base import Packet
from agent.mqtt.identity import Identity
from agent.mqtt.messages import (
    ClockState,
    Message,
    event_from_state_change,
    result_from_classification,
    state_from_state_change,
)
from agent.publish.routes import Outgoing, event_outgoing, result_outgoing, state_outgoing, vital_outgoing
from agent.runtime.records import Classification, StateChange


@dataclass(frozen=True, slots=True)
class NumberedChange:
    """A change of a label, when it was handed over, and the numbers of its messages."""

    change: StateChange
    at_utc_ns: int
    state_seq: int
    event_seq: int | None


class Packing:
    """Makes packets in the name of ``identity``.

    Each method raises pydantic's ValidationError where a record holds what no message may, such as not-a-number, or
    orjson's JSONEncodeError where a text of it cannot be written, such as half a surrogate.
    """

    def __init__(self, identity: Identity, clock_state: Callable[[], ClockState]) -> None:
        self._identity = identity
        self._clock_state = clock_state

    def result(self, classification: Classification, seq: int, *, qos: Literal[0, 1]) -> Packet:
        """Every classification."""
        message = result_from_classification(
            classification,
            device=self._identity.device,
            session=self._identity.session,
            seq=seq,
            clock_state=self._clock_state(),
        )
        return result_outgoing(message, self._identity.topics, qos=qos).packet()

    def event(self, item: NumberedChange, seq: int) -> Packet:
        """A change of the label."""
        message = event_from_state_change(
            item.change,
            device=self._identity.device,
            session=self._identity.session,
            seq=seq,
            at_utc_ns=item.at_utc_ns,
            clock_state=self._clock_state(),
        )
        return event_outgoing(message, self._identity.topics).packet()

    def state(self, item: NumberedChange) -> Packet:
        """The label from now on."""
        message = state_from_state_change(
            item.change,
            device=self._identity.device,
            session=self._identity.session,
            seq=item.state_seq,
            at_utc_ns=item.at_utc_ns,
            clock_state=self._clock_state(),
        )
        return state_outgoing(message, self._identity.topics).packet()

    def vital(self, item: Message | Outgoing | Packet) -> tuple[Packet, bool]:
        """What the agent says about itself, and whether the outbox keeps it until it has arrived."""
        if isinstance(item, Packet):
            return item, False
        outgoing = item if isinstance(item, Outgoing) else vital_outgoing(item, self._identity.topics)
        return outgoing.packet(), outgoing.is_kept
