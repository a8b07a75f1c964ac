"""Streams of other servers through FFmpeg: MPEG-TS over HTTP and UDP, HLS, and what they cannot do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from agent.cameras.sources.failures import StreamFailed
from agent.cameras.sources.lifecycle import Lifecycle
from agent.cameras.sources.network_errors import not_opened_because
from agent.cameras.sources.network_stream import NetworkStream, Playback
from agent.config.sections.sources import StreamSource
from agent.runtime.clock import SystemClock
from agent.runtime.errors import SourceLost, SourceUnavailable
from tests.fixtures.http_camera import http_camera


def _stream(directory: Path, url: str, **settings: Any) -> NetworkStream:
    return NetworkStream(StreamSource(type="stream", url=url, **settings), base_dir=directory, clock=SystemClock())


def _refusal(stream: NetworkStream) -> SourceUnavailable:
    with closing(stream), pytest.raises(SourceUnavailable) as caught:
        stream.open()
    return caught.value


def _login(directory: Path, password: str) -> dict[str, str]:
    path = directory / "password"
    path.write_text(password + "\n", encoding="utf-8")
    path.chmod(0o600)
    return {"username": "admin", "password_file": "password"}


@pytest.mark.parametrize("login", ["", "basic", "digest"])
def test_mpeg_ts_over_http_is_read_with_a_login(tmp_path: Path, login: str) -> None:
    settings = _login(tmp_path, "p@ss:/#w") if login else {}
    with http_camera(login=login) as server, closing(_stream(tmp_path, server.url("/live.ts"), **settings)) as stream:
        stream.open()
        for _ in range(10):
            capture = stream.read()
        assert capture is not None
        assert capture.image.shape == (120, 160, 3)
        assert capture.image[60, 20, 2] > 150 > capture.image[60, 20, 0]


def test_a_wrong_password_and_a_wrong_path_are_told_apart(tmp_path: Path) -> None:
    with http_camera(login="basic") as server:
        wrong = _refusal(_stream(tmp_path, server.url("/live.ts"), **_login(tmp_path, "wrong-CANARY")))
        path = _refusal(_stream(tmp_path, server.url("/elsewhere"), **_login(tmp_path, "p@ss:/#w")))
    assert wrong.fields["reason"] == "credentials"
    assert "CANARY" not in str(wrong) + repr(wrong.fields)
    assert path.fields["reason"] == "no_such_stream"


@contextmanager
def _sender(port: int) -> Iterator[None]:
    """MPEG-TS in datagrams, 50 frames a second."""
    stop = threading.Event()

    def send() -> None:
        image = np.full((120, 160, 3), 200, np.uint8)
        with av.open(f"udp://127.0.0.1:{port}?pkt_size=1316", "w", format="mpegts") as container:
            video: Any = container.add_stream("libx264", rate=50)
            video.width, video.height, video.pix_fmt = 160, 120, "yuv420p"
            video.options = {"preset": "ultrafast", "tune": "zerolatency", "g": "10"}
            for index in range(2000):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
                frame.pts = index
                container.mux(video.encode(frame))
                if stop.wait(0.02):
                    break

    thread = threading.Thread(target=send, name="sender")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(20.0)


def test_datagrams_are_read_and_their_end_is_a_loss(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with closing(_stream(tmp_path, f"udp://127.0.0.1:{port}", read_timeout_s=0.5)) as stream:
        with _sender(port):
            stream.open()
            capture = stream.read()
            assert capture is not None
            assert capture.image.shape == (120, 160, 3)
        with pytest.raises(SourceLost) as caught:
            for _ in range(500):
                stream.read()
    assert caught.value.fields["reason"] == "stalled"


def test_a_protocol_that_this_ffmpeg_lacks_is_reported_as_such() -> None:
    config = StreamSource(type="stream", url="rtmps://127.0.0.1:1/a")
    error = not_opened_because(StreamFailed("protocol", "Protocol not found"), config, Lifecycle("a stream"))
    assert error.fields["reason"] == "not_supported"
    assert "does not speak rtmps. Let a gateway" in error.message


def test_frames_of_a_segment_are_spread_by_their_time_stamps() -> None:
    playback = Playback()
    assert playback.wait_s(100.0, 5.0) == 0.0
    assert playback.wait_s(100.04, 5.0) == pytest.approx(0.04)
    assert playback.wait_s(100.08, 5.06) == pytest.approx(0.02)


def test_a_late_frame_and_a_new_time_line_start_the_count_again() -> None:
    playback = Playback()
    playback.wait_s(100.0, 5.0)
    assert playback.wait_s(100.04, 7.0) == 0.0
    assert playback.wait_s(100.08, 7.0) == pytest.approx(0.04)
    assert playback.wait_s(5000.0, 7.1) == 0.0
    assert playback.wait_s(5000.04, 7.1) == pytest.approx(0.04)
