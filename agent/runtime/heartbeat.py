"""How the main loop knows that every stage makes progress: each one sets the deadline of its next beat."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass


class Heartbeat:
    """One stage's sign of life. ``beat`` belongs to the stage's thread; reading is for any thread."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._deadline_ns: int | None = None

    def beat(self, allow_s: float) -> None:
        """The stage makes progress, and will beat again within ``allow_s`` seconds unless it is stuck."""
        self._deadline_ns = time.monotonic_ns() + round(allow_s * 1e9)

    def rest(self) -> None:
        """Expect no beat: the stage has ended, or has not begun."""
        self._deadline_ns = None

    def overdue_s(self) -> float:
        """Seconds past the deadline; 0 before it."""
        deadline_ns = self._deadline_ns
        return 0.0 if deadline_ns is None else max((time.monotonic_ns() - deadline_ns) / 1e9, 0.0)


@dataclass(frozen=True, slots=True)
class Stuck:
    """A stage that missed its deadline."""

    name: str
    overdue_s: float

    def __str__(self) -> str:
        return f"{self.name} is {self.overdue_s:.0f} s overdue"


def stuck_stages(hearts: Iterable[Heartbeat]) -> tuple[Stuck, ...]:
    """The overdue stages, the longest overdue first."""
    late = [Stuck(heart.name, overdue_s) for heart in hearts if (overdue_s := heart.overdue_s()) > 0.0]
    return tuple(sorted(late, key=lambda stuck: -stuck.overdue_s))
