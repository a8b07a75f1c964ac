"""What uvicorn lacks for one connection: errors as JSON, limits, and requests that can be read in one way only.

The limits are how long and how large the head of a request may be, how long its body may take, and how many
connections there may be. A client that sends a byte now and then would otherwise hold a connection for ever.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from agent.web.call_faults import FAULT_TEXT, fault_logger
from agent.web.http.replies import reply_json

_faults = fault_logger("uvicorn.calls")

MAX_HEAD_BYTES = 65_536
CHUNK_BYTES = 262_144
"""How much of a body is passed on at once: an image of 150 KB arrives in several reads, but wakes its call once."""
_TIMED_OUT = (408, "the request did not arrive in time; send it faster, or raise serve.read_timeout_s")
_TOO_MANY = (503, "the server has as many connections as serve.max_connections; try again later, or raise it")
_NO_HTTP = "Invalid HTTP request received. Send plain HTTP/1.1, and https only where serve.tls is set"
_ONCE = frozenset(
    {
        b"authorization",
        b"content-encoding",
        b"content-type",
        b"host",
        b"inference-header-content-length",
        b"origin",
        b"x-csrf-token",
    }
)
"""Headers that decide something. Of two, a proxy may look at the other one than this server does."""
_TOO_LARGE = (431, "the head of the request is too large; send fewer or shorter headers")


_HOST = re.compile(rb"(?:\[[\w.:%~-]+\]|[\w.~!$&'()*+,;=%-]+)(?::[0-9]{0,5})?\Z")
"""RFC 9112, section 3.2: a name or an address, and a port. An address of IPv6 may name its zone."""


class _BadHead(Exception):
    """A request's head is too large, can be read in more than one way, or says not for whom the request is.

    ``args`` are the status and the text of the answer.
    """


class _Transport:
    """The transport as one call sees it: closed by ``protocol`` when the whole request has arrived."""

    def __init__(self, protocol: LimitedProtocol, transport: asyncio.Transport) -> None:
        self.write, self.is_closing, self.close = transport.write, transport.is_closing, protocol.end


class LimitedProtocol(HttpToolsProtocol):
    """One connection; ``limited_protocol`` sets the two limits of its server."""

    read_timeout_s: ClassVar[float]
    max_connections: ClassVar[int]
    _timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _measured_bytes = 0
    _is_in_head = True
    _is_surplus = False
    _is_ending = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self.logger = _faults
        self._transport_of_calls = _Transport(self, transport)
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
        self._unset_keepalive_if_required()
        self._parse(data)
        if self._is_in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(*_TOO_LARGE)

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as exc:
            cause = exc.__context__
            self._refuse(*(cause.args if isinstance(cause, _BadHead) else (400, _NO_HTTP)))
        except httptools.HttpParserUpgrade as exc:
            self._parse_without_upgrade(data[exc.args[0] :])

    def _parse_without_upgrade(self, rest: bytes) -> None:
        """Read the head again without its wish for another protocol, which a server may ignore: RFC 9110, section 7.8.

        The parser takes the body, ``rest``, for that protocol. Java's client and `curl --http2` ask for HTTP/2 so.
        """
        method = self.parser.get_method()
        headers = b"".join(b"%s: %s\r\n" % one for one in self.headers if one[0] != b"upgrade")
        self.parser = httptools.HttpRequestParser(self)
        self._parse(b"%s %s HTTP/1.1\r\n%s\r\n%s" % (method, self.url, headers, rest))

    @property
    def _is_upgrade(self) -> bool:
        # CONNECT, which the parser counts as one, is none: its address alone makes the request invalid.
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def on_message_begin(self) -> None:
        """See httptools.HTTPProtocol."""
        super().on_message_begin()
        self._is_in_head = True
        self._measured_bytes = 0
        if self._timer is None:  # the first one began with the connection
            self._start_timer()

    def on_url(self, url: bytes) -> None:
        """See httptools.HTTPProtocol."""
        super().on_url(url)
        self._measure_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools.HTTPProtocol."""
        super().on_header(name, value)
        self._measure_head(len(name) + len(value))

    def _measure_head(self, more_bytes: int) -> None:
        # Of a head that arrives in one piece; ``_head_bytes`` is of one that never ends.
        self._measured_bytes += more_bytes
        if self._measured_bytes > MAX_HEAD_BYTES:
            raise _BadHead(*_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """See httptools.HTTPProtocol."""
        if self._is_upgrade:
            return
        self._is_in_head, self._head_bytes = False, 0
        self._start_timer()
        if (fault := _fault_of_head(self.headers, self.url, self.parser.get_http_version())) is not None:
            raise _BadHead(400, fault)
        super().on_headers_complete()
        cycle: Any = self.cycle
        cycle.transport = self._transport_of_calls
        cycle.send_500_response = partial(_answer_fault, cycle)

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
        if self._is_upgrade:
            return
        self._stop_timer()
        super().on_message_complete()
        if self._is_ending:
            self.transport.close()

    def on_response_complete(self) -> None:
        """See uvicorn, which would begin to serve the next request."""
        if self._is_ending:
            self.flow.resume_reading()
        else:
            super().on_response_complete()

    def end(self) -> None:
        """Close the connection, but read and drop the rest of a request that was answered early.

        A client that still sends would see the closed connection, and not its answer.
        """
        if self._timer is None or self._is_in_head:
            self.transport.close()
        else:
            self._is_ending = True

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
        """Answer, unless an answer has begun, and close. A request that was answered early gets no second answer."""
        cycle: Any = self.cycle
        if cycle is None or not cycle.response_started or (cycle.response_complete and self._is_in_head):
            body = b'{"error":"%s"}' % text.encode()
            self.transport.write(
                b"HTTP/1.1 %d Refused\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
                b"connection: close\r\n\r\n%s" % (status, len(body), body)
            )
        self._stop_timer()
        self.transport.close()


def _fault_of_head(headers: Sequence[tuple[bytes, bytes]], url: bytes, version: str) -> str | None:
    """Why nobody may rely on how this head is read; None if it can be read in one way."""
    decisive = [name for name, _ in headers if name in _ONCE]
    if len(decisive) != len(set(decisive)):
        twice = next(name for name in decisive if decisive.count(name) > 1).decode()
        return f"the request has the header {twice} twice, but it may be there once; send one of them"
    host = next((value for name, value in headers if name == b"host"), None)
    if host is None:
        # Before 1.1 it was no rule.
        needs = (
            "the request has no header Host, but this version of HTTP requires one; send the address of this server"
        )
        return needs if version == "1.1" else None
    if _HOST.match(host) is None:
        return "the header Host must be a name or an address, with or without a port; send that of this server"
    scheme, _, rest = url.partition(b"://")
    if rest and b"/" not in scheme and rest.partition(b"/")[0].lower() != host.lower():
        return "the request line and the header Host name two servers, but a request is for one; send the same twice"
    return None


async def _answer_fault(cycle: Any) -> None:
    """What uvicorn answers with a word of plain text."""
    await reply_json(cycle.send, {"error": FAULT_TEXT}, status=500, headers=((b"connection", b"close"),))


def limited_protocol(*, read_timeout_s: float, max_connections: int) -> type[LimitedProtocol]:
    """The protocol of a server: ``read_timeout_s`` for the head of a request and again for its body.

    A connection above ``max_connections`` is answered with 503 and closed; at twice as many, it is closed unread.
    """
    limits = {"read_timeout_s": read_timeout_s, "max_connections": max_connections}
    return type("ServerProtocol", (LimitedProtocol,), limits)
