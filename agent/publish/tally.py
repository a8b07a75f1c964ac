"""What became of the messages."""

from __future__ import annotations

import threading
from collections import Counter


class Tally:
    """Counts messages that were sent, dropped (by reason) and thinned; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent = 0
        self._thinned = 0
        self._dropped: Counter[str] = Counter()

    def sent(self) -> None:
        """One more was handed to the network (QoS 0) or confirmed by the broker (QoS 1)."""
        with self._lock:
            self._sent += 1

    def thinned(self) -> None:
        """One more result was left out because the configuration wants fewer."""
        with self._lock:
            self._thinned += 1

    def drop(self, reason: str, count: int = 1) -> None:
        """``count`` more were given up."""
        with self._lock:
            self._dropped[reason] += count

    def counts(self) -> tuple[int, int, dict[str, int]]:
        """Sent, thinned, and dropped by reason."""
        with self._lock:
            return self._sent, self._thinned, {reason: count for reason, count in self._dropped.items() if count}
