"""A frame that is scaled as planes gives the small image of its full conversion."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from agent.inference.decisions.classifications import crop
from engines import InputSpec, Planes, Resizer, yuv_to_bgr

_BT601, _BT709 = (0.299, 0.114), (0.2126, 0.0722)
Image = npt.NDArray[np.uint8]


def _soft(height: int, width: int, seed: int) -> Image:
    """Soft shapes with grain, none of them black or white: neighbouring pixels are alike, as in photos."""
    chance = np.random.default_rng(seed)
    coarse = chance.integers(30, 220, (max(2, height // 16), max(2, width // 16)), np.uint8)
    soft = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.add(soft, chance.integers(0, 6, soft.shape, np.uint8)), np.uint8)


def _frame(height: int, width: int, step: int = 2, *, is_full_range: bool = False) -> Planes:
    u, v = (_soft(height // step, width // step, seed) // 8 + 112 for seed in (1, 2))
    return Planes(_soft(height, width, 0), u, v, yuv_to_bgr(*_BT709, is_full_range=is_full_range))


def _converted(planes: Planes) -> Image:
    """The full conversion: each pixel has the colour of its block."""
    u, v = (plane.repeat(planes.step, 0).repeat(planes.step, 1) for plane in (planes.u, planes.v))
    return np.asarray(cv2.transform(cv2.merge((planes.y, u, v)), planes.to_bgr), np.uint8)


def _resized(image: Image | Planes, **settings: Any) -> Image:
    spec = InputSpec(**{"width": 56, "height": 48, **settings})
    out = np.full((spec.height, spec.width, 3), 77, np.uint8)
    resizer = Resizer(spec)
    for _ in range(3):  # the plan of a size changes with its second frame
        resizer.fill(image, out)
    return out


def _difference(one: Image, other: Image) -> float:
    return float(np.abs(one.astype(np.int16) - other.astype(np.int16)).mean())


@pytest.mark.parametrize("interpolation", ["linear", "area", "nearest", "linear_antialias", "cubic_antialias"])
@pytest.mark.parametrize("resize", ["stretch", "shorter_side", "letterbox"])
@pytest.mark.parametrize(("step", "is_full_range"), [(2, False), (2, True), (1, False)])
def test_the_small_image_is_that_of_the_full_conversion(
    interpolation: str, resize: str, step: int, is_full_range: bool
) -> None:
    planes = _frame(270, 480, step, is_full_range=is_full_range)
    settings = {"interpolation": interpolation, "resize": resize}
    settings |= {"resize_to": 64} if resize == "shorter_side" else {}
    small, expected = _resized(planes, **settings), _resized(_converted(planes), **settings)
    assert _difference(small, expected) < 0.6
    assert np.abs(small.astype(int) - expected).max() <= 10


def test_bars_of_a_letterbox_are_black() -> None:
    for is_full_range in (False, True):
        small = _resized(_frame(40, 160, is_full_range=is_full_range), resize="letterbox")
        assert not small[:16].any()
        assert not small[-16:].any()
        assert small[20:28].any()


def test_one_resizer_takes_planes_and_images_in_turn() -> None:
    resizer, planes = Resizer(InputSpec(width=56, height=48)), _frame(90, 160)
    outs = np.zeros((4, 48, 56, 3), np.uint8)
    for out, image in zip(outs, (planes, _converted(planes), planes, _converted(planes)), strict=True):
        resizer.fill(image, out)
    assert np.array_equal(outs[0], outs[2])
    assert np.array_equal(outs[1], outs[3])
    assert 0.0 < _difference(outs[0], outs[1]) < 1.0


@pytest.mark.parametrize(
    ("roi", "limit"),
    [((0.25, 0.25, 0.75, 0.75), 0.6), ((0.11, 0.07, 0.93, 0.61), 3.0), ((0.999, 0.999, 1.0, 1.0), 3.0)],
    ids=["cut between colours", "cut inside a colour", "one pixel"],
)
def test_a_region_of_planes_is_that_of_the_image(roi: tuple[float, float, float, float], limit: float) -> None:
    planes = _frame(288, 480)
    part, image = crop(planes, roi), crop(_converted(planes), roi)
    assert isinstance(part, Planes)
    assert isinstance(image, np.ndarray)
    assert all(0 <= more <= 2 for more in np.subtract(part.y.shape, image.shape[:2]))
    assert _difference(_resized(part), _resized(image)) < limit
    assert np.shares_memory(part.y, planes.y)


def test_a_region_of_the_whole_frame_is_the_frame() -> None:
    planes = _frame(90, 160)
    assert crop(planes, (0.0, 0.0, 1.0, 1.0)) is planes


@pytest.mark.parametrize("shares", [_BT601, _BT709])
def test_the_colours_are_those_of_the_standard(shares: tuple[float, float]) -> None:
    """Black, white and the primaries, from BGR to Y, U, V and back. Source: ITU-T H.273, 8.3."""
    red, blue = shares
    weights = np.array([blue, 1.0 - red - blue, red])
    for is_full_range in (False, True):
        matrix = yuv_to_bgr(red, blue, is_full_range=is_full_range)
        for colour in ((0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)):
            bgr = np.array(colour) / 255.0
            luma = float(weights @ bgr)
            u, v = (bgr[0] - luma) / (2.0 * (1.0 - blue)), (bgr[2] - luma) / (2.0 * (1.0 - red))
            steps = (255.0, 255.0, 0.0) if is_full_range else (219.0, 224.0, 16.0)
            yuv = (luma * steps[0] + steps[2], u * steps[1] + 128.0, v * steps[1] + 128.0, 1.0)
            assert matrix @ yuv == pytest.approx(colour, abs=0.01)


def test_planes_that_do_not_cover_each_other_are_refused() -> None:
    matrix = yuv_to_bgr(*_BT601, is_full_range=False)
    for shapes in (((4, 6), (2, 3), (2, 2)), ((5, 6), (2, 3), (2, 3)), ((4, 6), (4, 3), (4, 3))):
        with pytest.raises(ValueError, match="but u is"):
            Planes(*(np.zeros(shape, np.uint8) for shape in shapes), matrix)
