"""The boundary to FFmpeg: frames that are converted when needed, the pixels they become, and its errors."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from agent.cameras.sources.decoded_frame import DecodedFrame
from agent.cameras.sources.failures import Interrupted, StreamFailed
from agent.cameras.sources.ffmpeg import Video, open_video
from agent.cameras.sources.video_file import VideoFile
from agent.config.sections.sources import FileSource
from agent.demo import demo_clip, demo_package
from agent.runtime.clock import SystemClock
from agent.runtime.errors import SourceLost
from engines import EngineOptions, InputSpec, Resizer, load_package, open_engine

_NEVER = threading.Event()


@contextmanager
def _opened(path: Path, **settings: Any) -> Iterator[Video]:
    options = settings.pop("options", {"protocol_whitelist": "file"})
    video = open_video(f"file:{path}", clock=SystemClock(), options=options, is_live=False, **settings)
    try:
        yield video
    finally:
        video.close()


def _write(path: Path, pixel_format: str, frames: int = 3, *, codec: str | None = None, **colours: int) -> Path:
    """A video whose left half is red and whose upper right quarter is blue, on black; by default lossless."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, :32, 0], image[:24, 32:, 2] = 255, 255
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec or ("mjpeg" if pixel_format.startswith("yuvj") else "ffv1"), rate=25)
        stream.options = {"bf": "0"} if codec == "libx264" else {}
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


_EACH_MATRIX = [
    (kind, matrix, named) for kind in ("yuv420p", "yuv444p") for matrix in (1, 2, 4, 5, 6, 7, 9) for named in (1, 2)
]


@pytest.mark.parametrize(
    ("pixel_format", "matrix", "named_range"),
    [*_EACH_MATRIX, ("yuv420p", 2, 0), ("yuvj420p", 5, 2), ("yuvj444p", 5, 2)],
)
def test_planes_become_the_colours_of_the_full_conversion(
    tmp_path: Path, pixel_format: str, matrix: int, named_range: int
) -> None:
    path = _write(tmp_path / "clip.mkv", pixel_format, frames=1, colorspace=matrix, color_range=named_range)
    with _opened(path) as video:
        frame = _first(video)
    assert frame.planes is not None
    small = np.empty((48, 64, 3), np.uint8)
    Resizer(InputSpec(width=64, height=48)).fill(frame.planes, small)
    # Of this size nothing is scaled, but the colour at the edges of the drawing. FFmpeg rounds down.
    inside = np.s_[4:20, 4:28], np.s_[4:20, 36:60], np.s_[28:44, 36:60]
    for part in inside:
        assert np.abs(small[part].astype(int) - frame.image()[part]).max() <= 3


@pytest.mark.parametrize("pixel_format", ["yuv422p", "yuv420p10le", "gray", "rgb24"])
def test_other_formats_are_converted_first(tmp_path: Path, pixel_format: str) -> None:
    kind = {"rgb24": "bgr0"}.get(pixel_format, pixel_format)
    with _opened(_write(tmp_path / "clip.mkv", kind, frames=1)) as video:
        frame = _first(video)
    assert frame.planes is None
    assert frame.image().shape == (48, 64, 3)


def test_colours_that_ffmpeg_does_not_convert_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    with _opened(_write(path, "yuv420p", colorspace=8)) as video, pytest.raises(StreamFailed) as caught:
        video.read(5.0, _NEVER)
    assert caught.value.kind == "colours"
    assert "matrix 8" in caught.value.detail
    source = VideoFile(FileSource(type="file", path="clip.mkv"), base_dir=tmp_path, clock=SystemClock())
    source.open()
    with pytest.raises(SourceLost, match=r"codes its colours by matrix 8 of ITU-T H\.273, but FFmpeg") as lost:
        source.read()
    assert lost.value.fields["reason"] == "colours"
    source.close()


def test_frames_of_the_clip_are_classified_as_after_their_full_conversion(tmp_path: Path) -> None:
    """Nearly the same small image, and the same best class wherever the model is sure by two percent."""
    package = load_package(demo_package())
    resizer = Resizer(package.input)
    rows = np.empty((2, 60, package.input.height, package.input.width, 3), np.uint8)
    with _opened(demo_clip()) as video:
        for index in range(900):
            frame = _first(video)
            if index % 15 == 0:
                assert frame.planes is not None
                resizer.fill(frame.planes, rows[0, index // 15])
                resizer.fill(frame.image(), rows[1, index // 15])
    differences = np.abs(rows[0].astype(np.int16) - rows[1]).mean(axis=(1, 2, 3))
    assert float(differences.max()) < 2.0
    with open_engine(package, EngineOptions(cache_dir=tmp_path, engine="ort-cpu")) as engine:
        small, full = (np.concatenate([engine.infer(row[None]) for row in way]) for way in rows)
    best, unlike = np.sort(full, axis=1), small.argmax(axis=1) != full.argmax(axis=1)
    assert float((best[:, -1] - best[:, -2])[unlike].max(initial=0.0)) < 0.02


class _CountingClock(SystemClock):
    """Ten milliseconds pass with each look at the time: Video looks when it is opened, and at each packet."""

    def __init__(self) -> None:
        self._now_ns = 0

    def monotonic_ns(self) -> int:
        self._now_ns += 10_000_000
        return self._now_ns


@pytest.mark.parametrize(
    ("codec", "is_live", "first_ms"),
    [("libx264", True, 10), ("libx264", False, 20), ("ffv1", True, 20)],
    ids=["a stream of H.264 gives a frame when the next begins", "a file gives it whole", "so does another codec"],
)
def test_a_frame_is_as_old_as_its_first_bytes(tmp_path: Path, codec: str, is_live: bool, first_ms: int) -> None:
    path = _write(tmp_path / "clip.mkv", "yuv420p", frames=6, codec=codec)
    video = open_video(f"file:{path}", clock=_CountingClock(), options={}, is_live=is_live)
    try:
        arrived_ms = [_first(video).arrived_ns // 1_000_000 for _ in range(4)]
    finally:
        video.close()
    assert arrived_ms == [first_ms + 10 * index for index in range(4)]


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


def test_a_time_stamp_that_comes_again_is_that_of_the_later_packet(tmp_path: Path) -> None:
    """A stream that begins again, after a packet that gave no frame."""
    frame = av.VideoFrame(64, 48, "yuv420p")
    frame.pts, frame.time_base = 5, Fraction(1, 25)
    with _opened(_write(tmp_path / "clip.mkv", "yuv420p")) as video:
        first, later = (SimpleNamespace(pts=5, size=9, stream_index=0, is_keyframe=True) for _ in range(2))
        video._packets = iter([first, later])  # what FFmpeg would return
        decoded_ns: list[int] = []

        def nothing() -> list[av.VideoFrame]:
            decoded_ns.append(SystemClock().monotonic_ns())
            return []

        first.decode, later.decode = nothing, lambda: [frame]
        assert _first(video).arrived_ns >= decoded_ns[0]
