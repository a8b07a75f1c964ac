"""The stream of bytes over a WebSocket, with the library's own server side as the peer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from wsproto import WSConnection
from wsproto.connection import ConnectionType
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Ping, Pong, Request, TextMessage

from agent.config.broker_address import BrokerAddress
from agent.mqtt.diagnosis import WayRefused
from agent.mqtt.network.websocket import WebSocket
from tests.fixtures.deadlines import wait_until

_ADDRESS = BrokerAddress.parse("ws://broker.example:8083/mqtt")


class Peer:
    """The server's end of a socket pair; it refuses what RFC 6455 forbids, such as unmasked frames."""

    def __init__(self, sock: socket.socket, subprotocol: str | None) -> None:
        self.sock = sock
        self.protocol = WSConnection(ConnectionType.SERVER)
        self.request: Request | None = None
        self.received = bytearray()
        self.events: list[Event] = []
        self._subprotocol = subprotocol

    def greet(self) -> None:
        self.protocol.receive_data(self.sock.recv(65536))
        (request,) = self.protocol.events()
        assert isinstance(request, Request)
        self.request = request
        self.send(AcceptConnection(subprotocol=self._subprotocol))

    def send(self, *events: Event) -> None:
        self.sock.sendall(b"".join(self.protocol.send(event) for event in events))

    def read(self) -> None:
        self.protocol.receive_data(self.sock.recv(65536))
        for event in self.protocol.events():
            self.events.append(event)
            if isinstance(event, BytesMessage):
                self.received += event.data


@contextmanager
def _pair(subprotocol: str | None = "mqtt") -> Iterator[tuple[WebSocket, Peer]]:
    near, far = socket.socketpair()
    peer = Peer(far, subprotocol)
    greeting = threading.Thread(target=peer.greet)
    greeting.start()
    with near, far:
        try:
            stream = WebSocket(near, _ADDRESS, [], timeout_s=5.0)
        finally:
            greeting.join()
        stream.setblocking(False)  # noqa: FBT003 (a socket's signature)
        yield stream, peer


def _read(stream: WebSocket, size: int) -> bytes:
    """All that ``stream`` has now, in pieces of at most ``size``."""
    data = b""
    try:
        while piece := stream.recv(size):
            assert len(piece) <= size
            data += piece
    except BlockingIOError:
        pass
    return data


def test_the_request_names_host_path_and_protocol() -> None:
    with _pair() as (_, peer):
        assert peer.request is not None
        assert (peer.request.host, peer.request.target) == ("broker.example:8083", "/mqtt")
        assert peer.request.subprotocols == ["mqtt"]


@pytest.mark.parametrize("subprotocol", [None])
def test_a_websocket_for_something_else_is_refused(subprotocol: str | None) -> None:
    with pytest.raises(WayRefused, match="not for the protocol `mqtt`"), _pair(subprotocol):
        pass


@pytest.mark.parametrize("size", [1, 125, 126, 65535, 65536, 2_000_000])
def test_what_is_sent_arrives_in_order_though_the_socket_takes_it_in_pieces(size: int) -> None:
    with _pair() as (stream, peer):
        data = bytes(range(256)) * (size // 256 + 1)
        data = data[:size]
        refusals = 0
        while True:
            try:
                assert stream.send(data) == size
                break
            except BlockingIOError:
                refusals += 1
                peer.read()
        assert stream.send(b"end") == 3
        while not peer.received.endswith(b"end"):
            peer.read()
        assert bytes(peer.received) == data + b"end"
        assert (refusals > 0) == (size > 1_000_000)


def test_what_arrives_is_one_stream_whatever_its_frames_are() -> None:
    with _pair() as (stream, peer):
        with pytest.raises(BlockingIOError):
            stream.recv(10)
        parts = [b"a", b"", b"bc" * 100_000, b"d"]
        frames = [BytesMessage(data=part, message_finished=index != 0) for index, part in enumerate(parts)]
        sending = threading.Thread(target=peer.send, args=frames)
        sending.start()
        received = b""

        def is_complete() -> bool:
            nonlocal received
            received += _read(stream, 1000)
            return len(received) == len(b"".join(parts))

        wait_until(is_complete)
        sending.join()
        assert received == b"".join(parts)


def test_bytes_that_poll_does_not_see_are_pending() -> None:
    with _pair() as (stream, peer):
        peer.send(BytesMessage(data=b"12345"))
        assert stream.recv(2) == b"12"
        assert stream.pending() == 3
        assert stream.recv(10) == b"345"
        assert stream.pending() == 0


def test_a_ping_is_answered_with_a_masked_pong_and_between_packets_only() -> None:
    with _pair() as (stream, peer):
        big = bytes(2_000_000)
        with pytest.raises(BlockingIOError):
            stream.send(big)
        peer.send(Ping(payload=b"there?"))
        with pytest.raises(BlockingIOError):
            stream.recv(10)
        is_sent = False
        while not any(isinstance(event, Pong) for event in peer.events):
            peer.read()
            with suppress(BlockingIOError):
                is_sent = is_sent or stream.send(big) == len(big)
        assert [bytes(event.payload) for event in peer.events if isinstance(event, Pong)] == [b"there?"]
        assert bytes(peer.received) == big
        assert not any(isinstance(event, CloseConnection) for event in peer.events)


def test_the_end_is_an_end_of_the_stream_after_the_last_bytes() -> None:
    with _pair() as (stream, peer):
        peer.send(BytesMessage(data=b"last"), CloseConnection(code=1001))
        assert stream.recv(10) == b"last"
        assert stream.recv(10) == b""
        peer.read()
        assert any(isinstance(event, CloseConnection) for event in peer.events)
    with _pair() as (stream, peer):
        peer.sock.close()
        assert stream.recv(10) == b""


def test_a_text_frame_and_a_broken_frame_end_the_connection() -> None:
    with _pair() as (stream, peer):
        peer.send(TextMessage(data="hello"))
        with pytest.raises(ConnectionError, match="text frame"):
            stream.recv(10)
    with _pair() as (stream, peer):
        peer.sock.sendall(b"\xff\xff\xff\xff")
        assert stream.recv(10) == b""


def test_closing_says_so_to_the_server() -> None:
    with _pair() as (stream, peer):
        stream.close()
        peer.read()
        assert [type(event) for event in peer.events] == [CloseConnection]
