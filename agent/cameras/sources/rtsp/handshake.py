"""A DESCRIBE request to an RTSP camera before FFmpeg opens the stream.

FFmpeg behind OpenCV reports only "not opened" and cannot be interrupted. So this module asks the camera first, on its
own connection, which can be interrupted and distinguishes the errors.
"""

from __future__ import annotations

import errno
import os
import re
import selectors
import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from urllib.parse import SplitResult

from agent.cameras.sources.rtsp.digest import Login

_POLL_S = 0.1
_MAX_ANSWER_BYTES = 65536
_REACH = "Check the address, the camera's power and the network"
DEFAULT_PORTS = {"rtsp": 554, "rtsps": 322}


class HandshakeFailed(Exception):
    """The camera gave no valid answer. ``reason`` is one word, the text says what happened and what to do."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Deadline:
    """When to give up: at a moment of the monotonic clock, or when interrupted."""

    timeout_s: float
    deadline: float
    interrupted: threading.Event

    def wait(self, connection: socket.socket, events: int) -> bool:
        """Wait for the connection; False once the time is over.

        Raises:
            HandshakeFailed: interrupted.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(connection, events)
            while (remaining := self.deadline - time.monotonic()) > 0:
                if self.interrupted.is_set():
                    raise HandshakeFailed("interrupted", "interrupted")
                if selector.select(min(_POLL_S, remaining)):
                    return True
        return False


@dataclass(frozen=True, slots=True)
class Answer:
    """The status of the camera's answer, and whether the request carried user and password."""

    status: int
    with_credentials: bool


def describe_stream(
    address: SplitResult, *, timeout_s: float, interrupted: threading.Event, login: Login | None = None
) -> Answer | None:
    """Ask for the stream's description; returns the camera's answer, None for ``rtsps``.

    ``address`` holds no credentials; ``login`` is sent only if the camera asks for it, on the same connection. Waits
    at most ``timeout_s`` in all, plus the time of name resolution; ends within 0.1 s of an interruption.

    Raises:
        HandshakeFailed: no connection, no answer, or an answer that is not RTSP.
    """
    deadline = _Deadline(timeout_s, time.monotonic() + timeout_s, interrupted)
    host, port = address.hostname or "", address.port or DEFAULT_PORTS[address.scheme]
    place = f"{host}:{port}"
    with _connect(host, port, deadline) as connection:
        if address.scheme == "rtsps":
            return None
        try:
            head = _ask(connection, address.geturl(), deadline, number=1)
            status = _status(head, place, deadline)
            authorization = None
            if status == 401 and login is not None and head is not None:
                authorization = login.answer(_challenges(head), method="DESCRIBE", uri=address.geturl())
            if authorization is None:
                return Answer(status, with_credentials=False)
            head = _ask(connection, address.geturl(), deadline, number=2, authorization=authorization)
            return Answer(_status(head, place, deadline), with_credentials=True)
        except OSError as exc:
            raise _closed(place, exc.strerror) from exc


def _ask(
    connection: socket.socket, url: str, deadline: _Deadline, *, number: int, authorization: str | None = None
) -> bytes | None:
    # Source: RFC 2326, 10.2.
    lines = [
        f"DESCRIBE {url} RTSP/1.0",
        f"CSeq: {number}",
        "Accept: application/sdp",
        "User-Agent: edge-inference-agent",
    ]
    if authorization is not None:
        lines.append(f"Authorization: {authorization}")
    connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    return _head(connection, deadline)


def _challenges(head: bytes) -> list[str]:
    lines = (line.partition(":") for line in head.decode("utf-8", "replace").splitlines())
    return [value.strip() for name, _, value in lines if name.strip().lower() == "www-authenticate"]


def _connect(host: str, port: int, deadline: _Deadline) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise HandshakeFailed(
            "unknown_host", f"the name {host!r} cannot be resolved ({exc}). Check the url and the device's DNS"
        ) from exc
    failure = HandshakeFailed("unknown_host", f"the name {host!r} has no address")
    for family, kind, protocol, _, target in found:
        with ExitStack() as cleanup:
            connection = cleanup.enter_context(socket.socket(family, kind, protocol))
            connection.settimeout(0.0)  # a blocking connect could not be interrupted
            problem = connection.connect_ex(target)
            if problem == errno.EINPROGRESS and deadline.wait(connection, selectors.EVENT_WRITE):
                problem = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not problem:
                cleanup.pop_all()
                return connection
        failure = _not_connected(host, port, problem, deadline)
    raise failure


def _not_connected(host: str, port: int, problem: int, deadline: _Deadline) -> HandshakeFailed:
    if problem == errno.EINPROGRESS:
        return HandshakeFailed(
            "no_answer",
            f"{host}:{port} did not accept a connection within {deadline.timeout_s:g} s. {_REACH}",
        )
    if problem == errno.ECONNREFUSED:
        return HandshakeFailed("refused", f"nothing listens at {host}:{port}. Check the port, and enable RTSP")
    return HandshakeFailed("unreachable", f"{host}:{port} cannot be reached ({os.strerror(problem)}). {_REACH}")


def _head(connection: socket.socket, deadline: _Deadline) -> bytes | None:
    """The answer's first line and headers, as far as the camera sent them; None if no line came in time.

    The body of a 401 is read too: the second request follows on the same connection.
    """
    received = b""
    while len(received) < _MAX_ANSWER_BYTES:
        head, has_ended, body = received.partition(b"\r\n\r\n")
        line = received.split(b"\n", 1)[0]
        if b"\n" in received and (b" 401 " not in line or (has_ended and len(body) >= _length(head))):
            break
        if not deadline.wait(connection, selectors.EVENT_READ):
            return received if b"\n" in received else None
        part = connection.recv(4096)
        if not part:
            break
        received += part
    return received


def _length(head: bytes) -> int:
    found = re.search(rb"(?im)^content-length:\s*(\d{1,6})\s*$", head)
    return int(found[1]) if found else 0


def _status(head: bytes | None, place: str, deadline: _Deadline) -> int:
    if head is None:
        raise HandshakeFailed(
            "no_answer",
            f"{place} accepted the connection but gave no answer within {deadline.timeout_s:g} s. "
            "Check that this is the camera's RTSP port, and restart the camera",
        )
    if not head:
        raise _closed(place, "no answer")
    line = head.split(b"\n", 1)[0].strip()
    words = line.decode("ascii", "replace").split()
    if len(words) < 2 or not words[0].startswith("RTSP/") or not words[1].isdigit():
        shown = line[:60].decode("ascii", "replace")
        raise HandshakeFailed("not_rtsp", f"{place} answered {shown!r}, which is not RTSP. Check the port")
    return int(words[1])


def _closed(place: str, how: str | None) -> HandshakeFailed:
    return HandshakeFailed(
        "closed",
        f"{place} closed the connection at the request for the stream ({how}). Some cameras do so after wrong "
        "passwords or with too many viewers: close other viewers, wait, or restart the camera",
    )
