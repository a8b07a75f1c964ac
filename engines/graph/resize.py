"""Resizes frames to the model's size, straight into a batch.

This is all that the CPU does to a frame, but for the conversion of one that comes as planes; colour order, scaling and
layout are inside the serving graph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from engines.base import Images
from engines.graph.antialias import AntialiasScaler, Filter
from engines.graph.planes import Planes
from engines.package.specs import InputSpec, Interpolation

_CV_INTERPOLATION: dict[Interpolation, int] = {
    "linear": cv2.INTER_LINEAR,
    "area": cv2.INTER_AREA,
    "nearest": cv2.INTER_NEAREST,
}

_MAX_CHECKED_PIXELS = 9_000_000
"""For larger frames than 4K the test of a cheaper crop would need too much memory."""

_KEPT_SIZES = 16
_MAX_ASPECT = 64
"""Longer frames are first cut to their centre: scaled by the shorter side they would fill the memory."""


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """How to resize frames of one size: scale the part ``source`` into ``scratch``, and take ``window`` of that.

    Without ``scratch`` the part is scaled into ``window`` of the output itself.
    """

    source: tuple[slice, slice]
    window: tuple[slice, slice]
    scratch: Images | None = None
    is_checked: bool = True


class Resizer:
    """Resizes frames of any size to the size of ``spec``. Not thread-safe: it keeps a scratch image per frame size.

    ``stretch`` ignores the aspect ratio. ``shorter_side`` scales the shorter side to ``resize_to`` (the other one
    rounded down) and crops the centre, like torchvision's Resize and CenterCrop. ``letterbox`` fits the whole image in
    and leaves black bars.
    """

    def __init__(self, spec: InputSpec) -> None:
        self._spec = spec
        self._shape = (spec.height, spec.width, 3)
        self._plans: dict[tuple[int, ...], _Plan | AntialiasScaler] = {}
        self._has_bars = spec.resize == "letterbox"
        self._scaled = np.empty((3, spec.height, spec.width), np.uint8)

    def fill(self, image: Images | Planes, out: Images) -> None:
        """Write ``image`` of any size into ``out``, ``(height, width, 3)`` uint8 BGR.

        ``image`` is ``(H, W, 3)`` uint8 BGR, or planes, which are scaled one by one and converted after that. It is
        read and not kept. ``out`` is a row of the caller's batch and is overwritten.

        Raises:
            ValueError: wrong shape or dtype of either; a bug in the caller.
        """
        if out.shape != self._shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
            raise ValueError(f"out is {out.shape} {out.dtype}, but {self._shape} uint8 C-contiguous was expected")
        if isinstance(image, Planes):
            for plane, scaled, bar in zip((image.y, image.u, image.v), self._scaled, image.black, strict=True):
                self._fill(plane, scaled, bar)
            cv2.transform(cv2.merge(self._scaled), image.to_bgr, dst=out)
            return
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"image is {image.shape} {image.dtype}, but (H, W, 3) uint8 was expected")
        self._fill(image, out, 0)

    def _fill(self, image: Images, out: Images, bar: int) -> None:
        """Scale an image or a plane; ``bar`` is the value of the bars."""
        plan = self._plans.get(image.shape)
        # Planned twice: cheaply for a first frame of a size, exactly tested once the size comes back.
        if plan is None or (isinstance(plan, _Plan) and not plan.is_checked):
            plan = self._planned(image.shape, plan)
        if isinstance(plan, AntialiasScaler):
            if self._has_bars:
                out.fill(bar)
            plan.fill(image, out)
            return
        if plan.scratch is not None:
            self._scale(image[plan.source], plan.scratch)
            np.copyto(out, plan.scratch[plan.window])
            return
        # The row of the batch is reused and holds an earlier frame.
        if self._has_bars:
            out.fill(bar)
        self._scale(image[plan.source], out[plan.window])

    def _scale(self, image: Images, out: Images) -> None:
        height, width = out.shape[:2]
        if image.shape == out.shape:
            np.copyto(out, image)
        else:
            cv2.resize(image, (width, height), dst=out, interpolation=_CV_INTERPOLATION[self._spec.interpolation])

    def _planned(self, shape: tuple[int, ...], known: _Plan | None) -> _Plan | AntialiasScaler:
        """Return the plan for frames of ``shape``; from the second such frame on the cheapest one that is exact."""
        if 0 in shape:
            raise ValueError(f"image is {shape}, but pixels were expected")
        (height, width), channels = shape[:2], shape[2:]
        spec = self._spec
        plan: _Plan | AntialiasScaler
        if spec.interpolation == "linear_antialias" or spec.interpolation == "cubic_antialias":
            plan = self._antialias(height, width, spec.interpolation, channels)
        elif known is not None:
            plan = self._cheapest_crop(shape, known)
        elif spec.resize == "shorter_side":
            plan = self._crops(height, width, channels)[-1]
        elif spec.resize == "letterbox":
            scaled_h, scaled_w = letterbox_size(height, width, spec.height, spec.width)
            top, left = (spec.height - scaled_h) // 2, (spec.width - scaled_w) // 2
            plan = _Plan((slice(None), slice(None)), (slice(top, top + scaled_h), slice(left, left + scaled_w)))
        else:
            plan = _Plan((slice(None), slice(None)), (slice(None), slice(None)))
        if len(self._plans) >= _KEPT_SIZES:
            self._plans.clear()
        self._plans[shape] = plan
        return plan

    def _antialias(self, height: int, width: int, kind: Filter, channels: tuple[int, ...]) -> AntialiasScaler:
        spec, whole = self._spec, (slice(0, self._spec.height), slice(0, self._spec.width))
        if spec.resize == "letterbox":
            scaled_h, scaled_w = letterbox_size(height, width, spec.height, spec.width)
            top, left = (spec.height - scaled_h) // 2, (spec.width - scaled_w) // 2
            inside = (slice(top, top + scaled_h), slice(left, left + scaled_w))
            crop = (slice(0, scaled_h), slice(0, scaled_w))
            return AntialiasScaler.of(kind, (height, width), (scaled_h, scaled_w), crop, inside, channels=channels)
        if spec.resize == "stretch":
            return AntialiasScaler.of(
                kind, (height, width), (spec.height, spec.width), whole, whole, channels=channels
            )
        skipped = _beyond(height, width), _beyond(width, height)
        height, width = height - 2 * skipped[0], width - 2 * skipped[1]
        scaled_h, scaled_w = shorter_side_size(height, width, spec.resize_to or max(spec.width, spec.height))
        top, left = centre_crop(scaled_h, spec.height), centre_crop(scaled_w, spec.width)
        crop = (slice(top, top + spec.height), slice(left, left + spec.width))
        return AntialiasScaler.of(kind, (height, width), (scaled_h, scaled_w), crop, whole, skipped, channels)

    def _crops(self, height: int, width: int, channels: tuple[int, ...]) -> list[_Plan]:
        """Return the ways to scale and crop; the plain one (scale the whole frame, then crop) is last."""
        spec = self._spec
        above, aside = _beyond(height, width), _beyond(width, height)
        height, width = height - 2 * above, width - 2 * aside
        scaled_h, scaled_w = shorter_side_size(height, width, spec.resize_to or max(spec.width, spec.height))
        top, left = centre_crop(scaled_h, spec.height), centre_crop(scaled_w, spec.width)
        plans: list[_Plan] = []
        for rows, part_h, row in _aligned_parts(height, scaled_h, top, spec.height, skipped=above):
            for columns, part_w, column in _aligned_parts(width, scaled_w, left, spec.width, skipped=aside):
                if (part_h, part_w) == (spec.height, spec.width):
                    plans.append(_Plan((rows, columns), (slice(None), slice(None))))
                else:
                    plans.append(
                        _Plan(
                            (rows, columns),
                            (row, column),
                            np.empty((part_h, part_w, *channels), np.uint8),
                            is_checked=False,
                        )
                    )
        return plans

    def _cheapest_crop(self, shape: tuple[int, ...], plain: _Plan) -> _Plan:
        """Scale no more of the frame than the crop needs, if the pixels are identical.

        A part is interpolated like the whole if it starts at a whole pixel before and after scaling. Libraries round
        differently, so this is tested on noise, in which every coefficient matters.
        """
        (height, width), channels = shape[:2], shape[2:]
        if height * width > _MAX_CHECKED_PIXELS:
            return replace(plain, is_checked=True)
        noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        expected, got = np.empty((2, *self._shape[:2], *channels), np.uint8)
        self._plans[shape] = replace(plain, is_checked=True)
        self._fill(noise, expected, 0)
        for plan in sorted(self._crops(height, width, channels), key=_scaled_values):
            self._plans[shape] = checked = replace(plan, is_checked=True)
            self._fill(noise, got, 0)
            if np.array_equal(expected, got):
                return checked
        return replace(plain, is_checked=True)


def _scaled_values(plan: _Plan) -> int:
    return 0 if plan.scratch is None else plan.scratch.size


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


def _beyond(length: int, other: int) -> int:
    """Pixels to cut off each end of a side that is too long for the other one."""
    return max(0, length - other * _MAX_ASPECT) // 2


def _aligned_parts(
    source: int, scaled: int, start: int, length: int, *, skipped: int
) -> list[tuple[slice, int, slice]]:
    """Parts of one side that hold the crop and begin and end at whole pixels before and after scaling.

    The smallest one, the one from the side's beginning (where rounding cannot differ), and the whole side. Each is the
    part of the source (``skipped`` pixels further), its scaled length, and the crop inside it.
    """
    step = scaled // math.gcd(scaled, source)
    last = min(scaled, -(-(start + length) // step) * step)
    parts: list[tuple[slice, int, slice]] = []
    for first, end in ((start // step * step, last), (0, last), (0, scaled)):
        part = slice(skipped + first * source // scaled, skipped + end * source // scaled)
        parts.append((part, end - first, slice(start - first, start - first + length)))
    return parts
