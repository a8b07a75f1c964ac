"""What became of the messages."""

from __future__ import annotations

import threading
from collections import Counter

_MOST_DENIED = 20


class Tally:
    """Counts messages that were sent, dropped (by reason) and thinned; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent = 0
        self._thinned = 0
        self._dropped: Counter[str] = Counter()
        self._denied: dict[str, str] = {}

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

    def deny(self, topic: str, reason: str) -> None:
        """The broker does not let us write to ``topic``, or take part in its subscription."""
        with self._lock:
            if topic in self._denied or len(self._denied) < _MOST_DENIED:
                self._denied[topic] = reason

    def grant(self, topic: str) -> None:
        """The broker takes ``topic`` (again)."""
        if topic in self._denied:
            with self._lock:
                self._denied.pop(topic, None)

    def denied(self) -> dict[str, str]:
        """What is forbidden, by topic."""
        with self._lock:
            return dict(self._denied)
