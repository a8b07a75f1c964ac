"""What uvicorn lacks for one connection: errors as JSON, and limits.

The limits are how long and how large the head of a request may be, how long its body may take, and how many
connections there may be.

A client that sends a byte now and then would otherwise hold a connection for ever.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 65_536
CHUNK_BYTES = 262_144
"""How much of a body is passed on at once: an image of 150 KB arrives in several reads, but wakes its call once."""
_TIMED_OUT = (408, "the request did not arrive in time; send it faster, or raise serve.read_timeout_s")
_TOO_MANY = (503, "the server has as many connections as serve.max_connections; try again later, or raise it")
_SEND_HTTP = "Send plain HTTP/1.1, and https only where serve.tls is set"
_TOO_LARGE = (431, "the head of the request is too large; send fewer or shorter headers")


class LimitedProtocol(HttpToolsProtocol):
    """One connection; ``limited_protocol`` sets the two limits of its server."""

    read_timeout_s: ClassVar[float]
    max_connections: ClassVar[int]
    _timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _is_in_head = True
    _is_surplus = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """See asyncio.Protocol."""
        super().connection_made(transport)
        if len(self.connections) > 2 * self.max_connections:
            transport.abort()
        else:
            self._is_surplus = len(self.connections) > self.max_connections
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._is_surplus:
            # Only the one that came too late: those that were there before are served as ever.
            if len(self.connections) > self.max_connections:
                self._refuse(*_TOO_MANY)
                return
            self._is_surplus = False
        if self._is_in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._is_in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(*_TOO_LARGE)

    def on_message_begin(self) -> None:
        """See httptools.HTTPProtocol."""
        super().on_message_begin()
        self._is_in_head = True
        if self._timer is None:  # the first one began with the connection
            self._start_timer()

    def on_headers_complete(self) -> None:
        """See httptools.HTTPProtocol."""
        self._is_in_head, self._head_bytes = False, 0
        self._start_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """See httptools.HTTPProtocol."""
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) >= CHUNK_BYTES:
            self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        """See httptools.HTTPProtocol."""
        self._stop_timer()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """See uvicorn, whose answer is plain text."""
        self._refuse(400, f"{msg} {_SEND_HTTP}")

    def end_unless_whole(self) -> None:
        """Close the connection if a request is still arriving: the server stops."""
        if self._timer is not None:
            self.transport.abort()

    def _start_timer(self) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(self.read_timeout_s, self._on_timeout)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self) -> None:
        self._timer = None
        if self.pipeline:  # it is this server that does not read: an earlier request is still being answered
            self._start_timer()
            return
        self._refuse(*_TIMED_OUT)

    def _refuse(self, status: int, text: str) -> None:
        """Answer, unless an answer has begun, and close."""
        cycle: Any = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            body = b'{"error":"%s"}' % text.encode()
            self.transport.write(
                b"HTTP/1.1 %d Refused\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
                b"connection: close\r\n\r\n%s" % (status, len(body), body)
            )
        self._stop_timer()
        self.transport.close()


def limited_protocol(*, read_timeout_s: float, max_connections: int) -> type[LimitedProtocol]:
    """The protocol of a server: ``read_timeout_s`` for the head of a request and again for its body.

    A connection above ``max_connections`` is answered with 503 and closed; at twice as many, it is closed unread.
    """
    limits = {"read_timeout_s": read_timeout_s, "max_connections": max_connections}
    return type("ServerProtocol", (LimitedProtocol,), limits)
