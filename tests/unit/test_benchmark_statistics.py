"""What is said about measured times."""

from __future__ import annotations

import pytest

from agent.tools.benchmark.statistics import ratio_of, spread_of
from tests.fixtures.benchmark_reports import made_up_rounds


def test_percentiles_are_times_that_were_measured() -> None:
    spread = spread_of([n * 1_000_000 for n in range(1, 101)])
    assert (spread.p50_ms, spread.p90_ms, spread.p95_ms, spread.p99_ms) == (50.0, 90.0, 95.0, 99.0)
    assert (spread.min_ms, spread.max_ms, spread.mean_ms) == (1.0, 100.0, 50.5)


@pytest.mark.parametrize(
    ("runs", "marked"),
    [(63, ("p90", "p95", "p99")), (64, ("p95", "p99")), (130, ("p99",)), (661, ("p99",)), (662, ())],
)
def test_percentiles_of_too_few_runs_are_marked(runs: int, marked: tuple[str, ...]) -> None:
    assert spread_of([1_000_000] * runs).too_few == marked


def test_outliers_stay_in() -> None:
    assert spread_of([1_000_000] * 999 + [10**9]).max_ms == 1000.0


def test_nothing_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="no times were measured"):
        spread_of([])


def test_planted_ten_percent_is_found() -> None:
    ratio = ratio_of(made_up_rounds(3.0, seed=1), made_up_rounds(3.3, seed=2))
    assert ratio.is_different
    assert ratio.low < 1.10 < ratio.high or abs(ratio.value - 1.10) < 0.02


def test_two_runs_of_the_same_are_not_told_apart() -> None:
    wrong = 0
    for seed in range(0, 40, 2):
        ratio = ratio_of(made_up_rounds(3.0, seed=seed), made_up_rounds(3.0, seed=seed + 1))
        wrong += ratio.is_different and abs(ratio.value - 1.0) >= 0.02
    assert wrong == 0


def test_drift_between_rounds_widens_the_interval() -> None:
    calm = ratio_of(made_up_rounds(3.0, seed=1), made_up_rounds(3.0, seed=2))
    drifting = ratio_of(made_up_rounds(3.0, seed=1, drift_ratio=0.1), made_up_rounds(3.0, seed=2, drift_ratio=0.1))
    assert drifting.high - drifting.low > 3 * (calm.high - calm.low)
