"""Reads one image file, with what names it in a result."""

from __future__ import annotations

import hashlib
from pathlib import Path

from agent.cameras.sources.images.slow_images import NOTICED_AFTER_S, SlowImages
from agent.runtime.records import Image, ImageOrigin
from engines import IMAGE_SUFFIXES, ImageRejected, decode_image, read_image_bytes


def read_image_file(path: Path, slow: SlowImages) -> tuple[Image, ImageOrigin]:
    """The image, and its file's name and hash; ``slow`` knows the images that took too long before.

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
        image = decode_image(data, name=str(path))
    return image, ImageOrigin(sendable(path.name), hashlib.sha256(data).hexdigest())


def is_image_name(name: str) -> bool:
    """Whether a file of this name is read: no hidden one, and only the kinds that can be decoded."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")


def sendable(text: str) -> str:
    """``text`` for logs and messages: bytes of a file name that are not UTF-8 become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
