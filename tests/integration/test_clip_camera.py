"""`agent demo --rtsp`: a video file as a network camera, read by the agent's own source and by hostile clients."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import click
import numpy as np
import pytest

from agent.__main__ import main
from agent.cameras.sources.network_stream import NetworkStream
from agent.config.sections.sources import RtspSource
from agent.demo import demo_clip
from agent.runtime.clock import SystemClock
from agent.runtime.errors import Unavailable, UsageError
from agent.runtime.threads import StageThread
from agent.tools.clip_camera import server as server_module
from agent.tools.clip_camera.clip import Clip, clip_from_file, moments_of
from agent.tools.clip_camera.server import ClipServer
from tests.fixtures.deadlines import wait_until

_FPS = 25
_FRAMES = 10


def _write(path: Path, codec: str = "libx264", *, b_frames: int = 2) -> Path:
    """Frames that tell their number by their grey: 0, 20, 40 ... 180."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(_FPS))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"bf": str(b_frames), "g": "5", "x265-params": "log-level=none"}
        for index in range(_FRAMES):
            image = np.full((48, 64, 3), index * 20, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@contextlib.contextmanager
def _serving(clip: Clip) -> Iterator[ClipServer]:
    """The server on a free port, with a thread that accepts."""
    ended: list[BaseException | None] = []

    def accept(server: ClipServer) -> None:
        try:
            while not is_over.is_set():
                server.serve(0.05)
            ended.append(None)
        except Unavailable as exc:
            ended.append(exc)

    is_over = threading.Event()
    with ClipServer(clip, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=accept, args=(server,))
        thread.start()
        try:
            yield server
        finally:
            is_over.set()
            thread.join(20)
    assert ended == [None]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return clip_from_file(_write(tmp_path_factory.mktemp("clip") / "small.mp4"))


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_the_agents_own_source_reads_every_frame_in_order_over_the_clips_end(tmp_path: Path, codec: str) -> None:
    clip = clip_from_file(_write(tmp_path / "clip.mp4", codec))
    with (
        _serving(clip) as server,
        closing(
            NetworkStream(RtspSource(type="rtsp", url=server.url), base_dir=tmp_path, clock=SystemClock())
        ) as stream,
    ):
        stream.open()
        captures = [stream.read() for _ in range(2 * _FRAMES + 5)]
    greys = [round(float(capture.image.mean()) / 20) % _FRAMES for capture in captures if capture is not None]
    # The first frames may go before the reader looks; then none is missing, also where the clip begins again.
    assert greys == [(greys[0] + place) % _FRAMES for place in range(len(greys))]
    assert len(greys) > _FRAMES


def test_times_only_grow_and_keep_the_clips_rate(clip: Clip) -> None:
    with contextlib.closing(moments_of(clip)) as moments:
        due_s = [moment.due_s for moment in itertools.islice(moments, 4 * _FRAMES)]
    assert due_s[0] == 0
    steps = [later - earlier for earlier, later in itertools.pairwise(due_s)]
    assert min(steps) > 0
    assert due_s[-1] == pytest.approx((4 * _FRAMES - 1) / _FPS, abs=2 / _FPS)


def test_the_bundled_clip_is_one_that_can_be_served() -> None:
    assert str(clip_from_file(demo_clip())) == "conveyor.mp4 (H264, 640x480, 30 fps)"


class _Client:
    """Speaks RTSP by hand."""

    def __init__(self, server: ClipServer) -> None:
        host, port = server.url.removeprefix("rtsp://").partition("/")[0].rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), timeout=10)
        self.stream = self._socket.makefile("rb")
        self.url = server.url

    def __enter__(self) -> _Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def ask(self, method: str, *headers: str, url: str | None = None) -> str:
        """The status line of the answer."""
        lines = [f"{method} {url or self.url} RTSP/1.0", "CSeq: 7", *headers]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode())
        return self.answer()

    def answer(self) -> str:
        status = self.stream.readline().decode().strip()
        length = 0
        while line := self.stream.readline().decode().strip():
            if line.lower().startswith("content-length:"):
                length = int(line.partition(":")[2])
        self.stream.read(length)
        return status

    def packet(self) -> tuple[int, bytes]:
        mark, channel, length = struct.unpack(">BBH", self.stream.read(4))
        assert mark == ord("$")
        return channel, self.stream.read(length)

    def is_closed(self) -> bool:
        return self.stream.read(1) == b""


_TCP = "Transport: RTP/AVP/TCP;unicast;interleaved=4-5"


def test_a_client_gets_packets_on_the_channels_that_it_asked_for(clip: Clip) -> None:
    with _serving(clip) as server, _Client(server) as client:
        assert client.ask("OPTIONS", url="*") == "RTSP/1.0 200 OK"
        assert client.ask("DESCRIBE") == "RTSP/1.0 200 OK"
        assert client.ask("PLAY") == "RTSP/1.0 455 Method Not Valid in This State"
        assert (
            client.ask("SETUP", "Transport: RTP/AVP;unicast;client_port=1-2") == "RTSP/1.0 461 Unsupported Transport"
        )
        assert client.ask("SETUP", _TCP, url=f"{server.url}/track1") == "RTSP/1.0 200 OK"
        client.send(b"$\x05\x00\x04abcd")  # a report of the client about what it received
        assert client.ask("PLAY") == "RTSP/1.0 200 OK"
        packets = [client.packet() for _ in range(20)]
        assert {channel for channel, _ in packets} == {4, 5}
        assert {data[1] & 0x7F for channel, data in packets if channel == 4} == {96}


@pytest.mark.parametrize(
    ("method", "url", "status"),
    [
        ("DESCRIBE", "/other", "404 Not Found"),
        ("DESCRIBE", "/clip/track2", "404 Not Found"),
        ("RECORD", "/clip", "501 Not Implemented"),
        ("SETUP", "/clip", "461 Unsupported Transport"),
        ("GET_PARAMETER", "/clip", "200 OK"),
    ],
)
def test_what_it_cannot_do_is_refused_by_its_name(clip: Clip, method: str, url: str, status: str) -> None:
    with _serving(clip) as server, _Client(server) as client:
        assert client.ask(method, url=server.url.removesuffix("/clip") + url) == f"RTSP/1.0 {status}"


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"x" * 20_000,
        b"PLAY rtsp://a/clip RTSP/1.0\r\nContent-Length: 99999999\r\n\r\n",
        b"PLAY rtsp://a/clip RTSP/1.0\r\nContent-Length: -1\r\n\r\n",
    ],
)
def test_a_client_that_speaks_something_else_is_let_go_and_others_go_on(clip: Clip, data: bytes) -> None:
    with _serving(clip) as server, _Client(server) as good, _Client(server) as bad:
        with contextlib.suppress(ConnectionError):
            bad.send(data)
            assert bad.is_closed()
        assert good.ask("DESCRIBE") == "RTSP/1.0 200 OK"


def test_more_clients_than_it_serves_are_turned_away_until_one_leaves(
    clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MAX_CLIENTS", 1)
    with _serving(clip) as server:
        with _Client(server) as first:
            assert first.ask("DESCRIBE") == "RTSP/1.0 200 OK"
            with _Client(server) as second, contextlib.suppress(ConnectionError):
                assert second.is_closed()

        def is_served() -> bool:
            with _Client(server) as third:
                try:
                    return third.ask("DESCRIBE") == "RTSP/1.0 200 OK"
                except ConnectionError:
                    return False

        wait_until(is_served)


def test_a_file_that_becomes_unreadable_ends_the_server_with_its_name(clip: Clip, tmp_path: Path) -> None:
    gone = Clip(tmp_path / "gone.mp4", clip.codec, clip.width, clip.height, clip.fps)
    with ClipServer(gone, "127.0.0.1", 0) as server, _Client(server) as client:
        script: list[Callable[[], str]] = [lambda: client.ask("SETUP", _TCP), lambda: client.ask("PLAY")]
        asking = threading.Thread(target=lambda: [step() for step in script])
        asking.start()
        with pytest.raises(Unavailable, match=r"gone\.mp4 cannot be read to its end: No such file"):
            server.serve(20)
        asking.join(10)


def _text(path: Path) -> Path:
    path.write_text("no video\n", encoding="utf-8")
    return path


def _sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "absent.mp4", "cannot be read as a video: No such file or directory"),
        (lambda folder: folder, "cannot be read as a video"),
        (lambda folder: _text(folder / "text.mp4"), "cannot be read as a video: Invalid data"),
        (lambda folder: _sound(folder / "sound.wav"), "holds no video"),
        (
            lambda folder: _write(folder / "old.avi", "mpeg4", b_frames=0),
            "holds mpeg4 video, but the camera sends H.264 and H.265 without converting. Convert it once: ffmpeg -i ",
        ),
    ],
)
def test_a_file_that_cannot_be_served_is_refused_with_the_reason(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        clip_from_file(make(tmp_path))
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clip", "x.mp4"], "give --rtsp too"),
        (["--listen", "127.0.0.1:1"], "give --rtsp too"),
        (["--rtsp", "--json"], "leave them out"),
        (["--rtsp", "--listen", "8554"], "is not an address"),
        (["--rtsp", "--listen", "localhost:99999"], "is not an address"),
        (["--rtsp", "--listen", "127.0.0.1:rtsp"], "is not an address"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", *arguments]) == click.UsageError.exit_code
    assert message in capsys.readouterr().err


def test_an_address_in_use_is_named_with_another_one(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["demo", "--rtsp", "--listen", f"127.0.0.1:{port}"]) == 69
    assert f"cannot listen at 127.0.0.1:{port}: Address already in use; give another" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_interrupted(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "agent", "demo", "--rtsp", "--listen", "127.0.0.1:0"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Serving conveyor.mp4 (H264, 640x480, 30 fps) at rtsp://127.0.0.1:")
        process.send_signal(number)
        assert process.wait(timeout=30) == 0


def test_a_server_that_another_thread_leaves_ends_and_names_each_frame_that_it_sent(clip: Clip) -> None:
    sent: list[float] = []
    with ClipServer(clip, "127.0.0.1", 0, on_frame=sent.append) as server:
        accepting = StageThread("accepting", server.serve)
        accepting.start()
        with _Client(server) as client:
            client.ask("SETUP", _TCP, url=f"{server.url}/track1")
            client.ask("PLAY")
            wait_until(lambda: len(sent) >= 5, within_s=10.0)
    accepting.join(5.0)
    assert not accepting.is_alive
    assert accepting.failure is None
    assert sent[0] == 0.0
    assert sent[:5] == sorted(set(sent[:5]))
