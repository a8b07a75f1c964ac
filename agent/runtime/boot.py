"""The machine's own count of time, which nobody sets: its boot, and the age of that boot."""

from __future__ import annotations

import time
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """A text that is another one after each boot; empty where the system does not tell. Source: random(4)."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def boot_ns() -> int:
    """Nanoseconds since the boot, times of sleep included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
