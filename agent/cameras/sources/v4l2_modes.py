"""What a camera of the kernel can do: its pixel formats, sizes and rates, asked of its driver.

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
_MOST_ENTRIES = 100
_MOST_SHOWN = 16


@dataclass(frozen=True, slots=True)
class Mode:
    """One pixel format at one size, with the highest rate it has there; None where the driver does not say."""

    fourcc: str
    width: int
    height: int
    fps: float | None

    def __str__(self) -> str:
        rate = "" if self.fps is None else f" at {self.fps:.4g} fps"
        return f"{self.fourcc} {self.width}x{self.height}{rate}"


def modes_of(device: str, *, ioctl: Ioctl = fcntl.ioctl) -> list[Mode]:
    """Every mode in the order of the driver; of a range of sizes the largest. Empty where the driver does not say."""
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return list(_modes(lambda request, packed: _asked(ioctl, descriptor, request, packed)))
    finally:
        os.close(descriptor)


def shown(modes: Sequence[Mode], wanted: tuple[int | None, int | None]) -> str:
    """The modes for people: those of the wanted size where there are some, else the largest ones."""
    same = [mode for mode in modes if (wanted[0] or mode.width, wanted[1] or mode.height) == (mode.width, mode.height)]
    listed = sorted(same or modes, key=lambda mode: (-mode.width * mode.height, -(mode.fps or 0.0)))
    more = ", ..." if len(listed) > _MOST_SHOWN else ""
    return ", ".join(map(str, listed[:_MOST_SHOWN])) + more


def _modes(ask: Callable[[int, bytes], bytes | None]) -> Iterator[Mode]:
    for index in range(_MOST_ENTRIES):
        answer = ask(_ENUM_FORMATS, _FORMAT.pack(index, _CAPTURE, 0, b"", 0, 0, 0, 0, 0))
        if answer is None:
            return
        pixel_format = int(_FORMAT.unpack(answer)[4])
        fourcc = pixel_format.to_bytes(4, "little").decode("ascii", "replace").strip()
        for place in range(_MOST_ENTRIES):
            answer = ask(_ENUM_SIZES, _SIZE.pack(place, pixel_format, *[0] * 9))
            if answer is None:
                break
            _, _, kind, *sizes = _SIZE.unpack(answer)
            width, height = (sizes[0], sizes[1]) if kind == _DISCRETE else (sizes[1], sizes[4])
            yield Mode(fourcc, width, height, _highest_rate(ask, pixel_format, width, height))
            if kind != _DISCRETE:
                break


def _highest_rate(
    ask: Callable[[int, bytes], bytes | None], pixel_format: int, width: int, height: int
) -> float | None:
    rates: list[float] = []
    for index in range(_MOST_ENTRIES):
        answer = ask(_ENUM_RATES, _RATE.pack(index, pixel_format, width, height, *[0] * 9))
        if answer is None:
            break
        # An interval in seconds as a fraction; of a range the shortest one comes first.
        kind, numerator, denominator = _RATE.unpack(answer)[4:7]
        if numerator and denominator:
            rates.append(denominator / numerator)
        if kind != _DISCRETE:
            break
    return max(rates, default=None)


def _asked(ioctl: Ioctl, descriptor: int, request: int, packed: bytes) -> bytes | None:
    """The driver's answer; None past the last entry, and where it does not know the question."""
    buffer = bytearray(packed)
    try:
        ioctl(descriptor, request, buffer)
    except OSError:
        return None
    return bytes(buffer)
