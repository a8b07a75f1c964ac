"""MQTT inside a WebSocket: a stream of bytes with the methods of a socket, over a socket that is already connected."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress

from wsproto import WSConnection
from wsproto.connection import ConnectionState, ConnectionType
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import ProtocolError

from agent.config.broker_address import BrokerAddress
from agent.mqtt.diagnosis import WayRefused
from agent.runtime.secrets import Secret

_READ_BYTES = 65536
_SUBPROTOCOL = "mqtt"
"""Source: MQTT Version 5.0, section 6."""
_WAITS = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class WebSocket:
    """Owns ``sock`` once it is open. One thread at a time.

    Bytes of any frame are one stream; text frames are a protocol error. ``sock`` may have a TLS layer.
    """

    def __init__(
        self, sock: socket.socket, address: BrokerAddress, headers: Sequence[tuple[str, Secret]], *, timeout_s: float
    ) -> None:
        """Perform the handshake, within ``timeout_s``.

        Raises:
            WayRefused: the server answers anything but a WebSocket for MQTT.
            OSError: the connection broke, or there was no answer in time.
        """
        self._sock = sock
        self._address = address
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._received = bytearray()
        self._outgoing = b""
        self._framed = 0
        self._is_closed = False
        self._shake_hands(headers, time.monotonic() + timeout_s)

    def recv(self, size: int, /) -> bytes:
        """See ByteStream."""
        if not self._received and not self._is_closed:
            self._take(self._sock.recv(_READ_BYTES))
        if self._received:
            data = bytes(self._received[:size])
            del self._received[:size]
            return data
        if self._is_closed:
            return b""
        raise BlockingIOError

    def send(self, data: bytes | bytearray, /) -> int:
        """See ByteStream. After BlockingIOError the next call must be with the same data."""
        if not self._framed:
            self._outgoing += self._protocol.send(BytesMessage(data=bytes(data)))
            self._framed = len(data)
        self._flush()
        sent, self._framed = self._framed, 0
        return sent

    def pending(self) -> int:
        """Received bytes that ``poll`` does not see."""
        return len(self._received) + (self._sock.pending() if isinstance(self._sock, ssl.SSLSocket) else 0)

    def close(self) -> None:
        """Close the socket, after a close frame if it can be written at once."""
        if self._protocol.state is ConnectionState.OPEN and not self._outgoing:
            with suppress(OSError, ValueError):
                self._sock.settimeout(0.0)
                self._sock.send(self._protocol.send(CloseConnection(code=1000)))
        self._sock.close()

    def fileno(self) -> int:
        """See ByteStream."""
        return self._sock.fileno()

    def setblocking(self, flag: bool, /) -> None:
        """See ByteStream."""
        self._sock.setblocking(flag)

    def _shake_hands(self, headers: Sequence[tuple[str, Secret]], deadline: float) -> None:
        address = self._address
        is_usual = address.port == (443 if address.is_tls else 80)
        host = f"[{address.host}]" if ":" in address.host else address.host
        request = Request(
            host=host if is_usual else f"{host}:{address.port}",
            target=address.path,
            subprotocols=[_SUBPROTOCOL],
            extra_headers=[(name.encode(), value.reveal().encode()) for name, value in headers],
        )
        try:
            self._sock.sendall(self._protocol.send(request))
            events = self._first_events(deadline)
        except ConnectionError as exc:
            raise self._refused("closed the connection during the WebSocket handshake") from exc
        self._accept(events[0])
        self._handle(events[1:])

    def _first_events(self, deadline: float) -> list[Event]:
        while True:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._sock.settimeout(left_s)
            data = self._sock.recv(_READ_BYTES)
            if not data:
                raise ConnectionError
            if events := self._events(data):
                return events

    def _accept(self, answer: Event) -> None:
        if isinstance(answer, RejectConnection):
            raise self._refused(f"answered the WebSocket handshake with HTTP status {answer.status_code}")
        if not isinstance(answer, AcceptConnection):
            raise self._refused("answered something else than a WebSocket handshake")
        if answer.subprotocol != _SUBPROTOCOL:
            raise self._refused("opened a WebSocket, but not for the protocol `mqtt`")

    def _refused(self, what: str) -> WayRefused:
        remedy = "check host, port and path in mqtt.broker, and mqtt.websocket.header_files"
        return WayRefused(f"{self._address} {what}: {remedy}", needs_change=True)

    def _events(self, data: bytes) -> list[Event]:
        try:
            self._protocol.receive_data(data)
            return list(self._protocol.events())
        except ProtocolError as exc:
            is_open = self._protocol.state is ConnectionState.OPEN
            raise (
                ConnectionError(f"broken WebSocket: {exc}")
                if is_open
                else self._refused("does not speak HTTP or WebSocket")
            ) from exc

    def _take(self, data: bytes) -> None:
        if not data:
            self._is_closed = True
            return
        self._handle(self._events(data))

    def _handle(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, BytesMessage):
                self._received += event.data
            elif isinstance(event, Ping):
                self._reply(event.response())
            elif isinstance(event, CloseConnection):
                self._is_closed = True
                if self._protocol.state is ConnectionState.REMOTE_CLOSING:
                    self._reply(event.response())
            elif isinstance(event, TextMessage):
                raise ConnectionError("broken WebSocket: a text frame, but MQTT comes in binary frames")

    def _reply(self, event: Event) -> None:
        self._outgoing += self._protocol.send(event)
        with suppress(*_WAITS):  # the rest goes out before the next packet
            self._flush()

    def _flush(self) -> None:
        while self._outgoing:
            self._outgoing = self._outgoing[self._sock.send(self._outgoing) :]
