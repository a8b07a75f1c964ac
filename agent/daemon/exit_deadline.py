"""Ends the process at a deadline if an orderly end takes too long."""

from __future__ import annotations

import os
import threading


class ExitDeadline:
    """Arm it when the process must end soon, disarm it when the orderly end was in time. Used by one thread."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def arm(self, within_s: float, exit_code: int) -> None:
        """End the process with ``exit_code`` after ``within_s`` seconds, whatever its threads do."""
        self.disarm()
        self._timer = threading.Timer(within_s, os._exit, (exit_code,))
        self._timer.name = "exit-deadline"
        self._timer.daemon = True
        self._timer.start()

    def disarm(self) -> None:
        """Cancel it; harmless when not armed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
            self._timer = None
