"""Which readings of the zones are numbers and which are lies."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

MIN_CELSIUS = -40.0
MAX_CELSIUS = 125.0
"""Range of the silicon's own sensors; anything outside is a sensor that lies."""

CONSTANT = "taken for a constant"
"""End of the reason of a zone that measures nothing, by whichever source it is read."""

_ROUND_CELSIUS = 10.0
_CONSTANT_ABOVE_KELVIN = 25.0

_STUCK_MOVED_KELVIN = 8.0
_STUCK_AFTER_S = 60.0
"""A reading that stays the same to the last digit while the rest of the board has moved this far for this long."""


def why_not_a_temperature(celsius: float) -> str | None:
    """Why ``celsius`` cannot be what a zone measures, or None when it can."""
    if celsius <= -255.0:
        return f"reads {celsius:g} degrees: offline"
    if celsius == 0.0:
        return "reads exactly 0 degrees: not measuring"
    if not MIN_CELSIUS <= celsius <= MAX_CELSIUS:  # also refuses NaN
        return f"reads {celsius:g} degrees: outside {MIN_CELSIUS:g} to {MAX_CELSIUS:g}"
    return None


@dataclass(slots=True)
class _Standstill:
    """One zone that has not changed since ``since_s``, and what the others did meanwhile."""

    celsius: float
    since_s: float
    others_celsius: float | None
    others_moved_since_s: float | None = None


class ZoneCheck:
    """Keeps the memory that finding a stuck sensor needs; one per source, used by one thread."""

    def __init__(self) -> None:
        self._still: dict[str, _Standstill] = {}
        self._alive: set[str] = set()
        self._first: dict[str, float] = {}

    def check(
        self, readings: Mapping[str, float], now_s: float, *, doubtful: AbstractSet[str] = frozenset()
    ) -> tuple[dict[str, float], dict[str, str]]:
        """Split ``readings`` (degrees Celsius by zone) into those to believe and, by zone, why not the others.

        ``doubtful`` names zones without any trip point, of which a round value may be a constant.
        """
        absent: dict[str, str] = {}
        good: dict[str, float] = {}
        for zone, celsius in readings.items():
            reason = why_not_a_temperature(celsius)
            if reason is None:
                good[zone] = celsius
            else:
                absent[zone] = reason
        for zone in [zone for zone in good if zone in doubtful]:
            if self._is_constant(zone, good):
                absent[zone] = f"reads {good.pop(zone):g} degrees without change: {CONSTANT}"
        # What a zone did while it could not be read is not known.
        self._still = {zone: still for zone, still in self._still.items() if zone in good}
        for zone, reason in [(zone, self._why_stuck(zone, good, now_s)) for zone in good]:
            if reason is not None:
                absent[zone] = reason
                del good[zone]
        return good, absent

    def _is_constant(self, zone: str, readings: Mapping[str, float]) -> bool:
        """A round value that never changed and that no other zone comes near: the PMIC's 100 degrees, for one."""
        celsius = readings[zone]
        if celsius != self._first.setdefault(zone, celsius):
            self._alive.add(zone)
        others = max((value for name, value in readings.items() if name != zone), default=None)
        is_lonely = others is not None and celsius - others >= _CONSTANT_ABOVE_KELVIN
        return zone not in self._alive and is_lonely and celsius % _ROUND_CELSIUS == 0.0

    def _why_stuck(self, zone: str, readings: Mapping[str, float], now_s: float) -> str | None:
        celsius = readings[zone]
        others = max((value for name, value in readings.items() if name != zone), default=None)
        still = self._still.get(zone)
        if still is None or still.celsius != celsius or still.others_celsius is None or others is None:
            self._still[zone] = _Standstill(celsius, now_s, others)
            return None
        if abs(others - still.others_celsius) < _STUCK_MOVED_KELVIN:
            still.others_moved_since_s = None
            return None
        if still.others_moved_since_s is None:
            still.others_moved_since_s = now_s
        if now_s - still.others_moved_since_s < _STUCK_AFTER_S:
            return None
        return (
            f"stuck at {celsius:g} degrees for {now_s - still.since_s:.0f} s while the other zones moved from "
            f"{still.others_celsius:.1f} to {others:.1f}"
        )
