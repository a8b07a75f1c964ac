"""The agent's own process, as the kernel sees it."""

from __future__ import annotations

import os
import resource
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PAGE_BYTES = resource.getpagesize()
_SELF = Path("/proc/self")


@dataclass(frozen=True, slots=True)
class ProcessStatistics:
    """``cpu_ratio`` is the share of one core since the last reading; 0 at the first."""

    rss_bytes: int
    cpu_ratio: float
    threads: int
    fds: int


class ProcessMeter:
    """Reads the process. Keeps the last reading, for the CPU time between two."""

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None
        self._resident_pages = 0
        self._fds = 0

    def read(self) -> ProcessStatistics:
        """One reading. Source: proc(5), statm field 2."""
        # Without a free descriptor nothing can be read: repeat the last values.
        with suppress(OSError):
            self._resident_pages = int((_SELF / "statm").read_text(encoding="ascii").split()[1])
            self._fds = sum(1 for _ in (_SELF / "fd").iterdir()) - 1  # the listing itself holds one
        now_s, used_s = time.monotonic(), sum(os.times()[:2])
        ratio = 0.0
        if self._last is not None and now_s > self._last[0]:
            ratio = (used_s - self._last[1]) / (now_s - self._last[0])
        self._last = now_s, used_s
        return ProcessStatistics(
            rss_bytes=self._resident_pages * _PAGE_BYTES,
            cpu_ratio=ratio,
            threads=threading.active_count(),
            fds=self._fds,
        )
