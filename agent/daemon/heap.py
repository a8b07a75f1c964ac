"""The heap of the C library: few arenas, images from kept memory, and what loading freed goes back to the system.

glibc keeps up to eight arenas for each core, one for each thread that asks at the same time, and gives back only what
lies at the end of one. The functions are those of glibc; another C library has none, and then nothing happens.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

ARENAS = 2
MMAP_THRESHOLD_BYTES = 32 << 20
"""Smaller blocks come from an arena. The largest value glibc takes: half a heap of 64 MiB on 64 bits."""
TRIM_THRESHOLD_BYTES = 64 << 20
"""What may stay free at the end of an arena: twice the other threshold, as glibc's own adjustment keeps it."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Source: malloc.h of glibc."""
_THRESHOLDS_SET = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
_TUNABLES_SET = ("glibc.malloc.mmap_threshold=", "glibc.malloc.trim_threshold=")
"""Environment variables and names in ``GLIBC_TUNABLES``. Source: mallopt(3) and the manual of glibc."""


def bound_arenas() -> bool:
    """Let the threads of this process share ``ARENAS`` arenas; ``MALLOC_ARENA_MAX`` in the environment goes before.

    Call it before threads start: what they have already they keep. Returns whether the limit is set.
    """
    mallopt = _of_libc("mallopt")
    if mallopt is None or "MALLOC_ARENA_MAX" in os.environ:
        return False
    return mallopt(_M_ARENA_MAX, ARENAS) == 1


def keep_image_memory() -> bool:
    """Let freed images stay in the arenas, so that the next frame finds memory instead of page faults.

    By default glibc adjusts both thresholds to the largest block freed so far, and whether each image is then given
    back and faulted in again depends on what else lies in the arena. Setting either ends the adjustment (mallopt(3)),
    and the trim threshold alone would map and unmap each image: so it is set only after the other. What the
    environment sets goes before. Returns whether both are set.
    """
    mallopt = _of_libc("mallopt")
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if any(name in os.environ for name in _THRESHOLDS_SET) or any(name in tunables for name in _TUNABLES_SET):
        return False
    if mallopt is None or mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES) != 1:
        return False
    return mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES) == 1


def trim() -> bool:
    """Give free memory back to the system: a few milliseconds, in which other threads that allocate wait.

    Returns whether there was any.
    """
    malloc_trim = _of_libc("malloc_trim")
    return malloc_trim is not None and malloc_trim(0) == 1


def _of_libc(name: str) -> Callable[..., int] | None:
    function: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    return function
