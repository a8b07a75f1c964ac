"""What the latest results vote for: counted, or by how long they hold."""

from __future__ import annotations

from collections import Counter, deque
from typing import Protocol

from agent.config.sections.decide import LabelRule

Key = str | None
"""What a result votes for: a label, None for no label."""


class Votes(Protocol):
    """The votes within a window. An amount is a number of results, or nanoseconds of captured time."""

    def add(self, key: Key, at_ns: int) -> None:
        """Add the vote of the newest result, whose frame was captured at ``at_ns`` (monotonic)."""
        ...

    def amount(self, key: Key) -> int:
        """How much votes for ``key``."""
        ...

    def others(self, key: Key) -> int:
        """How much votes for anything but ``key``."""
        ...

    def winner(self, besides: Key) -> str | None:
        """The label that has what the rule needs, ``besides`` the one already decided; None if there is none."""
        ...

    def keep(self, key: Key) -> None:
        """Forget all votes but those for ``key``."""
        ...


def votes_for(rule: LabelRule, *, stale_after_s: float) -> Votes:
    """No votes yet, by ``rule``. After ``stale_after_s`` without a result, earlier ones no longer count as held."""
    if rule.is_timed:
        return TimedVotes(rule.needed, rule.window, gap_ns=round(stale_after_s * 1e9))
    return CountedVotes(rule.needed, rule.window)


class CountedVotes:
    """``needed`` among the last ``window`` results."""

    def __init__(self, needed: int, window: int) -> None:
        self._needed = needed
        self._votes: deque[Key] = deque(maxlen=window)

    def add(self, key: Key, at_ns: int) -> None:  # noqa: ARG002 (results count whenever they come)
        """See Votes."""
        self._votes.append(key)

    def amount(self, key: Key) -> int:
        """See Votes."""
        return self._votes.count(key)

    def others(self, key: Key) -> int:
        """See Votes."""
        return len(self._votes) - self._votes.count(key)

    def winner(self, besides: Key) -> str | None:
        """See Votes."""
        counts: Counter[Key] = Counter(vote for vote in self._votes if vote not in {None, besides})
        most = max(counts.values(), default=0)
        if most < self._needed:
            return None
        # On a tie, the label seen last is what the camera shows now.
        return next(vote for vote in reversed(self._votes) if counts[vote] == most)

    def keep(self, key: Key) -> None:
        """See Votes."""
        kept = [vote for vote in self._votes if vote == key]
        self._votes.clear()
        self._votes.extend(kept)


class TimedVotes:
    """``needed_ns`` of the last ``window_ns`` of captured time, whatever the frame rate.

    A vote holds from the capture of its frame to that of the next result's: so a frame that was dropped counts as the
    one before it. After a gap of ``gap_ns`` nothing is known of the time between, and all votes are forgotten.
    """

    def __init__(self, needed_ns: int, window_ns: int, *, gap_ns: int) -> None:
        self._needed_ns = needed_ns
        self._window_ns = window_ns
        self._gap_ns = gap_ns
        self._starts: deque[tuple[int, Key]] = deque()
        """When each run of equal votes began, monotonic; the last one ends at ``_newest_ns``."""
        self._held_ns: Counter[Key] = Counter()
        self._newest_ns = 0

    def add(self, key: Key, at_ns: int) -> None:
        """See Votes."""
        at_ns = max(at_ns, self._newest_ns)  # two workers may answer in another order while an engine is replaced
        if self._starts:
            if at_ns - self._newest_ns >= self._gap_ns:
                self._forget()
            else:
                self._held_ns[self._starts[-1][1]] += at_ns - self._newest_ns
        self._newest_ns = at_ns
        if not self._starts or self._starts[-1][1] != key:
            self._starts.append((at_ns, key))
        self._trim(at_ns - self._window_ns)

    def amount(self, key: Key) -> int:
        """See Votes."""
        return self._held_ns[key]

    def others(self, key: Key) -> int:
        """See Votes."""
        return sum(self._held_ns.values()) - self._held_ns[key]

    def winner(self, besides: Key) -> str | None:
        """See Votes: only what the newest result votes for."""
        key = self._starts[-1][1] if self._starts else None
        return key if key not in {None, besides} and self._held_ns[key] >= self._needed_ns else None

    def keep(self, key: Key) -> None:
        """See Votes. What the newest result votes for begins to hold with it."""
        kept_ns = self._held_ns[key]
        newest = self._starts[-1][1] if self._starts else None
        is_known = bool(self._starts)
        self._forget()
        if kept_ns:
            self._starts.append((self._newest_ns - kept_ns, key))
            self._held_ns[key] = kept_ns
        if is_known and (not kept_ns or newest != key):
            self._starts.append((self._newest_ns, newest))

    def _trim(self, oldest_ns: int) -> None:
        """Forget what held before ``oldest_ns``."""
        while self._starts and self._starts[0][0] < oldest_ns:
            began_ns, key = self._starts.popleft()
            ended_ns = self._starts[0][0] if self._starts else self._newest_ns
            self._held_ns[key] -= min(ended_ns, oldest_ns) - began_ns
            if ended_ns > oldest_ns or not self._starts:
                self._starts.appendleft((oldest_ns, key))

    def _forget(self) -> None:
        self._starts.clear()
        self._held_ns.clear()
