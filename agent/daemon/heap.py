"""The heap of the C library: few arenas, and what is free goes back to the system.

glibc keeps up to eight arenas for each core, one for each thread that asks at the same time, and gives back only what
lies at the end of one. Both functions are those of glibc; another C library has none, and then nothing happens.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

ARENAS = 2
_M_ARENA_MAX = -8
"""Source: malloc.h of glibc."""


def bound_arenas() -> bool:
    """Let the threads of this process share ``ARENAS`` arenas; ``MALLOC_ARENA_MAX`` in the environment goes before.

    Call it before threads start: what they have already they keep. Returns whether the limit is set.
    """
    mallopt = _of_libc("mallopt")
    if mallopt is None or "MALLOC_ARENA_MAX" in os.environ:
        return False
    return mallopt(_M_ARENA_MAX, ARENAS) == 1


def trim() -> bool:
    """Give free memory back to the system: a few milliseconds, in which other threads that allocate wait.

    Returns whether there was any.
    """
    malloc_trim = _of_libc("malloc_trim")
    return malloc_trim is not None and malloc_trim(0) == 1


def _of_libc(name: str) -> Callable[..., int] | None:
    function: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    return function
