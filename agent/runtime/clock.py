"""Time as a parameter, which tests can set."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Monotonic time for timers and latencies, UTC for time stamps that people read."""

    def monotonic_ns(self) -> int:
        """Nanoseconds since an arbitrary start; never goes back."""
        ...

    def utc_ns(self) -> int:
        """Nanoseconds since 1970 in UTC; jumps if somebody sets the system clock."""
        ...

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        """Wait until ``stop`` is set or ``seconds`` have passed; True if it was set."""
        ...


class SystemClock:
    """The clock of the machine. See Clock; a frame asks it a dozen times, so two methods are the library's own."""

    monotonic_ns = staticmethod(time.monotonic_ns)
    utc_ns = staticmethod(time.time_ns)

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        """See Clock."""
        return stop.wait(seconds)
