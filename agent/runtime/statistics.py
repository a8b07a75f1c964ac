"""Percentiles of measured times, for messages, ``agent watch``, commands, the benchmark and scripts alike.

The definition (nearest rank) and its source are in ``engines.percentiles``, because engines are selected by it and
``engines`` never imports ``agent``. Nothing else in the program computes a percentile of times.
"""

from __future__ import annotations

from collections.abc import Sequence

from engines import Number, percentile


def percentiles(values: Sequence[Number], percents: Sequence[int]) -> tuple[Number, ...]:
    """Percentiles of ``values`` in any order and unit: (50, 99) gives p50 and p99 in that unit.

    Raises:
        ValueError: there are no values, or a percent is not 0 to 100.
    """
    ordered = sorted(values)
    return tuple(percentile(ordered, percent) for percent in percents)
