"""Frames to the model's size, written straight into a batch.

All that the host does for a frame; colour order, scaling and layout are inside the serving graph.
"""

from __future__ import annotations

import cv2
import numpy as np

from engines.base import Images
from engines.specs import InputSpec, Interpolation

_CV_INTERPOLATION: dict[Interpolation, int] = {
    "linear": cv2.INTER_LINEAR,
    "area": cv2.INTER_AREA,
    "nearest": cv2.INTER_NEAREST,
}


class Resizer:
    """Brings frames of any size to the size of ``spec``. One thread at a time: it keeps a scratch picture.

    ``stretch`` ignores the aspect ratio. ``shorter_side`` scales the shorter side to ``resize_to`` (the other one
    rounded down) and crops the centre, as torchvision's Resize and CenterCrop do. ``letterbox`` fits the whole
    picture in and leaves black on the two other sides.
    """

    def __init__(self, spec: InputSpec) -> None:
        self._spec = spec
        self._shape = (spec.height, spec.width, 3)
        self._interpolation = _CV_INTERPOLATION[spec.interpolation]
        self._scratch = np.empty((0, 0, 3), np.uint8)
        self._source: tuple[int, ...] = ()
        self._placed = (0, 0, 0, 0)
        self._fill = {"stretch": self._stretch, "shorter_side": self._crop, "letterbox": self._letterbox}[spec.resize]

    def fill(self, image: Images, out: Images) -> None:
        """Write ``image``, ``(H, W, 3)`` uint8 BGR of any size, into ``out``, ``(height, width, 3)`` uint8.

        ``out`` is a row of the caller's batch and wholly overwritten; ``image`` is only read and not kept.

        Raises:
            ValueError: wrong shape or dtype of either: a mistake of the program.
        """
        if out.shape != self._shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
            raise ValueError(f"out is {out.shape} {out.dtype}, {self._shape} uint8 C-contiguous was expected")
        shape = image.shape
        if shape != self._source:
            if len(shape) != 3 or shape[2] != 3 or image.dtype != np.uint8 or 0 in shape:
                raise ValueError(f"image is {shape} {image.dtype}, (H, W, 3) uint8 was expected")
            self._plan(shape[0], shape[1])
            self._source = shape
        elif image.dtype != np.uint8:
            raise ValueError(f"image is {image.dtype}, uint8 was expected")
        self._fill(image, out)

    def _plan(self, height: int, width: int) -> None:
        """Work out sizes for frames of ``height`` x ``width``; done once per source size."""
        spec = self._spec
        if spec.resize == "shorter_side":
            scaled_h, scaled_w = shorter_side_size(height, width, spec.resize_to or max(spec.width, spec.height))
            top, left = centre_crop(scaled_h, spec.height), centre_crop(scaled_w, spec.width)
            self._placed = (top, left, scaled_h, scaled_w)
            self._scratch = np.empty((scaled_h, scaled_w, 3), np.uint8)
        elif spec.resize == "letterbox":
            scaled_h, scaled_w = letterbox_size(height, width, spec.height, spec.width)
            self._placed = ((spec.height - scaled_h) // 2, (spec.width - scaled_w) // 2, scaled_h, scaled_w)

    def _scale(self, image: Images, out: Images) -> None:
        height, width = out.shape[:2]
        if image.shape == out.shape:
            np.copyto(out, image)
        else:
            cv2.resize(image, (width, height), dst=out, interpolation=self._interpolation)

    def _stretch(self, image: Images, out: Images) -> None:
        self._scale(image, out)

    def _crop(self, image: Images, out: Images) -> None:
        top, left, scaled_h, scaled_w = self._placed
        scaled = image
        if image.shape != self._scratch.shape:
            scaled = self._scratch
            self._scale(image, scaled)
        elif (scaled_h, scaled_w) == self._shape[:2]:
            np.copyto(out, image)
            return
        np.copyto(out, scaled[top : top + self._shape[0], left : left + self._shape[1]])

    def _letterbox(self, image: Images, out: Images) -> None:
        top, left, scaled_h, scaled_w = self._placed
        out[:top] = 0
        out[top + scaled_h :] = 0
        out[:, :left] = 0
        out[:, left + scaled_w :] = 0
        self._scale(image, out[top : top + scaled_h, left : left + scaled_w])


def shorter_side_size(height: int, width: int, resize_to: int) -> tuple[int, int]:
    """Height and width once the shorter side is ``resize_to``. Source: torchvision.transforms.Resize."""
    if height <= width:
        return resize_to, int(resize_to * width / height)
    return int(resize_to * height / width), resize_to


def centre_crop(length: int, crop: int) -> int:
    """Where a centred crop begins. Source: torchvision.transforms.functional.center_crop."""
    return round((length - crop) / 2.0)


def letterbox_size(height: int, width: int, into_height: int, into_width: int) -> tuple[int, int]:
    """The largest size of the same aspect ratio, at least one pixel, that fits."""
    ratio = min(into_height / height, into_width / width)
    return max(1, min(into_height, round(height * ratio))), max(1, min(into_width, round(width * ratio)))
