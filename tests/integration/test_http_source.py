"""Cameras over real HTTP: streams and single images, logins, certificates, faults."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agent.cameras.sources.http.camera import HttpCamera
from agent.config.sections.sources import HttpSource
from agent.runtime.clock import SystemClock
from agent.runtime.errors import SourceLost, SourceUnavailable
from tests.fixtures.certificates import Authority
from tests.fixtures.deadlines import wait_until
from tests.fixtures.http_camera import TricklingServer, http_camera, jpeg, trickling_server
from tests.fixtures.rtsp_server import silent_listener


def _camera(directory: Path, url: str, **settings: Any) -> HttpCamera:
    return HttpCamera(HttpSource(type="http", url=url, **settings), base_dir=directory, clock=SystemClock())


def _login(directory: Path, password: str) -> dict[str, str]:
    path = directory / "password"
    path.write_text(password + "\n", encoding="utf-8")
    path.chmod(0o600)
    return {"username": "admin", "password_file": "password"}


def _greys(camera: HttpCamera, count: int) -> list[int]:
    """The grey of the right half of the next images."""
    captures = [camera.read() for _ in range(count)]
    return [-1 if one is None else round(int(one.image[24, 48, 0]) / 60) * 60 for one in captures]


def _refusal(camera: HttpCamera) -> SourceUnavailable:
    with closing(camera), pytest.raises(SourceUnavailable) as caught:
        camera.open()
    return caught.value


@pytest.mark.parametrize("has_length", [True, False], ids=["length", "no-length"])
@pytest.mark.parametrize("boundary", ["frame", "--frame"])
def test_a_stream_gives_each_image_once_in_order(tmp_path: Path, has_length: bool, boundary: str) -> None:
    with (
        http_camera(has_length=has_length, boundary=boundary) as server,
        closing(_camera(tmp_path, server.url())) as c,
    ):
        c.open()
        assert _greys(c, 7) == [0, 60, 120, 180, 240, 0, 60]
        assert c.statistics().delivered == 7


@pytest.mark.parametrize("login", ["basic", "digest", "sha256"])
def test_the_login_that_the_camera_asks_for_is_answered(tmp_path: Path, login: str) -> None:
    with http_camera(login=login) as server:
        with closing(_camera(tmp_path, server.url(), **_login(tmp_path, "p@ss:/#w"))) as camera:
            camera.open()
            assert _greys(camera, 1) == [0]
        assert server.refused == 1
        wrong = _refusal(_camera(tmp_path, server.url(), **_login(tmp_path, "wrong-CANARY")))
        assert server.refused <= 3, "a wrong password is sent once"
        nobody = _refusal(_camera(tmp_path, server.url()))
    assert wrong.fields["reason"] == nobody.fields["reason"] == "credentials"
    assert "CANARY" not in str(wrong) + repr(wrong.fields)
    assert "no user is configured" in nobody.message


@pytest.mark.parametrize("login", ["basic", "digest"])
def test_a_login_does_not_double_the_requests(tmp_path: Path, login: str) -> None:
    with http_camera(login=login) as server:
        settings = {"interval_s": 0.01, **_login(tmp_path, "p@ss:/#w")}
        with closing(_camera(tmp_path, server.url("/snapshot"), **settings)) as camera:
            server.etag = ""
            camera.open()
            for _ in range(6):
                camera.read()
    assert (server.refused, len(server.requests)) == (1, 7)


def test_a_single_image_is_delivered_again_only_if_it_changed(tmp_path: Path) -> None:
    with http_camera() as server, closing(_camera(tmp_path, server.url("/snapshot.jpg"), interval_s=0.02)) as camera:
        camera.open()
        assert _greys(camera, 1) == [120]

        def change() -> None:
            server.snapshot, server.etag = jpeg(240), '"2"'

        timer = threading.Timer(0.2, change)
        timer.start()
        assert _greys(camera, 1) == [240]
        timer.join()
    assert '/snapshot.jpg "1"' in server.requests
    assert len(server.requests) >= 4


def test_a_single_image_is_fetched_at_once_when_it_is_wanted(tmp_path: Path) -> None:
    """With an interval of a minute; the camera says each time that the image has not changed."""
    with http_camera() as server, closing(_camera(tmp_path, server.url("/snapshot.jpg"), interval_s=60)) as camera:
        camera.open()
        assert camera.read() is not None
        for number in range(3):
            wanted_ns = time.monotonic_ns()
            camera.fetch_now()
            capture = camera.read()
            assert capture is not None
            assert wanted_ns <= capture.earliest_ns <= capture.captured_at_ns
            assert len(server.requests) == number + 2
    assert server.requests[-1] == '/snapshot.jpg "1"'


def test_a_damaged_image_is_asked_for_again_when_it_was_wanted(tmp_path: Path) -> None:
    """The server would answer that the damaged image has not changed."""
    with http_camera() as server, closing(_camera(tmp_path, server.url("/snapshot.jpg"), interval_s=60)) as camera:
        camera.open()
        assert camera.read() is not None
        whole, server.snapshot, server.etag = server.snapshot, server.snapshot[:40], '"2"'

        def mend() -> None:
            wait_until(lambda: bool(camera.statistics().skipped_by_reason))
            server.snapshot = whole

        writer = threading.Thread(target=mend)
        writer.start()
        camera.fetch_now()
        assert _greys(camera, 1) == [120]
        writer.join()
    assert server.requests[2].strip() == "/snapshot.jpg"
    assert camera.statistics().skipped_by_reason == {"unreadable_image": len(server.requests) - 2}


def test_an_image_of_a_stream_began_after_the_one_before_it_was_complete(tmp_path: Path) -> None:
    with http_camera(period_s=0.05) as server, closing(_camera(tmp_path, server.url())) as camera:
        opened_ns = time.monotonic_ns()
        camera.open()
        captures = [capture for _ in range(4) if (capture := camera.read()) is not None]
    assert opened_ns <= captures[0].earliest_ns
    for before, after in pairwise(captures):
        assert before.earliest_ns < after.earliest_ns <= before.captured_at_ns < after.captured_at_ns


def test_a_wanted_image_does_not_put_off_the_next_regular_one(tmp_path: Path) -> None:
    with (
        http_camera(etag="") as server,
        closing(_camera(tmp_path, server.url("/snapshot.jpg"), interval_s=0.5)) as camera,
    ):
        camera.open()
        camera.read()
        for _ in range(20):
            camera.fetch_now()
            camera.read()
        began = time.monotonic()
        assert camera.read() is not None
        assert time.monotonic() - began < 5.0, "not twenty intervals later"


def test_a_damaged_image_is_skipped_and_counted(tmp_path: Path) -> None:
    parts = [jpeg(0), jpeg(60)[:200], b"no image", jpeg(120)]
    with http_camera(parts=parts) as server, closing(_camera(tmp_path, server.url())) as camera:
        camera.open()
        assert _greys(camera, 2) == [0, 120]
        assert camera.statistics().skipped == 2


def test_a_stream_that_ends_is_lost_and_comes_back(tmp_path: Path) -> None:
    with http_camera(stop_after=2) as server, closing(_camera(tmp_path, server.url())) as camera:
        camera.open()
        with pytest.raises(SourceLost) as caught:
            _greys(camera, 3)
        assert caught.value.fields["reason"] == "ended"
        camera.close()
        camera.open()
        assert _greys(camera, 2) == [0, 60]


def test_a_stream_that_stalls_is_lost(tmp_path: Path) -> None:
    with http_camera(period_s=60.0) as server, closing(_camera(tmp_path, server.url(), read_timeout_s=0.3)) as camera:
        camera.open()
        with pytest.raises(SourceLost) as caught:
            _greys(camera, 3)
    assert caught.value.fields["reason"] == "stalled"


def test_an_interruption_ends_the_wait_for_data_at_once(tmp_path: Path) -> None:
    with http_camera(period_s=60.0) as server, closing(_camera(tmp_path, server.url(), read_timeout_s=60)) as camera:
        camera.open()
        timer = threading.Timer(0.2, camera.interrupt)
        timer.start()
        with pytest.raises(SourceLost) as caught:
            _greys(camera, 3)
        timer.join()
    assert caught.value.fields["reason"] == "interrupted"


@pytest.mark.parametrize(
    ("status", "reason", "text"),
    [
        (403, "credentials", "403"),
        (404, "no_such_stream", "has no such stream"),
        (503, "refused_by_camera", "close other viewers, or wait"),
    ],
)
def test_a_status_has_its_own_remedy(tmp_path: Path, status: int, reason: str, text: str) -> None:
    with http_camera(status=status) as server:
        error = _refusal(_camera(tmp_path, server.url()))
    assert error.fields["reason"] == reason
    assert text in error.message


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/forever", "too many redirects"),
        ("/to/file:///etc/hostname", "to the scheme file, which is neither http nor https"),
        ("/to/ftp://localhost/a.jpg", "to the scheme ftp"),
    ],
)
def test_a_redirection_that_leads_to_no_image_is_named(tmp_path: Path, path: str, text: str) -> None:
    with http_camera() as server:
        error = _refusal(_camera(tmp_path, server.url(path)))
        with closing(_camera(tmp_path, server.url("/to//mjpeg"))) as camera:
            camera.open()
            assert _greys(camera, 1) == [0]
    assert text in error.message
    assert "closed the connection" not in error.message
    assert "Set `url`" in error.message


def test_connections_that_fail_are_told_apart(tmp_path: Path) -> None:
    with silent_listener() as port:
        silent = _refusal(_camera(tmp_path, f"http://127.0.0.1:{port}/", open_timeout_s=0.3, read_timeout_s=0.3))
    assert silent.fields["reason"] == "no_answer"
    assert _refusal(_camera(tmp_path, f"http://127.0.0.1:{port}/")).fields["reason"] == "refused"
    assert _refusal(_camera(tmp_path, "http://camera.invalid/")).fields["reason"] == "unknown_host"


def _check_all_given_back(server: TricklingServer) -> None:
    """Neither the thread nor the connection is left behind."""
    assert [one.name for one in threading.enumerate() if one.name == "http-time-limit"] == []
    wait_until(lambda: server.connections == 0)


_OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("scheme", "start"),
    [
        ("http", b""),
        ("http", _OK + b"X-Slow: "),
        ("http", b"HTTP/1.1 302 Found\r\nLocation: /other\r\n\r\n"),
        ("http", b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + _OK),
        ("https", b"\x16\x03\x03\x40\x00"),
    ],
    ids=["status", "header", "redirect", "continue", "handshake"],
)
def test_an_answer_that_trickles_in_is_no_answer(tmp_path: Path, scheme: str, start: bytes) -> None:
    with trickling_server(start) as server:
        url, began = f"{scheme}://127.0.0.1:{server.port}/", time.monotonic()
        error = _refusal(_camera(tmp_path, url, open_timeout_s=0.3, read_timeout_s=60.0))
        assert error.fields["reason"] == "no_answer", error.message
        assert time.monotonic() - began < 30.0
        _check_all_given_back(server)


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Type: image/jpeg\r\n\r\n",
        b"Content-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n5;",
        b"Content-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n",
        b"Content-Type: multipart/x-mixed-replace; boundary=frame\r\nTransfer-Encoding: chunked\r\n\r\n5;",
    ],
    ids=["image", "image-chunk", "stream", "stream-chunk"],
)
def test_an_image_that_trickles_in_counts_as_none(tmp_path: Path, headers: bytes) -> None:
    with trickling_server(_OK + headers) as server:
        url, is_single = f"http://127.0.0.1:{server.port}/", b"image/jpeg" in headers
        limits = {"open_timeout_s": 0.3 if is_single else 60.0, "read_timeout_s": 60.0 if is_single else 0.3}
        camera = _camera(tmp_path, url, **limits)
        with closing(camera), pytest.raises((SourceLost, SourceUnavailable)) as caught:
            camera.open()
            camera.read()
        assert caught.value.fields["reason"] == ("no_answer" if is_single else "stalled"), caught.value.message
        _check_all_given_back(server)


@pytest.mark.parametrize(("body", "words"), [(b"<html><h1>Login</h1>", "begins with b'<html"), (b"", "0 bytes")])
def test_a_page_instead_of_an_image_is_named_and_never_counts_as_a_camera(
    tmp_path: Path, body: bytes, words: str
) -> None:
    with http_camera(snapshot=body, etag="") as server:
        refusal = _refusal(_camera(tmp_path, server.url("/snapshot.jpg")))
    assert refusal.fields["reason"] == "not_understood"
    assert "image/jpeg" in refusal.message
    assert words in refusal.message
    assert "Set `url` to the address of the image" in refusal.message
    assert "Copy it" not in refusal.message, "there is no file"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_interruption_ends_an_opening_whose_answer_trickles_in(tmp_path: Path, scheme: str) -> None:
    start = {"http": _OK + b"X-Slow: ", "https": b"\x16\x03\x03\x40\x00"}[scheme]
    with trickling_server(start) as server:
        camera = _camera(tmp_path, f"{scheme}://127.0.0.1:{server.port}/", open_timeout_s=60.0, read_timeout_s=60.0)
        with ThreadPoolExecutor(1) as threads:
            refusal = threads.submit(_refusal, camera)
            assert server.accepted.wait(20.0)
            camera.interrupt()
            assert refusal.result(20.0).fields["reason"] == "interrupted"
        _check_all_given_back(server)


def test_an_interruption_ends_an_opening_that_waits_for_the_connection(tmp_path: Path) -> None:
    """The queue of the listener is full, so the kernel answers no further connection."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.settimeout(0.0)
            one.connect_ex(("127.0.0.1", port))
        camera = _camera(tmp_path, f"http://127.0.0.1:{port}/snapshot.jpg", open_timeout_s=60.0)
        with ThreadPoolExecutor(1) as pool:
            opening = pool.submit(_refusal, camera)
            wait_until(lambda: "source-opening" in {one.name for one in threading.enumerate()}, within_s=20)
            camera.interrupt()
            assert opening.result(20.0).fields["reason"] == "interrupted"
        for one in waiting:
            one.close()
    wait_until(lambda: "source-opening" not in {one.name for one in threading.enumerate()}, within_s=20)


@pytest.mark.parametrize("part", [b"", b"\xff" * 4096], ids=["empty", "bytes"])
def test_a_stream_without_one_good_image_does_not_pass_for_one(tmp_path: Path, part: bytes) -> None:
    with http_camera(parts=[part]) as server, closing(_camera(tmp_path, server.url())) as camera:
        camera.open()
        timer = threading.Timer(0.3, camera.interrupt)
        timer.start()
        with pytest.raises(SourceLost):
            camera.read()
        timer.join()
        assert camera.statistics().delivered == 0
        assert camera.statistics().skipped > 3


def test_https_trusts_the_configured_authority_and_no_other(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    issued = authority.server("camera")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)
    with http_camera(context) as server:
        with closing(_camera(tmp_path, server.url(), ca_file=str(authority.certificate))) as camera:
            camera.open()
            assert _greys(camera, 1) == [0]
        error = _refusal(_camera(tmp_path, server.url()))
    assert error.fields["reason"] == "certificate"
    assert "`ca_file`" in error.message


def test_a_missing_ca_file_is_named(tmp_path: Path) -> None:
    error = _refusal(_camera(tmp_path, "https://127.0.0.1:1/", ca_file="absent.pem"))
    assert "absent.pem" in error.message
