"""A device's temperature and rate over the last 80 seconds, as sparklines."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from agent.tools.watch.documents import Document

CELLS = 40
STEP_S = 2.0
"""Time per cell of a sparkline; its 40 cells show the last 80 seconds."""

_LEVELS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Moment:
    """Values at one time; None if not reported."""

    celsius: float | None
    limit_celsius: float | None
    rate_ratio: float


class History:
    """Keeps one moment per time step; a later message in the same step replaces it."""

    def __init__(self) -> None:
        self._moments: deque[tuple[int, Moment]] = deque(maxlen=CELLS)

    def add(self, thermal: Document, now_s: float) -> None:
        """Add one `thermal` message that arrived at ``now_s`` (monotonic)."""
        zone = thermal.text("governor", "zone") or thermal.text("hottest")
        moment = Moment(
            celsius=thermal.number("zones", zone, "celsius") if zone else None,
            limit_celsius=thermal.number("zones", zone, "soft_celsius") if zone else None,
            rate_ratio=thermal.number("governor", "rate_ratio") or 0.0,
        )
        step = int(now_s / STEP_S)
        if self._moments and self._moments[-1][0] == step:
            self._moments.pop()
        self._moments.append((step, moment))

    def moments(self, now_s: float) -> list[Moment]:
        """One moment per step up to ``now_s``, oldest first; a value holds until the next message."""
        now_step = int(now_s / STEP_S)
        filled: list[Moment] = []
        for index, (step, moment) in enumerate(self._moments):
            until = self._moments[index + 1][0] if index + 1 < len(self._moments) else now_step + 1
            filled += [moment] * min(max(until - step, 1), CELLS)
        return filled[-CELLS:]


def curve(values: Sequence[float | None], low: float, high: float) -> str:
    """One character per value, from ``low`` (empty) to ``high`` (full); a blank for None."""
    span = max(high - low, 1e-9)
    top = len(_LEVELS) - 1
    return "".join(
        " " if value is None else _LEVELS[min(max(round((value - low) / span * top), 0), top)] for value in values
    )
