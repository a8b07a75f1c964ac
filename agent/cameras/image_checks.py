"""Detects frames of a live camera that show nothing useful: black, frozen, covered or out of focus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from agent.config.sections.image_checks import ImageChecksConfig
from agent.runtime.records import Image, LazyImage, planes_or_image
from engines import Planes

ImageFault = Literal["black", "frozen", "covered", "blurred"]
IMAGE_FAULTS: tuple[ImageFault, ...] = ("black", "frozen", "covered", "blurred")
"""By rank: if several apply, the first one is reported."""

_CHECK_PERIOD_NS = 500_000_000
_WIDTH_PX = 320
_BANDS = 16
_FAR_PX = 4
_BLACK_CONTRAST = 2.0
_MIN_EDGES = 4.0
"""Below this mean square step between pixels four apart there is no edge to judge."""


@dataclass(frozen=True, slots=True)
class ImageMetrics:
    """Measurements on a few rows of a frame.

    ``sharpness`` is the ratio of the mean square steps between neighbouring pixels and between pixels four apart: 1/16
    if every edge is a ramp, 1/4 and more if edges are sharp. It does not depend on the scene. None without edges.
    """

    brightness: float
    contrast: float
    sharpness: float | None
    thumbnail: Image
    """``(16, about 320)`` uint8, one row for each band of the frame."""


def measure_image(image: Image | Planes) -> ImageMetrics:
    """Measure 16 pairs of rows, scaled to a width of about 320 pixels (80 us for 1280x720)."""
    rows_of_all = image.y if isinstance(image, Planes) else image
    height, width = rows_of_all.shape[:2]
    shrink = max(1, round(width / _WIDTH_PX))
    rows = min(shrink, 2, height)
    bands = max(1, min(_BANDS, height // rows))
    pitch = height // bands
    depth = rows_of_all.shape[2:]
    part = rows_of_all[: bands * pitch].reshape(bands, pitch, width, *depth)[:, :rows]
    part = np.ascontiguousarray(part).reshape(bands * rows, width, *depth)
    gray = cv2.cvtColor(part, cv2.COLOR_BGR2GRAY) if depth else part
    small = cv2.resize(gray, (max(width // shrink, 1), bands), interpolation=cv2.INTER_AREA)
    if isinstance(image, Planes):
        small = cv2.convertScaleAbs(cv2.subtract(small, float(image.black[0])), alpha=image.contrast)
    mean, deviation = cv2.meanStdDev(small)
    return ImageMetrics(
        brightness=float(mean.ravel()[0]),
        contrast=float(deviation.ravel()[0]),
        sharpness=_sharpness(np.asarray(small, np.uint8)),
        thumbnail=np.asarray(small, np.uint8),
    )


def _sharpness(small: Image) -> float | None:
    if small.shape[1] <= 2 * _FAR_PX:
        return None
    near, far = (_mean_square_step(small, distance) for distance in (1, _FAR_PX))
    return near / far if far >= _MIN_EDGES else None


def _mean_square_step(small: Image, distance: int) -> float:
    steps = cv2.absdiff(small[:, distance:], small[:, :-distance])
    return float(cv2.norm(steps, cv2.NORM_L2SQR)) / steps.size


class ImageChecks:
    """Checks the frames of one camera, at most twice a second. Used by the camera's thread."""

    def __init__(self, config: ImageChecksConfig) -> None:
        self._config = config
        self._after_ns: dict[ImageFault, float] = dict.fromkeys(IMAGE_FAULTS, config.after_s * 1e9)
        self._after_ns["frozen"] = config.frozen_after_s * 1e9
        self.reset()

    def reset(self) -> None:
        """Clear all faults: the camera was lost."""
        self.image_fault: ImageFault | None = None
        self._due_ns: int | None = None
        self._since_ns: dict[ImageFault, int] = {}
        # The last frame that differed from the one before. Frames are never written to, so no copy is needed.
        self._reference: tuple[Image | Planes, Image, int] | None = None

    def check(self, picture: Image | LazyImage, now_ns: int) -> ImageFault | None:
        """The fault of the frame that came at monotonic ``now_ns``, once it has lasted; None if the frame is good."""
        if not self._config.enabled or (self._due_ns is not None and now_ns < self._due_ns):
            return self.image_fault
        self._due_ns = now_ns + _CHECK_PERIOD_NS
        image = planes_or_image(picture)
        metrics = measure_image(image)
        found = set(self._faults(metrics))
        frozen_since_ns = self._unchanged_since(image, metrics.thumbnail, now_ns)
        since = {image_fault: self._since_ns.get(image_fault, now_ns) for image_fault in found}
        if frozen_since_ns is not None:
            since["frozen"] = frozen_since_ns
        self._since_ns = since
        lasting = (
            image_fault
            for image_fault in IMAGE_FAULTS
            if image_fault in since and now_ns - since[image_fault] >= self._after_ns[image_fault]
        )
        self.image_fault = next(lasting, None)
        return self.image_fault

    def _faults(self, metrics: ImageMetrics) -> Iterator[ImageFault]:
        config = self._config
        if metrics.brightness < config.black_below and metrics.contrast < _BLACK_CONTRAST:
            yield "black"
        elif metrics.contrast < config.covered_below:
            yield "covered"
        if metrics.sharpness is not None and metrics.sharpness < config.blurred_below:
            yield "blurred"

    def _unchanged_since(self, image: Image | Planes, thumbnail: Image, now_ns: int) -> int | None:
        """When the current frame content was first seen; None if it has just changed."""
        if not self._config.frozen_after_s:
            return None
        if self._reference is not None:
            before, small_before, since_ns = self._reference
            # The thumbnails differ for nearly every frame (sensor noise), so the full compare is rare.
            if np.array_equal(small_before, thumbnail) and _are_equal(before, image):
                return since_ns
        self._reference = image, thumbnail, now_ns
        return None


def _are_equal(one: Image | Planes, other: Image | Planes) -> bool:
    if isinstance(one, Planes) or isinstance(other, Planes):
        return (
            isinstance(one, Planes)
            and isinstance(other, Planes)
            and all(_are_equal(*pair) for pair in ((one.y, other.y), (one.u, other.u), (one.v, other.v)))
        )
    if one.shape != other.shape:
        return False
    flat_one, flat_other = one.reshape(-1), other.reshape(-1)
    if flat_one.size % 8 == 0:
        # Eight bytes at a time: 90 us for 1280x720 instead of 500.
        return bool(np.array_equal(flat_one.view(np.uint64), flat_other.view(np.uint64)))
    return bool(np.array_equal(flat_one, flat_other))
