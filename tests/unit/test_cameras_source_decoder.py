"""The boundary to OpenCV: image formats."""

from __future__ import annotations

import numpy as np
import pytest

from agent.cameras.sources.decoder import UnsupportedImage, image_from_array


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (4, 6, 3), (4, 6, 4)])
def test_grey_colour_and_alpha_become_bgr(shape: tuple[int, ...]) -> None:
    image = image_from_array(np.full(shape, 5, np.uint8))
    assert image.shape == (4, 6, 3)
    assert image.flags.c_contiguous
    assert np.all(image == 5)


def test_a_bgr_image_is_not_copied() -> None:
    array = np.zeros((4, 6, 3), np.uint8)
    assert np.shares_memory(image_from_array(array), array)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 6, 3), np.uint16),
        np.zeros((4, 6), np.float32),
        np.zeros((4, 6, 2), np.uint8),
        np.zeros((0, 6, 3), np.uint8),
        np.zeros((4,), np.uint8),
    ],
    ids=["16-bit", "float", "two-channels", "empty", "one-axis"],
)
def test_other_arrays_are_refused_with_shape_and_dtype(array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    with pytest.raises(UnsupportedImage, match=str(array.dtype)):
        image_from_array(array)
