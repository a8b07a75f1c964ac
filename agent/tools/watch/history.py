"""A device's temperature and rate over the last while, and the small curves that show them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from agent.tools.watch.documents import Document

CELLS = 40
STEP_S = 2.0
"""One cell of a curve; the whole of it shows the last 80 seconds."""

_LEVELS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Moment:
    """What held at one time; None where it was not told."""

    celsius: float | None
    limit_celsius: float | None
    rate_ratio: float


class History:
    """Remembers one moment for each step of time; a later message in the same step replaces it."""

    def __init__(self) -> None:
        self._moments: deque[tuple[int, Moment]] = deque(maxlen=CELLS)

    def add(self, thermal: Document, now_s: float) -> None:
        """Take one `thermal` message that arrived at ``now_s`` (monotonic)."""
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
        """One for each step up to ``now_s``, the oldest first: what was said last holds until something else is."""
        now_step = int(now_s / STEP_S)
        filled: list[Moment] = []
        for index, (step, moment) in enumerate(self._moments):
            until = self._moments[index + 1][0] if index + 1 < len(self._moments) else now_step + 1
            filled += [moment] * min(max(until - step, 1), CELLS)
        return filled[-CELLS:]


def curve(values: Sequence[float | None], low: float, high: float) -> str:
    """One character for each value, from ``low`` (empty) to ``high`` (full); a gap where there is none."""
    span = max(high - low, 1e-9)
    top = len(_LEVELS) - 1
    return "".join(
        " " if value is None else _LEVELS[min(max(round((value - low) / span * top), 0), top)] for value in values
    )
