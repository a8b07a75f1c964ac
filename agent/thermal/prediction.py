"""Where one zone will be, and how wrong such predictions have been."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from agent.config.sections.thermal import GovernorConfig
from agent.thermal.limits import HARD_ABOVE_SOFT_KELVIN, Limits
from agent.thermal.trend import Trend

HORIZON_S = 120.0
"""How far ahead a zone is predicted. With the governor's gains this damps a heat sink of ten minutes well, and keeps
the gain of the loop through the silicon (seconds, a few kelvin) below one half."""
MIN_MARGIN_KELVIN = 1.5
"""Smallest margin, however good the predictions are: half a kelvin from the throttling temperature to the hard
limit, and one from there to the soft one, six times the noise of a sensor that is read in steps of 1/32 degree."""
_WINDOW_S = 60.0
"""Readings that the slope is taken from: sensor noise of 0.15 K then moves the prediction by only 0.1 K."""
_SHORT_WINDOW_S = 20.0
"""A jump of the silicon leaves this window sooner: a cut needs both slopes to agree."""
_GAP_S = 10.0
_MAX_RISE_KELVIN = 15.0
"""Largest predicted rise: silicon jumps by some kelvin within seconds when work begins, and then rises slowly."""
_CHECKED_AFTER_S = 20.0
"""Age at which a prediction is compared with the reading: twice the time in which the governor acts."""
_ERROR_HALF_LIFE_S = 300.0
"""An error halves in this time: half a heat sink's time constant."""


@dataclass(frozen=True, slots=True)
class ZoneView:
    """One governed zone at the newest reading, degrees Celsius."""

    zone: str
    celsius: float
    predicted: float
    """Where both the long and the short slope lead."""
    cautious: float
    """Where the long slope leads, and at least the current temperature. Recovery uses it."""
    limits: Limits

    @property
    def excess(self) -> float:
        """How far the zone is, or will be, above its soft limit."""
        return self.cautious - self.limits.soft_celsius


def closer(limits: Limits, config: GovernorConfig, *, margin_kelvin: float) -> Limits:
    """``limits`` with ``margin_kelvin`` between soft limit and throttling temperature; unchanged if the soft limit is
    configured."""
    if config.soft_celsius != "auto":
        return limits
    soft = limits.throttle_celsius - min(margin_kelvin, config.margin_celsius)
    return replace(limits, soft_celsius=min(soft, limits.hard_celsius - HARD_ABOVE_SOFT_KELVIN))


class ZoneForecast:
    """The trend of one zone and its recent largest error. The margin starts at ``max_margin_kelvin``."""

    def __init__(self, zone: str, *, max_margin_kelvin: float) -> None:
        self._zone = zone
        self._max_margin = max_margin_kelvin
        self._long = Trend(window_s=_WINDOW_S, gap_s=_GAP_S)
        self._short = Trend(window_s=_SHORT_WINDOW_S, gap_s=_GAP_S)
        self._promised: deque[tuple[float, float]] = deque()
        self._error = max(0.0, max_margin_kelvin - MIN_MARGIN_KELVIN)
        self._is_distrusted = False

    @property
    def last_s(self) -> float:
        """When the newest reading was taken; minus infinity before the first."""
        return self._long.last_s

    @property
    def last(self) -> float:
        """The newest reading."""
        return self._long.last

    @property
    def margin_kelvin(self) -> float:
        """The smallest margin plus the recent largest error; at most the configured margin."""
        return self._max_margin if self._is_distrusted else min(self._max_margin, MIN_MARGIN_KELVIN + self._error)

    def distrust(self) -> None:
        """Keep the full margin from now on: the board throttles at a lower temperature than expected."""
        self._is_distrusted = True

    def add(self, taken_s: float, celsius: float) -> None:
        """Add one reading; the caller passes them in the order of time."""
        passed_s = taken_s - self._long.last_s
        if passed_s > _GAP_S:
            self._promised.clear()
        else:
            self._error *= 0.5 ** (passed_s / _ERROR_HALF_LIFE_S)
        self._long.add(taken_s, celsius)
        self._short.add(taken_s, celsius)
        while self._promised and taken_s >= self._promised[0][0]:
            self._error = max(self._error, self._short.fitted() - self._promised.popleft()[1])
        # From the long window, whose slope has the smallest noise; compared with a mean, not with one reading.
        self._promised.append((taken_s + _CHECKED_AFTER_S, self._long.fitted(_CHECKED_AFTER_S)))

    def view(self, limits: Limits) -> ZoneView:
        """The zone's view with ``limits``."""
        expected = min(self._long.fitted(HORIZON_S), self._long.fitted() + _MAX_RISE_KELVIN)
        soonest = min(expected, self._short.fitted(HORIZON_S))
        return ZoneView(self._zone, self.last, soonest, max(expected, self._long.fitted()), limits)
