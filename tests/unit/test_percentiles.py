"""One definition of a percentile: every place that shows one gives the same figure for the same run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.commands.handlers import benchmark_figures
from agent.runtime.statistics import percentiles
from agent.telemetry.reports import percentiles as message_percentiles
from agent.tools.benchmark.statistics import spread_of
from agent.tools.watch.documents import Document
from agent.tools.watch.fleet import ClassifierView
from engines.percentiles import percentile, rank_of
from scripts.performance.quality_rows import us

_ROOT = Path(__file__).parents[2]


def _everywhere(times_ms: list[float]) -> dict[str, tuple[float, float, float]]:
    """p50, p99 and the longest time of one run, as each part of the program shows them."""
    message = message_percentiles(times_ms)
    assert message is not None
    view = ClassifierView()
    for place, one in enumerate(times_ms):
        view.add_result(Document({"label": "x", "latency_ms": {"total": one}}), now_s=place / 1000)
    watched = [view.latency_ms(1.0, percent) for percent in (50, 99, 100)]
    command = benchmark_figures(times_ms)
    times_ns = [round(one * 1e6) for one in times_ms]
    spread = spread_of(times_ns)
    figures: dict[str, tuple[float | object | None, ...]] = {
        "message": (message.p50, message.p99, message.max),
        "watch": tuple(watched),
        "command": (command["p50_ms"], command["p99_ms"], command["max_ms"]),
        "benchmark": (spread.p50_ms, spread.p99_ms, spread.max_ms),
        "script": (us(times_ns) / 1e3, us(times_ns, 99) / 1e3, us(times_ns, 100) / 1e3),
    }
    return {name: tuple(round(float(str(one)), 3) for one in values) for name, values in figures.items()}  # type: ignore[misc]  # three each


@pytest.mark.parametrize(
    ("count", "expected"), [(100, (50.0, 99.0, 100.0)), (1, (1.0, 1.0, 1.0)), (101, (51.0, 100.0, 101.0))]
)
def test_messages_watch_command_benchmark_and_scripts_agree(count: int, expected: tuple[float, float, float]) -> None:
    times_ms = [float(one) for one in np.random.default_rng(1).permutation(np.arange(1, count + 1))]
    assert _everywhere(times_ms) == dict.fromkeys(("message", "watch", "command", "benchmark", "script"), expected)


@given(st.lists(st.integers(0, 10**9), min_size=1), st.integers(0, 100))
def test_a_percentile_is_a_measured_time_that_enough_others_do_not_exceed(times: list[int], percent: int) -> None:
    (value,) = percentiles(times, (percent,))
    assert value in times
    assert sum(one <= value for one in times) * 100 >= percent * len(times)
    assert sum(one < value for one in times) * 100 < max(percent, 1) * len(times)


@given(st.integers(1, 3000), st.integers(0, 100))
def test_the_rank_is_exact_where_floats_are_not(count: int, percent: int) -> None:
    rank = rank_of(count, percent)
    assert 0 <= rank < count
    assert (rank + 1) * 100 >= percent * count
    assert rank == 0 or rank * 100 < percent * count


def test_seven_percent_of_a_hundred_is_the_seventh_value() -> None:
    assert percentile(range(1, 101), 7) == 7


def test_no_values_and_no_percent_are_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentiles([], (50,))
    with pytest.raises(ValueError, match="between 0 and 100, but 101"):
        percentiles([1.0], (101,))


def test_nothing_else_computes_percentiles_of_times() -> None:
    """NumPy interpolates by default; only the intervals of ratios may (they are no times)."""
    found = {
        str(path.relative_to(_ROOT))
        for folder in ("agent", "engines", "scripts")
        for path in (_ROOT / folder).rglob("*.py")
        if re.search(
            r"\bnp\.(percentile|quantile)\(|statistics\.quantiles\(|len\(\w+\) \* 0\.\d", path.read_text("utf-8")
        )
    }
    assert found == {"agent/tools/benchmark/statistics.py", "scripts/performance/loadgen_agreement.py"}
