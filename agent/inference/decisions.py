"""Decides a classifier's label from a window of results: votes and hysteresis."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass

from agent.config.model import DecideConfig
from agent.runtime.records import Classification, StateChange

_HEARTBEAT_NS = 60 * 1_000_000_000
"""A state is repeated this often, so a subscriber can distinguish an unchanged label from a dead agent."""


@dataclass(frozen=True, slots=True)
class _Vote:
    label: str
    confidence: float


class Decision:
    """The decided label of one classifier of one camera.

    Used by its worker's thread and by the main thread, which checks the time; after a reload, also by the old worker's
    thread while it answers its last frames. Each holds ``order`` while it calls a method and emits what that returned,
    so the messages go out in the order of the decisions.

    A result votes for its best class if the confidence reaches `enter`; for the class already decided, `exit` is
    enough. A different class takes over with `votes` votes among the last `window` results. Without one, the label
    becomes `unknown` once `votes` of these results fail to confirm it, or after `stale_after_s` without a result.
    """

    def __init__(
        self,
        camera: str,
        classifier: str,
        config: DecideConfig,
        *,
        now_ns: int,
        utc_ns: int,
        before: Decision | None = None,
    ) -> None:
        """``before`` decided by the old configuration; ``initial`` ends its label."""
        self._before = before
        self.order: threading.Lock = threading.Lock() if before is None else before.order
        """Shared with the decision before this one: its last messages come before the first of this one."""
        self.is_announced = False
        """Whether ``initial`` was called."""
        self.is_over = False
        """Whether the decision after this one was announced: this one must emit nothing more."""
        self._camera = camera
        self._classifier = classifier
        self._config = config
        self._lock = threading.Lock()
        self._votes: deque[_Vote | None] = deque(maxlen=config.window)
        self._label = config.unknown
        self._confidence = 0.0
        self._since_utc_ns = utc_ns
        self._last_result_ns = now_ns
        self._last_sent_ns = now_ns

    @property
    def label(self) -> str:
        """The decided label."""
        return self._label

    def initial(self) -> StateChange:
        """The state before the first result; it replaces a state that an earlier session left on the broker."""
        before, self._before = self._before, None
        self.is_announced = True
        if before is not None:
            before.is_over = True
        with self._lock:
            previous = None if before is None or before.label == self._label else before.label
            return self._change(previous, "start", None)

    def update(self, result: Classification, *, now_ns: int, utc_ns: int) -> StateChange | None:
        """Count one result; returns a change of the label, its repetition if that is due, or None."""
        with self._lock:
            self._last_result_ns = now_ns
            best = result.top[0]
            threshold = self._config.exit if best.label == self._label else self._config.enter
            self._votes.append(_Vote(best.label, best.confidence) if best.confidence >= threshold else None)
            if best.label == self._label:
                self._confidence = best.confidence
            winner = self._winner()
            if winner is not None:
                return self._switch(winner, "votes", result, now_ns, utc_ns)
            if self._label != self._config.unknown and self._unconfirmed() >= self._config.votes:
                return self._switch(self._config.unknown, "unconfirmed", result, now_ns, utc_ns)
            return self._heartbeat(result, now_ns)

    def tick(self, *, now_ns: int, utc_ns: int) -> StateChange | None:
        """Check the time: a label without results goes stale, an unchanged one is repeated once a minute."""
        with self._lock:
            silent_s = (now_ns - self._last_result_ns) / 1e9
            if self._label != self._config.unknown and silent_s >= self._config.stale_after_s:
                return self._switch(self._config.unknown, "stale", None, now_ns, utc_ns)
            return self._heartbeat(None, now_ns)

    def _winner(self) -> str | None:
        counts = Counter(vote.label for vote in self._votes if vote is not None)
        counts.pop(self._label, None)
        if not counts:
            return None
        most = max(counts.values())
        if most < self._config.votes:
            return None
        # On a tie, the label seen last is what the camera shows now.
        return next(vote.label for vote in reversed(self._votes) if vote is not None and counts[vote.label] == most)

    def _unconfirmed(self) -> int:
        return sum(1 for vote in self._votes if vote is None or vote.label != self._label)

    def _switch(
        self, label: str, reason: str, evidence: Classification | None, now_ns: int, utc_ns: int
    ) -> StateChange:
        previous, self._label = self._label, label
        # Drop the votes for other labels: they would switch the label straight back.
        kept = [vote for vote in self._votes if vote is not None and vote.label == label]
        self._votes.clear()
        self._votes.extend(kept)
        self._confidence = kept[-1].confidence if kept else 0.0
        self._since_utc_ns = utc_ns
        self._last_sent_ns = now_ns
        return self._change(previous, reason, evidence)

    def _heartbeat(self, evidence: Classification | None, now_ns: int) -> StateChange | None:
        if now_ns - self._last_sent_ns < _HEARTBEAT_NS:
            return None
        self._last_sent_ns = now_ns
        return self._change(None, "heartbeat", evidence)

    def _change(self, previous: str | None, reason: str, evidence: Classification | None) -> StateChange:
        return StateChange(
            camera=self._camera,
            classifier=self._classifier,
            label=self._label,
            previous=previous,
            since_utc_ns=self._since_utc_ns,
            confidence=self._confidence,
            votes=sum(1 for vote in self._votes if vote is not None and vote.label == self._label),
            window=self._config.window,
            reason=reason,
            evidence=evidence,
        )
