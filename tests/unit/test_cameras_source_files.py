"""Video files: order, loops, and the difference between an end and a truncated file."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from agent.cameras.sources.video_file import VideoFile
from agent.config.sections.sources import FileSource
from agent.runtime.clock import SystemClock
from agent.runtime.errors import SourceLost, SourceUnavailable
from tests.fixtures.videos import number, write_video


def _video(path: Path, *, loop: bool = False) -> VideoFile:
    config = FileSource(type="file", path=path.name, loop=loop)
    return VideoFile(config, base_dir=path.parent, clock=SystemClock())


def _numbers(source: VideoFile, count: int) -> list[int]:
    captures = [source.read() for _ in range(count)]
    return [-1 if capture is None else number(capture.image) for capture in captures]


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_every_frame_comes_once_in_order_and_then_the_end(tmp_path: Path, suffix: str) -> None:
    with closing(_video(write_video(tmp_path / f"clip{suffix}", frames=30))) as source:
        source.open()
        assert _numbers(source, 32) == [*range(30), -1, -1]
        assert source.fps == pytest.approx(25.0)


def test_colours_are_blue_green_red(tmp_path: Path) -> None:
    with closing(_video(write_video(tmp_path / "clip.avi", frames=3))) as source:
        source.open()
        capture = source.read()
        assert capture is not None
        blue, green, red = capture.image[24, 4].tolist()
        assert blue > 200
        assert green < 60
        assert red < 60


@pytest.mark.parametrize("frames", [1, 2, 10])
def test_looping_file_repeats_its_frames_exactly(tmp_path: Path, frames: int) -> None:
    with closing(_video(write_video(tmp_path / "clip.mp4", frames=frames), loop=True)) as source:
        source.open()
        assert _numbers(source, 3 * frames) == [*range(frames)] * 3
        assert source.statistics().delivered == 3 * frames


def test_bundled_clip_is_read_to_its_end() -> None:
    with closing(
        VideoFile(FileSource(type="file", path="demo"), base_dir=Path("/nowhere"), clock=SystemClock())
    ) as source:
        source.open()
        frames = 0
        while source.read() is not None:
            frames += 1
        assert frames > 25


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
@pytest.mark.parametrize("loop", [False, True])
def test_a_file_that_ends_early_is_truncated_not_ended(tmp_path: Path, suffix: str, loop: bool) -> None:
    path = write_video(tmp_path / f"clip{suffix}", frames=50)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    with closing(_video(path, loop=loop)) as source:
        source.open()
        with pytest.raises(SourceLost, match="truncated or damaged") as caught:
            _numbers(source, 51)
        assert caught.value.fields["reason"] == "truncated"
        assert caught.value.fields["announced"] == 50
        assert caught.value.fields["frames"] == source.statistics().delivered


def test_an_mp4_without_its_index_is_reported_as_such(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", frames=50)
    whole = path.read_bytes()
    assert whole.index(b"mdat") < whole.index(b"moov")
    path.write_bytes(whole[: whole.index(b"moov") - 4])
    with closing(_video(path)) as source:
        with pytest.raises(SourceUnavailable, match=r"MP4 without its index .*moov atom not found.*cut off") as caught:
            source.open()
        assert caught.value.exit_code == 69


def test_an_mp4_cut_within_its_frames_is_reported_as_such(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", frames=50)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(SourceUnavailable, match="moov atom not found"):
        _video(path).open()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", r"empty \(0 bytes\)"), (b"this is no video at all" * 50, "no video in its 1150 bytes")],
    ids=["empty", "text"],
)
def test_a_file_that_is_not_a_video_is_refused_with_the_reason(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(SourceUnavailable, match=message) as caught:
        _video(tmp_path / "clip.mp4").open()
    assert caught.value.fields["reason"] == "unreadable"


def test_a_folder_as_file_is_refused_and_type_images_suggested(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(SourceUnavailable, match="type: images"):
        _video(tmp_path / "folder").open()


def test_looping_file_that_vanishes_is_lost(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", frames=3)
    with closing(_video(path, loop=True)) as source:
        source.open()
        assert _numbers(source, 2) == [0, 1]
        path.unlink()
        with pytest.raises(SourceLost, match="cannot loop"):
            _numbers(source, 2)


def test_frames_after_a_damaged_part_are_read_to_the_end(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mkv", frames=50)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = b"\x00" * 40
    path.write_bytes(content)
    with closing(_video(path)) as source:
        source.open()
        seen = []
        while (capture := source.read()) is not None:
            seen.append(number(capture.image))
    assert seen[-1] == 49
    assert len(seen) < 50
