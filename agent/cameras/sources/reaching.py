"""Reaching a server: openings that can be left behind, whether anybody is there, which login it asks for."""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar
from urllib.parse import urlsplit

from agent.cameras.sources.failures import Interrupted
from agent.config.sections.sources import AddressedSource
from agent.config.source_address import DEFAULT_PORTS
from agent.runtime.threads import StageThread

T = TypeVar("T")

_LOOK_EVERY_S = 0.1
_CONNECT_S = 1.0
"""Longer than any round trip to a camera, and no longer than TCP waits before it repeats its first packet."""


_MAX_HEAD_BYTES = 16384
_CHALLENGE = re.compile(r"(?im)^www-authenticate:[ \t]*([\w-]+)([^\r\n]*)")
"""Source: RFC 2326, 12.44; RFC 7616, 3.3."""


class Opening(Generic[T]):
    """Runs a library's call that nothing can interrupt, in a thread of its own, ``source-opening``.

    Name lookups, connections and FFmpeg's openings are such calls: they end by their own limits. An interruption
    leaves the thread behind; what it opens after that it gives to ``discard``.
    """

    def __init__(self, work: Callable[[], T], discard: Callable[[T], None]) -> None:
        self._work, self._discard = work, discard
        self._lock = threading.Lock()
        self._opened: T | None = None
        self._is_left = False
        self._thread = StageThread("source-opening", self._main)

    def wait(self, interrupted: threading.Event) -> T:
        """Start it, and wait for what it opens.

        Raises:
            Interrupted: ``interrupted`` was set; noticed within a tenth of a second.
            Exception: what the call raised.
        """
        self._thread.start()
        while not self._thread.join(_LOOK_EVERY_S):
            if interrupted.is_set() and self._leave():
                raise Interrupted
        if self._thread.failure is not None:
            raise self._thread.failure
        if self._opened is None:
            raise TypeError("an opening returned nothing")
        return self._opened

    def _main(self) -> None:
        opened = self._work()
        with self._lock:
            self._opened = opened
            is_left = self._is_left
        if is_left:
            self._discard(opened)

    def _leave(self) -> bool:
        """Whether the thread still works, and will discard what it opens."""
        with self._lock:
            self._is_left = self._opened is None
            return self._is_left


def unknown_login(url: str, timeout_s: float) -> str | None:
    """The login that an RTSP camera asks for if FFmpeg has none of those that it offers.

    FFmpeg's error is that of a wrong password then. ``url`` is sent without a login. None if FFmpeg has one of them
    (Basic, Digest with MD5), or if the camera does not answer within ``timeout_s``.
    """
    parts, deadline, received = urlsplit(url), time.monotonic() + timeout_s, b""
    place = parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme.lower()]
    with suppress(OSError, UnicodeError), _connected(place, timeout_s, is_tls=parts.scheme == "rtsps") as connection:
        connection.sendall(f"DESCRIBE {url} RTSP/1.0\r\nCSeq: 1\r\n\r\n".encode())
        while b"\r\n\r\n" not in received and len(received) < _MAX_HEAD_BYTES and time.monotonic() < deadline:
            if not (data := connection.recv(_MAX_HEAD_BYTES)):
                break
            received += data
    offered = [_login_of(*found) for found in _CHALLENGE.findall(received.decode("latin-1"))]
    return None if not offered or not all(offered) else " or ".join(dict.fromkeys(offered))


def _connected(place: tuple[str, int], timeout_s: float, *, is_tls: bool) -> socket.socket:
    connection = socket.create_connection(place, timeout_s)
    if not is_tls:
        return connection
    # Not checked, as FFmpeg does for rtsps: cameras sign their own certificates, and no secret is sent here.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(connection)


def _login_of(scheme: str, fields: str) -> str:
    """One challenge in words; empty if FFmpeg can answer it."""
    algorithm = re.search(r'(?i)\balgorithm\s*=\s*"?([\w-]+)', fields)
    if scheme.lower() == "digest":
        name = "MD5" if algorithm is None else algorithm[1]
        return "" if name.upper() == "MD5" else f"Digest with {name}"
    return "" if scheme.lower() == "basic" else scheme


def is_server_there(config: AddressedSource, interrupted: threading.Event) -> bool | None:
    """Whether the server of ``config`` accepts a connection, which is ended at once: no request, no login.

    None for datagrams, where nobody can be asked, and for bare TCP, where a connection is the stream: some senders
    serve one and end. Takes a second, or as long as the lookup of the name; False once ``interrupted`` is set.
    """
    parts = urlsplit(config.url)
    port = parts.port or DEFAULT_PORTS.get(parts.scheme.lower())
    if parts.scheme.lower() in ("udp", "srt", "tcp") or parts.hostname is None or port is None:
        return None
    host = parts.hostname

    def connect() -> bool:
        try:
            socket.create_connection((host, port), timeout=_CONNECT_S).close()
        except (OSError, UnicodeError):  # UnicodeError: a name that cannot be one
            return False
        return True

    try:
        return Opening(connect, lambda _: None).wait(interrupted)
    except Interrupted:
        return False
