"""Over-current counters: each event lowers the clocks for a moment, at any temperature."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.thermal.sensors.files import amount_or_none

_COUNTER = re.compile(r"(oc\d+)_event_cnt")
"""Source: NVIDIA's driver tegra23x-oc-event (Orin): hwmon ``soctherm_oc`` with ``ocN_event_cnt`` and ``ocN_throt_en``
for oc1 to oc3. According to a user's report on an Orin Nano Super: oc1 is a low input voltage, oc2 too much mean
power, oc3 too much power for a moment."""

_WINDOW_S = 3.0
"""Shortest time that rates are taken over; a counter that has not moved for this long no longer throttles. Source: in
the same report the counters were updated about every 2 seconds."""


@dataclass(slots=True)
class _Counter:
    path: Path
    enabled: Path
    seen: deque[tuple[float, int]] = field(default_factory=deque)
    """Time and count; the oldest is at least ``_WINDOW_S`` old, once there is one."""


@dataclass(frozen=True, slots=True)
class OverCurrentReading:
    """Counts and rates by counter. ``throttles`` has a text for each that grows and is allowed to lower clocks."""

    events: dict[str, int]
    hz: dict[str, float]
    throttles: dict[str, str]


class OverCurrentMeter:
    """Counters of NVIDIA's ``soctherm_oc`` and of any hwmon device with such files. Used by one thread."""

    def __init__(self) -> None:
        self._counters: dict[str, _Counter] = {}

    def look(self, hwmons: Sequence[Path]) -> None:
        """Find the counters again; the history of those that still exist is kept."""
        found: dict[str, _Counter] = {}
        for hwmon in hwmons:
            folder = hwmon if _names(hwmon) else hwmon / "device"
            for stem in _names(folder):
                name, count = stem, 1
                while name in found:
                    count += 1
                    name = f"{stem}.{count}"
                path = folder / f"{stem}_event_cnt"
                known = self._counters.get(name)
                is_known = known is not None and known.path == path
                found[name] = known if known is not None and is_known else _Counter(path, folder / f"{stem}_throt_en")
        self._counters = found

    def read(self, now_s: float) -> OverCurrentReading:
        """Counts, and their rates over about ``_WINDOW_S``; no rate at the first reading of a counter."""
        reading = OverCurrentReading({}, {}, {})
        for name, counter in self._counters.items():
            count = amount_or_none(counter.path)
            if count is None:
                counter.seen.clear()
                continue
            reading.events[name] = int(count)
            rate = _rate(counter.seen, now_s, int(count))
            if rate is None:
                continue
            reading.hz[name] = rate
            # Without a readable switch assume that it throttles: a false warning costs less than a missed one.
            if rate > 0.0 and amount_or_none(counter.enabled) != 0:
                reading.throttles[name] = f"{name} +{rate:.3g} events/s"
        return reading


def _rate(seen: deque[tuple[float, int]], now_s: float, count: int) -> float | None:
    """Events per second. A lower count than the last one (wrap, reset) starts the rate again."""
    if seen and (count < seen[-1][1] or now_s < seen[-1][0]):
        seen.clear()
    seen.append((now_s, count))
    while len(seen) > 2 and now_s - seen[1][0] >= _WINDOW_S:
        seen.popleft()
    began_s, began = seen[0]
    return None if now_s <= began_s else (count - began) / (now_s - began_s)


def _names(folder: Path) -> list[str]:
    try:
        matches = [_COUNTER.fullmatch(path.name) for path in folder.iterdir()]
    except OSError:
        return []
    return sorted(match[1] for match in matches if match)
