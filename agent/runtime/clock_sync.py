"""Whether the device's clock follows a time server."""

from __future__ import annotations

import ctypes
import time
from typing import Literal

ClockState = Literal["synced", "unsynced"]

_TIMEX_BYTES = 512
_TIME_ERROR = 5
"""The clock is not synchronised. Source: adjtimex(2), return values."""
_TRUSTED_FOR_S = 10.0


class ClockWatch:
    """Asks the kernel, at most every ten seconds. A system that does not answer counts as unsynchronised."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._state: ClockState = "unsynced"
        self._ask_after = 0.0

    def state(self) -> ClockState:
        """``synced`` if the kernel says that the clock follows a time server. Any thread."""
        now = time.monotonic()
        if now >= self._ask_after:
            self._ask_after = now + _TRUSTED_FOR_S
            # All zero: the first field, modes, then means read only. Larger than any version of struct timex.
            answer = self._libc.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
            self._state = "unsynced" if answer in (-1, _TIME_ERROR) else "synced"
        return self._state
