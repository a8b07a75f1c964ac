"""One question to an RTSP camera before FFmpeg is let in.

FFmpeg behind OpenCV says no more than "not opened" and cannot be interrupted. So the camera is asked here first, on a
connection of our own that watches for an interruption and tells apart what can be wrong.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from urllib.parse import SplitResult

_POLL_S = 0.1
_MOST_ANSWER_BYTES = 65536
_REACH = "Check the address, the camera's power and the network between"
DEFAULT_PORTS = {"rtsp": 554, "rtsps": 322}


class HandshakeFailed(Exception):
    """The camera cannot be talked to. ``reason`` is one word, the text says what happened and what to do."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Patience:
    """When to give up: at a moment of the monotonic clock, or when interrupted."""

    timeout_s: float
    deadline: float
    interrupted: threading.Event

    def wait(self, connection: socket.socket, events: int) -> bool:
        """Wait for the connection; False when the time is over.

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


def describe_stream(address: SplitResult, *, timeout_s: float, interrupted: threading.Event) -> int | None:
    """Ask for the stream's description without credentials; the status of the answer, None for ``rtsps``.

    ``address`` holds no credentials. Waits at most ``timeout_s`` in all, plus what the system takes to resolve the
    name, and ends within 0.1 s of an interruption.

    Raises:
        HandshakeFailed: no connection, no answer, or an answer that is not RTSP.
    """
    patience = _Patience(timeout_s, time.monotonic() + timeout_s, interrupted)
    host, port = address.hostname or "", address.port or DEFAULT_PORTS[address.scheme]
    with _connect(host, port, patience) as connection:
        if address.scheme == "rtsps":
            return None
        # Source: RFC 2326, 10.2.
        request = (
            f"DESCRIBE {address.geturl()} RTSP/1.0\r\nCSeq: 1\r\n"
            "Accept: application/sdp\r\nUser-Agent: edge-inference-agent\r\n\r\n"
        )
        try:
            connection.sendall(request.encode())
            answer = _first_line(connection, patience)
        except OSError as exc:
            raise HandshakeFailed(
                "closed",
                f"{host}:{port} closed the connection when it was asked for the stream ({exc.strerror}). Some cameras "
                "do so after wrong passwords or with too many viewers: end other viewers, wait, or restart it",
            ) from exc
    return _status(answer, f"{host}:{port}", patience)


def _connect(host: str, port: int, patience: _Patience) -> socket.socket:
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
            connection.settimeout(0.0)
            problem = connection.connect_ex(target)
            if problem == errno.EINPROGRESS and patience.wait(connection, selectors.EVENT_WRITE):
                problem = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not problem:
                cleanup.pop_all()
                return connection
        failure = _not_connected(host, port, problem, patience)
    raise failure


def _not_connected(host: str, port: int, problem: int, patience: _Patience) -> HandshakeFailed:
    if problem == errno.EINPROGRESS:
        return HandshakeFailed(
            "no_answer",
            f"{host}:{port} did not take a connection within {patience.timeout_s:g} s. {_REACH}",
        )
    if problem == errno.ECONNREFUSED:
        return HandshakeFailed("refused", f"nothing listens at {host}:{port}. Check the port and that RTSP is enabled")
    return HandshakeFailed("unreachable", f"{host}:{port} cannot be reached ({os.strerror(problem)}). {_REACH}")


def _first_line(connection: socket.socket, patience: _Patience) -> bytes | None:
    """The first line of the answer, empty when the camera closed, None when the time is over."""
    received = b""
    while b"\n" not in received and len(received) < _MOST_ANSWER_BYTES:
        if not patience.wait(connection, selectors.EVENT_READ):
            return None
        part = connection.recv(4096)
        if not part:
            break
        received += part
    return received.split(b"\n", 1)[0].strip()


def _status(line: bytes | None, place: str, patience: _Patience) -> int:
    if line is None:
        raise HandshakeFailed(
            "no_answer",
            f"{place} took the connection and gave no answer within {patience.timeout_s:g} s. "
            "Check that this is the camera's RTSP port, and restart the camera",
        )
    words = line.decode("ascii", "replace").split()
    if len(words) < 2 or not words[0].startswith("RTSP/") or not words[1].isdigit():
        shown = line[:60].decode("ascii", "replace")
        raise HandshakeFailed("not_rtsp", f"{place} answered {shown!r}, which is not RTSP. Check the port")
    return int(words[1])
