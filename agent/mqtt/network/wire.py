"""Received MQTT packets as bytes: cut out of the stream, checked, and read without trust in the broker.

Messages are read here and never reach paho: it ends the connection over texts that are legal, holds a packet of any
size in memory, and raises on bytes that are no text. Source: MQTT Version 5.0, chapters 2 and 3.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import NamedTuple, Protocol

from agent.mqtt.base import Received

READ_BYTES = 16384
"""Bytes taken from the socket at once."""

BURST_S = 2.0
"""Messages of this many seconds may come at once before the limit per second applies."""

_REFUSED = 0x80  # reason codes from here on are failures
_OLD_CODES = {1: 0x84, 2: 0x85, 3: 0x88, 4: 0x86, 5: 0x87}
"""CONNACK return codes of MQTT 3.1.1 as reason codes of MQTT 5. An older broker answers MQTT 5 with them too."""

Value = int | bytes


class ProtocolViolation(Exception):
    """The broker sent what the standard forbids, so nothing after it can be trusted."""


class Malformed(ValueError):
    """The content of one packet cannot be read; the packets after it can."""


class Property(IntEnum):
    """Properties that the agent uses. Source: MQTT Version 5.0, section 2.2.2.2."""

    RESPONSE_TOPIC = 0x08
    CORRELATION = 0x09
    ASSIGNED_CLIENT_ID = 0x12
    SERVER_KEEP_ALIVE = 0x13
    SERVER_REFERENCE = 0x1C
    REASON = 0x1F
    RECEIVE_MAXIMUM = 0x21
    TOPIC_ALIAS = 0x23
    MAXIMUM_QOS = 0x24
    RETAIN_AVAILABLE = 0x25
    USER = 0x26
    MAXIMUM_PACKET_SIZE = 0x27
    WILDCARDS_AVAILABLE = 0x28


_SIZES = {
    **dict.fromkeys((0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A), 1),
    **dict.fromkeys((0x13, 0x21, 0x22, 0x23), 2),
    **dict.fromkeys((0x02, 0x11, 0x18, 0x27), 4),
}
_TEXTS = frozenset({0x03, 0x08, 0x12, 0x15, 0x1A, 0x1C, 0x1F})
_DATA = frozenset({0x09, 0x16})
_SUBSCRIPTION_ID = 0x0B


class Properties(NamedTuple):
    """Properties by identifier, the last one of each, and the bytes of all texts."""

    values: dict[int, Value]
    texts: list[bytes]


class PacketListener(Protocol):
    """What the received packets mean. Called by ``Inlet.read``."""

    def on_connack(self, code: int, values: Mapping[int, Value]) -> int:
        """The broker accepted (0) or refused the connection; ``code`` is one of MQTT 5.

        Returns the keep-alive interval in seconds that paho is to use.
        """
        ...

    def on_suback(self, codes: bytes) -> None:
        """The answer to the subscriptions, one code each."""
        ...

    def on_refused(self, packet_id: int, code: int) -> None:
        """The broker refused a packet; paho then reports it as confirmed."""
        ...

    def on_disconnect_packet(self, code: int, values: Mapping[int, Value]) -> None:
        """The broker ends the connection."""
        ...

    def on_message(self, message: Received) -> None:
        """A message on one of the subscriptions."""
        ...


class Inlet:
    """Reads what the broker sends, and passes on what paho needs for its own work, without properties.

    A message that cannot be used is counted in ``rejected``, by reason, and confirmed like any other, so the broker
    does not send it again: ``oversize``, ``rate_limited``, ``malformed``, ``invalid_topic``, ``invalid_properties``.
    One above ``max_packet_bytes`` is discarded as it arrives. ``max_per_s`` None is no limit. One thread.
    """

    def __init__(
        self, listener: PacketListener, *, is_v5: bool, max_packet_bytes: int, max_per_s: float | None = None
    ) -> None:
        self.rejected: Counter[str] = Counter()
        self.has_more = False
        """Whether bytes are left that ``poll`` does not see, or the socket may have more."""
        self._listener = listener
        self._is_v5 = is_v5
        self._max_packet_bytes = max_packet_bytes
        self._max_per_s = max_per_s
        self._tokens = (max_per_s or 0.0) * BURST_S
        self._filled_at = time.monotonic()
        self._rest = b""
        self._discard = 0
        self._ready = bytearray()

    def read(self, size: int, receive: Callable[[int], bytes]) -> bytes:
        """Up to ``size`` bytes for paho; ``receive`` reads from the socket at most once.

        Raises:
            BlockingIOError: there is nothing for paho now.
            OSError: from ``receive``.
            ProtocolViolation: the connection has to end.
        """
        if not self._ready:
            self.has_more = False
            chunk = receive(READ_BYTES)
            if not chunk:
                return b""
            self.has_more = True
            self._feed(chunk)
        if not self._ready:
            raise BlockingIOError
        taken = bytes(self._ready[:size])
        del self._ready[:size]
        return taken

    def _feed(self, chunk: bytes) -> None:
        self._refill()
        data, at = self._rest + chunk, min(self._discard, len(chunk))
        self._discard -= at
        while (found := _header(data, at)) is not None:
            start, size = found
            if start - at + size > self._max_packet_bytes:
                beyond = self._begin_discarding(data, at, start, size)
                if beyond is None:
                    break
                at = beyond
                continue
            if start + size > len(data):
                break
            self._handle(data[at], data[start : start + size])
            at = start + size
        self._rest = data[at:]

    def _refill(self) -> None:
        if self._max_per_s is not None:
            now = time.monotonic()
            tokens = self._tokens + (now - self._filled_at) * self._max_per_s
            self._tokens, self._filled_at = min(tokens, self._max_per_s * BURST_S), now

    def _begin_discarding(self, data: bytes, at: int, start: int, size: int) -> int | None:
        """Drop a message that is too large; the index behind what is here of it, None if its start is incomplete."""
        first = data[at]
        if first >> 4 != 3:
            raise ProtocolViolation(f"it sent a packet of type {first >> 4} with {size} bytes")
        end = min(len(data), start + size)
        qos = first >> 1 & 3
        if qos:
            topic_end = start + 2 + int.from_bytes(data[start : start + 2], "big")
            if len(data) < topic_end + 2:
                return None
            self._acknowledge(qos, data[topic_end : topic_end + 2])
        self.rejected["oversize"] += 1
        self._discard = start + size - end
        return end

    def _handle(self, first: int, body: bytes) -> None:
        kind = first >> 4
        if kind == 3:
            self._publish(first, body)
        elif kind == 4:
            self._puback(body)
        elif kind == 2:
            self._connack(body)
        elif kind == 9:
            self._suback(body)
        elif kind == 13:
            self._ready += b"\xd0\x00"
        elif kind == 6 and len(body) >= 2:
            self._ready += b"\x62\x02" + body[:2]
        elif kind == 14 and self._is_v5:
            values = _properties_at(body, 1, "DISCONNECT").values if len(body) > 1 else {}
            self._listener.on_disconnect_packet(body[0] if body else 0, values)
        else:
            raise ProtocolViolation(f"it sent a packet of type {kind} with {len(body)} bytes, which is not expected")

    def _publish(self, first: int, body: bytes) -> None:
        qos = first >> 1 & 3
        topic_end = 2 + int.from_bytes(body[:2], "big")
        start = topic_end + (2 if qos else 0)
        if qos == 3 or len(body) < start:
            self.rejected["malformed"] += 1
            return
        if qos:
            self._acknowledge(qos, body[topic_end:start])
        if self._max_per_s is not None:
            if self._tokens < 1.0:
                self.rejected["rate_limited"] += 1
                return
            self._tokens -= 1.0
        topic = _topic(body[2:topic_end])
        if topic is None:
            self.rejected["invalid_topic"] += 1
            return
        try:
            message = self._message(first, topic, body, start)
        except Malformed as exc:
            self.rejected[str(exc)] += 1
            return
        self._listener.on_message(message)

    def _message(self, first: int, topic: str, body: bytes, start: int) -> Received:
        response_topic: str | None = None
        correlation: Value | None = None
        if self._is_v5:
            (values, texts), start = read_properties(body, start)
            if Property.TOPIC_ALIAS in values:  # never announced as supported
                raise Malformed("malformed")
            if any(_text(text) is None for text in texts):
                raise Malformed("invalid_properties")
            answer, correlation = values.get(Property.RESPONSE_TOPIC), values.get(Property.CORRELATION)
            if isinstance(answer, bytes):
                response_topic = _topic(answer)
                if response_topic is None:
                    raise Malformed("invalid_properties")
        return Received(
            topic=topic,
            payload=body[start:],
            qos=first >> 1 & 3,
            retain=bool(first & 1),
            response_topic=response_topic,
            correlation=correlation if isinstance(correlation, bytes) else None,
        )

    def _acknowledge(self, qos: int, packet_id: bytes) -> None:
        """Give paho an empty message with this packet id, so it sends the broker the confirmation."""
        body = b"\x00\x01x" + packet_id + (b"\x00" if self._is_v5 else b"")
        self._ready += bytes([0x30 | qos << 1, len(body)]) + body

    def _puback(self, body: bytes) -> None:
        if len(body) < 2:
            raise ProtocolViolation("it sent a PUBACK without a packet id")
        if self._is_v5 and len(body) > 2 and body[2] >= _REFUSED:
            self._listener.on_refused(int.from_bytes(body[:2], "big"), body[2])
        self._ready += b"\x40\x02" + body[:2]

    def _connack(self, body: bytes) -> None:
        if len(body) < 2:
            raise ProtocolViolation("it sent a CONNACK that is too short")
        # Also after asking for MQTT 5: an older broker (nats-server, for one) answers as it knows.
        code = _OLD_CODES.get(body[1], body[1])
        values = _properties_at(body, 2, "CONNACK").values if self._is_v5 and len(body) > 2 else {}
        keepalive_s = self._listener.on_connack(code, values)
        if not code and self._is_v5:
            properties = bytes([3, Property.SERVER_KEEP_ALIVE]) + keepalive_s.to_bytes(2, "big")
            self._ready += b"\x20\x06" + body[:2] + properties
        elif not code:
            self._ready += b"\x20\x02" + body[:2]

    def _suback(self, body: bytes) -> None:
        start = 2
        if self._is_v5:
            try:
                _, start = read_properties(body, 2)
            except Malformed as exc:
                raise ProtocolViolation("it sent a SUBACK that cannot be read") from exc
        self._listener.on_suback(body[start:])


def read_properties(data: bytes, at: int) -> tuple[Properties, int]:
    """The properties that begin at ``at``, and the index behind them.

    Raises:
        Malformed: they cannot be read.
    """
    size, at = _variable(data, at)
    end = at + size
    if end > len(data):
        raise Malformed("malformed")
    values: dict[int, Value] = {}
    texts: list[bytes] = []
    while at < end:
        key, at = _variable(data, at)
        if key in _SIZES:
            at += _SIZES[key]
            values[key] = int.from_bytes(data[at - _SIZES[key] : at], "big")
        elif key == _SUBSCRIPTION_ID:
            values[key], at = _variable(data, at)
        elif key in _TEXTS or key in _DATA or key == Property.USER:
            for _ in range(2 if key == Property.USER else 1):
                start = at + 2
                at = start + int.from_bytes(data[at:start], "big")
                values[key] = value = data[start:at]
                if key not in _DATA:
                    texts.append(value)
        else:
            raise Malformed("malformed")
    if at != end:
        raise Malformed("malformed")
    return Properties(values, texts), end


def _properties_at(body: bytes, at: int, name: str) -> Properties:
    try:
        return read_properties(body, at)[0]
    except Malformed as exc:
        raise ProtocolViolation(f"it sent a {name} that cannot be read") from exc


def _header(data: bytes, at: int) -> tuple[int, int] | None:
    """Where the body of the packet at ``at`` begins and its size; None if the header is incomplete."""
    size = shift = 0
    for index in range(at + 1, min(at + 5, len(data))):
        size |= (data[index] & 0x7F) << shift
        if data[index] < 0x80:
            return index + 1, size
        shift += 7
    if len(data) - at >= 5:
        raise ProtocolViolation("it sent a packet whose length cannot be read")
    return None


def _variable(data: bytes, at: int) -> tuple[int, int]:
    """The variable byte integer at ``at``, and the index behind it."""
    value = shift = 0
    for index in range(at, min(at + 4, len(data))):
        value |= (data[index] & 0x7F) << shift
        if data[index] < 0x80:
            return value, index + 1
        shift += 7
    raise Malformed("malformed")


def _text(data: bytes) -> str | None:
    """A text, None if it is no UTF-8 or has a character that the standard forbids."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _topic(data: bytes) -> str | None:
    """The name of a topic, None if it is none."""
    text = _text(data)
    return None if not text or "+" in text or "#" in text else text
