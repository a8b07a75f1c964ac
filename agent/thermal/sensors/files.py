"""Reads the small text files of /sys and /proc without blocking."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path

_MAX_BYTES = 8192
_TOO_LARGE = 2.0**63
"""The largest integer of a message is 1 less. A counter or a clock beyond it comes from a broken driver."""


def read_text(path: Path) -> str:
    """The file's text without surrounding white space and NULs. Unbuffered, so that EAGAIN of a sensor arrives here.

    Raises:
        OSError: it cannot be read now.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _MAX_BYTES).decode("utf-8", "replace").strip(" \t\r\n\0")
    finally:
        os.close(descriptor)


def text_or_none(path: Path) -> str | None:
    """Like ``read_text``; None if it cannot be read or is empty."""
    try:
        return read_text(path) or None
    except OSError:
        return None


def number_or_reason(path: Path) -> float | str:
    """The number in ``path``, or why there is none."""
    try:
        text = read_text(path)
    except OSError as exc:
        code = errno.errorcode.get(exc.errno or 0, "error")
        return f"{code}: {os.strerror(exc.errno)}" if exc.errno else f"{code}: cannot be read"
    if not text:
        return "reads empty"
    try:
        return float(text)
    except ValueError:
        return f"reads {text[:32]!r}, which is no number"


def number_or_none(path: Path) -> float | None:
    """The finite number in ``path``; None if there is none."""
    number = number_or_reason(path)
    return None if isinstance(number, str) or not math.isfinite(number) else number


def amount_or_none(path: Path) -> float | None:
    """Like ``number_or_none``, for numbers from 0 to what fits into the integers of a message."""
    number = number_or_none(path)
    return None if number is None or not 0 <= number < _TOO_LARGE else number


def folders(parent: Path, pattern: str = "*") -> list[Path]:
    """The folders in ``parent`` in the order of their numbers; empty without such a parent."""
    try:
        found = [path for path in parent.glob(pattern) if path.is_dir()]
    except OSError:
        return []
    return sorted(found, key=lambda path: (int("".join(c for c in path.name if c.isdigit())[:18] or 0), path.name))
