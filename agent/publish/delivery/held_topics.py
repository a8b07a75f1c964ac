"""Topics that wait after the broker refused them, each with a back-off of its own."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

from agent.runtime.backoff import Backoff
from agent.runtime.clock import Clock
from agent.runtime.logs import get_logger

CLOSES = "closes_connection"
"""The reason of a topic that the broker answers by closing the connection."""
REFUSED_WAIT_S = (0.2, 60.0)
"""Shortest and longest wait before a refused topic is tried again. A wrong access list is often corrected within
seconds, and one packet a minute costs nothing."""
CLOSES_WAIT_S = (10.0, 600.0)
"""The same for a topic whose every attempt costs the connection."""
CLOSES_AGAIN_S = 40.0
"""Shortest wait after it closed the connection again. By then the next connection counts as stable (``STABLE_S``), so
the attempt costs one short reconnect instead of ever longer ones. The first wait is shorter: it may be no culprit."""
_REFUSED_BASE_S = 1.0
CAREFUL_S = 600.0
"""After a refusal the topic has at most one unconfirmed packet for this long. With several, a broker that refuses one
and accepts the next, because of a quota, would change their order."""
_MAX_LOGGED_TOPICS = 1000

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class HeldTopic:
    """Why a topic waits, since when (UTC), how often it was refused since then, and when (monotonic) it is due."""

    reason: str
    since_utc_ns: int
    attempts: int
    due_ns: int


class HeldTopics:
    """Changed by one thread; ``snapshot`` may be called from any."""

    def __init__(self, clock: Clock, rng: random.Random | None = None) -> None:
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 (spreads attempts, guards nothing)
        self._lock = threading.Lock()
        self._held: dict[str, HeldTopic] = {}
        self._backoffs: dict[str, Backoff] = {}
        self._careful_until_ns: dict[str, int] = {}

    def hold(self, topic: str, reason: str) -> float:
        """Hold ``topic``, longer after each further refusal; returns for how many seconds."""
        low_s, high_s = CLOSES_WAIT_S if reason == CLOSES else REFUSED_WAIT_S
        before = self._held.get(topic)
        if before is None or (before.reason == CLOSES) != (reason == CLOSES):
            base_s = low_s if reason == CLOSES else _REFUSED_BASE_S
            self._backoffs[topic] = Backoff(base_s=base_s, rng=self._rng)
        elif reason == CLOSES:
            low_s = CLOSES_AGAIN_S
        wait_s = low_s + self._backoffs[topic].next_s(high_s - low_s)
        now_ns = self._clock.monotonic_ns()
        self._careful_until_ns[topic] = now_ns + round(CAREFUL_S * 1e9)
        with self._lock:
            self._held[topic] = HeldTopic(
                reason,
                self._clock.utc_ns() if before is None else before.since_utc_ns,
                1 if before is None else before.attempts + 1,
                now_ns + round(wait_s * 1e9),
            )
        return wait_s

    def release(self, topic: str) -> bool:
        """The broker accepted ``topic``; False if it was not held."""
        if topic not in self._held:
            return False
        with self._lock:
            del self._held[topic], self._backoffs[topic]
        return True

    def clear(self) -> None:
        """Release every topic."""
        with self._lock:
            self._held.clear()
        self._backoffs.clear()
        self._careful_until_ns.clear()

    def retry_refused(self, keeps_wait: Callable[[str], bool]) -> None:
        """Try each refused topic now, because a new connection may have other rights. Those that close the connection,
        and those of which ``keeps_wait`` is true, keep their wait."""
        now_ns = self._clock.monotonic_ns()
        with self._lock:
            for topic, held in self._held.items():
                if held.reason != CLOSES and not keeps_wait(topic):
                    self._held[topic] = HeldTopic(held.reason, held.since_utc_ns, held.attempts, now_ns)

    def __contains__(self, topic: str) -> bool:
        return topic in self._held

    def closes(self, topic: str) -> bool:
        """Whether the broker closed the connection on ``topic``."""
        held = self._held.get(topic)
        return held is not None and held.reason == CLOSES

    def has_closing(self) -> bool:
        """Whether any topic closes the connection."""
        return any(held.reason == CLOSES for held in self._held.values())

    def is_single(self, topic: str) -> bool:
        """Whether ``topic`` may have only one unconfirmed packet, because it was refused not long ago."""
        until_ns = self._careful_until_ns.get(topic)
        if until_ns is None or topic in self._held:
            return until_ns is not None
        if self._clock.monotonic_ns() >= until_ns:
            del self._careful_until_ns[topic]
            return False
        return True

    def is_waiting(self, topic: str) -> bool:
        """Whether ``topic`` must not be sent yet."""
        held = self._held.get(topic)
        return held is not None and held.due_ns > self._clock.monotonic_ns()

    def next_due_s(self) -> float | None:
        """Seconds until the next held topic is due; None if none waits."""
        now_ns = self._clock.monotonic_ns()
        waits = [held.due_ns - now_ns for held in self._held.values() if held.due_ns > now_ns]
        return min(waits) / 1e9 if waits else None

    def snapshot(self) -> dict[str, HeldTopic]:
        """The held topics; any thread."""
        with self._lock:
            return dict(self._held)


class RefusalLog:
    """One line in the log when a refusal begins, and one when it ends. One thread."""

    def __init__(self) -> None:
        self._problems: dict[str, str] = {}  # last logged problem, by topic

    def refused(self, topic: str, problem: str, outcome: str) -> None:
        """``topic`` was refused; logged if its last line names another problem."""
        if self._problems.get(topic) == problem:
            return
        # Requests choose the topics of their replies, so the number of topics has no bound of its own.
        if len(self._problems) >= _MAX_LOGGED_TOPICS:
            self._problems.clear()
        self._problems[topic] = problem
        log.warning("publish.refused", topic=topic, problem=problem, outcome=outcome)

    def accepted(self, topic: str) -> None:
        """``topic`` was accepted; logged if it was refused before."""
        if self._problems.pop(topic, None) is not None:
            log.info("publish.accepted", topic=topic)

    def clear(self) -> None:
        """Forget every topic: another broker is used from now on."""
        self._problems.clear()
