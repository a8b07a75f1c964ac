"""One client of the camera: RTSP 1.0, with RTP inside its connection (RFC 2326, section 10.12)."""

from __future__ import annotations

import re
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

from agent.tools.clip_camera.clip import PAYLOAD_TYPE, Clip, Moment, moments_of

PATH = "/clip"
_MAX_REQUEST_BYTES = 8192
_LOOK_S = 0.5
"""How soon a stop is seen."""
_STALLED_S = 5.0
"""A client that takes nothing for so long is let go."""
_METHODS = "OPTIONS, DESCRIBE, SETUP, PLAY, PAUSE, GET_PARAMETER, TEARDOWN"
_CHANNELS = re.compile(r"RTP/AVP/TCP;(?:.*;)?interleaved=(\d{1,3})-(\d{1,3})")


class Gone(Exception):
    """The client has left, or sent what is no RTSP."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request; the names of headers are in lower case."""

    method: str
    url: str
    headers: dict[str, str]


class Session:
    """Answers one client and sends it the clip from its start. Used by one thread."""

    def __init__(
        self,
        connection: socket.socket,
        clip: Clip,
        stop: threading.Event,
        *,
        on_frame: Callable[[float], None] | None = None,
    ) -> None:
        self._connection, self._clip, self._stop, self._on_frame = connection, clip, stop, on_frame
        self._received = b""
        self._channels: tuple[int, int] | None = None
        self._moments: Generator[Moment, None, None] | None = None
        self._next: Moment | None = None
        self._began_s = 0.0

    def run(self) -> None:
        """Serve until the client leaves, or the server stops."""
        self._connection.settimeout(_STALLED_S)
        try:
            while not self._stop.is_set():
                self._wait()
                self._send_what_is_due()
        except (Gone, OSError):
            return
        finally:
            self._pause()

    def _wait(self) -> None:
        """Answer requests until the next frame is due, or for a moment."""
        wait_s = _LOOK_S
        if self._next is not None:
            wait_s = min(_LOOK_S, max(0.0, self._began_s + self._next.due_s - time.monotonic()))
        if not select.select([self._connection], [], [], wait_s)[0]:
            return
        data = self._connection.recv(_MAX_REQUEST_BYTES)
        if not data:
            raise Gone
        self._received += data
        while (request := self._take_request()) is not None:
            self._answer(request)

    def _take_request(self) -> Request | None:
        """The next request, if all of it is here."""
        self._drop_packets()
        head, separator, rest = self._received.partition(b"\r\n\r\n")
        if not separator:
            if len(self._received) > _MAX_REQUEST_BYTES:
                raise Gone
            return None
        first, *lines = head.decode("utf-8", "replace").split("\r\n")
        words = first.split()
        if len(words) != 3 or not words[2].startswith("RTSP/"):
            raise Gone
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > _MAX_REQUEST_BYTES:
            raise Gone
        if len(rest) < int(length):
            return None
        self._received = rest[int(length) :]
        return Request(words[0], words[1], headers)

    def _drop_packets(self) -> None:
        """Leave out the client's own packets: ``$``, a channel, two bytes of length."""
        while self._received[:1] == b"$" and len(self._received) >= 4:
            end = 4 + struct.unpack(">H", self._received[2:4])[0]
            if len(self._received) < end:
                return
            self._received = self._received[end:]

    def _answer(self, request: Request) -> None:
        answers: dict[str, Callable[[Request], None]] = {
            "OPTIONS": lambda one: self._reply(one, "200 OK", [f"Public: {_METHODS}"]),
            "DESCRIBE": self._describe,
            "SETUP": self._set_up,
            "PLAY": self._play,
            "PAUSE": self._hold,
            "GET_PARAMETER": lambda one: self._reply(one, "200 OK"),
            "TEARDOWN": self._tear_down,
        }
        answer = answers.get(request.method)
        if answer is None:
            self._reply(request, "501 Not Implemented")
        elif request.method != "OPTIONS" and not _names_clip(request.url):
            self._reply(request, "404 Not Found")
        else:
            answer(request)

    def _describe(self, request: Request) -> None:
        body = "\r\n".join(
            [
                "v=0",
                "o=- 0 0 IN IP4 127.0.0.1",
                "s=clip",
                "c=IN IP4 0.0.0.0",
                "t=0 0",
                "a=control:*",
                f"m=video 0 RTP/AVP {PAYLOAD_TYPE}",
                f"a=rtpmap:{PAYLOAD_TYPE} {self._clip.codec}/90000",
                *([f"a=fmtp:{PAYLOAD_TYPE} packetization-mode=1"] if self._clip.codec == "H264" else []),
                f"a=framerate:{self._clip.fps:g}",
                "a=control:track1",
                "",
            ]
        )
        base = request.url.rstrip("/") + "/"
        self._reply(request, "200 OK", [f"Content-Base: {base}", "Content-Type: application/sdp"], body)

    def _set_up(self, request: Request) -> None:
        """Only RTP inside this connection: it passes every firewall and loses nothing."""
        match = _CHANNELS.search(request.headers.get("transport", ""))
        if match is None or max(int(match[1]), int(match[2])) > 255:
            self._reply(request, "461 Unsupported Transport")
            return
        self._channels = int(match[1]), int(match[2])
        transport = f"Transport: RTP/AVP/TCP;unicast;interleaved={match[1]}-{match[2]}"
        self._reply(request, "200 OK", [transport, "Session: 1"])

    def _play(self, request: Request) -> None:
        if self._channels is None:
            self._reply(request, "455 Method Not Valid in This State")
            return
        self._reply(request, "200 OK", ["Session: 1", "Range: npt=0.000-"])
        if self._next is None:
            self._moments, self._began_s = moments_of(self._clip), time.monotonic()
            self._advance()

    def _hold(self, request: Request) -> None:
        self._pause()
        self._reply(request, "200 OK", ["Session: 1"])

    def _tear_down(self, request: Request) -> None:
        self._reply(request, "200 OK", ["Session: 1"])
        raise Gone

    def _pause(self) -> None:
        """End the clip; the next PLAY begins it again."""
        if self._moments is not None:
            self._moments.close()
        self._moments = self._next = None

    def _send_what_is_due(self) -> None:
        while self._next is not None and self._began_s + self._next.due_s <= time.monotonic():
            channels = self._channels or (0, 1)
            framed = [
                b"$" + struct.pack(">BH", channels[is_rtcp], len(packet)) + packet
                for packet, is_rtcp in self._next.packets
            ]
            if self._on_frame is not None:
                self._on_frame(self._next.due_s)
            self._connection.sendall(b"".join(framed))
            self._advance()

    def _advance(self) -> None:
        self._next = None if self._moments is None else next(self._moments, None)

    def _reply(self, request: Request, status: str, headers: list[str] | None = None, body: str = "") -> None:
        lines = [f"RTSP/1.0 {status}", f"CSeq: {request.headers.get('cseq', '0')}", *(headers or [])]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self._connection.sendall(("\r\n".join(lines) + "\r\n\r\n" + body).encode())


def _names_clip(url: str) -> bool:
    """Whether ``url`` is the clip, or its one track."""
    path = re.sub(r"^rtsp://[^/]*", "", url, flags=re.IGNORECASE).partition("?")[0].rstrip("/")
    return path in {PATH, f"{PATH}/track1"}
