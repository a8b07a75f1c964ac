"""Whether a figure meets its bar, given the measurement and the other load of the machine."""

from __future__ import annotations

import math
import os
import resource
import time
from dataclasses import dataclass

from agent.tools.benchmark.conditions import processor_s
from agent.tools.benchmark.judge import BUSY_RATIO, TOO_BUSY_RATIO


@dataclass(frozen=True, slots=True)
class Load:
    """Shares of all cores during a measurement: used by other programs, and stolen by the hypervisor."""

    others_ratio: float
    stolen_ratio: float = 0.0

    @property
    def problem(self) -> str | None:
        """Why figures of this measurement must not be used; None if they may."""
        if self.others_ratio > TOO_BUSY_RATIO:
            return f"other programs took {self.others_ratio:.0%} of the processor"
        if self.stolen_ratio > BUSY_RATIO:
            return f"the hypervisor gave {self.stolen_ratio:.0%} of the processor to others"
        return None

    @property
    def words(self) -> str:
        """Text for the header of a table."""
        return f"other programs took {self.others_ratio:.1%} of the processor, the hypervisor {self.stolen_ratio:.1%}"


ANY_LOAD = Load(0.0)
"""For rows that count instead of timing: other load does not matter."""


class LoadWatch:
    """Measures the load of other programs from now on, without this process and its reaped children."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._busy_s, self._stolen_s = processor_s()
        self._own_s = _own_cpu_s()

    def load(self) -> Load:
        """Return the load since the start; children started since then must have ended."""
        busy_s, stolen_s = processor_s()
        available_s = max(time.monotonic() - self._began_s, 1e-9) * (os.cpu_count() or 1)
        others_s = busy_s - self._busy_s - (_own_cpu_s() - self._own_s)
        return Load(
            others_ratio=min(max(others_s / available_s, 0.0), 1.0),
            stolen_ratio=min(max((stolen_s - self._stolen_s) / available_s, 0.0), 1.0),
        )


def _own_cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """The limit for a figure: ``measured`` at most ``limit``, with ``is_minimum`` at least that.

    The percentile is judged only if ``runs`` reaches ``needed_runs``. ``floor`` is what the bare library
    took in the same rounds: where that alone misses the bar, the verdict says so. ``pace`` is how many times as long
    this processor takes as the one for which a time was promised; what holds only at that pace says so.
    """

    measured: float
    limit: float
    unit: str
    is_minimum: bool = False
    runs: int = 1
    needed_runs: int = 0
    floor: float | None = None
    pace: float = 1.0

    @property
    def holds(self) -> bool:
        """Whether the bar is met, regardless of other load."""
        return self._keeps(self.measured)

    def _keeps(self, value: float) -> bool:
        return value >= self.limit if self.is_minimum else value <= self.limit

    def _at_pace(self) -> str | None:
        """The verdict if the bar is met at this processor's pace."""
        limit = self.limit * self.pace
        if self.is_minimum or self.pace <= 1.0 or self.measured > limit:
            return None
        return (
            f"holds at this processor's pace: {_short(self.measured)} of {_short(limit)} {self.unit}, "
            f"{self.pace:.2f} times {_short(self.limit)}"
        )

    def verdict(self, load: Load) -> str:
        """In words: holds, missed, or not decided by this run."""
        if load.problem is not None:
            return f"not to be judged: {load.problem}"
        if math.isnan(self.measured):
            return "not to be judged: nothing was measured"
        if self.runs < self.needed_runs:
            return f"not to be judged: {self.runs} of {self.needed_runs} runs"
        if self.holds:
            return "holds"
        at_pace = self._at_pace()
        if at_pace is not None:
            return at_pace
        missed = f"missed: {_short(self.measured)} against {_short(self.limit)} {self.unit}".rstrip()
        if self.pace > 1.0:
            missed += f", at this processor's pace {_short(self.limit * self.pace)}"
        if self.floor is not None and not self._keeps(self.floor):
            return f"{missed}; the floor alone takes {_short(self.floor)}"
        return missed


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table of single bars. Without a ``bar`` it is only shown; several bars must all be met."""

    name: str
    figure: str
    floor: str
    wanted: str
    bars: tuple[Bar, ...] = ()
    load: Load | None = None
    """Load while this row was measured; None: that of the whole part."""


def verdict_of(row: Row, load: Load) -> str:
    """Return the verdict of the first bar that is missed, else of the first that is met only in part."""
    verdicts = [bar.verdict(row.load or load) for bar in row.bars]
    verdicts.sort(key=lambda one: (one.startswith("holds"), one == "holds"))
    return verdicts[0] if verdicts else "–"


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Two harnesses on one session: the median of the ratios of their rounds, with its confidence interval."""

    value: float
    low: float
    high: float
    within: float = 0.03

    def verdict(self, load: Load) -> str:
        """It holds where the whole interval is inside the bar, is missed where it is outside, else it is open."""
        if load.problem is not None:
            return f"not to be judged: {load.problem}"
        if 1 - self.within <= self.low and self.high <= 1 + self.within:
            return "holds"
        if self.low > 1 + self.within or self.high < 1 - self.within:
            return f"missed: {self.value:.3f} against 1 ± {self.within:g}"
        return f"not to be judged: the interval {self.low:.3f} to {self.high:.3f} is wider than 1 ± {self.within:g}"
