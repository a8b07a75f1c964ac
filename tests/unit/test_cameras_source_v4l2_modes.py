"""The modes that a driver lists, read from the kernel's structures."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

from agent.cameras.sources.v4l2.modes import Mode, format_modes, modes_of

_FORMATS, _SIZES, _RATES = 0xC0405602, 0xC02C564A, 0xC034564B


class _Driver:
    """Answers as Linux does: MJPG in two sizes with two rates each, YUYV in a range of sizes and rates."""

    def __call__(self, descriptor: int, request: int, buffer: bytearray) -> None:
        index = struct.unpack_from("=I", buffer)[0]
        fourcc = bytes(buffer[4:8])
        if request == _FORMATS and index < 2:
            assert struct.unpack_from("=I", buffer, 4)[0] == 1, "asked for another type than video capture"
            buffer[44:48] = (b"MJPG", b"YUYV")[index]
        elif request == _SIZES and fourcc == b"MJPG" and index < 2:
            struct.pack_into("=3I", buffer, 8, 1, *((1280, 720), (640, 480))[index])
        elif request == _SIZES and fourcc == b"YUYV" and index == 0:
            struct.pack_into("=7I", buffer, 8, 3, 16, 1920, 16, 16, 1080, 16)
        elif request == _RATES and fourcc == b"MJPG" and index < 2:
            struct.pack_into("=3I", buffer, 16, 1, 1, (15, 30)[index])
        elif request == _RATES and fourcc == b"YUYV" and index == 0:
            struct.pack_into("=5I", buffer, 16, 3, 1, 5, 1, 1)
        else:
            raise OSError(errno.EINVAL, "no such entry")


def test_formats_sizes_and_highest_rates_are_read() -> None:
    assert modes_of("/dev/null", ioctl=_Driver()) == [
        Mode("MJPG", 1280, 720, 30.0),
        Mode("MJPG", 640, 480, 30.0),
        Mode("YUYV", 1920, 1080, 5.0),
    ]


def test_a_file_that_is_not_a_camera_has_no_modes(tmp_path: Path) -> None:
    assert modes_of("/dev/null") == []
    assert modes_of(str(tmp_path / "absent")) == []


def test_an_endless_list_of_modes_is_cut_off() -> None:
    def endless(descriptor: int, request: int, buffer: bytearray) -> None:
        struct.pack_into("=I", buffer, {_FORMATS: 44, _SIZES: 8, _RATES: 16}[request], 1)

    assert len(modes_of("/dev/null", ioctl=endless)) == 100 * 100


def test_only_modes_of_the_requested_size_are_shown() -> None:
    modes = [Mode("MJPG", 640, 480, 30.0), Mode("MJPG", 1280, 720, 30.0), Mode("YUYV", 1280, 720, 9.99)]
    assert format_modes(modes, (1280, 720)) == "MJPG 1280x720 at 30 fps, YUYV 1280x720 at 9.99 fps"
    assert format_modes(modes, (640, None)) == "MJPG 640x480 at 30 fps"


def test_the_largest_of_many_modes_are_shown() -> None:
    modes = [Mode("MJPG", 16 * step, 16 * step, None) for step in range(1, 31)]
    text = format_modes(modes, (1, 1))
    assert text.startswith("MJPG 480x480, MJPG 464x464")
    assert text.endswith(", ...")
    assert text.count("MJPG") == 16
    assert format_modes([], (1, 1)) == ""
