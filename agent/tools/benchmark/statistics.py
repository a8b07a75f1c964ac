"""Statistics of measured times, and the number of runs that each percentile needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from engines import percentile, rank_of

REQUIRED_RUNS: Mapping[str, int] = MappingProxyType({"p90": 64, "p95": 130, "p99": 662})
"""Runs needed to know a percentile with 99 % confidence. Source: MLPerf LoadGen, early stopping."""

_PERCENTS = MappingProxyType({"p50": 50, "p90": 90, "p95": 95, "p99": 99})
_RESAMPLES = 1000
_CONFIDENCE = 0.99

Times = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The times of one case, in milliseconds; nothing is clipped and nothing interpolated.

    ``sd_ms`` is of the population. ``too_few`` names the percentiles for which ``n`` is too small.
    """

    n: int
    min_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    mean_ms: float
    sd_ms: float
    too_few: tuple[str, ...] = ()

    @property
    def variation_ratio(self) -> float:
        """Standard deviation over mean."""
        return self.sd_ms / self.mean_ms if self.mean_ms > 0 else 0.0


def spread_of(times_ns: Sequence[int]) -> Spread:
    """Describe measured times.

    Raises:
        ValueError: there are none.
    """
    if not times_ns:
        raise ValueError("no times were measured")
    ordered = sorted(times_ns)
    mean_ns = math.fsum(ordered) / len(ordered)
    sd_ns = math.sqrt(math.fsum((one - mean_ns) ** 2 for one in ordered) / len(ordered))
    return Spread(
        n=len(ordered),
        min_ms=ordered[0] / 1e6,
        max_ms=ordered[-1] / 1e6,
        mean_ms=mean_ns / 1e6,
        sd_ms=sd_ns / 1e6,
        too_few=tuple(name for name, runs in REQUIRED_RUNS.items() if len(ordered) < runs),
        **{f"{name}_ms": percentile(ordered, percent) / 1e6 for name, percent in _PERCENTS.items()},
    )


@dataclass(frozen=True, slots=True)
class Ratio:
    """The ratio of two measurements with its 99 % confidence interval."""

    value: float
    low: float
    high: float

    @property
    def is_different(self) -> bool:
        """Whether 1 lies outside the interval."""
        return not self.low <= 1.0 <= self.high


Rounds = Sequence[Sequence[float]]
"""Times by round. Heat and other programs change between rounds, and so between measurements."""


def ratio_of(rounds: Rounds, other: Rounds, *, percent: int = 50, seed: int = 1) -> Ratio:
    """Compare a percentile of ``rounds`` with that of ``other``: other over rounds.

    The interval is a bootstrap in two steps: rounds are drawn with replacement, then times within each. Drawing
    single times would ignore slow drift between rounds, and two runs of the same engine would look different.

    Raises:
        ValueError: one of them holds no time.
    """
    first, second = _filled(rounds), _filled(other)
    random = np.random.default_rng(seed)
    value = _percentile(np.concatenate(second), percent) / _percentile(np.concatenate(first), percent)
    drawn = np.array(
        [
            _percentile(_redrawn(second, random), percent) / _percentile(_redrawn(first, random), percent)
            for _ in range(_RESAMPLES)
        ]
    )
    low, high = np.quantile(drawn, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return Ratio(float(value), float(min(low, value)), float(max(high, value)))


def _filled(rounds: Rounds) -> list[Times]:
    filled = [np.asarray(one, np.float64) for one in rounds if len(one)]
    if not filled:
        raise ValueError("a measurement without times cannot be compared")
    return filled


def _redrawn(rounds: list[Times], random: np.random.Generator) -> Times:
    chosen = random.integers(0, len(rounds), len(rounds))
    return np.concatenate([rounds[one][random.integers(0, len(rounds[one]), len(rounds[one]))] for one in chosen])


def _percentile(times: Times, percent: int) -> float:
    # Without sorting: this runs thousands of times per ratio.
    rank = rank_of(len(times), percent)
    return float(np.partition(times, rank)[rank])
