"""A frame that nobody classifies is never converted to an image."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from agent.cameras.camera import Camera, Route
from agent.cameras.frame_counters import FrameCounters, InFlightFrame
from agent.cameras.sources.base import Capture
from agent.config.model import CameraConfig
from agent.runtime.clock import SystemClock
from agent.runtime.errors import SourceLost
from agent.runtime.records import Image, planes_or_image
from engines import Planes, yuv_to_bgr
from tests.fixtures.deadlines import wait_until
from tests.fixtures.parts import ScriptedSource, plain_image

_STEP_NS = 100_000_000
_TO_BGR = yuv_to_bgr(0.299, 0.114, is_full_range=False)


class _Picture:
    """Counts its conversions."""

    def __init__(self, planes: Planes | None = None) -> None:
        self.planes = planes
        self.conversions = 0

    def image(self) -> Image:
        self.conversions += 1
        return plain_image(100)


class _Lazy(ScriptedSource):
    """Live frames, ten a second by their time stamps; it remembers the rate that the camera wants."""

    def __init__(self, frames: int, planes: Planes | None = None) -> None:
        super().__init__([0], is_live=True)
        self.pictures = [_Picture(planes) for _ in range(frames)]
        self._given = 0

    def read(self) -> Capture | None:
        if self._given == len(self.pictures):
            self._interrupted.wait(30.0)
            raise SourceLost("interrupted", reason="interrupted")
        self._given += 1
        return Capture(self.pictures[self._given - 1], self._given * _STEP_NS, self._given * _STEP_NS, 1.0)


def _run(source: _Lazy, **settings: Any) -> list[InFlightFrame]:
    """What a classifier that never answers gets from a camera."""
    given: list[InFlightFrame] = []
    settings.setdefault("image_checks", {"enabled": False})
    config = CameraConfig.model_validate({"source": {"type": "pattern"}, "classify": [{"model": "m"}], **settings})
    counters = FrameCounters("cam", ("c",))
    camera = Camera("cam", config, source, counters, clock=SystemClock(), chance=random.Random(5))
    camera.set_routes([Route("c", given.append)])
    camera.start()
    try:
        wait_until(lambda: counters.counts().captured == len(source.pictures), within_s=20)
    finally:
        camera.stop()
        assert camera.join(10.0)
    return given


def test_only_frames_that_are_classified_are_converted() -> None:
    source = _Lazy(30)
    given = _run(source, rate_hz=1.0)
    assert len(given) == 4
    # The classifier waits for the first one; while it has not answered, a newer frame may replace the others.
    assert [picture.conversions for picture in source.pictures] == [1] + [0] * 29
    assert given[1].frame.image.shape == (8, 8, 3)
    assert sum(picture.conversions for picture in source.pictures) == 2


def test_the_image_checks_convert_what_they_look_at() -> None:
    source = _Lazy(5)
    _run(source, rate_hz=0.001, image_checks={"enabled": True})
    assert source.pictures[0].conversions > 0
    assert [picture.conversions for picture in source.pictures[1:]] == [0] * 4


def test_the_source_knows_the_rate_that_is_classified() -> None:
    source = _Lazy(2)
    _run(source, rate_hz=1.5)
    assert source.wanted_hz == 1.5


def test_a_frame_with_planes_is_never_converted_for_a_classifier_or_the_image_checks() -> None:
    planes = Planes(*(np.full(side, 99, np.uint8) for side in ((8, 8), (4, 4), (4, 4))), _TO_BGR)
    source = _Lazy(5, planes)
    given = _run(source, image_checks={"enabled": True})
    assert planes_or_image(given[0].frame.picture) is planes
    assert [picture.conversions for picture in source.pictures] == [0] * 5
    assert given[0].frame.image.shape == (8, 8, 3)
    assert source.pictures[0].conversions == 1
