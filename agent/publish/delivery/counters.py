"""Counts what was sent, dropped and refused; what ``health`` tells about the delivery."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.publish.delivery.held_topics import HeldTopic

_MAX_NAMED = 20
"""Topics that are named in ``health``; their number has no bound of its own, because requests choose reply topics."""


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """What waits and why, for ``health``. ``oldest_event_s``: age of the oldest unconfirmed event."""

    held: Mapping[str, HeldTopic] = field(default_factory=dict)
    oldest_event_s: float | None = None


class DeliveryCounters:
    """Counts sent, dropped (by reason), refused (by reason) and rate-limited messages; any thread.

    A refused message is kept and sent again, so it is not dropped. ``rejected`` names the topics that lost a message
    which the broker can never accept.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent = 0
        self._rate_limited = 0
        self._dropped: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._denied: dict[str, str] = {}
        self._rejected: dict[str, str] = {}

    def sent(self) -> None:
        """Count a message that was sent (QoS 0) or confirmed by the broker (QoS 1)."""
        with self._lock:
            self._sent += 1

    def rate_limited(self) -> None:
        """Count a result left out by the rate limit."""
        with self._lock:
            self._rate_limited += 1

    def drop(self, reason: str, count: int = 1) -> None:
        """Count ``count`` dropped messages."""
        with self._lock:
            self._dropped[reason] += count

    def refuse(self, reason: str) -> None:
        """Count an attempt that the broker refused; the message is kept."""
        with self._lock:
            self._refused[reason] += 1

    def counts(self) -> tuple[int, int, dict[str, int]]:
        """Sent, rate-limited, and dropped by reason."""
        with self._lock:
            return self._sent, self._rate_limited, {reason: count for reason, count in self._dropped.items() if count}

    def refused(self) -> dict[str, int]:
        """Refused attempts by reason."""
        with self._lock:
            return dict(self._refused)

    def deny(self, topic: str, reason: str) -> None:
        """The broker forbids publishing to ``topic``."""
        with self._lock:
            _name(self._denied, topic, reason)

    def reject(self, topic: str, reason: str) -> None:
        """A message on ``topic`` was dropped, because the broker can never accept it."""
        with self._lock:
            self._dropped[reason] += 1
            _name(self._rejected, topic, reason)

    def grant(self, topic: str) -> None:
        """The broker accepts ``topic`` (again)."""
        if topic in self._denied or topic in self._rejected:
            with self._lock:
                self._denied.pop(topic, None)
                self._rejected.pop(topic, None)

    def forget_broker(self) -> None:
        """Another broker is used from now on: what the previous one forbade does not count."""
        with self._lock:
            self._denied.clear()
            self._rejected.clear()

    def denied(self) -> dict[str, str]:
        """The forbidden topics, each with the reason."""
        with self._lock:
            return dict(self._denied)

    def rejected(self) -> dict[str, str]:
        """Topics whose last message was dropped for good, each with the reason."""
        with self._lock:
            return dict(self._rejected)


def _name(topics: dict[str, str], topic: str, reason: str) -> None:
    if topic in topics or len(topics) < _MAX_NAMED:
        topics[topic] = reason
