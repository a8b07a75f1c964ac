"""The contract between the publisher and the sinks that send its packets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

SinkState = Literal["connecting", "connected", "disconnected", "stopped"]

PROBLEMS = {
    0x87: "not_authorised",
    0x90: "topic_refused",
    0x95: "oversize",
    0x97: "quota_exceeded",
    0x99: "payload_invalid",
}
"""Names of a broker's refusals of a packet; any other code is ``refused``. Source: MQTT 5.0, section 2.4."""

FINAL_PROBLEMS = frozenset({"oversize", "topic_refused", "payload_invalid"})
"""Refusals that the same packet meets every time. After any other one it may be sent again later."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One encoded message. ``expiry_s`` is None if it never expires.

    ``content_type`` and ``correlation`` (the request's correlation data, returned in the reply) need MQTT 5.
    """

    topic: str
    payload: bytes
    qos: Literal[0, 1] = 0
    retain: bool = False
    expiry_s: int | None = None
    content_type: str = "application/json"
    correlation: bytes | None = None


@dataclass(frozen=True, slots=True)
class Received:
    """One received message; ``response_topic`` and ``correlation`` exist in MQTT 5 only.

    ``sender`` is who sent it, where that is known: MQTT does not say, the page does.
    """

    topic: str
    payload: bytes
    qos: int
    retain: bool
    response_topic: str | None = None
    correlation: bytes | None = None
    sender: str | None = None


@dataclass(frozen=True, slots=True)
class OtherAddress:
    """An address of the broker that is not in use, and why; ``problem`` is None if nothing is known against it.

    ``is_preferred``: it stands before the one in use.
    """

    address: str
    problem: str | None
    is_preferred: bool


@dataclass(frozen=True, slots=True)
class SinkStatistics:
    """A snapshot of a sink; ``address`` and ``reason`` never contain a credential.

    ``since_utc_ns`` is when the state began. ``reason`` says why it is not connected, ``failure`` which exception
    ended its thread. ``reconnects`` counts connections after the first, ``unconfirmed`` the packets sent and not yet
    confirmed. ``others`` are the broker's other addresses in their order.
    """

    state: SinkState
    address: str
    protocol: str | None
    since_utc_ns: int
    reason: str | None
    reconnects: int
    unconfirmed: int
    failure: str | None = None
    others: tuple[OtherAddress, ...] = ()
    protocol_reason: str | None = None
    """Why it is not the newest version of the protocol; None if it is, or if there is no choice."""
    limits: tuple[str, ...] = ()
    """What the broker does not offer and what is done instead, each in one sentence."""
    max_packet_bytes: int | None = None
    """The largest packet that the broker accepts; None if it has not named one."""
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Received messages that were dropped, by reason, since the start."""


@dataclass(frozen=True, slots=True)
class LineStatistics:
    """What the line to the broker carries.

    ``bytes_per_s`` is the rate measured while bytes waited to be sent, None until they had to wait. ``queued_bytes``
    were accepted and have not left this machine.
    """

    bytes_per_s: float | None
    queued_bytes: int


class SinkListener(Protocol):
    """Receives connection changes and confirmations. Called on a thread of the sink; must not block."""

    def on_connected(self) -> None:
        """The sink accepts packets from now on; no packet of an earlier connection can be confirmed any more."""
        ...

    def on_disconnected(self, reason: str) -> None:
        """The sink accepts no packet until the next ``on_connected``; unconfirmed ones may or may not have arrived."""
        ...

    def on_confirmed(self, key: int, problem: str | None) -> None:
        """The packet sent with ``key`` has arrived, or was refused: ``problem`` is a value of ``PROBLEMS`` or
        ``refused``. Those in ``FINAL_PROBLEMS`` are permanent."""
        ...

    def on_failed(self, error: BaseException) -> None:
        """An exception ended the sink's own thread."""
        ...


class NullListener:
    """Ignores what a sink reports."""

    def on_connected(self) -> None:
        """See SinkListener."""

    def on_disconnected(self, reason: str) -> None:
        """See SinkListener."""

    def on_confirmed(self, key: int, problem: str | None) -> None:
        """See SinkListener."""

    def on_failed(self, error: BaseException) -> None:
        """See SinkListener."""


class Sink(Protocol):
    """Sends packets. Its owner calls ``start`` and ``stop`` once."""

    def start(self, listener: SinkListener) -> None:
        """Begin to connect; returns at once."""
        ...

    def send(self, packet: Packet, key: int | None = None) -> str | None:
        """Accept ``packet`` and return None, or return why it is refused: ``disconnected``, ``backlog`` (no room now)
        or a problem as in ``on_confirmed``.

        A line that drains slowly answers ``backlog`` too, for QoS 0 before QoS 1. Never blocks. With ``key``,
        ``on_confirmed`` is called once for the packet, unless the connection breaks first. Called by one thread at a
        time.
        """
        ...

    def stop(self, timeout_s: float) -> bool:
        """Disconnect and end within ``timeout_s``; False if something was still running then. Idempotent."""
        ...

    def statistics(self) -> SinkStatistics:
        """A snapshot of the state; any thread."""
        ...

    def line(self) -> LineStatistics:
        """How fast the line drains and what waits for it; any thread."""
        ...
