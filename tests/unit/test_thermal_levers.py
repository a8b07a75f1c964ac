"""The order of the levers, and how they are let go again."""

from __future__ import annotations

import pytest

from agent.thermal.levers import (
    MIN_CLOCK_RATIO,
    Dither,
    Ladder,
    LeverLevels,
    LeverName,
    around,
    split_effort,
)

ALL: tuple[LeverName, ...] = ("batches", "engine", "clocks")


class Steps:
    """Asks a ladder once a second."""

    def __init__(self, *available: LeverName) -> None:
        self.ladder = Ladder()
        self.available = available
        self.second = 0

    def hold(self, effort: float, seconds: int = 1) -> LeverLevels:
        for _ in range(seconds):
            self.second += 1
            levels = self.ladder.step(effort, float(self.second), self.available)
        return levels


def test_full_effort_moves_nothing() -> None:
    assert Steps(*ALL).hold(1.0, 1000).engaged == ()


def test_levers_come_in_the_order_of_what_they_cost() -> None:
    steps = Steps(*ALL)
    assert steps.hold(0.95).engaged == ("batches", "clocks")
    assert steps.hold(0.8, 59).engaged == ("batches", "clocks")
    assert steps.hold(0.8, 5).engaged == ("batches", "engine", "clocks")
    assert steps.hold(0.3).engaged == ("batches", "engine", "clocks", "rate")


@pytest.mark.parametrize("effort", [0.0, 0.05, 0.3, MIN_CLOCK_RATIO, 0.8, 1.0])
def test_effort_is_shared_out_between_clocks_and_rate(effort: float) -> None:
    clock, rate = split_effort(effort, has_clocks=True)
    assert clock * rate == pytest.approx(effort)
    assert MIN_CLOCK_RATIO <= clock <= 1.0
    assert rate == 1.0 or clock == MIN_CLOCK_RATIO
    assert split_effort(effort, has_clocks=False) == (1.0, effort)


def test_lever_that_is_not_there_is_never_engaged() -> None:
    assert Steps().hold(0.3, 200) == LeverLevels(rate_ratio=0.3)


def test_batches_are_let_go_after_five_minutes_at_full_effort() -> None:
    steps = Steps("batches")
    steps.hold(0.9)
    assert steps.hold(1.0, 299).has_large_batches
    assert not steps.hold(1.0, 3).has_large_batches


def test_engine_comes_back_after_a_quarter_of_an_hour_and_later_each_time_it_was_too_early() -> None:
    steps = Steps("engine")
    held = []
    for _ in range(3):
        assert steps.hold(0.5, 120).has_other_engine
        seconds = 0
        while steps.hold(1.0).has_other_engine:
            seconds += 1
        held.append(seconds)
    assert held == [900, 1800, 3600]


def test_engine_is_not_asked_for_by_a_short_dip() -> None:
    steps = Steps("engine")
    for _ in range(20):
        steps.hold(0.5, 50)
        assert not steps.hold(0.95).has_other_engine


def test_dither_reaches_the_mean_with_the_two_nearest_steps_only() -> None:
    clocks = [306, 408, 510, 612, 714, 816, 918]
    for wanted in (918.0, 900.0, 780.0, 459.0, 510.0):
        dither, below_above = Dither(), around(wanted, clocks)
        chosen = [dither.step(wanted, *below_above) for _ in range(500)]
        assert set(chosen) <= set(below_above)
        assert sum(chosen) / 500 == pytest.approx(wanted, abs=1.0)


def test_what_lies_outside_the_steps_gets_the_nearest() -> None:
    assert around(100.0, [306, 408]) == (306, 306)
    assert around(500.0, [306, 408]) == (408, 408)
