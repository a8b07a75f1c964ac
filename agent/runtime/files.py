"""Replaces a file of the state directory as a whole: whoever reads it finds the old text or the new one."""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(path: Path, text: str, *, is_durable: bool = False, is_private: bool = False) -> None:
    """Write ``text`` beside ``path`` and put it in its place.

    ``is_durable``: it holds over a power cut, too. ``is_private``: readable by this user alone, and a link that lies
    where it is written is refused.

    Raises:
        OSError: it cannot be written; the old text is there as before.
    """
    fresh = path.with_name(f"{path.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    flags, mode = (flags | os.O_NOFOLLOW, 0o600) if is_private else (flags, 0o666)
    with os.fdopen(os.open(fresh, flags, mode), "w", encoding="utf-8") as stream:
        stream.write(text)
        if is_durable:
            stream.flush()
            os.fsync(stream.fileno())
    fresh.replace(path)
