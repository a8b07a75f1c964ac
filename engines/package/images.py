"""Images from files and bytes, as the engines take them: ``(H, W, 3)`` uint8 BGR.

EXIF orientation is applied, gray becomes three equal channels, 16 bits are scaled to 8. Alpha is dropped and the
colours stay as stored, like in the common training pipelines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

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
                f"{path} has {size} bytes, but the limit for an image is {MAX_FILE_BYTES}", path=str(path), size=size
            )
        return read_regular(path, max_bytes=MAX_FILE_BYTES)
    except ValueError as exc:
        raise ImageRejected(f"image {path} cannot be read: {exc}", path=str(path)) from exc
    except OSError as exc:
        raise ImageRejected(f"image {path} cannot be read: {exc.strerror or exc}", path=str(path)) from exc


def decode_image(data: bytes, *, name: str, max_pixels: int = MAX_PIXELS) -> Images:
    """Decode ``data`` (of an animation the first image); ``name`` stands for it in messages.

    Raises:
        ImageRejected: not an image, truncated, damaged, or too much work (pixels, scans; checked before decoding).
    """
    if not data:
        raise ImageRejected(f"{name} is empty (0 bytes), but an image was expected", name=name, size=0)
    try:
        header = read_header(data)
    except HeaderError as exc:
        raise ImageRejected(f"{name}: {exc}", name=name, size=len(data)) from exc
    _check_work(header, name, max_pixels)
    if header.damage:
        raise ImageRejected(
            f"{name}: truncated {header.kind} of {len(data)} bytes, {header.damage}. Copy it again",
            name=name,
            size=len(data),
        )
    try:
        # IMREAD_COLOR also applies the EXIF orientation.
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except (cv2.error, MemoryError) as exc:
        raise ImageRejected(f"{name}: the {header.kind} does not decode: {_first_line(exc)}", name=name) from exc
    if image is None:
        raise ImageRejected(
            f"{name}: the header says {header.kind}, {header.width}x{header.height}, but the rest does not decode: it "
            "is damaged, or OpenCV was built without this kind",
            name=name,
            kind=header.kind,
        )
    return np.ascontiguousarray(image, dtype=np.uint8)


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
