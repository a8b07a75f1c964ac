"""Images from files and bytes, as the engines take them: ``(H, W, 3)`` uint8 BGR.

EXIF orientation is applied, gray becomes three equal channels, 16 bits are scaled to 8, or fewer bits in a file of 16
where the caller knows that. Alpha is dropped and the colours stay as stored, like in the common training pipelines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from engines.base import Images
from engines.errors import ImageRejected
from engines.package.image_headers import HeaderError, ImageHeader, read_header
from engines.store.files import read_regular

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"})
MAX_PIXELS = 50_000_000
MAX_FILE_BYTES = 256 << 20
MAX_SCANS = 100
"""Of a progressive JPEG. Encoders write about ten; a file of half a megabyte can hold thousands."""
MAX_SCANNED_PIXELS = 1_000_000_000
"""Pixels times scans: what a decoder goes over. 49 million pixels in 10 scans take 2.7 s on a 2026 server core."""


def read_image(path: Path) -> Images:
    """Read the image at ``path``: ``(H, W, 3)`` uint8 BGR, a fresh array.

    Raises:
        ImageRejected: the file cannot be read, or see ``decode_image``.
    """
    return decode_image(read_image_bytes(path), name=str(path))


def image_hashes(paths: Iterable[Path]) -> list[str]:
    """Return the sha256 of each file, for the names of files made from these images.

    Raises:
        ImageRejected: a file cannot be read, or is too large.
    """
    return [hashlib.sha256(read_image_bytes(path)).hexdigest() for path in paths]


def read_image_bytes(path: Path) -> bytes:
    """The bytes of an image file, at most MAX_FILE_BYTES.

    Raises:
        ImageRejected: it cannot be read, or is too large.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ImageRejected(
                f"{path} has {size} bytes, but the limit for an image is {MAX_FILE_BYTES}. Scale it down",
                path=str(path),
                size=size,
            )
        return read_regular(path, max_bytes=MAX_FILE_BYTES)
    except ValueError as exc:
        raise ImageRejected(f"image {path} cannot be read: {exc}", path=str(path)) from exc
    except OSError as exc:
        raise ImageRejected(f"image {path} cannot be read: {exc.strerror or exc}", path=str(path)) from exc


def has_16_bits(data: bytes) -> bool:
    """Whether ``data``, which can be decoded, has 16 bits per channel."""
    return read_header(data).bits == 16


def decode_image(
    data: bytes,
    *,
    name: str,
    bits: int | None = None,
    max_pixels: int = MAX_PIXELS,
    remedy: str = ". Copy it again",
) -> Images:
    """Decode ``data`` (of an animation the first image); ``name`` stands for it in messages.

    ``remedy`` is the end of the message about an image that is not whole: what to do.

    ``bits`` are the significant bits of the values in a file of 16 bits per channel, 9 to 16; None means all of them.
    Nothing in such a file tells: the PNG chunk sBIT is about values that were scaled up to 16 bits, and TIFF's
    MaxSampleValue is not to be used for display. Source: PNG 1.2, 4.2.10; TIFF 6.0, section 8.

    Raises:
        ImageRejected: not an image, truncated, damaged, too much work (pixels, scans; checked before decoding), or
            values above ``bits``.
    """
    if not data:
        raise ImageRejected(f"{name} is empty (0 bytes), but an image was expected{remedy}", name=name, size=0)
    try:
        header = read_header(data)
    except HeaderError as exc:
        raise ImageRejected(f"{name}: {exc}", name=name, size=len(data)) from exc
    _check_work(header, name, max_pixels)
    if header.damage:
        raise ImageRejected(
            f"{name}: truncated {header.kind} of {len(data)} bytes, {header.damage}{remedy}",
            name=name,
            size=len(data),
        )
    is_deep = bits is not None and bits < header.bits == 16
    try:
        # IMREAD_COLOR also applies the EXIF orientation.
        mode = cv2.IMREAD_COLOR | (cv2.IMREAD_ANYDEPTH if is_deep else 0)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), mode)
    except (cv2.error, MemoryError) as exc:
        raise ImageRejected(f"{name}: the {header.kind} does not decode: {_first_line(exc)}", name=name) from exc
    if image is None:
        raise ImageRejected(
            f"{name}: the header says {header.kind}, {header.width}x{header.height}, but the rest does not decode: it "
            "is damaged, or OpenCV was built without this kind",
            name=name,
            kind=header.kind,
        )
    if bits is not None and is_deep:
        return _scaled(image, bits, name)
    return np.ascontiguousarray(image, dtype=np.uint8)


def _scaled(decoded: npt.NDArray[Any], bits: int, name: str) -> Images:
    """The highest 8 of the significant bits."""
    if decoded.dtype != np.uint16:
        raise ImageRejected(
            f"{name}: its values are {decoded.dtype}, but uint16 was expected. Save it again", name=name
        )
    image: npt.NDArray[np.uint16] = decoded
    highest = int(image.max())
    if highest >= 1 << bits:
        raise ImageRejected(
            f"{name}: it holds the value {highest}, but `bits` says {bits}, whose highest is {(1 << bits) - 1}. "
            "Correct `bits`",
            name=name,
            bits=bits,
        )
    return np.ascontiguousarray(image >> (bits - 8), dtype=np.uint8)


def _check_work(header: ImageHeader, name: str, max_pixels: int) -> None:
    """Refuse what would take a decoder too long, before it starts: nothing can stop one.

    Raises:
        ImageRejected: too many pixels or scans.
    """
    pixels, size = header.width * header.height, f"{header.width}x{header.height}"
    if pixels > max_pixels:
        raise ImageRejected(
            f"{name}: {header.kind} of {size} = {pixels} pixels, but the limit is {max_pixels}. Scale it down",
            name=name,
            width=header.width,
            height=header.height,
        )
    if header.scans > MAX_SCANS or pixels * header.scans > MAX_SCANNED_PIXELS:
        raise ImageRejected(
            f"{name}: progressive {header.kind} of {size} with {header.scans} scans, but the limit is {MAX_SCANS} "
            f"scans, and {MAX_SCANNED_PIXELS} pixels in all of them together. Save it as a baseline JPEG",
            name=name,
            scans=header.scans,
        )


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().split("\n", 1)[0][:200]
