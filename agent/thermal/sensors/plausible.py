"""Which readings of the zones to believe."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

MIN_CELSIUS = -40.0
MAX_CELSIUS = 125.0
"""Range of the silicon's own sensors; a value outside is a faulty reading."""

CONSTANT = "taken for a constant"
"""End of the reason for a zone that measures nothing, from any source."""

_ROUND_CELSIUS = 10.0
_CONSTANT_ABOVE_KELVIN = 25.0

_STUCK_MOVED_KELVIN = 8.0
_STUCK_AFTER_S = 60.0
"""Stuck: a reading that has not changed in any digit while the rest of the board moved this far for this long."""


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
    """A zone that has not changed since ``since_s``, and the other zones meanwhile."""

    celsius: float
    since_s: float
    others_celsius: float | None
    others_moved_since_s: float | None = None


class ZoneCheck:
    """Keeps the history needed to find a stuck sensor; one per source, used by one thread."""

    def __init__(self) -> None:
        self._still: dict[str, _Standstill] = {}
        self._alive: set[str] = set()
        self._first: dict[str, float] = {}

    def check(
        self, readings: Mapping[str, float], now_s: float, *, doubtful: AbstractSet[str] = frozenset()
    ) -> tuple[dict[str, float], dict[str, str]]:
        """Split ``readings`` (degrees Celsius by zone) into plausible ones and, by zone, the reasons against the
        others.

        ``doubtful`` names zones without any trip point, whose round values may be constants.
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
        # Forget zones that cannot be read: what they did meanwhile is unknown.
        self._still = {zone: still for zone, still in self._still.items() if zone in good}
        for zone, reason in [(zone, self._why_stuck(zone, good, now_s)) for zone in good]:
            if reason is not None:
                absent[zone] = reason
                del good[zone]
        return good, absent

    def _is_constant(self, zone: str, readings: Mapping[str, float]) -> bool:
        """A round value that never changed and is far above all other zones, such as the PMIC's 100 degrees."""
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
