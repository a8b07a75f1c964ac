"""Percentiles by nearest rank: the only definition in this program.

The percentile P of n sorted values is the value at rank ``ceil(n * P / 100)``, counted from 1: the smallest value that
at least P % of all values do not exceed. Of 1, 2 ... 100 ms, p50 is 50 ms and p99 is 99 ms.

Every result is a time that really occurred. Interpolation would give a value in the gap between normal and slow
calls, which is where p99 lies.

Source: Hyndman and Fan, Sample Quantiles in Statistical Packages, The American Statistician 50 (1996), definition 1;
``numpy.percentile(..., method="inverted_cdf")``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Number = TypeVar("Number", int, float)


def rank_of(count: int, percent: int) -> int:
    """Return the index, from 0, of a percentile in ``count`` sorted values.

    Raises:
        ValueError: no values, or ``percent`` is not 0 to 100.
    """
    if count < 1:
        raise ValueError("there are no values to take a percentile of")
    if not 0 <= percent <= 100:
        raise ValueError(f"a percentile lies between 0 and 100, but {percent} does not")
    # In integers: as floats, 100 * 0.07 is a little above 7, and its ceiling would be one rank too high.
    return max(-(-count * percent // 100) - 1, 0)


def percentile(ordered: Sequence[Number], percent: int) -> Number:
    """Return a percentile of sorted values, smallest first.

    Raises:
        ValueError: see ``rank_of``.
    """
    return ordered[rank_of(len(ordered), percent)]
