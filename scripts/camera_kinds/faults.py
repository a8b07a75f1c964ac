"""What is no camera, or a broken one: each with the reason that its error must have."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from agent.config.sections.sources import CsiSource, HttpSource, RtspSource, StreamSource, V4l2Source
from scripts.camera_kinds.kinds import Kind, Stage
from scripts.camera_kinds.servers import answering
from tests.fixtures.certificates import Authority
from tests.fixtures.http_camera import http_camera
from tests.fixtures.mosquitto import free_port
from tests.fixtures.rtsp_server import RtspServer, silent_listener

_STATUS = {
    400: "refused_by_camera",
    404: "no_such_stream",
    403: "credentials",
    453: "refused_by_camera",
    454: "refused_by_camera",
    500: "refused_by_camera",
    503: "refused_by_camera",
}


def fault_kinds() -> Iterator[Kind]:
    """All of them."""
    yield Kind("fault", "RTSP, nothing listens", _at(lambda: f"rtsp://127.0.0.1:{free_port()}/1"), "refused")
    yield Kind("fault", "RTSP, a name that nobody knows", _at(lambda: "rtsp://camera.invalid/1"), "unknown_host")
    yield Kind("fault", "RTSP, accepts and never answers", _silent, "no_answer")
    yield Kind("fault", "RTSP, the connection is never accepted", _full, "no_answer")
    yield Kind("fault", "RTSP, hangs up at once", _answers(lambda _: b""), "not_understood")
    yield Kind("fault", "RTSP, an HTTP server", _answers(lambda _: b"HTTP/1.1 200 OK\r\n\r\n<html>"), "not_understood")
    yield Kind("fault", "RTSP, random bytes", _answers(lambda _: bytes(range(256)) * 8), "not_understood")
    for status, reason in _STATUS.items():
        yield Kind("fault", f"RTSP, status {status}", _status(status), reason)
    yield Kind("fault", "RTSP, redirected (302) to a camera", _redirected)
    yield Kind("fault", "RTSP, but the port speaks TLS", _tls_port, "not_understood")
    yield Kind("fault", "rtsps, but the port speaks no TLS", _answers(lambda _: b"RTSP/1.0 400 Bad\r\n\r\n", "rtsps"),
               "not_understood")  # fmt: skip
    yield Kind("fault", "RTSP, stops sending and stays connected", _stalled, "stalled")
    yield Kind("fault", "RTSP, plays and sends nothing", _mute, "no_stream")
    yield Kind("fault", "HTTP, a page instead of an image", _http(b"text/html", b"<html>" * 9), "not_understood")
    yield Kind("fault", "HTTP, an empty answer", _http(b"image/jpeg", b""), "not_understood")
    yield Kind("fault", "USB, not plugged in", _usb("/dev/video99"), "missing")
    yield Kind("fault", "USB, a device that is no camera", _usb("/dev/null"), "not_a_camera")
    yield Kind("fault", "CSI, not on a Jetson", lambda _, __: Stage(CsiSource(type="csi")), "no_element")
    yield Kind("fault", "stream, a page instead of HLS", _page, "not_understood")


def _rtsp(url: str, **settings: Any) -> Stage:
    return Stage(RtspSource(type="rtsp", url=url, **settings))


def _usb(device: str) -> Callable[[Path, ExitStack], Stage]:
    return lambda _, __: Stage(V4l2Source(type="v4l2", device=device))


def _at(url: Callable[[], str]) -> Callable[[Path, ExitStack], Stage]:
    return lambda _, __: _rtsp(url(), open_timeout_s=3.0)


def _silent(_: Path, stack: ExitStack) -> Stage:
    port = stack.enter_context(silent_listener())
    return _rtsp(f"rtsp://127.0.0.1:{port}/1", open_timeout_s=3.0)


def _full(_: Path, stack: ExitStack) -> Stage:
    """The listener's queue is full: the kernel answers no further connection."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
    for _one in range(4):
        waiting = stack.enter_context(socket.socket())
        waiting.settimeout(0.0)
        waiting.connect_ex(listener.getsockname())
    return _rtsp(f"rtsp://127.0.0.1:{listener.getsockname()[1]}/1", open_timeout_s=3.0)


def _answers(answer: Callable[[bytes], bytes], scheme: str = "rtsp") -> Callable[[Path, ExitStack], Stage]:
    return lambda _, stack: _rtsp(f"{scheme}://127.0.0.1:{stack.enter_context(answering(answer))}/1")


def _line(request: bytes, name: bytes) -> bytes:
    found = [line for line in request.split(b"\r\n") if line.lower().startswith(name)]
    return found[0] if found else b"CSeq: 1"


def _status(status: int) -> Callable[[Path, ExitStack], Stage]:
    def answer(request: bytes) -> bytes:
        number = _line(request, b"cseq")
        if request.startswith(b"OPTIONS"):
            return b"RTSP/1.0 200 OK\r\n" + number + b"\r\nPublic: DESCRIBE, SETUP, PLAY\r\n\r\n"
        return f"RTSP/1.0 {status} No\r\n".encode() + number + b"\r\n\r\n"

    return lambda _, stack: _rtsp(f"rtsp://127.0.0.1:{stack.enter_context(answering(answer, is_last=False))}/1")


def _redirected(folder: Path, stack: ExitStack) -> Stage:
    server = stack.enter_context(RtspServer(folder))

    def answer(request: bytes) -> bytes:
        number = _line(request, b"cseq")
        return b"RTSP/1.0 302 Moved\r\n" + number + f"\r\nLocation: {server.url}\r\n\r\n".encode()

    return _rtsp(f"rtsp://127.0.0.1:{stack.enter_context(answering(answer, is_last=False))}/1")


def _tls_port(folder: Path, stack: ExitStack) -> Stage:
    made = Authority(folder / "ca").server("camera")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    server = stack.enter_context(http_camera(context))
    return _rtsp(f"rtsp://127.0.0.1:{server.port}/1")


def _stalled(folder: Path, stack: ExitStack) -> Stage:
    server = stack.enter_context(RtspServer(folder, transports=("udp",), silent_after=5))
    return _rtsp(server.url, transport="udp")


def _mute(folder: Path, stack: ExitStack) -> Stage:
    server = stack.enter_context(RtspServer(folder, transports=("udp",), silent_after=0))
    return _rtsp(server.url, transport="udp")


def _http(kind: bytes, body: bytes) -> Callable[[Path, ExitStack], Stage]:
    def make(_: Path, stack: ExitStack) -> Stage:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: " + kind + f"\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        port = stack.enter_context(answering(lambda _: head + body, is_last=False))
        return Stage(HttpSource(type="http", url=f"http://127.0.0.1:{port}/", interval_s=1.0))

    return make


def _page(_: Path, stack: ExitStack) -> Stage:
    page = b"<html>no playlist</html>"
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(page)}\r\n\r\n".encode()
    port = stack.enter_context(answering(lambda _: head + page, is_last=False))
    return Stage(StreamSource(type="stream", url=f"http://127.0.0.1:{port}/live.m3u8"))
