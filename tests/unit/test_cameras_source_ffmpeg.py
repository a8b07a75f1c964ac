"""The boundary to FFmpeg: frames that are converted when needed, the pixels they become, and its errors."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from agent.cameras.sources.failures import Interrupted, StreamFailed
from agent.cameras.sources.ffmpeg import DecodedFrame, Video, open_video
from agent.demo import demo_clip
from agent.runtime.clock import SystemClock

_NEVER = threading.Event()


@contextmanager
def _opened(path: Path, **settings: Any) -> Iterator[Video]:
    options = settings.pop("options", {"protocol_whitelist": "file"})
    video = open_video(f"file:{path}", clock=SystemClock(), options=options, is_live=False, **settings)
    try:
        yield video
    finally:
        video.close()


def _write(path: Path, pixel_format: str, frames: int = 3, **colours: int) -> Path:
    """A lossless video whose left half is red and whose upper right quarter is blue, on black."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, :32, 0], image[:24, 32:, 2] = 255, 255
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
        for name, value in colours.items():
            setattr(stream.codec_context, name, value)
        for _ in range(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixel_format)
            for name, value in colours.items():
                setattr(frame, name, value)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _first(video: Video) -> DecodedFrame:
    frame = video.read(5.0, _NEVER)
    assert frame is not None
    return frame


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p", "yuv422p10le", "yuv420p12le", "gray16le", "rgb48le"])
def test_every_depth_and_sampling_becomes_8_bit_bgr(tmp_path: Path, pixel_format: str) -> None:
    with _opened(_write(tmp_path / "clip.mkv", pixel_format)) as video:
        image = _first(video).image()
    assert image.shape == (48, 64, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    left, right, below = image[12, 8].astype(int), image[12, 56].astype(int), image[40, 56].astype(int)
    if pixel_format.startswith("gray"):
        assert len(set(left)) == 1
        assert left[0] > right[0] > below[0]
    else:
        assert left[2] > 230 > 40 > left[0]
        assert right[0] > 230 > 40 > right[2]
        assert below.max() < 20


def test_a_frame_is_converted_once_and_belongs_to_the_caller(tmp_path: Path) -> None:
    with _opened(_write(tmp_path / "clip.mkv", "yuv420p")) as video:
        first, second = _first(video), _first(video)
        image = first.image()
        kept = image.copy()
        assert first.image() is image
        assert not np.shares_memory(image, second.image())
    assert np.array_equal(image, kept)
    image[:] = 0


def test_an_empty_packet_is_no_end(tmp_path: Path) -> None:
    """Theora writes one for a frame that repeats the one before."""
    path = tmp_path / "clip.ogv"
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-f",
        "lavfi",
        "-i",
        "color=red:s=64x48:r=25:d=1",
        "-c:v",
        "libtheora",
        str(path),
    ]
    if shutil.which("ffmpeg") is None:
        pytest.skip("the program ffmpeg is not installed, and no library of the tests writes Theora")
    subprocess.run(command, check=True, timeout=30)
    with _opened(path) as video:
        images = []
        while (frame := video.read(5.0, _NEVER)) is not None:
            images.append(frame.image())
        assert video.damaged == 0
    assert len(images) >= 2
    assert all(image[24, 32, 2] > 200 > 60 > image[24, 32, 0] for image in images)


def test_a_frame_outlives_its_video(tmp_path: Path) -> None:
    with _opened(_write(tmp_path / "clip.mkv", "yuv420p")) as video:
        frame = _first(video)
    assert frame.image().shape == (48, 64, 3)


@pytest.mark.skipif(int(av.__version__.split(".")[0]) < 18, reason="PyAV converts by the transfer from 18 on")
def test_pictures_for_bright_screens_are_converted_by_their_transfer(tmp_path: Path) -> None:
    """The same code values mean other light in HLG (transfer 18) than in BT.709 (transfer 1).

    PQ takes the same way, but FFmpeg computes its tables for twice as long.
    """
    means = []
    for name, transfer in (("sdr", 1), ("hlg", 18)):
        path = _write(tmp_path / f"{name}.mkv", "yuv420p10le", frames=1, color_trc=transfer, color_primaries=1)
        with _opened(path) as video:
            means.append(float(_first(video).image().mean()))
    assert abs(means[0] - means[1]) > 3.0


def test_a_video_that_is_closed_while_its_decoder_works_never_hangs() -> None:
    def open_and_close() -> None:
        for count in range(40):
            with _opened(demo_clip(), threads=4) as video:
                for _ in range(1 + count % 8):
                    video.read(5.0, _NEVER)

    thread = threading.Thread(target=open_and_close, name="opening", daemon=True)
    thread.start()
    thread.join(60.0)
    assert not thread.is_alive(), "closing waits for a thread that waits for Python's lock"


def test_an_interruption_ends_the_reading(tmp_path: Path) -> None:
    interrupted = threading.Event()
    interrupted.set()
    with _opened(_write(tmp_path / "clip.mkv", "yuv420p")) as video, pytest.raises(Interrupted):
        video.read(5.0, interrupted)


def test_a_name_with_a_colon_is_a_file(tmp_path: Path) -> None:
    with _opened(_write(tmp_path / "rtsp:10:15.mkv", "yuv420p")) as video:
        assert video.fps == 25.0


def test_a_playlist_opens_no_address(tmp_path: Path) -> None:
    text = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nhttp://127.0.0.1:1/a.ts\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.m3u8").write_text(text)
    with pytest.raises(StreamFailed), _opened(tmp_path / "list.m3u8"):
        pass


@pytest.mark.parametrize("content", [b"", b"no video" * 100], ids=["empty", "text"])
def test_an_error_names_its_kind_and_not_the_address(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret-name.mp4").write_bytes(content)
    with pytest.raises(StreamFailed) as caught, _opened(tmp_path / "secret-name.mp4"):
        pass
    assert caught.value.kind == "not_understood"
    assert "secret-name" not in caught.value.detail
    assert caught.value.__cause__ is None


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream: Any = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(StreamFailed, match="no video") as caught, _opened(tmp_path / "sound.mkv"):
        pass
    assert caught.value.kind == "no_video"
