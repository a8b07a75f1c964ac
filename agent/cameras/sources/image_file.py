"""Reads one image file, with what names it in a result."""

from __future__ import annotations

import hashlib
from pathlib import Path

from agent.runtime.records import Image, ImageOrigin
from engines import IMAGE_SUFFIXES, decode_image, read_image_bytes


def read_image_file(path: Path) -> tuple[Image, ImageOrigin]:
    """The image, and its file's name and hash.

    Raises:
        ImageRejected: it cannot be read or decoded.
        FileNotFoundError: it has vanished.
    """
    if not path.exists():
        raise FileNotFoundError(2, "No such file", str(path))
    data = read_image_bytes(path)
    image = decode_image(data, name=str(path))
    return image, ImageOrigin(sendable(path.name), hashlib.sha256(data).hexdigest())


def is_image_name(name: str) -> bool:
    """Whether a file of this name is read: no hidden one, and only the kinds that can be decoded."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")


def sendable(text: str) -> str:
    """``text`` for logs and messages: bytes of a file name that are not UTF-8 become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
