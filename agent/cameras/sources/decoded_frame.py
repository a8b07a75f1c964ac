"""A frame that FFmpeg has decoded: its planes, and the image that it becomes."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from av.video.reformatter import VideoReformatter

from agent.cameras.sources.failures import StreamFailed
from agent.runtime.records import Image
from engines import Planes, yuv_to_bgr

_HDR = (16, 18)
"""The transfers PQ and HLG. Source: ITU-T H.273, table 3."""
_BT709 = 1
_BT601_SHARES = (0.299, 0.114)
_COLOUR_SHARES: Mapping[int, tuple[float, float]] = {
    1: (0.2126, 0.0722),
    2: _BT601_SHARES,  # unspecified: as FFmpeg converts it
    4: (0.30, 0.11),
    5: _BT601_SHARES,
    6: _BT601_SHARES,
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
"""Shares of red and blue in the brightness, by the matrix of a stream. Source: ITU-T H.273, table 4."""
_RGB = 0
_FULL_RANGE = 2
_PLANAR = ("yuv420p", "yuv444p", "yuvj420p", "yuvj444p")
"""Pixel formats of 8 bits whose planes have the same shape; `j` stands for the full range of values."""
_to_bgr = cache(yuv_to_bgr)

_hdr_reformatter = VideoReformatter()
_hdr_lock = threading.Lock()
"""Shared by all videos of high dynamic range: swscale computes their tables for seconds, once for each size."""


class Converter:
    """Turns the frames of one video into images. From any thread, one at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._reformatter = VideoReformatter()

    def convert(self, frame: Any) -> Image:
        """``(H, W, 3)`` uint8 BGR, upright: scaled to 8 bits, by the colour matrix that the stream names."""
        turns = round(frame.rotation / 90.0) % 4
        if frame.color_trc in _HDR:
            settings = {"dst_color_trc": _BT709, "dst_color_primaries": _BT709}
            with _hdr_lock:
                converted = _hdr_reformatter.reformat(frame, format="bgr24", threads=1, **settings)
        else:
            # One thread: swscale's own threads cost more than they save.
            converted = self._reformatter.reformat(frame, format="bgr24", threads=1)
        # A view where it can be: a copy would take as much memory again, 25 MB of a 4K frame.
        pixels = _rows_of(converted.planes[0], converted.width * 3).reshape(converted.height, converted.width, 3)
        return np.ascontiguousarray(np.rot90(pixels, turns))


class DecodedFrame:
    """A decoded frame, which is converted to an image when somebody needs one. See LazyImage."""

    def __init__(self, frame: Any, converter: Converter, arrived_ns: int) -> None:
        """Take a frame of PyAV.

        Raises:
            StreamFailed: ``colours``.
        """
        if frame.colorspace not in _COLOUR_SHARES and frame.colorspace != _RGB:
            raise StreamFailed("colours", f"matrix {int(frame.colorspace)} of ITU-T H.273")
        self.arrived_ns = arrived_ns
        """Monotonic time at which its first bytes came, as far as FFmpeg shows it."""
        self.pts_s: float | None = None if frame.pts is None else float(frame.pts * frame.time_base)
        # Taken before others may convert the frame, which changes its facts meanwhile.
        self.planes: Planes | None = _planes_of(frame)
        """See LazyImage."""
        self._frame: Any = frame
        self._converter = converter
        self._image: Image | None = None

    def image(self) -> Image:
        """See LazyImage."""
        with self._converter.lock:
            if self._image is None:
                self._image = self._converter.convert(self._frame)
                self._frame = None  # without planes, its memory goes back to the decoder
            return self._image


def _planes_of(frame: Any) -> Planes | None:
    """The planes of a frame of 8 bits, upright and of even size; None for all others."""
    kind, shares = frame.format.name, _COLOUR_SHARES.get(frame.colorspace)
    if kind not in _PLANAR or shares is None or frame.color_trc in _HDR or round(frame.rotation / 90.0) % 4:
        return None
    planes = frame.planes
    if any(plane.line_size <= 0 for plane in planes):
        return None  # lines from the bottom to the top, as some old codecs have them
    y, u, v = (_rows_of(plane, plane.width) for plane in planes)
    if any(side % small for side, small in zip(y.shape, u.shape, strict=True)):
        return None  # an odd size: the last column or row has a colour of its own
    is_full_range = kind.startswith("yuvj") or frame.color_range == _FULL_RANGE
    return Planes(y, u, v, _to_bgr(*shares, is_full_range=is_full_range))


def _rows_of(plane: Any, width: int) -> Image:
    """``(height, width)`` uint8: a view of a plane, whose rows may have more bytes; it keeps the plane's memory."""
    return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, :width]
