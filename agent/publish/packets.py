"""From the pipeline's records to packets: rate limit, sequence numbers, messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal

from agent.mqtt.base import Packet
from agent.mqtt.identity import Identity
from agent.mqtt.messages import (
    Health,
    Message,
    brief_from_health,
    compact_from_classification,
    event_from_move,
    result_from_classification,
    state_from_state_change,
)
from agent.mqtt.topics import COMPACT_RESULT, EVENT, RESULT, STATE, encode, packet_from_message
from agent.runtime.clock_sync import ClockState
from agent.runtime.records import Classification, StateChange

ResultDetail = Literal["compact", "full"]
"""``compact``: what changes from frame to frame; ``full``: every field."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message for a topic that its sender chooses: a reply goes to the topic that the request names."""

    topic: str
    message: Message
    qos: Literal[0, 1] = 0
    retain: bool = False
    expiry_s: int | None = None
    is_kept: bool = False
    """Keep it in the outbox until the broker has confirmed it."""
    correlation: bytes | None = None

    def packet(self) -> Packet:
        """The encoded message."""
        return Packet(
            self.topic, encode(self.message), self.qos, self.retain, self.expiry_s, correlation=self.correlation
        )


class ResultRate:
    """Limits each classifier to ``max_hz`` results a second.

    The results of one classifier come from one thread; several classifiers may use several threads.
    """

    def __init__(self, max_hz: float) -> None:
        self._period_ns = int(1e9 / max_hz)
        self._due_ns: dict[tuple[str, str], int] = {}

    def allows(self, result: Classification) -> bool:
        """Whether to send this result. A fixed time grid holds the rate even if frames arrive unevenly."""
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
    """Sequence numbers of one classifier's topics. ``next`` on a count is atomic, so any thread may take one."""

    results: count[int]
    states: count[int]
    events: count[int]


class SequenceNumbers:
    """Numbers messages by topic; a dropped message uses up its number too. Any thread."""

    def __init__(self) -> None:
        self._streams: dict[tuple[str, str], _Stream] = {}

    def of_result(self, result: Classification) -> int:
        """The sequence number of the result message."""
        return next(self._stream(result.camera, result.classifier).results)

    def of_change(self, change: StateChange) -> tuple[int, tuple[int, ...]]:
        """The sequence numbers of the state and of its events; a repeated or first state has none."""
        stream = self._stream(change.camera, change.classifier)
        events = tuple(next(stream.events) for _ in change.moves)
        return next(stream.states), events

    def _stream(self, camera: str, classifier: str) -> _Stream:
        stream = self._streams.get((camera, classifier))
        if stream is None:
            # setdefault is atomic: two threads that are first at the same time get the same stream
            stream = self._streams.setdefault((camera, classifier), _Stream(count(), count(), count()))
        return stream


@dataclass(frozen=True, slots=True)
class NumberedChange:
    """A change of a state, the time of ``offer``, and the sequence numbers of its messages: an event per move."""

    change: StateChange
    at_utc_ns: int
    state_seq: int
    event_seqs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OtherPacket:
    """The packet of a message that is no result and no change of a label.

    ``short`` replaces it on a broker to which it is too large; ``is_kept``: it stays in the outbox until confirmed.
    """

    packet: Packet
    short: Packet | None = None
    is_kept: bool = False
    is_reply: bool = False


class PacketFactory:
    """Makes packets from records.

    Each method raises pydantic's ValidationError if a value is not allowed in a message, such as NaN, and orjson's
    JSONEncodeError if a text cannot be encoded, such as half a surrogate.
    """

    def __init__(
        self,
        identity: Identity,
        clock_state: Callable[[], ClockState],
        *,
        result_qos: Literal[0, 1] = 0,
        result_detail: ResultDetail = "compact",
    ) -> None:
        """``result_qos`` and ``result_detail`` may be set later, by any thread."""
        self.result_qos, self.result_detail = result_qos, result_detail
        self._identity = identity
        self._clock_state = clock_state

    def result(self, classification: Classification, seq: int) -> Packet:
        """The packet of a result."""
        identity, clock_state, qos = self._identity, self._clock_state(), self.result_qos
        session = identity.session
        if self.result_detail == "compact":
            compact = compact_from_classification(classification, session=session, seq=seq, clock_state=clock_state)
            return COMPACT_RESULT.packet(compact, identity.topics, qos=qos, names=classification)
        message = result_from_classification(
            classification, device=identity.device, session=session, seq=seq, clock_state=clock_state
        )
        return RESULT.packet(message, identity.topics, qos=qos)

    def events(self, item: NumberedChange) -> Iterator[Packet]:
        """The packets of the events, in order."""
        for move, seq in zip(item.change.moves, item.event_seqs, strict=True):
            message = event_from_move(
                move,
                item.change,
                device=self._identity.device,
                session=self._identity.session,
                seq=seq,
                at_utc_ns=item.at_utc_ns,
                clock_state=self._clock_state(),
            )
            yield EVENT.packet(message, self._identity.topics)

    def state(self, item: NumberedChange) -> Packet:
        """The packet of a state."""
        message = state_from_state_change(
            item.change,
            device=self._identity.device,
            session=self._identity.session,
            seq=item.state_seq,
            at_utc_ns=item.at_utc_ns,
            clock_state=self._clock_state(),
        )
        return STATE.packet(message, self._identity.topics)

    def other(self, item: Message | Outgoing | Packet) -> OtherPacket:
        """The packet of any other message."""
        if isinstance(item, Packet):
            return OtherPacket(item)
        if isinstance(item, Outgoing):
            return OtherPacket(item.packet(), is_kept=item.is_kept, is_reply=not item.retain)
        topics = self._identity.topics
        short = packet_from_message(brief_from_health(item), topics) if isinstance(item, Health) else None
        return OtherPacket(packet_from_message(item, topics), short)
