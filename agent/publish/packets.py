"""From the pipeline's records to packets: rate limit, sequence numbers, message, topic and quality of service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Literal

from agent.mqtt.base import Packet
from agent.mqtt.identity import Identity
from agent.mqtt.messages import (
    Message,
    event_from_state_change,
    result_from_classification,
    state_from_state_change,
)
from agent.mqtt.topics import EVENT, RESULT, STATE, encode, packet_from_message
from agent.runtime.clock_sync import ClockState
from agent.runtime.records import Classification, StateChange


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message that goes to a topic of its sender's choice: a reply goes where the request wants it."""

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


class ResultRate:
    """Lets at most ``max_hz`` results a second of each classifier pass.

    The results of one classifier come from one thread, those of several from many.
    """

    def __init__(self, max_hz: float) -> None:
        self._period_ns = int(1e9 / max_hz)
        self._due_ns: dict[tuple[str, str], int] = {}

    def lets_pass(self, result: Classification) -> bool:
        """Whether this one may go. The grid keeps the rate also where frames come unevenly."""
        key = (result.camera, result.classifier)
        now_ns = result.decided_at_ns
        due_ns = self._due_ns.get(key, 0)
        if now_ns < due_ns:
            return False
        is_late = now_ns - due_ns >= self._period_ns
        self._due_ns[key] = (now_ns if is_late else due_ns) + self._period_ns
        return True


@dataclass(slots=True)
class _Stream:
    """SequenceNumbers of one classifier's topics. To take one is a single step, so any thread may."""

    results: count[int]
    states: count[int]
    events: count[int]


class SequenceNumbers:
    """Gives each message its number, and takes one for each that is lost; any thread."""

    def __init__(self) -> None:
        self._streams: dict[tuple[str, str], _Stream] = {}

    def of_result(self, result: Classification) -> int:
        """The number of its message."""
        return next(self._stream(result.camera, result.classifier).results)

    def of_change(self, change: StateChange) -> tuple[int, int | None]:
        """The numbers of its state and of its event; the first word of a classifier is no event."""
        stream = self._stream(change.camera, change.classifier)
        event_seq = None if change.previous is None else next(stream.events)
        return next(stream.states), event_seq

    def _stream(self, camera: str, classifier: str) -> _Stream:
        stream = self._streams.get((camera, classifier))
        if stream is None:
            # setdefault is one step, so two threads that come first together get the same one
            stream = self._streams.setdefault((camera, classifier), _Stream(count(), count(), count()))
        return stream


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
        return RESULT.packet(message, self._identity.topics, qos=qos)

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
        return EVENT.packet(message, self._identity.topics)

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
        return STATE.packet(message, self._identity.topics)

    def vital(self, item: Message | Outgoing | Packet) -> tuple[Packet, bool]:
        """What the agent says about itself, and whether the outbox keeps it until it has arrived."""
        if isinstance(item, Packet):
            return item, False
        if isinstance(item, Outgoing):
            return item.packet(), item.is_kept
        return packet_from_message(item, self._identity.topics), False
