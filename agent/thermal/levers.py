"""The levers of the governor, cheapest first: batches, engine, clocks, rate.

The governor knows one quantity, the heat that inference may make (its effort, 0 to 1). This module turns it into
levels of the levers that this device has. Nothing here touches the device; the implementations of ``Lever`` do.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

LeverName = Literal["batches", "engine", "clocks", "rate"]

MIN_CLOCK_RATIO = 0.5
"""Lowest clock that is requested, as a share of the highest. Source: on the one Tegra whose table is public (gm20b)
the voltage stops falling near 0.4 of the highest clock; below that, a lower clock saves no energy per frame."""
_BATCHES_HELD_S = 300.0
_ENGINE_BELOW = 0.9
"""Effort below which a cooler engine is used; the replacement itself makes heat."""
_ENGINE_AFTER_S = 60.0
_ENGINE_HELD_S = 900.0
_MAX_ENGINE_HELD_S = 4 * 3600.0


class Lever(Protocol):
    """One way to make less heat. Called on the thermal monitor's thread; no call may take longer than 0.1 s."""

    @property
    def name(self) -> LeverName:
        """Which one it is."""
        ...

    @property
    def is_available(self) -> bool:
        """Whether it works now. Checked before each decision; an engaged lever that no longer works is released."""
        ...

    def engage(self, level: float) -> None:
        """Make less heat. ``level``: for clocks the allowed share of the highest clock, else 0 (as usual) to 1. Called
        again with each reading while it is engaged."""
        ...

    def release(self) -> None:
        """Restore everything; harmless when it was never engaged."""
        ...


@dataclass(frozen=True, slots=True)
class LeverLevels:
    """The levels in force. ``rate_ratio`` and ``clock_ratio`` are 1 if they are not cut."""

    rate_ratio: float = 1.0
    clock_ratio: float = 1.0
    has_large_batches: bool = False
    has_other_engine: bool = False

    @property
    def engaged(self) -> tuple[LeverName, ...]:
        """The levers in force, cheapest first."""
        moved: dict[LeverName, bool] = {
            "batches": self.has_large_batches,
            "engine": self.has_other_engine,
            "clocks": self.clock_ratio < 1.0,
            "rate": self.rate_ratio < 1.0,
        }
        return tuple(name for name, is_moved in moved.items() if is_moved)


NOTHING_MOVED = LeverLevels()


def split_effort(effort: float, *, has_clocks: bool) -> tuple[float, float]:
    """(clock ratio, rate ratio) for about this share of the heat: clocks first, then the rate."""
    if not has_clocks:
        return 1.0, effort
    return max(effort, MIN_CLOCK_RATIO), min(1.0, effort / MIN_CLOCK_RATIO)


class Ladder:
    """Chooses the levels. Pure: call ``step`` with effort and time once a second.

    Batches are engaged at once, the engine after a minute. Both are released late: the engine after 15 minutes at full
    effort, and after twice that time each time this proved too early.
    """

    def __init__(self) -> None:
        self._full_since_s: float | None = None
        self._low_since_s: float | None = None
        self._has_batches = False
        self._has_engine = False
        self._engine_held_s = _ENGINE_HELD_S
        self._released_s = float("-inf")

    def step(self, effort: float, now_s: float, available: Collection[LeverName]) -> LeverLevels:
        """The levels for ``effort`` (0 is a pause) with the levers that are ``available``."""
        self._full_since_s = (self._full_since_s or now_s) if effort >= 1.0 else None
        self._low_since_s = (self._low_since_s or now_s) if effort < _ENGINE_BELOW else None
        full_s = 0.0 if self._full_since_s is None else now_s - self._full_since_s
        low_s = 0.0 if self._low_since_s is None else now_s - self._low_since_s
        self._has_batches = "batches" in available and (
            effort < 1.0 or (self._has_batches and full_s < _BATCHES_HELD_S)
        )
        self._step_engine(full_s, low_s, now_s, is_available="engine" in available)
        clock, rate = split_effort(effort, has_clocks="clocks" in available)
        return LeverLevels(rate, clock, self._has_batches, self._has_engine)

    def _step_engine(self, full_s: float, low_s: float, now_s: float, *, is_available: bool) -> None:
        if not is_available:
            self._has_engine = False
        elif not self._has_engine and low_s >= _ENGINE_AFTER_S:
            self._has_engine = True
            was_too_early = now_s - self._released_s < self._engine_held_s
            self._engine_held_s = min(2 * self._engine_held_s, _MAX_ENGINE_HELD_S) if was_too_early else _ENGINE_HELD_S
        elif self._has_engine and full_s >= self._engine_held_s:
            self._has_engine = False
            self._released_s = now_s


class Dither:
    """Reaches a mean between two steps by alternating between them, like the kernel's own throttling."""

    def __init__(self) -> None:
        self._owed = 0.0

    def step(self, wanted: float, below: float, above: float) -> float:
        """``below`` or ``above``, so that the mean of many steps is ``wanted``."""
        if above <= below:
            return below
        self._owed += wanted
        chosen = above if self._owed >= (below + above) / 2 else below
        self._owed = min(max(self._owed - chosen, below - above), above - below)
        return chosen


def around(wanted: float, steps: Sequence[float]) -> tuple[float, float]:
    """The nearest of ``steps`` below ``wanted`` and above it, for ``Dither``; twice the end if it lies outside."""
    below = max((step for step in steps if step <= wanted), default=min(steps))
    above = min((step for step in steps if step >= wanted), default=max(steps))
    return below, above
