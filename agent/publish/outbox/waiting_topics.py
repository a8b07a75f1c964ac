"""Which topics have packets waiting, and up to where."""

from __future__ import annotations

from collections import Counter


class WaitingTopics:
    """The newest key of each topic of which packets wait. Under the lock of its owner."""

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}
        self._counts: Counter[str] = Counter()

    def add(self, topic: str, key: int, count: int = 1) -> None:
        """``count`` more packets, the newest with ``key``."""
        self._newest[topic] = max(key, self._newest.get(topic, 0))
        self._counts[topic] += count

    def leave(self, topic: str) -> None:
        """One packet less. A newest one that has gone is remembered as long as older ones wait."""
        self._counts[topic] -= 1
        if self._counts[topic] <= 0:
            del self._counts[topic]
            self._newest.pop(topic, None)

    def newest_keys(self) -> dict[str, int]:
        """By topic."""
        return dict(self._newest)
