"""Decodes MQTT traffic independently of the agent's code: which publications a broker acknowledged.

Source: MQTT Version 5.0, sections 2.1, 3.3, 3.4; MQTT Version 3.1.1, the same.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from tests.fixtures.mqtt_packets import Kind, packets, variable


@dataclass(frozen=True, slots=True)
class Publication:
    """One PUBLISH at QoS 1 that the broker has acknowledged with success."""

    topic: str
    payload: bytes


class Witness:
    """Collects what the broker acknowledged, over all connections of one proxy; any thread may read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._acknowledged: list[Publication] = []
        self._conversations: list[Conversation] = []

    def conversation(self) -> Conversation:
        """Start recording a connection."""
        conversation = Conversation(self)
        with self._lock:
            self._conversations.append(conversation)
        return conversation

    def reached(self) -> list[Publication]:
        """What the broker has read, in that order: all that was sent before something which it acknowledged."""
        with self._lock:
            return [one for conversation in self._conversations for one in conversation.reached()]

    def note(self, publication: Publication) -> None:
        """Record an acknowledged publication."""
        with self._lock:
            self._acknowledged.append(publication)

    def acknowledged(self) -> list[Publication]:
        """All publications so far, in the order of their acknowledgements."""
        with self._lock:
            return list(self._acknowledged)


class Conversation:
    """Both directions of one connection."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._to_broker, self._from_broker = bytearray(), bytearray()
        self._on_the_way: dict[int, tuple[int, Publication]] = {}
        self._sent: list[Publication] = []
        self._reached = 0
        self._is_v5 = False

    def sent(self, data: bytes) -> None:
        """Bytes towards the broker."""
        self._to_broker += data
        for kind, flags, body in packets(self._to_broker):
            if kind == Kind.CONNECT:
                self._is_v5 = body[6] == 5
            elif kind == Kind.PUBLISH and (flags >> 1) & 3 == 1:
                self._published(body)

    def answered(self, data: bytes) -> None:
        """Bytes from the broker."""
        self._from_broker += data
        for kind, _, body in packets(self._from_broker):
            if kind != Kind.PUBACK:
                continue
            position, publication = self._on_the_way.pop(int.from_bytes(body[:2], "big"), (0, None))
            is_good = len(body) < 3 or body[2] < 0x80
            if publication is not None and is_good:
                self._reached = max(self._reached, position)
                self._witness.note(publication)

    def reached(self) -> list[Publication]:
        """What the broker has read, see Witness."""
        return self._sent[: self._reached]

    def _published(self, body: bytes) -> None:
        length = int.from_bytes(body[:2], "big")
        topic = body[2 : 2 + length].decode("utf-8")
        at = 2 + length
        packet_id = int.from_bytes(body[at : at + 2], "big")
        at += 2
        if self._is_v5:
            size, used = variable(body[at : at + 4])
            at += size + used
        publication = Publication(topic, bytes(body[at:]))
        self._sent.append(publication)
        self._on_the_way[packet_id] = (len(self._sent), publication)
