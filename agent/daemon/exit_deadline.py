"""Ends the process at a deadline where an orderly end takes too long."""

from __future__ import annotations

import os
import threading


class LastResort:
    """Armed when the process must be gone soon, disarmed when the orderly end was in time. Used by one thread."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def arm(self, within_s: float, exit_code: int) -> None:
        """End the process with ``exit_code`` after ``within_s`` seconds, without asking anybody."""
        self.disarm()
        self._timer = threading.Timer(within_s, os._exit, (exit_code,))
        self._timer.name = "last-resort"
        self._timer.daemon = True
        self._timer.start()

    def disarm(self) -> None:
        """Everything ended in time; harmless when not armed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
            self._timer = None
