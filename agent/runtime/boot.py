"""The id of this boot, and the time since it, which no clock setting changes."""

from __future__ import annotations

import time
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Source: random(4)."""


def boot_id(file: Path = BOOT_ID) -> str:
    """The id of this boot, new after each reboot; empty if the system has none."""
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def boot_ns() -> int:
    """Nanoseconds since the boot, suspended time included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
