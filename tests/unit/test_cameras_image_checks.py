"""Useless images are reported, good ones are not."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import pytest

from agent.cameras.image_checks import ImageChecks, measure_image
from agent.cameras.sources.pattern import Pattern
from agent.config.sections.image_checks import ImageChecksConfig
from agent.config.sections.sources import FileSource, PatternSource
from agent.demo import demo_clip
from agent.runtime.clock import SystemClock
from agent.runtime.records import Image
from engines import Planes, yuv_to_bgr

_SECOND_NS = 1_000_000_000
_FPS = 10


def _scene(index: int = 0, size: tuple[int, int] = (180, 320)) -> Image:
    """Sharp squares of many brightnesses with some noise, the way a camera sees a shelf."""
    rng = np.random.default_rng(7)
    cells = rng.integers(20, 230, (size[0] // 20, size[1] // 20, 3), np.uint8)
    image = cv2.resize(cells, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)
    noise = np.random.default_rng(index).integers(0, 4, image.shape, np.uint8)
    return np.ascontiguousarray(cv2.add(image, noise), np.uint8)


def _faults(images: Iterator[Image], seconds: float, config: ImageChecksConfig | None = None) -> list[str | None]:
    checks = ImageChecks(config or ImageChecksConfig())
    return [checks.check(next(images), index * _SECOND_NS // _FPS) for index in range(round(seconds * _FPS))]


def _first(faults: list[str | None]) -> tuple[str | None, float]:
    """The first image_fault and the second at which it came."""
    return next(((image_fault, index / _FPS) for index, image_fault in enumerate(faults) if image_fault), (None, 0.0))


def _black(index: int) -> Image:
    return np.random.default_rng(index).integers(0, 3, (180, 320, 3), np.uint8)


def _covered(index: int) -> Image:
    return np.random.default_rng(index).integers(40, 43, (180, 320, 3), np.uint8)


def _blurred(index: int) -> Image:
    return np.ascontiguousarray(cv2.GaussianBlur(_scene(index), (0, 0), 6), np.uint8)


def _frames(draw: Any) -> Iterator[Image]:
    index = 0
    while True:
        yield draw(index)
        index += 1


@pytest.mark.parametrize(
    ("draw", "image_fault", "after_s"),
    [
        (_black, "black", 5.0),
        (_covered, "covered", 5.0),
        (_blurred, "blurred", 5.0),
        (lambda _: _scene(), "frozen", 10.0),
    ],
    ids=["black", "covered", "blurred", "frozen"],
)
def test_a_useless_image_is_reported_once_it_lasts(draw: Any, image_fault: str, after_s: float) -> None:
    assert _first(_faults(_frames(draw), 12.0)) == (image_fault, after_s)


@pytest.mark.parametrize("draw", [_black, _covered, _blurred, lambda _: _scene()])
def test_a_fault_is_cleared_within_a_second_of_a_good_image(draw: Any) -> None:
    checks = ImageChecks(ImageChecksConfig())
    for index in range(12 * _FPS):
        checks.check(draw(index), index * _SECOND_NS // _FPS)
    assert checks.image_fault is not None
    good_ns = 12 * _SECOND_NS
    faults = [checks.check(_scene(index + 1), good_ns + index * _SECOND_NS // _FPS) for index in range(_FPS)]
    assert faults[-1] is None


def test_a_loss_clears_the_fault() -> None:
    checks = ImageChecks(ImageChecksConfig())
    for second in range(7):
        checks.check(_black(second), second * _SECOND_NS)
    assert checks.check(_black(7), 7 * _SECOND_NS) == "black"
    checks.reset()
    assert checks.check(_black(8), 8 * _SECOND_NS) is None


def test_good_images_have_no_fault() -> None:
    assert set(_faults(_frames(_scene), 30.0)) == {None}


def test_the_bundled_clip_and_the_test_pattern_have_no_fault() -> None:
    from agent.cameras.sources.video_file import VideoFile

    clip = VideoFile(FileSource(type="file", path=str(demo_clip())), base_dir=demo_clip().parent, clock=SystemClock())
    pattern = Pattern(PatternSource(type="pattern", fps=1000), clock=SystemClock())
    for source in (clip, pattern):
        source.open()
        try:
            checks = ImageChecks(ImageChecksConfig(after_s=0.0, frozen_after_s=1.0))
            for index in range(150):
                capture = source.read()
                if capture is None:
                    break
                assert checks.check(capture.image, index * _SECOND_NS // 2) is None, index
        finally:
            source.close()


def test_thresholds_of_zero_and_disabled_checks_report_nothing() -> None:
    silent = ImageChecksConfig(black_below=0, covered_below=0, blurred_below=0, frozen_after_s=0)
    for config in (silent, ImageChecksConfig(enabled=False)):
        for draw in (_black, _covered, _blurred, lambda _: _scene()):
            assert set(_faults(_frames(draw), 12.0, config)) == {None}


def test_a_single_changed_byte_is_a_change() -> None:
    first = _scene()
    second = first.copy()
    second[111, 77, 1] ^= 1
    faults = _faults(iter([image for _ in range(100) for image in [first] * 5 + [second] * 5]), 15.0)
    assert set(faults) == {None}


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (500, 3), (8, 8), (7, 13), (17, 333), (2160, 3840)])
def test_every_size_can_be_checked(shape: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    assert measure_image(image).brightness == 0.0
    checks = ImageChecks(ImageChecksConfig())
    assert [checks.check(image, second * _SECOND_NS) for second in (0, 6)] == [None, "black"]


def test_sharpness_falls_with_every_blur() -> None:
    values = [measure_image(_scene()).sharpness]
    values += [measure_image(cv2.GaussianBlur(_scene(), (0, 0), sigma)).sharpness for sigma in (1, 2, 4)]  # type: ignore[arg-type]  # cv2 gives its own array type
    assert all(before is not None and after is not None and before > after for before, after in pairwise(values))


def _as_planes(image: Image, *, is_full_range: bool) -> Planes:
    """``image`` as a decoder would give it, with the colour of each second pixel."""
    matrix = yuv_to_bgr(0.299, 0.114, is_full_range=is_full_range)
    pixels = image.reshape(-1, 3).astype(np.float64) - matrix[:, 3]
    yuv = np.linalg.solve(matrix[:, :3].astype(np.float64), pixels.T).T.reshape(image.shape)
    y, u, v = np.moveaxis(np.clip(np.rint(yuv), 0, 255).astype(np.uint8), 2, 0)
    return Planes(y, u[::2, ::2], v[::2, ::2], matrix)


@pytest.mark.parametrize("is_full_range", [False, True])
@pytest.mark.parametrize("draw", [_scene, _black, _covered, _blurred])
def test_planes_are_measured_like_their_image(draw: Any, is_full_range: bool) -> None:
    image = draw(3)
    expected, found = measure_image(image), measure_image(_as_planes(image, is_full_range=is_full_range))
    assert found.brightness == pytest.approx(expected.brightness, abs=1.5)
    assert found.contrast == pytest.approx(expected.contrast, abs=1.0)
    assert found.thumbnail.shape == expected.thumbnail.shape
    if expected.sharpness is not None:
        assert found.sharpness == pytest.approx(expected.sharpness, abs=0.03)


@pytest.mark.parametrize("changed", ["y", "u", "v"])
def test_frozen_planes_are_those_of_which_nothing_changes(changed: str) -> None:
    still = _as_planes(_scene(), is_full_range=False)
    planes = {name: getattr(still, name) for name in ("y", "u", "v")}
    other = planes[changed].copy()
    other[-1, -1] ^= 1
    moved = Planes(**{**planes, changed: other}, to_bgr=still.to_bgr)
    for frames, expected in (([still, still], "frozen"), ([still, moved], None)):
        checks = ImageChecks(ImageChecksConfig())
        assert [checks.check(_Decoded(frames[i % 2]), i * _SECOND_NS) for i in range(13)][-1] == expected


class _Decoded:
    """A decoded frame whose conversion would be a mistake."""

    def __init__(self, planes: Planes) -> None:
        self.planes = planes

    def image(self) -> Image:
        raise AssertionError("it was converted")
