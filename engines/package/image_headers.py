"""Reads width, height and completeness of an encoded image from its headers.

A few hundred bytes can announce an image of gigabytes, so the size is known before a decoder runs.
Source: JPEG ITU T.81 annex B; PNG 1.2 sections 5.3 and 11.2.2; WebP container specification; TIFF 6.0 section 2.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_STANDALONE = frozenset(range(0xD0, 0xD8)) | {0x01}
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_USUAL_SOF = frozenset({0xC0, 0xC1, 0xC2})
"""Baseline, extended and progressive with Huffman codes."""
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_SHORT, _TIFF_LONG = 256, 257, 3, 4
_TIFF_COMPRESSION, _TIFF_STRIPS, _TIFF_TILES, _TIFF_JPEG = 259, 273, 324, frozenset({6, 7})
_MAX_TIFF_ENTRIES = 4096
_PNG_CHUNKS_AT, _PNG_CHUNK_FRAME = 8, 12
"""Length of the signature; bytes of a chunk beside its data."""
_MAX_PNG_CHUNKS = 100_000
"""Encoders write chunks of 8 KiB and more, so that is a file of 800 MB."""


class HeaderError(Exception):
    """The header is invalid; the text says how."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """``kind`` is JPEG, PNG, BMP, WebP, GIF or TIFF; ``damage`` says what is missing, None if nothing is.

    ``scans`` is how often a decoder goes over all pixels: a progressive JPEG has several scans, usually ten.
    """

    kind: str
    width: int
    height: int
    damage: str | None = None
    scans: int = 1


def read_header(data: bytes) -> ImageHeader:
    """Return the header of an encoded image.

    Raises:
        HeaderError: not an image of a supported kind, or its header is truncated or invalid.
    """
    for magic, reader in _READERS:
        if magic.match(data):
            try:
                header = reader(data)
            except (struct.error, IndexError) as exc:
                raise HeaderError(f"the header is cut off: there are only {len(data)} bytes") from exc
            if header.width <= 0 or header.height <= 0:
                raise HeaderError(f"the {header.kind} header says {header.width}x{header.height} pixels")
            return header
    raise HeaderError(f"not a JPEG, PNG, BMP, WebP, GIF or TIFF image: it begins with {data[:8]!r}")


def _jpeg(data: bytes) -> ImageHeader:
    """Read the frame header, count the scans, and see whether the end marker follows the last one."""
    size: tuple[int, int] | None = None
    scans = 0
    pos = 2
    while True:
        pos = _next_marker(data, pos)
        if pos < 0:
            break
        marker = data[pos + 1]
        pos += 2
        if marker == _EOI:
            if size is None:
                break
            return ImageHeader("JPEG", *size, scans=scans)
        if marker in _STANDALONE or marker == _SOI:
            continue
        if pos + 2 > len(data):
            break
        (length,) = struct.unpack_from(">H", data, pos)
        if marker in _SOF:
            if marker not in _USUAL_SOF:
                # Arithmetic codes take many times as long to decode.
                raise HeaderError(f"a JPEG of kind SOF{marker - 0xC0}, but only kinds 0 to 2 are read. Save it again")
            height, width = struct.unpack_from(">HH", data, pos + 3)
            # Decoders differ in which of several frames they take, so the limit is held against the largest.
            size = (max(width, size[0]), max(height, size[1])) if size else (width, height)
        pos += max(length, 2)
        if marker == _SOS:
            scans += 1
            found = _MARKER_IN_SCAN.search(data, pos)
            if not found:
                break
            pos = found.start()
    if size is None:
        raise HeaderError("a JPEG without a frame header (SOF): the end is missing")
    return ImageHeader("JPEG", *size, damage="the end marker (EOI) is missing", scans=scans)


def _next_marker(data: bytes, pos: int) -> int:
    """Return the position of the next 0xFF that starts a marker, or -1."""
    while True:
        pos = data.find(b"\xff", pos)
        if pos < 0 or pos + 1 >= len(data):
            return -1
        if data[pos + 1] not in {0x00, 0xFF}:
            return pos
        pos += 1


def _png(data: bytes) -> ImageHeader:
    width, height = struct.unpack_from(">II", data, 16)
    if data[12:16] != b"IHDR":
        raise HeaderError("a PNG whose first chunk is not IHDR")
    return ImageHeader("PNG", width, height, _png_damage(data))


def _png_damage(data: bytes) -> str | None:
    """Walk over the chunks: OpenCV reserves what a chunk announces, gigabytes in a file of some bytes."""
    pos = _PNG_CHUNKS_AT
    for _ in range(_MAX_PNG_CHUNKS):
        if pos + 8 > len(data):
            return "the last chunk (IEND) is missing"
        length, kind = struct.unpack_from(">I4s", data, pos)
        left = len(data) - pos - _PNG_CHUNK_FRAME
        if length > left:
            return f"a chunk announces {length} bytes, but {max(left, 0)} are left"
        if kind == b"IEND":
            return None
        pos += _PNG_CHUNK_FRAME + length
    raise HeaderError(f"a PNG of more than {_MAX_PNG_CHUNKS} chunks. Save it again")


def _bmp(data: bytes) -> ImageHeader:
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    # 12 bytes: the OS/2 header with 16-bit sizes. A negative height means rows from top to bottom.
    width, height = struct.unpack_from("<HH" if header_bytes == 12 else "<ii", data, 18)
    (pixels_at,) = struct.unpack_from("<I", data, 10)
    damage = "the pixels are missing" if pixels_at >= len(data) else None
    return ImageHeader("BMP", width, abs(height), damage)


def _gif(data: bytes) -> ImageHeader:
    width, height = struct.unpack_from("<HH", data, 6)
    return ImageHeader("GIF", width, height, None if b"\x3b" in data[-64:] else "the trailer is missing")


def _webp(data: bytes) -> ImageHeader:
    (riff_bytes,) = struct.unpack_from("<I", data, 4)
    damage = None if len(data) >= riff_bytes + 8 else f"{riff_bytes + 8} bytes were announced"
    chunk = data[12:16]
    if chunk == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
    elif chunk == b"VP8L":
        # Width and height less 1, in 14 bits each.
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    elif chunk == b"VP8 ":
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", data, 26))
    else:
        raise HeaderError(f"a WebP whose first chunk is {chunk!r}")
    return ImageHeader("WebP", width, height, damage)


def _tiff(data: bytes) -> ImageHeader:
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(order + "I", data, 4)
    (entries,) = struct.unpack_from(order + "H", data, at)
    found: dict[int, int] = {}
    for entry in range(min(entries, _MAX_TIFF_ENTRIES)):
        tag, kind, count = struct.unpack_from(order + "HHI", data, at + 2 + 12 * entry)
        if tag in {_TIFF_STRIPS, _TIFF_TILES}:
            found[tag] = count
        if tag in {_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_COMPRESSION} and kind in {_TIFF_SHORT, _TIFF_LONG}:
            (value,) = struct.unpack_from(order + ("H" if kind == _TIFF_SHORT else "I"), data, at + 10 + 12 * entry)
            # Decoders differ in which of several equal tags they read, so the largest counts.
            found[tag] = max(value, found.get(tag, 0))
    scans = 1
    if found.get(_TIFF_COMPRESSION) in _TIFF_JPEG:
        # Each strip or tile is a JPEG. Where all further scans are in one of them, it has this many.
        pieces = max(found.get(_TIFF_STRIPS, 1), found.get(_TIFF_TILES, 1))
        scans = max(1, data.count(b"\xff\xda") - pieces + 1)
    return ImageHeader("TIFF", found.get(_TIFF_WIDTH, 0), found.get(_TIFF_HEIGHT, 0), scans=scans)


_READERS: tuple[tuple[re.Pattern[bytes], Callable[[bytes], ImageHeader]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), _jpeg),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), _png),
    (re.compile(rb"BM"), _bmp),
    (re.compile(rb"GIF8[79]a"), _gif),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), _webp),
    (re.compile(rb"II\*\x00|MM\x00\*"), _tiff),
)
