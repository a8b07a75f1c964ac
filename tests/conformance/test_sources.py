"""Every source keeps the contract, and the contract catches every broken source."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest

from agent.cameras.sources.base import Source
from agent.cameras.sources.choose import make_source
from agent.cameras.sources.v4l2.camera import V4l2Camera
from agent.config.sections.sources import (
    FileSource,
    FolderSource,
    GStreamerSource,
    HttpSource,
    ImageSource,
    ImagesSource,
    PatternSource,
    RtspSource,
    SourceConfig,
    StreamSource,
    V4l2Source,
)
from agent.runtime.clock import SystemClock
from agent.runtime.errors import SourceUnavailable
from tests.conformance import broken_sources as broken
from tests.conformance import source_contract as contract
from tests.conformance.source_contract import CONTRACT, SourceCase
from tests.fixtures.deadlines import wait_until
from tests.fixtures.gstreamer import require_gstreamer
from tests.fixtures.http_camera import HttpCameraServer, http_camera
from tests.fixtures.rtsp_server import RtspServer
from tests.fixtures.video_device import FakeVideoDevice
from tests.fixtures.videos import write_video


def _case(directory: Path, present: SourceConfig, absent: SourceConfig, *, is_live: bool) -> SourceCase:
    def make(config: SourceConfig) -> Callable[[], Source]:
        return lambda: make_source(config, base_dir=directory, clock=SystemClock())

    return SourceCase(make=make(present), make_absent=make(absent), is_live=is_live)


def _file_case(directory: Path) -> SourceCase:
    write_video(directory / "clip.mp4", frames=12)
    absent = FileSource(type="file", path="absent.mp4")
    return _case(directory, FileSource(type="file", path="clip.mp4"), absent, is_live=False)


def _images_case(directory: Path) -> SourceCase:
    folder = directory / "images"
    folder.mkdir()
    for number in range(6):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((24, 32, 3), number, np.uint8))
    absent = ImagesSource(type="images", path="absent")
    return _case(directory, ImagesSource(type="images", path="images"), absent, is_live=False)


def _folder_case(directory: Path) -> SourceCase:
    _images_case(directory)
    absent = FolderSource(type="folder", path="absent")
    present = FolderSource(type="folder", path="images", settle_s=0.0, poll_s=0.01)
    return replace(_case(directory, present, absent, is_live=False), has_end=False)


@contextmanager
def _image_case(directory: Path) -> Iterator[SourceCase]:
    """An image that is replaced a hundred times a second."""
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.wait(0.01):
            number += 1
            cv2.imwrite(str(directory / "next.png"), np.full((24, 32, 3), number % 256, np.uint8))
            (directory / "next.png").replace(directory / "latest.png")

    thread = threading.Thread(target=write, name="writer")
    thread.start()
    try:
        wait_until((directory / "latest.png").exists, within_s=20)
        present = ImageSource(type="image", path="latest.png", poll_s=0.01)
        yield _case(directory, present, ImageSource(type="image", path="absent.png"), is_live=True)
    finally:
        stop.set()
        thread.join(20.0)


def _pattern_case(directory: Path) -> SourceCase:
    present = PatternSource(type="pattern", width=64, height=48, fps=200.0)
    # A pattern is always there; its place in that one check is taken by a file.
    return _case(directory, present, FileSource(type="file", path="absent.mp4"), is_live=True)


def _rtsp_case(directory: Path, server: RtspServer, *, reader: Literal["ffmpeg", "gstreamer"]) -> SourceCase:
    absent = RtspSource(type="rtsp", url=f"rtsp://127.0.0.1:{server.port}/elsewhere", reader=reader)
    return _case(directory, RtspSource(type="rtsp", url=server.url, reader=reader), absent, is_live=True)


def _v4l2_case(directory: Path) -> SourceCase:
    def make() -> Source:
        config = V4l2Source(type="v4l2", device="/dev/null")
        return V4l2Camera(config, clock=SystemClock(), open_capture=FakeVideoDevice, is_video=lambda _: True)

    absent = V4l2Source(type="v4l2", device=str(directory / "video9"))
    return SourceCase(make=make, make_absent=lambda: V4l2Camera(absent, clock=SystemClock()), is_live=True)


def _gstreamer_case(directory: Path) -> SourceCase:
    present = GStreamerSource(type="gstreamer", pipeline="videotestsrc is-live=true ! video/x-raw,width=64,height=48")
    return _case(directory, present, GStreamerSource(type="gstreamer", pipeline="absentsrc"), is_live=True)


def _http_case(directory: Path, server: HttpCameraServer, kind: str) -> SourceCase:
    def config(path: str) -> SourceConfig:
        if kind == "stream":
            return StreamSource(type="stream", url=server.url(path))
        return HttpSource(type="http", url=server.url(path), interval_s=0.05)

    path = {"stream": "/live.ts", "http": "/mjpeg", "http-single": "/snapshot.jpg"}[kind]
    return _case(directory, config(path), config("/elsewhere"), is_live=True)


_KINDS = [
    "file",
    "images",
    "folder",
    "image",
    "pattern",
    "rtsp",
    "v4l2",
    "gstreamer",
    "rtsp-gstreamer",
    "http",
    "http-single",
    "stream",
]


@pytest.fixture(scope="module", params=_KINDS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SourceCase]:
    directory = tmp_path_factory.mktemp("sources")
    if "gstreamer" in request.param:
        require_gstreamer()
    if "rtsp" in request.param:
        # The higher the rate, the sooner FFmpeg has seen enough of the stream to open it.
        with RtspServer(directory, size=(160, 120), fps=100.0) as server:
            yield _rtsp_case(directory, server, reader="gstreamer" if "gstreamer" in request.param else "ffmpeg")
        return
    if request.param in {"http", "http-single", "stream"}:
        with http_camera(etag="") as server:
            yield _http_case(directory, server, request.param)
        return
    if request.param == "image":
        with _image_case(directory) as made:
            yield made
        return
    makers = {
        "file": _file_case,
        "images": _images_case,
        "folder": _folder_case,
        "pattern": _pattern_case,
        "v4l2": _v4l2_case,
    }
    makers["gstreamer"] = _gstreamer_case
    yield makers[request.param](directory)


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_source_keeps_its_contract(case: SourceCase, promise: Callable[[SourceCase], None]) -> None:
    promise(case)


def _memory_case(kind: type[broken.GoodSource], *, is_live: bool = False) -> SourceCase:
    return SourceCase(
        make=lambda: kind(is_live=is_live),
        make_absent=lambda: kind(is_live=is_live, is_absent=True),
        is_live=is_live,
        interrupt_s=0.5,
    )


@pytest.mark.parametrize("is_live", [False, True])
@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_a_good_source_in_memory_passes(promise: Callable[[SourceCase], None], is_live: bool) -> None:
    promise(_memory_case(broken.GoodSource, is_live=is_live))


_FAULTS: list[tuple[type[broken.GoodSource], Callable[[SourceCase], None], bool]] = [
    (broken.ReusesItsArray, contract.frames_belong_to_the_caller, False),
    (broken.GivesGrey, contract.frames_are_contiguous_uint8_bgr, False),
    (broken.GivesFloats, contract.frames_are_contiguous_uint8_bgr, False),
    (broken.GivesAView, contract.frames_are_contiguous_uint8_bgr, False),
    (broken.StampsTheFuture, contract.stamps_lie_in_the_past_and_never_go_back, False),
    (broken.StampsBackwards, contract.stamps_lie_in_the_past_and_never_go_back, False),
    (broken.StampsLocalTime, contract.both_time_stamps_are_the_same_moment, False),
    (broken.ReadsWithoutOpening, contract.reading_before_opening_is_refused, False),
    (broken.ReadsAfterClosing, contract.reading_after_closing_is_refused, False),
    (broken.DiesOnTheSecondOpening, contract.opening_twice_is_harmless, False),
    (broken.FailsOnTheSecondClose, contract.closing_twice_or_unopened_is_harmless, False),
    (broken.OpensOnce, contract.opens_again_after_closing, False),
    (broken.StartsAgainAfterItsEnd, contract.an_end_is_permanent, False),
    (broken.LiveThatEnds, contract.an_end_is_permanent, True),
    (broken.ForgetsToCount, contract.every_delivery_is_counted, False),
    (broken.AnnouncesItsTimeBase, contract.announces_a_plausible_rate, False),
    (broken.ForgetsTheInterruption, contract.an_interrupted_source_stays_interrupted, False),
    (broken.SleepsThroughTheInterruption, contract.an_interruption_ends_the_reading_of_another_thread, True),
    (broken.LetsAForeignErrorOut, contract.an_absent_source_raises_a_clear_error, False),
    (broken.SaysNothing, contract.an_absent_source_raises_a_clear_error, False),
    (broken.ShowsItsPassword, contract.describes_itself, False),
    (broken.ClaimsToBeLive, contract.describes_itself, False),
]


@pytest.mark.parametrize(
    ("kind", "promise", "is_live"), _FAULTS, ids=[f"{kind.__name__}-{check.__name__}" for kind, check, _ in _FAULTS]
)
def test_a_broken_source_is_caught(
    kind: type[broken.GoodSource], promise: Callable[[SourceCase], None], is_live: bool
) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception, SourceUnavailable, RuntimeError, OSError)):
        promise(_memory_case(kind, is_live=is_live))


def test_every_promise_has_caught_a_broken_source() -> None:
    assert {check for _, check, _ in _FAULTS} == set(CONTRACT)
