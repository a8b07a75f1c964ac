"""How long frames spent in each stage, in buckets that only grow."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from agent.runtime.records import StageTimes

STAGES = ("capture", "queue", "preprocess", "infer", "decide", "total")
BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds in seconds: from a decision on a workstation to a large model on a hot board."""


class StageHistograms:
    """Durations by model and stage since the start of the agent. From any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], list[int]] = {}
        self._sums_s: dict[tuple[str, str], float] = {}

    def observe(self, model: str, times: Sequence[StageTimes]) -> None:
        """Add the frames that ``model`` classified."""
        with self._lock:
            for one in times:
                for stage in STAGES:
                    self._add((model, stage), getattr(one, f"{stage}_ms") / 1e3)

    def _add(self, key: tuple[str, str], seconds: float) -> None:
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = [0] * (len(BOUNDS_S) + 1)
        counts[bisect_left(BOUNDS_S, seconds)] += 1
        self._sums_s[key] = self._sums_s.get(key, 0.0) + seconds

    def snapshot(self) -> Iterator[tuple[str, str, list[tuple[str, float]], float]]:
        """Model, stage, cumulative buckets as Prometheus has them (upper bound as text, count), sum in seconds."""
        bounds = [*(str(one) for one in BOUNDS_S), "+Inf"]
        with self._lock:
            found = [(key, [*accumulate(counts)], self._sums_s[key]) for key, counts in self._counts.items()]
        for (model, stage), counts, sum_s in found:
            yield model, stage, [(bound, float(count)) for bound, count in zip(bounds, counts, strict=True)], sum_s
