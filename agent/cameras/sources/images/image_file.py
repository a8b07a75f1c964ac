"""Reads one image file, with what names it in a result."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from agent.cameras.sources.images.slow_images import NOTICED_AFTER_S, SlowImages
from agent.runtime.logs import get_logger
from agent.runtime.records import Image, ImageOrigin
from engines import IMAGE_SUFFIXES, ImageRejected, decode_image, has_16_bits, read_image_bytes

log = get_logger(__name__)

_MAX_OF_12_BITS = 16
"""The highest value of 12 bits, 4095, once a file of 16 was scaled to 8; OpenCV rounds for TIFF."""


def can_be_looked_at(path: Path) -> bool:
    """Whether ``path`` exists and its folders may be searched, so that opening it can succeed or tell more."""
    try:
        path.stat()
    except OSError:
        return False
    return True


def read_image_file(path: Path, slow: SlowImages, bits: int | None = None) -> tuple[Image, ImageOrigin]:
    """The image, and its file's name and hash; ``slow`` knows the images that took too long before.

    ``bits``: see ``decode_image``. Without it, an image of 16 bits that is dark enough to be one of 12 is logged.

    Raises:
        ImageRejected: it cannot be read or decoded, or took too long before.
        FileNotFoundError: it has vanished.
    """
    try:
        path.stat()
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise ImageRejected(f"image {path} cannot be read: {exc.strerror or exc}", path=str(path)) from exc
    if slow.is_known(path):
        raise ImageRejected(
            f"{path} took more than {NOTICED_AFTER_S:g} s to decode before, so it is not read again until it changes: "
            "save it as a baseline JPEG or scale it down"
        )
    with slow.reading(path):
        data = read_image_bytes(path)
        image = decode_image(data, name=str(path), bits=bits)
    if bits is None and int(image.max()) <= _MAX_OF_12_BITS and has_16_bits(data):
        # `detail` does not tell one line from another, so a folder of such images gives a line each ten seconds.
        log.warning("image.low_values", folder=sendable(str(path.parent)), detail=sendable(path.name))
    return image, ImageOrigin(sendable(path.name), hashlib.sha256(data).hexdigest())


def is_image_name(name: str) -> bool:
    """Whether a file of this name is read: no hidden one, and only the kinds that can be decoded."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 - 5 x faster


def sendable(text: str) -> str:
    """``text`` for logs and messages: bytes of a file name that are not UTF-8 become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
