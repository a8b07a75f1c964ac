"""How much of its file system the outbox leaves to others."""

from __future__ import annotations

import os
from pathlib import Path

KEPT_FREE_RATIO = 0.05
KEPT_FREE_BYTES = 1 << 30
"""The share is bounded: a twentieth of a large disk is more than its neighbours need to go on."""


def kept_free_bytes(size_bytes: int) -> int:
    """What a file system of ``size_bytes`` is left with."""
    return min(round(size_bytes * KEPT_FREE_RATIO), KEPT_FREE_BYTES)


def lack_of_room(directory: Path, needed_bytes: int) -> str | None:
    """Why ``needed_bytes`` more would be too much for the file system of ``directory``; None where they are not.

    Raises:
        OSError: the file system does not say.
    """
    found = os.statvfs(directory)
    free, kept = found.f_bavail * found.f_frsize, kept_free_bytes(found.f_blocks * found.f_frsize)
    if free - needed_bytes >= kept:
        return None
    return f"{free / 2**20:.1f} MiB are free and the outbox leaves {kept / 2**20:.1f} MiB to others"
