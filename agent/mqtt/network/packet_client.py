"""paho's client with its bytes in our hands: what it receives is read by an ``Inlet``, what it sends is counted.

Beside ``connection`` the only file that imports paho. paho opens the socket, encodes packets, keeps the QoS 1 window
and sends pings.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.mqtt.base import Packet
from agent.mqtt.network.line import Line
from agent.mqtt.network.transport import ByteStream
from agent.mqtt.network.wire import Inlet

RECEIVE_MAXIMUM = 16
"""QoS 1 messages that the broker may send before one of them is confirmed."""

_PUBLISH = 0x30


class NetworkClient(paho.Client):
    """Overrides the methods of paho through which every byte and every packet goes, and the one that opens the socket:
    its proxies come from the environment, its WebSocket sends frames that servers must refuse (unmasked replies to a
    ping, RFC 6455, section 5.1), and a refusal has no reason."""

    def __init__(
        self, inlet: Inlet, line: Line, make_socket: Callable[[], ByteStream], *arguments: Any, **options: Any
    ) -> None:
        self._inlet = inlet
        self._line = line
        self._make_socket = make_socket
        super().__init__(*arguments, **options)

    def _create_socket(self) -> ByteStream:
        return self._make_socket()

    def _sock_recv(self, bufsize: int) -> bytes:
        return self._inlet.read(bufsize, self._receive)

    def _receive(self, size: int) -> bytes:
        chunk = super()._sock_recv(size)
        # paho does not see most of what arrives, and would take a busy connection for a silent one.
        self._last_bytes_received = time.monotonic()
        return chunk

    def _sock_send(self, buf: bytes | bytearray) -> int:
        written = super()._sock_send(buf)
        self._line.wrote(written)
        return written

    def _packet_queue(
        self, command: int, packet: bytes | bytearray, mid: int, qos: int, info: paho.MQTTMessageInfo | None = None
    ) -> MQTTErrorCode:
        if command & 0xF0 != _PUBLISH:  # messages were counted when they were accepted
            self._line.add_control(len(packet))
        return super()._packet_queue(command, packet, mid, qos, info)


def connect_properties(max_packet_bytes: int) -> Properties:
    """The limits that CONNECT announces to an MQTT 5 broker."""
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
    properties.MaximumPacketSize = max_packet_bytes
    properties.ReceiveMaximum = RECEIVE_MAXIMUM
    return properties


def publish_properties(packet: Packet) -> Properties:
    """The properties of a message at MQTT 5."""
    if packet.correlation is None:
        return _cached_properties(packet.content_type, packet.expiry_s)
    properties = _properties(packet.content_type, packet.expiry_s)
    properties.CorrelationData = packet.correlation
    return properties


def packet_bytes(packet: Packet, qos: int, properties: Properties | None) -> int:
    """Size of the whole PUBLISH. Source: MQTT Version 5.0, sections 2.1 and 3.3."""
    packed = b"" if properties is None else properties.pack()  # type: ignore[no-untyped-call]  # paho leaves it untyped
    size = 2 + len(packet.topic.encode()) + (2 if qos else 0) + len(packed) + len(packet.payload)
    return 2 + (size > 0x7F) + (size > 0x3FFF) + (size > 0x1FFFFF) + size


class _PackedProperties(Properties):
    """Constant properties, packed once: packing them for each message takes longer than the rest of publish."""

    def __init__(self, properties: Properties) -> None:
        object.__setattr__(self, "_packed", properties.pack())  # type: ignore[no-untyped-call]  # paho leaves it untyped

    def pack(self) -> bytes:
        """The bytes for the packet."""
        packed: bytes = object.__getattribute__(self, "_packed")
        return packed


def _properties(content_type: str, expiry_s: int | None) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho leaves it untyped
    properties.ContentType = content_type
    if expiry_s is not None:
        properties.MessageExpiryInterval = expiry_s
    return properties


@lru_cache(maxsize=16)
def _cached_properties(content_type: str, expiry_s: int | None) -> Properties:
    return _PackedProperties(_properties(content_type, expiry_s))
