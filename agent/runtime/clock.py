"""Time as a parameter, so that tests can set it."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Monotonic time for every timer and latency, UTC for the stamps that people read."""

    def monotonic_ns(self) -> int:
        """Nanoseconds since an arbitrary start; never goes back."""
        ...

    def utc_ns(self) -> int:
        """Nanoseconds since 1970 in UTC; jumps when the system clock is set."""
        ...

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        """Wait until ``stop`` is set or ``seconds`` have passed; True when it was set."""
        ...


class SystemClock:
    """The clock of the machine."""

    def monotonic_ns(self) -> int:
        """See Clock."""
        return time.monotonic_ns()

    def utc_ns(self) -> int:
        """See Clock."""
        return time.time_ns()

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        """See Clock."""
        return stop.wait(seconds)
