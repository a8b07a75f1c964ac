"""The simulated board, and the governor's bars on it."""

from __future__ import annotations

from itertools import pairwise

import pytest

from agent.config.sections.thermal import GovernorConfig, SimulatedBoardConfig, ThermalConfig
from agent.thermal.boards import BOARDS, ORIN, THOR
from agent.thermal.model import SimulatedBoard
from agent.thermal.sensors.simulated import SimulatedSensor
from scripts.thermal_report.evaluation import (
    ConstantPolicy,
    GovernedPolicy,
    Scenario,
    best_constant,
    max_swings_in_a_minute,
    run,
)
from tests.fixtures.thermal_samples import ManualClock

CONFIG = ThermalConfig(source="simulated")


@pytest.mark.parametrize("ambient", [35.0, 55.0])
def test_governed_orin_never_throttles_and_keeps_97_percent_of_the_oracle(ambient: float) -> None:
    scenario = Scenario(ORIN, ambient, 7200, 240.0)
    ours = run(scenario, GovernedPolicy(CONFIG), CONFIG)
    best = best_constant(scenario, CONFIG, lambda outcome: outcome.over_soft_s == 0.0)
    oracle = run(scenario, ConstantPolicy(best), CONFIG)
    assert ours.throttled_s == 0.0
    assert ours.over_soft_s == 0.0
    assert ours.worst_swings_per_minute <= 1
    assert ours.frames >= 0.97 * oracle.frames


@pytest.mark.parametrize("ambient", [35.0, 55.0])
def test_governed_clocks_never_throttle_and_keep_95_percent_of_what_throttling_gives(ambient: float) -> None:
    scenario = Scenario(ORIN, ambient, 7200, 240.0)
    config = ThermalConfig(source="simulated", governor=GovernorConfig(clocks=True))
    ours = run(scenario, GovernedPolicy(config), config)
    silicon = run(scenario, ConstantPolicy(1.0), config)
    assert ours.throttled_s == 0.0
    assert ours.worst_swings_per_minute <= 1
    assert ours.frames >= 0.95 * silicon.frames


@pytest.mark.parametrize("board", sorted(BOARDS))
def test_frame_costs_less_energy_at_a_lower_clock(board: str) -> None:
    def watts(cap: float, load: float) -> float:
        simulated = SimulatedBoard(BOARDS[board], ambient_celsius=25.0)
        simulated.clock_cap = cap
        assert simulated.advance(1.0, load) == pytest.approx(load)
        return simulated.watts

    points = BOARDS[board].operating_points
    ratios = [point.clock_ratio for point in points]
    assert ratios == sorted(ratios, reverse=True)
    assert (points[0].clock_ratio, points[0].voltage_ratio) == (1.0, 1.0)
    assert all(lower.voltage_ratio <= higher.voltage_ratio for higher, lower in pairwise(points))
    assert watts(0.7, 0.5) < watts(1.0, 0.5)
    assert watts(0.7, 0.0) == pytest.approx(watts(1.0, 0.0), rel=0.1)


def test_work_is_limited_by_the_capped_clock() -> None:
    simulated = SimulatedBoard(ORIN, ambient_celsius=25.0)
    simulated.clock_cap = 0.5
    assert simulated.clock_ratio == pytest.approx(408.0 / 918.0)  # the next point below
    assert simulated.advance(10.0, 1.0) == pytest.approx(10.0 * ORIN.capacity_ratio * 408.0 / 918.0)


@pytest.mark.parametrize("board", sorted(BOARDS))
def test_ungoverned_board_throttles_in_a_hot_place(board: str) -> None:
    outcome = run(Scenario(BOARDS[board], 55.0, 3600, 240.0), ConstantPolicy(1.0), CONFIG)
    assert outcome.throttled_s > 600.0
    assert outcome.switched_off_after_s is None


def test_board_that_throttling_cannot_save_switches_off_and_does_no_more_work() -> None:
    board = SimulatedBoard(ORIN, ambient_celsius=55.0)
    board.extra_watts = 40.0
    board.advance(3600.0, 1.0)
    assert board.is_off
    assert board.advance(60.0, 1.0) == 0.0


def test_idle_board_settles_where_its_resistances_say() -> None:
    board = SimulatedBoard(ORIN, ambient_celsius=25.0)
    board.advance(4 * 3600.0, 0.0)
    expected = 25.0 + board.watts * ORIN.sink_kelvin_per_watt
    assert board.sink_celsius == pytest.approx(expected, abs=0.1)
    assert board.watts == pytest.approx(4.9, abs=0.5)


def test_work_of_a_throttled_board_is_less_than_asked_for() -> None:
    board = SimulatedBoard(THOR, ambient_celsius=55.0, start_celsius=100.0)
    assert board.advance(1800.0, 1.0) < 1800.0
    assert board.throttled_s > 0.0
    assert sum(board.alerts().values()) == (1 if board.clock_ratio < 1.0 else 0)


def test_swings_are_counted_within_any_minute() -> None:
    assert max_swings_in_a_minute([1.0] * 100) == 0
    assert max_swings_in_a_minute([1.0, 0.5, 1.0] + [1.0] * 70 + [0.5, 1.0]) == 1
    assert max_swings_in_a_minute([1.0, 0.5, 1.0, 0.5, 0.6, 0.4, 0.5]) == 3


def test_simulated_sensor_heats_with_the_rate_of_the_agent() -> None:
    clock = ManualClock()
    rate = [0.0]
    config = SimulatedBoardConfig(ambient_celsius=20.0, full_rate_hz=30.0, speed=10.0)
    sensor = SimulatedSensor(config, clock=clock, interval_s=1.0, rate_hz=lambda: rate[0])
    sensor.start()

    def heat_for(seconds: int) -> float:
        for _ in range(seconds):
            clock.pass_s(1.0)
            reading = sensor.latest()
        assert reading is not None
        return reading.temperatures["gpu"]

    idle = heat_for(60)
    rate[0] = 30.0
    busy = heat_for(60)
    rate[0] = 0.0
    assert busy > idle + 20.0
    assert heat_for(60) < busy - 10.0
