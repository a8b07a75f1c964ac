"""The resizer gives, to the last bit, what resizing the whole frame and then cropping gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engines.graph.antialias import AntialiasScaler
from engines.graph.resize import Resizer, _Plan
from engines.package.load import InputSpec

Picture = npt.NDArray[np.uint8]

_CV = {"linear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA, "nearest": cv2.INTER_NEAREST}
_SIDE = st.integers(1, 70)
_FRAMES = st.tuples(st.integers(1, 160), st.integers(1, 160))


def noise(height: int, width: int, seed: int) -> Picture:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def scaled(image: Picture, height: int, width: int, interpolation: str) -> Picture:
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=_CV[interpolation]), np.uint8)


def reference(spec: InputSpec, image: Picture, scale: Callable[[Picture, int, int, str], Picture] = scaled) -> Picture:
    height, width = image.shape[:2]
    if spec.resize == "stretch":
        return scale(image, spec.height, spec.width, spec.interpolation)
    if spec.resize == "shorter_side":
        to = spec.resize_to or 0
        size = (to, int(to * width / height)) if height <= width else (int(to * height / width), to)
        top, left = (round((have - want) / 2) for have, want in zip(size, (spec.height, spec.width), strict=True))
        return scale(image, *size, spec.interpolation)[top : top + spec.height, left : left + spec.width]
    ratio = min(spec.height / height, spec.width / width)
    fit_h = max(1, min(spec.height, round(height * ratio)))
    fit_w = max(1, min(spec.width, round(width * ratio)))
    whole = np.zeros((spec.height, spec.width, 3), np.uint8)
    top, left = (spec.height - fit_h) // 2, (spec.width - fit_w) // 2
    whole[top : top + fit_h, left : left + fit_w] = scale(image, fit_h, fit_w, spec.interpolation)
    return whole


@given(
    height=_SIDE,
    width=_SIDE,
    beyond=st.integers(0, 20),
    mode=st.sampled_from(["stretch", "shorter_side", "letterbox"]),
    interpolation=st.sampled_from(["linear", "area", "nearest"]),
    frames=st.lists(_FRAMES, min_size=1, max_size=3),
)
def test_every_mode_equals_the_plain_reference(
    height: int, width: int, beyond: int, mode: Any, interpolation: Any, frames: list[tuple[int, int]]
) -> None:
    spec = InputSpec(
        width=width,
        height=height,
        resize=mode,
        resize_to=max(width, height) + beyond if mode == "shorter_side" else None,
        interpolation=interpolation,
    )
    resizer = Resizer(spec)
    batch = np.full((3, height, width, 3), 77, np.uint8)
    for seed, size in enumerate([*frames, *frames, *frames]):
        image = noise(*size, seed)
        if max(size) > 64 * min(size):
            continue
        resizer.fill(image, batch[1])
        assert np.array_equal(batch[1], reference(spec, image))
    assert (batch[[0, 2]] == 77).all()


@pytest.mark.parametrize("interpolation", ["linear", "area", "nearest"])
@pytest.mark.parametrize("size", [(480, 640), (720, 1280), (1280, 720), (375, 500), (256, 256), (224, 224)])
def test_usual_camera_sizes_equal_the_plain_reference(interpolation: Any, size: tuple[int, int]) -> None:
    spec = InputSpec(width=224, height=224, resize="shorter_side", resize_to=256, interpolation=interpolation)
    resizer = Resizer(spec)
    out = np.empty((224, 224, 3), np.uint8)
    for seed in range(3):
        image = noise(*size, seed)
        before = image.copy()
        resizer.fill(image, out)
        assert np.array_equal(out, reference(spec, image))
        assert np.array_equal(image, before)


_PILLOW = {"linear_antialias": Image.Resampling.BILINEAR, "cubic_antialias": Image.Resampling.BICUBIC}


def pillow(image: Picture, height: int, width: int, interpolation: str) -> Picture:
    return np.asarray(Image.fromarray(image).resize((width, height), _PILLOW[interpolation]), np.uint8)


def pillow_in_floats(image: Picture, height: int, width: int, interpolation: str) -> Picture:
    """Without Pillow's rounding to 8 bits between its passes."""
    size = (width, height)
    channels = [Image.fromarray(image[:, :, channel].astype(np.float32)) for channel in range(3)]
    planes = [np.asarray(channel.resize(size, _PILLOW[interpolation])) for channel in channels]
    return np.asarray(np.clip(np.rint(np.stack(planes, axis=-1)), 0, 255), np.uint8)


def drawn(height: int, width: int, seed: int) -> Picture:
    """Edges, fine stripes and blobs: what a camera sees, at any size."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [np.sin(x / 2 ** random.uniform(1, 6) + y / 2 ** random.uniform(1, 6)) for _ in range(3)]
    image = np.stack([127 + 60 * wave for wave in waves], axis=-1).astype(np.uint8)
    for _ in range(20):
        corner = random.integers(0, [width, height]).tolist()
        color = random.integers(0, 256, 3).tolist()
        cv2.circle(image, corner, int(random.integers(2, max(3, height // 6))), color, -1)
    return image


@given(
    height=_SIDE,
    width=_SIDE,
    beyond=st.integers(0, 20),
    mode=st.sampled_from(["stretch", "shorter_side", "letterbox"]),
    interpolation=st.sampled_from(["linear_antialias", "cubic_antialias"]),
    frame=_FRAMES,
)
def test_antialias_equals_the_same_filter_of_pillow(
    height: int, width: int, beyond: int, mode: Any, interpolation: Any, frame: tuple[int, int]
) -> None:
    if max(frame) > 64 * min(frame):
        return
    to = max(width, height) + beyond if mode == "shorter_side" else None
    spec = InputSpec(width=width, height=height, resize=mode, resize_to=to, interpolation=interpolation)
    image = noise(*frame, 1)
    batch = np.full((3, height, width, 3), 77, np.uint8)
    resizer = Resizer(spec)
    resizer.fill(image, batch[1])
    difference = np.abs(batch[1].astype(int) - reference(spec, image, scale=pillow_in_floats))
    (scaler,) = resizer._plans.values()
    assert isinstance(scaler, AntialiasScaler)
    if (scaler.rows.factor, scaler.columns.factor) == (1, 1):
        assert difference.max() <= 1
    else:
        # Averaged first, which noise shows.
        assert difference.max() <= 100
    again = batch[1].copy()
    resizer.fill(noise(*frame, 2), batch[1])
    resizer.fill(image, batch[1])
    assert np.array_equal(batch[1], again)
    assert (batch[[0, 2]] == 77).all()


@pytest.mark.parametrize("mode", ["stretch", "letterbox", "shorter_side"])
def test_parts_that_are_filtered_one_after_the_other_leave_no_seam(mode: Any) -> None:
    to = 256 if mode == "shorter_side" else None
    spec = InputSpec(width=224, height=224, resize=mode, resize_to=to, interpolation="cubic_antialias")
    image, out = noise(640, 1280, 4), np.empty((224, 224, 3), np.uint8)
    resizer = Resizer(spec)
    resizer.fill(image, out)
    (scaler,) = resizer._plans.values()
    assert isinstance(scaler, AntialiasScaler)
    assert (scaler.rows.factor, scaler.columns.factor) == (1, 1)
    assert len(scaler.bands) > 3
    assert len(scaler.strips) > 1 or mode == "shorter_side"
    assert np.abs(out.astype(int) - reference(spec, image, scale=pillow_in_floats)).max() <= 1


@pytest.mark.parametrize("interpolation", ["linear_antialias", "cubic_antialias"])
@pytest.mark.parametrize("size", [(480, 640), (720, 1280), (1280, 720), (1080, 1920), (1079, 1917), (2160, 3840)])
@pytest.mark.parametrize("mode", ["shorter_side", "stretch", "letterbox"])
def test_antialias_of_camera_frames_is_within_half_a_level_of_pillow(
    interpolation: Any, size: tuple[int, int], mode: Any
) -> None:
    to = 256 if mode == "shorter_side" else None
    spec = InputSpec(width=224, height=224, resize=mode, resize_to=to, interpolation=interpolation)
    out = np.empty((224, 224, 3), np.uint8)
    image = drawn(*size, 3)
    Resizer(spec).fill(image, out)
    difference = np.abs(out.astype(int) - reference(spec, image, scale=pillow))
    assert difference.mean() <= 0.5
    # What it is not: the two or four pixels that OpenCV looks at.
    plain = replace(spec, interpolation="linear")
    Resizer(plain).fill(image, out)
    assert np.abs(out.astype(int) - reference(spec, image, scale=pillow)).mean() > 2 * difference.mean()


@pytest.mark.parametrize("size", [(1, 40_000), (40_000, 1)])
def test_an_absurdly_long_frame_needs_no_absurd_memory(size: tuple[int, int]) -> None:
    out = np.empty((224, 224, 3), np.uint8)
    resizer = Resizer(InputSpec(width=224, height=224, resize="shorter_side", resize_to=256))
    for _ in range(3):
        resizer.fill(np.full((*size, 3), 9, np.uint8), out)
        assert (out == 9).all()
    plans = [plan for plan in resizer._plans.values() if isinstance(plan, _Plan)]
    assert len(plans) == 1
    assert all(plan.scratch is None or plan.scratch.size < 20_000_000 for plan in plans)


def test_many_frame_sizes_keep_few_scratch_pictures() -> None:
    resizer = Resizer(InputSpec(width=8, height=8, resize="shorter_side", resize_to=9))
    for width in range(10, 80):
        resizer.fill(noise(10, width, 0), np.empty((8, 8, 3), np.uint8))
    assert len(resizer._plans) <= 16


@pytest.mark.parametrize(
    ("image", "out"),
    [
        (np.zeros((4, 4), np.uint8), np.zeros((8, 8, 3), np.uint8)),
        (np.zeros((4, 4, 4), np.uint8), np.zeros((8, 8, 3), np.uint8)),
        (np.zeros((0, 4, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)),
        (np.zeros((4, 4, 3), np.float32), np.zeros((8, 8, 3), np.uint8)),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((8, 8, 3), np.float32)),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((8, 8, 6), np.uint8)[:, :, ::2]),
    ],
)
def test_wrong_arrays_are_refused(image: Any, out: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        Resizer(InputSpec(width=8, height=8)).fill(image, out)
