"""Cameras through a real GStreamer: frames, time stamps, faults."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.cameras.sources.base import Source
from agent.cameras.sources.choose import make_source
from agent.cameras.sources.gstreamer.camera import GStreamerCamera
from agent.cameras.sources.gstreamer.library import PipelineEnded, RunningPipeline
from agent.cameras.sources.gstreamer.pipelines import plan_for
from agent.config.credentials import filled_pipeline
from agent.config.sections.sources import (
    CsiSource,
    GStreamerSource,
    RtspSource,
    SourceConfig,
    StreamSource,
    V4l2Source,
)
from agent.config.source_address import open_access
from agent.runtime.clock import SystemClock
from agent.runtime.errors import SourceLost, SourceUnavailable
from agent.runtime.records import Image
from tests.fixtures.gstreamer import require_gstreamer
from tests.fixtures.rtsp_server import RtspServer, draw_texture

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def gst() -> Any:
    return require_gstreamer()


@pytest.fixture
def server(tmp_path: Path, gst: Any) -> Iterator[RtspServer]:
    with RtspServer(tmp_path, fps=100.0) as running:
        yield running


def _camera(config: CsiSource | RtspSource | V4l2Source | GStreamerSource, directory: Path) -> GStreamerCamera:
    return GStreamerCamera(config, base_dir=directory, clock=SystemClock())


def _stream(directory: Path, url: str, **settings: Any) -> GStreamerCamera:
    return _camera(RtspSource(type="rtsp", url=url, reader="gstreamer", **settings), directory)


def _own(pipeline: str, **settings: Any) -> GStreamerCamera:
    return _camera(GStreamerSource(type="gstreamer", pipeline=pipeline, **settings), Path("/nowhere"))


def _read_until_lost(camera: GStreamerCamera) -> SourceLost:
    with pytest.raises(SourceLost) as caught:
        for _ in range(500):
            camera.read()
    return caught.value


def test_a_stream_is_in_bgr_order(tmp_path: Path, server: RtspServer) -> None:
    with closing(_stream(tmp_path, server.url)) as camera:
        camera.open()
        capture = camera.read()
    assert capture is not None
    assert capture.image.shape == (240, 320, 3)
    left, right = capture.image[60, 40].tolist(), capture.image[60, 280].tolist()
    assert left[2] > 150 > left[0]
    assert right[0] > 150 > right[2]


def test_a_configured_rate_takes_precedence_over_the_rate_of_the_caps(gst: Any) -> None:
    caps = "video/x-raw,width=64,height=48,framerate="
    for rate, configured, announced in (("25/1", None, 25.0), ("30000/1001", None, 29.97), ("25/1", 10.0, 10.0)):
        with closing(_own(f"videotestsrc is-live=true ! {caps}{rate}", fps=configured)) as camera:
            camera.open()
            assert camera.fps == pytest.approx(announced, abs=0.01)


@pytest.mark.parametrize("width", [64, 66, 321])
def test_rows_of_every_width_stay_straight(gst: Any, width: int) -> None:
    caps = f"video/x-raw,format=GRAY8,width={width},height=48"
    with closing(_own(f"videotestsrc is-live=true pattern=white ! {caps}")) as camera:
        camera.open()
        capture = camera.read()
    assert capture is not None
    assert capture.image.shape == (48, width, 3)
    assert capture.image.min() == capture.image.max() > 200


def test_stalled_stream_is_lost_and_comes_back(tmp_path: Path, server: RtspServer) -> None:
    with closing(_stream(tmp_path, server.url, read_timeout_s=0.8)) as camera:
        camera.open()
        server.stall()
        assert _read_until_lost(camera).fields["reason"] == "stalled"
        camera.close()
        server.resume()
        camera.open()
        assert camera.read() is not None


def test_killed_server_is_a_loss_and_the_stream_comes_back_after_its_restart(
    tmp_path: Path, server: RtspServer
) -> None:
    with closing(_stream(tmp_path, server.url)) as camera:
        camera.open()
        server.kill()
        assert _read_until_lost(camera).fields["reason"] == "ended"
        camera.close()
        with pytest.raises(SourceUnavailable, match="nothing listens at 127"):
            camera.open()
        with RtspServer(tmp_path, port=server.port, fps=100.0):
            camera.open()
            assert camera.read() is not None


def test_silence_over_udp_is_a_loss_and_the_stream_comes_back(tmp_path: Path, gst: Any) -> None:
    with (
        RtspServer(tmp_path, fps=100.0, transports=("udp",), silent_after=100) as server,
        closing(_stream(tmp_path, server.url, transport="udp", read_timeout_s=0.8)) as camera,
    ):
        camera.open()
        assert _read_until_lost(camera).fields["reason"] == "stalled"
        camera.close()
        camera.open()
        assert camera.read() is not None


@contextlib.contextmanager
def _srt_sender(gst: Any, passphrase: str) -> Iterator[int]:
    """An encoder that waits for one caller after another; the port."""
    needed = ("srtsrc", "srtsink", "x264enc", "mpegtsmux", "tsdemux")
    missing = [name for name in needed if gst.ElementFactory.find(name) is None]
    if missing:
        pytest.skip(f"GStreamer lacks {', '.join(missing)}: install its plugins bad and ugly")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    pipeline = gst.parse_launch(
        "videotestsrc is-live=true pattern=red ! video/x-raw,width=320,height=240,framerate=50/1 ! "
        "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=5 ! mpegtsmux ! "
        "srtsink name=sink wait-for-connection=false sync=false"
    )
    pipeline.get_by_name("sink").set_property("uri", f"srt://127.0.0.1:{port}?mode=listener&passphrase={passphrase}")
    pipeline.set_state(gst.State.PLAYING)
    try:
        yield port
    finally:
        pipeline.set_state(gst.State.NULL)


def _srt(directory: Path, port: int, passphrase: str) -> Source:
    (directory / "passphrase").write_text(passphrase + "\n", encoding="utf-8")
    (directory / "passphrase").chmod(0o600)
    url = f"srt://127.0.0.1:{port}?passphrase={{password}}"
    config = StreamSource(type="stream", url=url, password_file="passphrase", read_timeout_s=0.8)
    return make_source(config, base_dir=directory, clock=SystemClock())


def test_an_encrypted_stream_over_srt_is_read_and_opened_again(tmp_path: Path, gst: Any) -> None:
    with _srt_sender(gst, "a passphrase") as port, closing(_srt(tmp_path, port, "a passphrase")) as camera:
        # Each end of an SRT connection is a C++ exception inside GStreamer: it must not end the process.
        for _ in range(3):
            camera.open()
            capture = camera.read()
            assert capture is not None
            assert capture.image.shape == (240, 320, 3)
            assert capture.image[120, 160, 2] > 150 > capture.image[120, 160, 0]
            camera.close()


def test_a_wrong_passphrase_of_srt_is_reported_as_such_and_not_repeated(tmp_path: Path, gst: Any) -> None:
    with (
        _srt_sender(gst, "a passphrase") as port,
        closing(_srt(tmp_path, port, "CANARY of 17 chars")) as camera,
        pytest.raises(SourceUnavailable) as caught,
    ):
        camera.open()
    assert caught.value.fields["reason"] == "credentials"
    assert "CANARY" not in str(caught.value)


def test_a_sender_over_srt_that_ends_is_a_loss(tmp_path: Path, gst: Any) -> None:
    with contextlib.ExitStack() as sender:
        port = sender.enter_context(_srt_sender(gst, "a passphrase"))
        with closing(_srt(tmp_path, port, "a passphrase")) as camera:
            camera.open()
            sender.close()
            with pytest.raises(SourceLost) as caught:
                for _ in range(500):
                    camera.read()
    assert caught.value.fields["reason"] in ("ended", "stalled")


def _is_whole(image: Image) -> bool:
    """Whether it is one of the server's textured frames, without damage."""
    height, width = image.shape[:2]
    drawn = (draw_texture(index, width, height)[4::8, 4::8, ::-1] for index in range(width // 4))
    return any(np.abs(image[4::8, 4::8].astype(int) - wanted).max() < 80 for wanted in drawn)


def test_frames_that_lack_a_datagram_are_dropped(tmp_path: Path, gst: Any) -> None:
    with (
        RtspServer(tmp_path, fps=50.0, transports=("udp",), loss=0.01, textured=True) as server,
        closing(_stream(tmp_path, server.url, transport="udp", read_timeout_s=20.0)) as camera,
    ):
        camera.open()
        for _ in range(100):
            capture = camera.read()
            assert capture is not None
            assert _is_whole(capture.image)


def test_a_camera_that_hangs_up_without_requests_is_kept_alive(tmp_path: Path, gst: Any) -> None:
    with RtspServer(tmp_path, fps=25.0, session_s=1) as server:
        config = RtspSource(type="rtsp", url=server.url, reader="gstreamer")
        plan = plan_for(
            config,
            has=lambda name: not name.startswith("nv"),
            access=open_access(config, tmp_path),
        )
        assert plan.keep_alive_s == 15.0
        for keep_alive_s in (None, 0.3):
            pipeline = RunningPipeline(gst, replace(plan, keep_alive_s=keep_alive_s))
            try:
                came = 0
                with contextlib.suppress(PipelineEnded):
                    while came < 60 and pipeline.pull(20.0, threading.Event()) is not None:
                        came += 1
            finally:
                pipeline.stop()
            assert (came == 60) is (keep_alive_s is not None)
        assert any(line.startswith("GET_PARAMETER") for line in server.requests())


def test_change_of_size_passes_through(tmp_path: Path, gst: Any) -> None:
    sizes = set()
    with (
        RtspServer(tmp_path, fps=100.0, size_change=(100, (480, 360))) as server,
        closing(_stream(tmp_path, server.url)) as camera,
    ):
        camera.open()
        for _ in range(500):
            capture = camera.read()
            assert capture is not None
            sizes.add(capture.image.shape)
            if len(sizes) == 2:
                break
    assert sizes == {(240, 320, 3), (360, 480, 3)}


@pytest.mark.parametrize("password", ['"p@ss/w:rd%20?#& ! fakesink', "größe 漢字"])
def test_a_password_may_contain_any_character_and_a_wrong_one_is_reported(
    tmp_path: Path, gst: Any, password: str
) -> None:
    for name, text in (("right", password), ("wrong", "hunter2-CANARY")):
        (tmp_path / name).write_text(text + "\n", encoding="utf-8")
        (tmp_path / name).chmod(0o600)
    with RtspServer(tmp_path, fps=100.0, credentials=("admin", password)) as server:
        with closing(_stream(tmp_path, server.url, username="admin", password_file="right")) as camera:
            camera.open()
        with pytest.raises(SourceUnavailable, match="refused the user 'admin'") as caught:
            _stream(tmp_path, server.url, username="admin", password_file="wrong").open()
    assert caught.value.fields["reason"] == "credentials"
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize(
    "pair", ["user-id={username} user-pw={password}", 'user-pw="{password}" user-id="{username}"']
)
@pytest.mark.parametrize(
    "word",
    ["simple", '"quoted"', "a b ! fakesink", "\\", "ends\\", "'", '"', " ", "{username}", "(string)x", "größe 漢字"],
)
def test_a_pipeline_gets_the_exact_credentials(gst: Any, pair: str, word: str) -> None:
    text = filled_pipeline(f"rtspsrc name=camera {pair} ! fakesink", "us er", word)
    pipeline = gst.parse_launch_full(text, None, gst.ParseFlags.FATAL_ERRORS)
    camera = pipeline.get_by_name("camera")
    assert (camera.get_property("user-id"), camera.get_property("user-pw")) == ("us er", word)


def test_an_error_of_a_custom_pipeline_shows_neither_its_text_nor_its_password(tmp_path: Path, gst: Any) -> None:
    (tmp_path / "password").write_text("hunter2-CANARY\n", encoding="utf-8")
    (tmp_path / "password").chmod(0o600)
    pipeline = "rtspsrc location=rtsp://{username}:{password}@127.0.0.1:1/token-CANARY ! fakesink name=CANARY-sink"
    source = GStreamerSource(type="gstreamer", pipeline=pipeline, username="me", password_file="password")
    with pytest.raises(SourceUnavailable) as caught:
        _camera(source, tmp_path).open()
    assert caught.value.message.startswith("gstreamer pipeline #")
    assert "CANARY" not in caught.value.message + repr(caught.value.fields)


def test_wrong_codec_is_refused_with_the_setting_to_change(tmp_path: Path, server: RtspServer) -> None:
    with pytest.raises(SourceUnavailable, match="set `codec` to what the camera sends"):
        _stream(tmp_path, server.url, codec="h265", open_timeout_s=3.0).open()


@pytest.mark.parametrize(
    ("pipeline", "detail"),
    [
        ("absentsrc", 'no element "absentsrc"'),
        ("videotestsrc !", "syntax error"),
        ("videotestsrc num-buffers=0", "ended at once"),
        ("filesrc location=/absent ! decodebin", "Resource not found"),
        ("videotestsrc ! capsfilter caps=video/x-raw(memory:Absent)", "cannot be opened"),
    ],
    ids=["element", "syntax", "empty", "file", "caps"],
)
def test_a_custom_pipeline_that_cannot_run_is_refused_with_the_reason(gst: Any, pipeline: str, detail: str) -> None:
    with pytest.raises(SourceUnavailable, match="gst-launch") as caught:
        _own(pipeline, open_timeout_s=2.0).open()
    assert detail in caught.value.message


def test_a_frame_with_missing_bytes_is_an_error_of_the_pipeline(tmp_path: Path, gst: Any) -> None:
    file = tmp_path / "frames"
    file.write_bytes(bytes(8 * 8 * 4 * 3 + 100))
    text = f"filesrc location={file} blocksize=100 ! video/x-raw,format=BGRx,width=8,height=8,framerate=30/1"
    with closing(_own(text)) as camera, pytest.raises(SourceUnavailable, match="a frame of 8x8 came with") as caught:
        camera.open()
    assert caught.value.fields["reason"] == "no_stream"


def test_a_custom_pipeline_that_ends_is_a_loss(gst: Any) -> None:
    with closing(_own("videotestsrc num-buffers=3")) as camera:
        camera.open()
        assert _read_until_lost(camera).fields["reason"] == "ended"


@pytest.mark.parametrize(
    ("config", "detail"),
    [
        (CsiSource(type="csi"), "needs the GStreamer element nvarguscamerasrc"),
        (V4l2Source(type="v4l2", device="/dev/video97", reader="gstreamer"), "/dev/video97 cannot be found"),
        (V4l2Source(type="v4l2", fourcc="ABCD", reader="gstreamer"), "supports MJPG"),
    ],
    ids=["csi", "usb", "format"],
)
def test_an_absent_camera_is_refused_with_the_remedy(gst: Any, config: SourceConfig, detail: str) -> None:
    assert isinstance(config, (CsiSource, V4l2Source))
    if config.type == "csi" and gst.ElementFactory.find("nvarguscamerasrc") is not None:
        pytest.skip("this machine has the elements of a Jetson")
    with pytest.raises(SourceUnavailable) as caught:
        _camera(config, Path("/nowhere")).open()
    assert detail in caught.value.message


def test_missing_bindings_are_reported_with_their_packages(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['gi'] = None\n"
        "from pathlib import Path\n"
        "from agent.runtime.clock import SystemClock\n"
        "from agent.config.sections.sources import CsiSource\n"
        "from agent.cameras.sources.choose import make_source, probe_source\n"
        "source = make_source(CsiSource(type='csi'), base_dir=Path('.'), clock=SystemClock())\n"
        "print(probe_source(source, deadline_s=5.0).detail)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=60, check=True
    )
    assert "CSI sensor 0 needs GStreamer" in done.stdout
    assert "apt-get install python3-gi gir1.2-gst-plugins-base-1.0" in done.stdout
    assert done.stderr == ""
