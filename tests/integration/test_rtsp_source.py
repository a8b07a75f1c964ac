"""A network camera over real RTSP: frames, faults, and a password that never shows."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent.cameras.sources.base import Capture
from agent.cameras.sources.choose import for_probe, make_source, probe_source
from agent.cameras.sources.network_stream import NetworkStream
from agent.config.sections.sources import RtspSource
from agent.runtime.clock import SystemClock
from agent.runtime.errors import SourceLost, SourceUnavailable
from tests.fixtures.deadlines import wait_until
from tests.fixtures.own_logs import logs_of
from tests.fixtures.rtsp_server import RtspServer, silent_listener

_BOUND_S = 30.0
_ROOT = Path(__file__).resolve().parents[2]


def _stream(directory: Path, url: str, **settings: Any) -> NetworkStream:
    return NetworkStream(RtspSource(type="rtsp", url=url, **settings), base_dir=directory, clock=SystemClock())


def _password(directory: Path, text: str, name: str = "password") -> str:
    path = directory / name
    path.write_text(text + "\n", encoding="utf-8")
    path.chmod(0o600)
    return name


def _unavailable(stream: NetworkStream) -> SourceUnavailable:
    """The error of an ``open`` that must fail in time."""
    failures: list[SourceUnavailable] = []

    def open_it() -> None:
        with closing(stream):
            try:
                stream.open()
            except SourceUnavailable as exc:
                failures.append(exc)

    thread = threading.Thread(target=open_it, name="opening")
    thread.start()
    thread.join(_BOUND_S)
    assert not thread.is_alive(), f"opening took longer than {_BOUND_S:g} s"
    assert failures, "the stream was opened"
    return failures[0]


def _read_until_lost(stream: NetworkStream) -> SourceLost:
    with pytest.raises(SourceLost) as caught:
        for _ in range(500):
            stream.read()
    return caught.value


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RtspServer]:
    with RtspServer(tmp_path, fps=100.0) as running:
        yield running


def test_frames_are_in_bgr_order(tmp_path: Path, server: RtspServer) -> None:
    with closing(_stream(tmp_path, server.url)) as stream:
        stream.open()
        capture = stream.read()
        assert capture is not None
        assert capture.image.shape == (240, 320, 3)
        left, right = capture.image[60, 40].tolist(), capture.image[60, 280].tolist()
        assert left[2] > 150 > left[0]
        assert right[0] > 150 > right[2]


def test_doctor_sees_size_and_rate(tmp_path: Path, server: RtspServer) -> None:
    result = probe_source(_stream(tmp_path, server.url), deadline_s=_BOUND_S)
    assert result.ok
    assert (result.width, result.height) == (320, 240)
    assert result.fps == pytest.approx(100.0, rel=0.1)
    assert result.detail.startswith("320x240 at ")


def test_the_configured_rate_takes_precedence_over_the_announced_one(tmp_path: Path, server: RtspServer) -> None:
    with closing(_stream(tmp_path, server.url, fps=12.5)) as stream:
        assert stream.fps is None
        stream.open()
        assert stream.fps == 12.5


def test_doctor_gives_up_on_a_silent_camera_at_its_deadline(tmp_path: Path) -> None:
    with silent_listener() as port:
        config = RtspSource(type="rtsp", url=f"rtsp://127.0.0.1:{port}/camera", open_timeout_s=60.0)
        source = make_source(for_probe(config, 0.3), base_dir=tmp_path, clock=SystemClock())
        result = probe_source(source, deadline_s=0.3)
    assert not result.ok
    assert "within 0.3 s" in result.detail


def test_black_hole_ends_in_the_open_timeout(tmp_path: Path) -> None:
    with silent_listener() as port:
        error = _unavailable(_stream(tmp_path, f"rtsp://127.0.0.1:{port}/camera", open_timeout_s=0.5))
    assert error.fields["reason"] == "no_answer"
    assert "gave no answer, or no video, within 0.5 s" in error.message


def test_server_that_stalls_before_the_opening_ends_in_the_open_timeout(tmp_path: Path, server: RtspServer) -> None:
    server.stall()
    error = _unavailable(_stream(tmp_path, server.url, open_timeout_s=0.5))
    assert error.fields["reason"] == "no_answer"


def test_a_camera_that_answers_late_but_within_the_open_timeout_is_opened(tmp_path: Path, server: RtspServer) -> None:
    server.stall()
    late = threading.Timer(2.2, server.resume)  # more than half: one question has all of the time
    late.start()
    with closing(_stream(tmp_path, server.url, open_timeout_s=4.0)) as stream:
        stream.open()
        late.join()
        assert stream.read() is not None


def test_an_interruption_while_the_camera_is_silent_takes_effect_at_once(tmp_path: Path) -> None:
    """The open timeout is longer than the test waits; the library's thread ends when the server is gone."""
    with silent_listener() as port:
        stream = _stream(tmp_path, f"rtsp://127.0.0.1:{port}/camera", open_timeout_s=_BOUND_S * 2)
        timer = threading.Timer(0.1, stream.interrupt)
        timer.start()
        error = _unavailable(stream)
        timer.join()
    assert error.fields["reason"] == "interrupted"
    wait_until(lambda: "source-opening" not in {thread.name for thread in threading.enumerate()}, within_s=20)


def test_stalled_stream_is_lost_and_comes_back(tmp_path: Path, server: RtspServer) -> None:
    with closing(_stream(tmp_path, server.url, read_timeout_s=0.8)) as stream:
        stream.open()
        assert stream.read() is not None
        server.stall()
        lost = _read_until_lost(stream)
        assert lost.fields["reason"] == "stalled"
        assert "sent no frame for 0.8 s, which is its `read_timeout_s`" in lost.message
        stream.close()
        server.resume()
        stream.open()
        assert stream.read() is not None


def test_killed_server_is_a_loss_and_the_stream_comes_back_after_its_restart(tmp_path: Path) -> None:
    with RtspServer(tmp_path, fps=100.0) as server:
        stream = _stream(tmp_path, server.url, read_timeout_s=60.0)
        with closing(stream):
            stream.open()
            assert stream.read() is not None
            server.kill()
            assert _read_until_lost(stream).fields["reason"] == "ended"
            stream.close()
            with pytest.raises(SourceUnavailable, match="nothing listens at 127"):
                stream.open()
            with RtspServer(tmp_path, port=server.port, fps=100.0):
                stream.open()
                assert stream.read() is not None


def test_a_change_of_size_gives_whole_frames(tmp_path: Path) -> None:
    change = (150, (480, 360))
    with (
        RtspServer(tmp_path, fps=100.0, size_change=change) as server,
        closing(_stream(tmp_path, server.url)) as stream,
    ):
        stream.open()
        after_change = 0
        while after_change < 100:
            capture = stream.read()
            assert capture is not None
            after_change += "CHANGED to 480x360" in server.requests()
            height, width = capture.image.shape[:2]
            assert (width, height) in ({change[1]} if after_change > 20 else {(320, 240), change[1]})
            blue, _, red = capture.image[height // 4, width // 8].tolist()
            assert red > 150 > blue
            blue, _, red = capture.image[height // 4, width * 7 // 8].tolist()
            assert blue > 150 > red


@pytest.mark.parametrize("digest", [False, True], ids=["basic", "digest"])
@pytest.mark.parametrize("password", ["plain", "p@ss/w:rd%20?#&", "größe 漢字"])
def test_user_and_password_may_contain_any_character(tmp_path: Path, password: str, digest: bool) -> None:
    name = _password(tmp_path, password)
    with (
        RtspServer(tmp_path, fps=100.0, credentials=("ad min@", password), digest=digest) as server,
        closing(_stream(tmp_path, server.url, username="ad min@", password_file=name)) as stream,
    ):
        stream.open()
        assert stream.read() is not None


@pytest.mark.parametrize("digest", [False, True], ids=["basic", "digest"])
def test_refused_and_missing_credentials_have_different_errors(tmp_path: Path, digest: bool) -> None:
    name = _password(tmp_path, "wrong-CANARY")
    with RtspServer(tmp_path, fps=100.0, credentials=("admin", "right-CANARY"), digest=digest) as server:
        without = _unavailable(_stream(tmp_path, server.url))
        wrong = _unavailable(_stream(tmp_path, server.url, username="admin", password_file=name))
    assert without.fields["reason"] == wrong.fields["reason"] == "credentials"
    assert "no user is configured" in without.message
    assert "refused the user 'admin'" in wrong.message
    assert "CANARY" not in without.message + wrong.message + repr(wrong.fields)


@pytest.mark.parametrize("digest", [False, True], ids=["basic", "digest"])
def test_a_wrong_password_is_tried_once_and_a_right_one_gets_a_different_error(tmp_path: Path, digest: bool) -> None:
    right, wrong = _password(tmp_path, "p@ss:/#w"), _password(tmp_path, "another", name="wrong")
    with RtspServer(tmp_path, fps=100.0, credentials=("admin", "p@ss:/#w"), digest=digest) as server:
        _unavailable(_stream(tmp_path, server.url, username="admin", password_file=wrong))
        # Without a login, with it, and without it again: which logins the camera offers.
        assert len([line for line in server.requests() if line.startswith("DESCRIBE")]) == 3
        assert server.requests().count("LOGIN") == 1
        elsewhere = server.url.replace("camera", "elsewhere")
        path = _unavailable(_stream(tmp_path, elsewhere, username="admin", password_file=right))
        udp = _stream(tmp_path, server.url, username="admin", password_file=right, transport="udp", open_timeout_s=3.0)
        transport = _unavailable(udp)
    assert path.fields["reason"] == "no_such_stream"
    assert transport.fields["reason"] == "no_stream"
    assert "It is udp: set the other" in transport.message


def test_a_login_that_ffmpeg_lacks_is_named_instead_of_a_wrong_password(tmp_path: Path) -> None:
    password = _password(tmp_path, "p@ss:/#w")
    with RtspServer(tmp_path, credentials=("admin", "p@ss:/#w"), digest=True, algorithm="SHA-256") as server:
        refusal = _unavailable(_stream(tmp_path, server.url, username="admin", password_file=password))
        assert "LOGIN" not in server.requests()
    assert refusal.fields["reason"] == "credentials"
    assert (
        "it asks for a login by Digest with SHA-256, but FFmpeg has only Basic and Digest with MD5" in refusal.message
    )


def test_password_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / _password(tmp_path, "secret-CANARY")).chmod(0o644)
    error = _unavailable(_stream(tmp_path, "rtsp://127.0.0.1:1/x", username="admin", password_file="password"))
    assert error.fields["reason"] == "credentials"
    assert "chmod o=" in error.message
    assert "CANARY" not in error.message


def test_an_unknown_path_is_reported_as_such(tmp_path: Path, server: RtspServer) -> None:
    error = _unavailable(_stream(tmp_path, server.url.replace("camera", "elsewhere")))
    assert error.fields["reason"] == "no_such_stream"
    assert "404" in error.message


def test_a_closed_port_and_an_unknown_host_are_reported_as_such(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert _unavailable(_stream(tmp_path, f"rtsp://127.0.0.1:{port}/1")).fields["reason"] == "refused"
    error = _unavailable(_stream(tmp_path, "rtsp://camera.invalid/1"))
    assert error.fields["reason"] == "unknown_host"
    assert "'camera.invalid' cannot be resolved" in error.message


def test_silent_cameras_do_not_delay_the_opening_of_others(tmp_path: Path, server: RtspServer) -> None:
    shapes: list[tuple[int, ...]] = []

    def read_one() -> None:
        with closing(_stream(tmp_path, server.url)) as stream:
            stream.open()
            capture = stream.read()
            assert capture is not None
            shapes.append(capture.image.shape)

    with silent_listener() as port:
        silent = [_stream(tmp_path, f"rtsp://127.0.0.1:{port}/{n}", open_timeout_s=4.0) for n in range(3)]
        dead = [threading.Thread(target=_unavailable, args=(stream,), name="dead") for stream in silent]
        alive = [threading.Thread(target=read_one, name="alive") for _ in range(8)]
        for thread in [*dead, *alive]:
            thread.start()
        for thread in alive:
            thread.join(_BOUND_S)
        waiting = [thread.is_alive() for thread in dead]
        for thread in dead:
            thread.join(_BOUND_S)
    assert shapes == [(240, 320, 3)] * 8
    assert waiting == [True] * 3


@pytest.mark.parametrize(("decode", "wanted_hz"), [("keyframes", None), ("auto", 2.0)])
def test_only_key_frames_are_decoded_where_that_is_enough(
    tmp_path: Path, server: RtspServer, decode: str, wanted_hz: float | None
) -> None:
    with closing(_stream(tmp_path, server.url, decode=decode)) as stream:
        stream.wanted_hz = wanted_hz
        stream.open()
        # The server sends a key frame every 25 frames; `auto` has to see four of them.
        for _ in range(1 if decode == "keyframes" else 80):
            assert stream.read() is not None
        stamps = []
        for _ in range(3):
            capture = stream.read()
            assert capture is not None
            stamps.append(capture.captured_at_ns)
        assert stream.fps is None, "the announced rate is that of all frames"
    assert all(later - before > 150_000_000 for before, later in itertools.pairwise(stamps))


@pytest.mark.parametrize("textured", [False, True])
def test_a_frame_of_h264_is_in_hand_before_the_next_one_comes(tmp_path: Path, *, textured: bool) -> None:
    with RtspServer(tmp_path, fps=25.0, textured=textured) as server, closing(_stream(tmp_path, server.url)) as stream:
        stream.open()
        took_ms = [_capture(stream).capture_ms for _ in range(90)]
    assert statistics.median(took_ms[65:]) < 20.0, "half of the interval"


def test_a_frame_is_as_old_as_its_first_bytes(tmp_path: Path) -> None:
    """With more threads FFmpeg's parser returns a frame when the next one begins, and the decoder one later."""
    with RtspServer(tmp_path, fps=10.0) as server, closing(_stream(tmp_path, server.url, decode_threads=2)) as stream:
        stream.open()
        took_ms = [_capture(stream).capture_ms for _ in range(3)]
    assert took_ms[-1] >= 50.0


def _capture(stream: NetworkStream) -> Capture:
    capture = stream.read()
    assert capture is not None
    return capture


@contextlib.contextmanager
def _trickling(port: int, slow: threading.Event) -> Iterator[int]:
    """The port of a proxy to ``port`` that passes single bytes, ten per second, once ``slow`` is set."""
    done = threading.Event()

    def pass_on(source: socket.socket, target: socket.socket, *, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while not done.is_set():
                is_slow = is_answer and slow.is_set()
                if is_slow:
                    done.wait(0.1)
                data = source.recv(1 if is_slow else 4096)
                if not data:
                    break
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            while True:
                client = stack.enter_context(listener.accept()[0])
                server = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                for ends, is_answer in (((client, server), False), ((server, client), True)):
                    thread = threading.Thread(target=pass_on, args=ends, kwargs={"is_answer": is_answer}, name="proxy")
                    thread.start()
                    threads.append(thread)

    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=serve, name="accepting")
        accepting.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            done.set()
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join(_BOUND_S)
            for thread in threads:
                thread.join(_BOUND_S)


def test_trickle_of_single_bytes_does_not_keep_a_stream_alive(tmp_path: Path, server: RtspServer) -> None:
    slow = threading.Event()
    with (
        _trickling(server.port, slow) as port,
        closing(_stream(tmp_path, f"rtsp://127.0.0.1:{port}/camera", read_timeout_s=0.8)) as stream,
    ):
        stream.open()
        assert stream.read() is not None
        slow.set()
        assert _read_until_lost(stream).fields["reason"] == "stalled"


@contextlib.contextmanager
def _answering(answer: bytes) -> Iterator[int]:
    """The port of a server that answers one connection with these bytes and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, name="answering")
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(_BOUND_S)


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff\xfe\x00\n", b""], ids=["http", "binary", "nothing"]
)
def test_a_port_that_hangs_up_or_does_not_speak_rtsp_is_reported_as_such(tmp_path: Path, answer: bytes) -> None:
    with _answering(answer) as port:
        error = _unavailable(_stream(tmp_path, f"rtsp://127.0.0.1:{port}/1"))
    assert error.fields["reason"] == "not_understood"
    assert "an answer that is not RTSP" in error.message
    assert "too many viewers" in error.message


def test_a_port_that_speaks_no_tls_is_reported_as_such(tmp_path: Path) -> None:
    with _answering(b"RTSP/1.0 400 Bad Request\r\n\r\n") as port:
        error = _unavailable(_stream(tmp_path, f"rtsps://127.0.0.1:{port}/1", open_timeout_s=20.0))
    assert error.fields["reason"] == "not_understood"
    assert "no TLS connection to 127.0.0.1" in error.message
    assert "Check that this port is the one for RTSPS" in error.message


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        ("400 Bad Request", "the parameters in `url`"),
        ("453 Not Enough Bandwidth", "take its second stream"),
        ("454 Session Not Found", "it is restarting"),
        ("500 Internal Server Error", "restart the camera"),
        ("503 Service Unavailable", "close other viewers, or wait"),
        ("406 Not Acceptable", "406 (Not Acceptable)"),
    ],
)
def test_a_status_of_the_camera_has_its_own_remedy(tmp_path: Path, status: str, remedy: str) -> None:
    with _answering(f"RTSP/1.0 {status}\r\nCSeq: 1\r\n\r\n".encode()) as port:
        error = _unavailable(_stream(tmp_path, f"rtsp://127.0.0.1:{port}/1"))
    assert error.fields["reason"] == "refused_by_camera"
    assert error.fields["status"] == int(status[:3])
    assert remedy in error.message


@pytest.mark.parametrize(
    ("transport", "remedy"), [("udp", "try `transport: tcp`"), ("tcp", "check that its encoder is on")]
)
def test_a_camera_that_plays_and_sends_nothing_is_not_opened(tmp_path: Path, transport: str, remedy: str) -> None:
    settings = {"transport": transport, "open_timeout_s": 0.8, "read_timeout_s": 0.2}
    with RtspServer(tmp_path, transports=("udp",), silent_after=0) as server:
        error = _unavailable(_stream(tmp_path, server.url, **settings))
    assert error.fields["reason"] == "no_stream"
    assert f"127.0.0.1:{server.port} plays the stream, but sent no data" in error.message
    assert remedy in error.message


def test_udp_is_requested_only_if_configured(tmp_path: Path, server: RtspServer) -> None:
    with closing(_stream(tmp_path, server.url)) as stream:
        stream.open()
    assert not [line for line in server.requests() if line.startswith("SETUP") and "UDP" in line]
    error = _unavailable(_stream(tmp_path, server.url, transport="udp", open_timeout_s=3.0))
    assert error.fields["reason"] == "no_stream"
    assert "It is udp: set the other" in error.message
    asked = [line for line in server.requests() if line.startswith("SETUP")]
    assert "RTP/AVP/UDP" in asked[-1] or "RTP/AVP;" in asked[-1]


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_camera_that_supports_only_udp_is_read(tmp_path: Path, transport: str) -> None:
    with (
        RtspServer(tmp_path, fps=100.0, transports=("udp",)) as server,
        closing(_stream(tmp_path, server.url, transport=transport)) as stream,
    ):
        stream.open()
        for _ in range(50):
            capture = stream.read()
            assert capture is not None
            blue, _, red = capture.image[60, 40].tolist()
            assert red > 150 > blue


@pytest.mark.parametrize("loss", [0.01, 0.05])
def test_lost_datagrams_do_not_end_a_stream(tmp_path: Path, loss: float) -> None:
    with (
        RtspServer(tmp_path, size=(640, 480), fps=100.0, transports=("udp",), loss=loss) as server,
        closing(_stream(tmp_path, server.url, transport="udp", read_timeout_s=10.0)) as stream,
    ):
        stream.open()
        for _ in range(300):
            capture = stream.read()
            assert capture is not None
            assert capture.image.shape == (480, 640, 3)


def test_silence_over_udp_is_a_loss_and_the_stream_comes_back(tmp_path: Path) -> None:
    with (
        RtspServer(tmp_path, fps=100.0, transports=("udp",), silent_after=250) as server,
        closing(_stream(tmp_path, server.url, transport="udp", read_timeout_s=0.8)) as stream,
    ):
        stream.open()
        lost = _read_until_lost(stream)
        assert lost.fields["reason"] == "stalled"
        assert "sent no frame for 0.8 s, which is its `read_timeout_s`" in lost.message
        stream.close()
        stream.open()
        assert stream.read() is not None


def test_killed_server_is_a_loss_over_udp_too(tmp_path: Path) -> None:
    with (
        RtspServer(tmp_path, fps=100.0, transports=("udp",)) as server,
        closing(_stream(tmp_path, server.url, transport="udp", read_timeout_s=2.0)) as stream,
    ):
        stream.open()
        server.kill()
        assert _read_until_lost(stream).fields["reason"] in {"ended", "stalled"}
        stream.close()
        with RtspServer(tmp_path, port=server.port, fps=100.0, transports=("udp",)):
            stream.open()
            assert stream.read() is not None


_EVERY_FAULT = """
import sys, traceback
from pathlib import Path
from agent.runtime.clock import SystemClock
from agent.config.sections.sources import RtspSource
from agent.runtime.errors import AgentError
from agent.cameras.sources.network_stream import NetworkStream
from agent.cameras.sources.choose import probe_source

directory = Path(sys.argv[1])
for argument in sys.argv[2:]:
    timeout, url = argument.split(" ")
    config = RtspSource(
        type="rtsp", url=url, username="admin", password_file="password", open_timeout_s=timeout, read_timeout_s=1.0
    )
    stream = NetworkStream(config, base_dir=directory, clock=SystemClock())
    print(repr(config), stream.description, vars(stream))
    try:
        stream.open()
        print("opened", flush=True)
        while True:
            stream.read()
    except AgentError as exc:
        print(exc, repr(exc), exc.fields)
        traceback.print_exc(file=sys.stdout)
    finally:
        stream.close()
    print(probe_source(stream, deadline_s=1.0))
"""


def test_no_output_shows_the_password_and_libraries_stay_silent(tmp_path: Path) -> None:
    _password(tmp_path, "hunter2-CANARY", name="password")
    with (
        RtspServer(tmp_path, fps=100.0, credentials=("admin", "hunter2-CANARY")) as good,
        RtspServer(tmp_path, fps=100.0, credentials=("admin", "another")) as refusing,
        silent_listener() as black_hole,
    ):
        faults = ["1 rtsp://127.0.0.1:1/camera", f"1 rtsp://127.0.0.1:{black_hole}/camera"]
        faults += [f"20 {refusing.url}", f"20 {good.url}"]
        command = [sys.executable, "-c", _EVERY_FAULT, str(tmp_path), *faults]
        environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
        )
        assert process.stdout is not None
        with process:
            seen = []
            for line in process.stdout:
                seen.append(line)
                if line == "opened\n":
                    good.kill()
            assert process.stderr is not None
            errors = process.stderr.read()
    output = "".join(seen)
    assert process.returncode == 0, errors
    assert "opened\n" in seen
    assert output.count("SourceUnavailable") >= 3
    assert "SourceLost" in output
    assert "CANARY" not in output + errors
    assert "FFMPEG" not in output
    assert errors == "", "a library wrote to the error stream"


def test_lines_of_ffmpeg_are_logged_at_level_debug_without_the_password(tmp_path: Path) -> None:
    name = _password(tmp_path, "wrong-CANARY")
    with (
        RtspServer(tmp_path, fps=100.0, credentials=("admin", "right")) as server,
        logs_of("agent.cameras.sources.ffmpeg") as events,
    ):
        for _ in range(2):
            _unavailable(_stream(tmp_path, server.url, username="admin", password_file=name))
    assert [(event["log_level"], event["event"]) for event in events] == [("debug", "ffmpeg.line")] * 2
    assert all("method DESCRIBE failed: 401" in event["text"] for event in events)
    assert "CANARY" not in str(events)
