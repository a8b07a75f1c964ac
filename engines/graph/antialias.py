"""Resizes with antialias, as Pillow, torchvision and timm do in training.

Each output pixel is a weighted sum over all source pixels that it covers; OpenCV's linear and cubic modes look at two
or four per axis, whatever the scale. The weights of one axis form a banded matrix, multiplied block by block: rows
first, then columns. The first product is written with rows and columns exchanged, because turning it afterwards took a
sixth of all the time. Only the part of the frame that the crop needs is read.

Source of the filters and their edges: Pillow, src/libImaging/Resample.c (``precompute_coeffs``, triangle and bicubic
with a = -0.5). Images of 8 bits are also rounded between the passes there, which changes a value by a level at times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from engines.base import Images

Filter = Literal["linear_antialias", "cubic_antialias"]

_SUPPORT: dict[Filter, float] = {"linear_antialias": 1.0, "cubic_antialias": 2.0}
_BLOCK_ROWS, _BLOCK_COLUMNS = 4, 6
"""Output pixels per product: fewer mean more calls, more mean more zeros. For 720p to 224, 8 of both take a twentieth
longer and 16 twice as long."""

_BAND_VALUES = 1 << 17
"""Of a frame, so many are floats at a time: half a MiB, which stays in a core's cache."""

_MIN_GAP = 3.0
"""Frames are first averaged over whole pixels if the filter still shrinks them by this much afterwards. Source:
Pillow, ``Image.resize``, which calls a ``reducing_gap`` of 3.0 indistinguishable from none."""

_MAX_UNEVEN = 3
"""OpenCV averages over one axis alone so slowly that the exact way is faster: 1080p stretched to 224x224, 5.4 ms of
9.1."""

_MAX_PRODUCT = 1 << 18
"""Multiplications of one product. Source: OpenBLAS, interface/gemm.c, SMP_THRESHOLD_MIN * GEMM_MULTITHREAD_THRESHOLD.
"""

_Float = npt.NDArray[np.float32]

_Block = tuple[slice, slice, _Float]
"""Output pixels, the source pixels that they read, and the weights of one for the other."""

_Band = tuple[slice, list[_Block]]
"""Source pixels, and the blocks that read no others; their source pixels are counted from the first of the band."""


class _Axis:
    """The weights from one side of a frame to ``length`` output pixels, starting at output pixel ``first``.

    ``source`` is the part of that side which they read, after averaging over ``factor`` pixels.
    """

    def __init__(
        self, kind: Filter, side: int, scaled: int, first: int, length: int, factor: int, block_length: int
    ) -> None:
        scale = side / scaled
        self.length = length
        self.factor = factor
        starts, weights = _weights(kind, side // self.factor, scale / self.factor, first, length)
        ends = starts + [len(row) for row in weights]
        low, high = int(starts.min()), int(ends.max())
        self.source = slice(low * self.factor, high * self.factor)
        self.count = high - low
        self.blocks: list[_Block] = []
        for begin in range(0, length, block_length):
            rows = slice(begin, min(begin + block_length, length))
            lowest, highest = int(starts[rows].min()), int(ends[rows].max())
            block = np.zeros((rows.stop - begin, highest - lowest), np.float32)
            for row in range(begin, rows.stop):
                offset = starts[row] - lowest
                block[row - begin, offset : offset + len(weights[row])] = weights[row]
            self.blocks.append((rows, slice(lowest - low, highest - low), block))


@dataclass(frozen=True, slots=True, eq=False)
class AntialiasScaler:
    """Scales frames of one size into ``window`` of the output. Not thread-safe: it keeps buffers between its passes.

    ``rows`` and ``columns`` are the axes. ``strips`` are parts of the columns and ``bands`` of the rows, for the first
    pass; ``tall`` holds one band of a strip as floats, ``half`` the result of that pass, ``done`` that of the second,
    both with the rows on the last axis, and ``rounded`` is ``done`` in 8 bits.
    """

    rows: _Axis
    columns: _Axis
    window: tuple[slice, slice]
    strips: Sequence[slice]
    bands: Sequence[_Band]
    tall: _Float
    half: _Float
    done: _Float
    rounded: npt.NDArray[np.uint8]

    @classmethod
    def of(
        cls,
        kind: Filter,
        size: tuple[int, int],
        scaled: tuple[int, int],
        crop: tuple[slice, slice],
        window: tuple[slice, slice],
        skipped: tuple[int, int] = (0, 0),
        channels: tuple[int, ...] = (3,),
    ) -> AntialiasScaler:
        """For frames of ``size`` (height, width) that become ``scaled``, of which ``crop`` goes to ``window``.

        ``skipped`` pixels at both ends of each side are cut off before. ``channels`` is (3,), or () for one plane.
        """
        depth = math.prod(channels)
        factors = [_reduction(side, side / to) for side, to in zip(size, scaled, strict=True)]
        if 1 in factors and max(factors) <= _MAX_UNEVEN:
            factors = [1, 1]
        rows, columns = (
            _Axis(kind, side, to, part.start, part.stop - part.start, factor, block_length)
            for side, to, part, factor, block_length in zip(
                size, scaled, crop, factors, (_BLOCK_ROWS, _BLOCK_COLUMNS), strict=True
            )
        )
        for axis, pixels in ((rows, skipped[0]), (columns, skipped[1])):
            axis.source = slice(axis.source.start + pixels, axis.source.stop + pixels)
        widest = max(_MAX_PRODUCT // max(weights.size for _, _, weights in rows.blocks) // depth, 1)
        strips = [slice(at, min(at + widest, columns.count)) for at in range(0, columns.count, widest)]
        width = min(widest, columns.count) * depth
        bands = _bands(rows.blocks, _BAND_VALUES // width)
        return cls(
            rows,
            columns,
            window,
            strips,
            bands,
            np.empty((max(source.stop - source.start for source, _ in bands), width), np.float32),
            np.empty((columns.count * depth, rows.length), np.float32),
            np.empty((columns.length * depth, rows.length), np.float32),
            np.empty((columns.length * depth, rows.length), np.uint8),
        )

    def fill(self, image: Images, out: Images) -> None:
        """Write ``image``, ``(H, W, 3)`` or ``(H, W)`` uint8, into ``window`` of ``out`` with the same channels."""
        rows, columns, channels = self.rows, self.columns, image.shape[2:]
        depth = math.prod(channels)
        part = image[rows.source, columns.source]
        if (rows.factor, columns.factor) != (1, 1):
            part = np.asarray(cv2.resize(part, (columns.count, rows.count), interpolation=cv2.INTER_AREA), np.uint8)
        for strip in self.strips:
            turned = self.half[strip.start * depth : strip.stop * depth].T
            for source, blocks in self.bands:
                band = part[source, strip]
                tall = self.tall[: len(band), : turned.shape[1]]
                np.copyto(tall.reshape(band.shape), band)
                for target, inside, weights in blocks:
                    np.matmul(weights, tall[inside], out=turned[target])
        half, done = self.half.reshape(columns.count, -1), self.done.reshape(columns.length, -1)
        for target, source, weights in columns.blocks:
            _multiply(weights, half[source], done[target])
        # The cubic filter overshoots. Adding a half and cutting off rounds to the nearest.
        np.clip(done, 0.0, 255.0, out=done)
        np.add(done, 0.5, out=done)
        np.copyto(self.rounded, self.done, casting="unsafe")
        np.copyto(out[self.window], cv2.transpose(self.rounded).reshape(rows.length, columns.length, *channels))


def _bands(blocks: Sequence[_Block], max_length: int) -> list[_Band]:
    """Neighbouring blocks together, as far as ``max_length`` source pixels are enough for them; one at least."""
    found: list[_Band] = []
    for target, source, weights in blocks:
        if not found or source.stop - found[-1][0].start > max_length:
            found.append((source, []))
        first, inside = found[-1][0].start, found[-1][1]
        inside.append((target, slice(source.start - first, source.stop - first), weights))
        found[-1] = (slice(first, max(source.stop, found[-1][0].stop)), inside)
    return found


def _multiply(weights: _Float, values: _Float, out: _Float) -> None:
    """``np.matmul`` in pieces for which OpenBLAS starts no threads: they would spin beside those of the engine."""
    step = max(_MAX_PRODUCT // weights.size, 1)
    if step >= values.shape[1]:  # spares the slices, a tenth of all the time
        np.matmul(weights, values, out=out)
        return
    for begin in range(0, values.shape[1], step):
        np.matmul(weights, values[:, begin : begin + step], out=out[:, begin : begin + step])


def _reduction(side: int, scale: float) -> int:
    """By how many whole pixels to average first. Only a divisor of the side keeps every pixel in its place."""
    most = int(scale / _MIN_GAP)
    return next((factor for factor in range(most, 1, -1) if side % factor == 0), 1)


def _weights(
    kind: Filter, side: int, scale: float, first: int, length: int
) -> tuple[npt.NDArray[np.int64], list[npt.NDArray[np.float64]]]:
    """For each output pixel the first source pixel and the weights from there on; they add up to 1."""
    stretch = max(scale, 1.0)
    reach = _SUPPORT[kind] * stretch
    centres = (first + np.arange(length) + 0.5) * scale
    starts = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    ends = np.minimum((centres + reach + 0.5).astype(np.int64), side)
    found = []
    for centre, start, end in zip(centres, starts, ends, strict=True):
        distances = np.abs(np.arange(start, end) + 0.5 - centre) / stretch
        weights = _triangle(distances) if kind == "linear_antialias" else _bicubic(distances)
        found.append(weights / weights.sum())
    return starts, found


def _triangle(distances: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.clip(1.0 - distances, 0.0, None)


def _bicubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    a = -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
