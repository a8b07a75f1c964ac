"""Pixel formats, sizes and rates that a V4L2 driver lists.

Source: Linux, userspace-api/media/v4l, VIDIOC_ENUM_FMT, VIDIOC_ENUM_FRAMESIZES and VIDIOC_ENUM_FRAMEINTERVALS.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

Ioctl = Callable[[int, int, bytearray], object]
"""As ``fcntl.ioctl``: fills the buffer, or raises OSError."""

_CAPTURE = 1
_DISCRETE = 1
_ENUM_FORMATS, _FORMAT = 0xC0405602, struct.Struct("=3I32s5I")
_ENUM_SIZES, _SIZE = 0xC02C564A, struct.Struct("=11I")
_ENUM_RATES, _RATE = 0xC034564B, struct.Struct("=13I")
_MAX_ENTRIES = 100
_MAX_SHOWN = 16


@dataclass(frozen=True, slots=True)
class Mode:
    """One pixel format at one size, with its highest rate; None if the driver lists no rate."""

    fourcc: str
    width: int
    height: int
    fps: float | None

    def __str__(self) -> str:
        rate = "" if self.fps is None else f" at {self.fps:.4g} fps"
        return f"{self.fourcc} {self.width}x{self.height}{rate}"


def modes_of(device: str, *, ioctl: Ioctl = fcntl.ioctl) -> list[Mode]:
    """Every mode in the driver's order; of a range of sizes the largest. Empty if the driver lists none."""
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return list(_modes(lambda request, packed: _ioctl_reply(ioctl, descriptor, request, packed)))
    finally:
        os.close(descriptor)


def format_modes(modes: Sequence[Mode], wanted: tuple[int | None, int | None]) -> str:
    """The modes as text: those of the wanted size if there are any, else the largest ones."""
    same = [mode for mode in modes if (wanted[0] or mode.width, wanted[1] or mode.height) == (mode.width, mode.height)]
    listed = sorted(same or modes, key=lambda mode: (-mode.width * mode.height, -(mode.fps or 0.0)))
    more = ", ..." if len(listed) > _MAX_SHOWN else ""
    return ", ".join(map(str, listed[:_MAX_SHOWN])) + more


def _modes(ask: Callable[[int, bytes], bytes | None]) -> Iterator[Mode]:
    for index in range(_MAX_ENTRIES):
        answer = ask(_ENUM_FORMATS, _FORMAT.pack(index, _CAPTURE, 0, b"", 0, 0, 0, 0, 0))
        if answer is None:
            return
        pixel_format = int(_FORMAT.unpack(answer)[4])
        fourcc = pixel_format.to_bytes(4, "little").decode("ascii", "replace").strip()
        for place in range(_MAX_ENTRIES):
            answer = ask(_ENUM_SIZES, _SIZE.pack(place, pixel_format, *[0] * 9))
            if answer is None:
                break
            _, _, kind, *sizes = _SIZE.unpack(answer)
            width, height = (sizes[0], sizes[1]) if kind == _DISCRETE else (sizes[1], sizes[4])
            yield Mode(fourcc, width, height, _max_rate(ask, pixel_format, width, height))
            if kind != _DISCRETE:
                break


def _max_rate(ask: Callable[[int, bytes], bytes | None], pixel_format: int, width: int, height: int) -> float | None:
    rates: list[float] = []
    for index in range(_MAX_ENTRIES):
        answer = ask(_ENUM_RATES, _RATE.pack(index, pixel_format, width, height, *[0] * 9))
        if answer is None:
            break
        # A frame interval in seconds, as a fraction; a range starts with its shortest interval.
        kind, numerator, denominator = _RATE.unpack(answer)[4:7]
        if numerator and denominator:
            rates.append(denominator / numerator)
        if kind != _DISCRETE:
            break
    return max(rates, default=None)


def _ioctl_reply(ioctl: Ioctl, descriptor: int, request: int, packed: bytes) -> bytes | None:
    """The driver's reply; None past the last entry, or if the driver does not support the request."""
    buffer = bytearray(packed)
    try:
        ioctl(descriptor, request, buffer)
    except OSError:
        return None
    return bytes(buffer)
