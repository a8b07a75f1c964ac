"""Feeds the service manager's watchdog while every stage makes progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from agent.daemon.notify import Notifier
from agent.runtime.heartbeat import Heartbeat, stuck_stages
from agent.runtime.logs import get_logger

log = get_logger(__name__)


class Watchdog:
    """Used by the main loop alone. ``record`` stores a text for the next run at once, before this one is killed."""

    def __init__(self, notifier: Notifier, record: Callable[[str], None]) -> None:
        self._notifier = notifier
        self._record = record
        self._due_s = 0.0
        self.stuck: str | None = None
        """Which stages are stuck; None while all of them make progress."""

    def tick(self, hearts: Iterable[Heartbeat]) -> None:
        """Feed the watchdog if every stage makes progress. If one does not, record why and let it kill the process."""
        now_s = time.monotonic()
        if self._notifier.watchdog_s is None or now_s < self._due_s:
            return
        self._due_s = now_s + self._notifier.watchdog_s / 3
        stuck = stuck_stages(tuple(hearts))
        if not stuck:
            self.stuck = None
            self._notifier.alive()
            return
        self.stuck = "; ".join(map(str, stuck))
        log.error("watchdog.ping_withheld", stuck=self.stuck)
        self._record(f"the watchdog was not fed: {self.stuck}")
