"""The cases of each scenario: what runs, and for how long.

Source of the lengths: MLPerf Inference rules, scenarios SingleStream, MultiStream and Offline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agent.tools.benchmark.statistics import REQUIRED_RUNS

Scenario = Literal["latency", "single_stream", "multi_stream", "offline", "pipeline", "soak"]
SCENARIOS: tuple[Scenario, ...] = ("latency", "single_stream", "multi_stream", "offline", "pipeline", "soak")
ENGINE_SCENARIOS: tuple[Scenario, ...] = ("latency", "single_stream", "multi_stream", "offline", "soak")

Mode = Literal["paced", "closed"]
Percentile = Literal["p50", "p90", "p99"]

MULTI_STREAM_SAMPLES = 8
_FULL_QUERIES, _FULL_CLOSED_S = 700, 10.0
_QUICK_QUERIES, _QUICK_CLOSED_S = 130, 2.0
_MLPERF_S = 600.0
_OFFLINE_SAMPLES = 24_576
SOAK_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way of calling an engine.

    A query is ``samples`` images, given in calls of at most ``batch``. Mode ``paced`` makes ``fps`` queries a second,
    ``closed`` makes them back to back. It ends when both ``min_duration_s`` and ``min_queries`` are reached.
    ``headline`` is the percentile that decides; ``is_short`` marks a run that is shorter than the rules require.
    """

    scenario: Scenario
    mode: Mode
    batch: int
    samples: int
    min_duration_s: float
    min_queries: int
    headline: Percentile
    fps: float | None = None
    is_short: bool = False
    part: Literal["", "burst", "sustained"] = ""
    """Of a soak: its first seconds, and its end at a steady temperature."""

    @property
    def name(self) -> str:
        """The name shown in tables."""
        pace = f"paced {self.fps:g} fps" if self.fps is not None else "closed"
        size = f", batch {self.batch}" if self.batch > 1 else ""
        scenario = "" if self.scenario == "latency" else f"{self.scenario} "
        return f"{scenario}{self.part or pace}{size}"

    @property
    def expected_s(self) -> float:
        """The least time that it takes, for the progress bar."""
        return max(self.min_duration_s, self.min_queries / self.fps if self.fps else 0.0)


def cases_of(
    scenarios: Sequence[Scenario], batches: Sequence[int], *, fps: float, is_quick: bool, share_s: float = math.inf
) -> tuple[Case, ...]:
    """Lay out the cases of ``scenarios``, the paced one first because it is the headline.

    ``share_s`` is how long the scenario ``latency`` may take on each engine; it is never shorter than if quick.
    """
    cases: list[Case] = []
    for scenario in scenarios:
        if scenario == "latency":
            cases += _latency_cases(batches, fps=fps, is_quick=is_quick, share_s=share_s)
        elif scenario == "soak":
            cases.append(_closed("soak", 1, 1, 20.0 if is_quick else SOAK_S, 662, "p99", is_short=is_quick))
        elif scenario != "pipeline":
            cases.append(_mlperf_case(scenario, max(batches), is_quick=is_quick))
    return tuple(cases)


def _latency_cases(batches: Sequence[int], *, fps: float, is_quick: bool, share_s: float) -> list[Case]:
    full_s = _FULL_QUERIES / fps + _FULL_CLOSED_S * len(batches)
    part = min(1.0, share_s / full_s)
    queries, length_s = max(_QUICK_QUERIES, int(_FULL_QUERIES * part)), max(_QUICK_CLOSED_S, _FULL_CLOSED_S * part)
    if is_quick:
        queries, length_s = _QUICK_QUERIES, _QUICK_CLOSED_S
    is_short = queries < REQUIRED_RUNS["p99"]
    headline: Percentile = "p90" if is_short else "p99"
    paced = Case(
        scenario="latency",
        mode="paced",
        batch=1,
        samples=1,
        fps=fps,
        min_duration_s=queries / fps,
        min_queries=queries,
        headline=headline,
        is_short=is_short,
    )
    return [
        paced,
        *(_closed("latency", size, size, length_s, queries, headline, is_short=is_short) for size in batches),
    ]


def _mlperf_case(scenario: Scenario, largest_batch: int, *, is_quick: bool) -> Case:
    length_s = 5.0 if is_quick else _MLPERF_S
    if scenario == "single_stream":
        return _closed(scenario, 1, 1, length_s, 64, "p90", is_short=is_quick)
    if scenario == "multi_stream":
        samples = MULTI_STREAM_SAMPLES
        return _closed(scenario, samples, samples, length_s, 130 if is_quick else 662, "p99", is_short=is_quick)
    queries = 1 if is_quick else -(-_OFFLINE_SAMPLES // largest_batch)
    return _closed("offline", largest_batch, largest_batch, length_s, queries, "p50", is_short=is_quick)


def _closed(
    scenario: Scenario,
    batch: int,
    samples: int,
    length_s: float,
    queries: int,
    headline: Percentile,
    *,
    is_short: bool,
) -> Case:
    return Case(
        scenario=scenario,
        mode="closed",
        batch=batch,
        samples=samples,
        min_duration_s=length_s,
        min_queries=queries,
        headline=headline,
        is_short=is_short,
    )
