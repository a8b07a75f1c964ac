"""What the governor decides, as a record and as one line of text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from agent.thermal.levers import NOTHING_MOVED, LeverLevels, LeverName

GovernorState = Literal["off", "free", "reduced", "paused", "blind"]
Cause = Literal["heat", "over_current", "power_cap", "power_budget", "no_temperature"]
"""Why work is cut: a zone that is or will be too hot, the board's own throttling by over-current or a power cap, the
configured budget, or that no temperature is known."""


@dataclass(frozen=True, slots=True)
class GovernorDecision:
    """Valid from ``decided_at_ns`` (monotonic) on.

    ``ratio`` is the share of the configured rate that may be classified, 0 when ``paused``; ``levels`` are the levels
    of all levers. ``changed`` is True on the decision that changed a level or the state. ``reason`` and ``cause``
    belong to the last change; ``cause`` is None if nothing is cut. ``zone`` is the one closest to its limit, and the
    temperatures are its own.
    """

    ratio: float
    paused: bool
    state: GovernorState
    reason: str
    changed: bool
    previous_ratio: float
    decided_at_ns: int
    zone: str | None = None
    celsius: float | None = None
    predicted_celsius: float | None = None
    soft_celsius: float | None = None
    hard_celsius: float | None = None
    margin_kelvin: float | None = None
    """Distance from its soft limit up to the temperature at which the board is expected to throttle."""
    levels: LeverLevels = NOTHING_MOVED
    previous_levels: LeverLevels = NOTHING_MOVED
    cause: Cause | None = None

    @property
    def summary(self) -> str:
        """One short line: what is cut, and why. For a terminal or `systemctl status`."""
        if self.state == "off":
            return "governor off"
        if self.state == "blind":
            return f"rate held to {self.ratio:.0%}: no temperature"
        where = ""
        if self.zone is not None and self.celsius is not None and self.soft_celsius is not None:
            where = f"{self.zone} at {self.celsius:.1f} °C, limit {self.soft_celsius:.1f}"
        if self.paused:
            return f"inference paused: {where}"
        if self.state == "free":
            return f"full rate: {where}" if where else "full rate"
        why = where if self.cause in ("heat", None) and where else _CAUSES.get(self.cause or "heat", "heat")
        return f"{self.cut}: {why}"

    @property
    def cut(self) -> str:
        """What is cut, in words: ``clocks held to 67%, rate cut to 40%``."""
        parts: dict[LeverName, str] = {
            "batches": "larger batches",
            "engine": "a cooler engine",
            "clocks": f"clocks held to {self.levels.clock_ratio:.0%}",
            "rate": f"rate cut to {self.ratio:.0%}",
        }
        engaged = self.levels.engaged
        # Name the levers that cost something; the cheap ones only if no other is engaged.
        named = tuple(name for name in engaged if name in ("clocks", "rate")) or engaged
        return ", ".join(parts[name] for name in named) or "nothing cut"


_CAUSES: Mapping[Cause, str] = {
    "heat": "heat",
    "over_current": "over-current",
    "power_cap": "the board's power cap",
    "power_budget": "power budget",
    "no_temperature": "no temperature",
}
