"""What the governor promises for every board, every start and every course of heat."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config.sections.thermal import GovernorConfig, ThermalConfig
from agent.inference.rate_sharing import share_ratio
from agent.thermal.boards import BOARDS, BoardParameters
from agent.thermal.decision import GovernorDecision
from agent.thermal.governor import Governor
from agent.thermal.limits import limits_of
from agent.thermal.sensors.base import ThermalSample
from scripts.thermal_report.evaluation import GovernedPolicy, Scenario, max_swings_in_a_minute, run
from tests.fixtures.thermal_samples import FIXED, HARD, SECOND, SOFT, sample

CONFIG = ThermalConfig(source="simulated")
STILL = ThermalConfig(source="simulated", governor=GovernorConfig.model_validate(FIXED))
BAND = STILL.governor.hysteresis_celsius
courses = st.lists(st.floats(-20.0, 110.0), min_size=1, max_size=120)


def decisions(course: list[float], governor: Governor | None = None) -> list[GovernorDecision]:
    governor = governor if governor is not None else Governor(STILL)
    return [governor.step(sample(at, gpu=celsius), at * SECOND) for at, celsius in enumerate(course, start=1)]


@given(courses, st.floats(-20.0, 110.0), st.floats(0.0, 30.0))
def test_hotter_reading_never_leaves_a_higher_ratio(course: list[float], celsius: float, hotter: float) -> None:
    governor = Governor(CONFIG)
    decisions(course, governor)
    at = len(course) + 1
    cool = copy.deepcopy(governor).step(sample(at, gpu=celsius), at * SECOND)
    hot = copy.deepcopy(governor).step(sample(at, gpu=celsius + hotter), at * SECOND)
    assert hot.ratio <= cool.ratio


@given(courses)
def test_ratio_is_zero_or_between_its_floor_and_one(course: list[float]) -> None:
    for decision in decisions(course):
        assert decision.paused == (decision.ratio == 0.0)
        assert decision.paused or CONFIG.governor.min_rate_ratio <= decision.ratio <= 1.0


@given(st.lists(st.floats(-20.0, 110.0), min_size=100, max_size=400))
def test_ratio_swings_at_most_once_a_minute_whatever_the_readings(course: list[float]) -> None:
    assert max_swings_in_a_minute([decision.ratio for decision in decisions(course)]) <= 1


@given(st.lists(st.floats(-20.0, 110.0), min_size=100, max_size=400))
def test_effort_over_all_levers_swings_at_most_once_a_minute(course: list[float]) -> None:
    steps = decisions(course, Governor(STILL, levers=["batches", "engine", "clocks"]))
    assert max_swings_in_a_minute([step.levels.clock_ratio * step.ratio for step in steps]) <= 1


@given(courses, st.floats(-20.0, 110.0), st.floats(0.0, 30.0))
def test_hotter_reading_never_leaves_more_of_any_lever(course: list[float], celsius: float, hotter: float) -> None:
    governor = Governor(CONFIG, levers=["clocks"])
    decisions(course, governor)
    at = len(course) + 1
    cool = copy.deepcopy(governor).step(sample(at, gpu=celsius), at * SECOND).levels
    hot = copy.deepcopy(governor).step(sample(at, gpu=celsius + hotter), at * SECOND).levels
    assert hot.rate_ratio <= cool.rate_ratio
    assert hot.clock_ratio <= cool.clock_ratio


@given(courses, st.lists(st.floats(-0.05, 0.05), min_size=200, max_size=300))
def test_ratio_holds_still_inside_the_band(course: list[float], ripple: list[float]) -> None:
    governor = Governor(STILL)
    decisions(course, governor)
    middle = SOFT - BAND * 0.6
    # Two minutes let an earlier course fade and a pause end; what follows is all inside the band.
    start = len(course) + 1
    settled = [governor.step(sample(at, gpu=middle), at * SECOND) for at in range(start, start + 120)][-1]
    start += 120
    held = [governor.step(sample(at, gpu=middle + r * BAND), at * SECOND) for at, r in enumerate(ripple, start=start)]
    if not settled.paused:  # a pause ends below the band
        assert {decision.ratio for decision in held} == {settled.ratio}


@given(courses)
def test_change_is_announced_exactly_when_ratio_or_state_changed(course: list[float]) -> None:
    steps = decisions(course)
    for before, after in pairwise(steps):
        assert after.changed == (after.ratio != before.ratio or after.state != before.state)
        assert after.previous_ratio == before.ratio


@given(courses)
def test_second_reading_at_the_hard_limit_pauses(course: list[float]) -> None:
    governor = Governor(STILL)
    decisions(course, governor)
    at = len(course) + 1
    governor.step(sample(at, gpu=HARD), at * SECOND)
    assert governor.step(sample(at + 1, gpu=HARD), (at + 1) * SECOND).paused


def lowest_hard(board: BoardParameters) -> float:
    still = ThermalSample("simulated", 0, dict.fromkeys(board.trip_points, 40.0), board.trip_points)
    return min(limit.hard_celsius for limit in limits_of(still, CONFIG.governor).values())


@settings(max_examples=25)
@given(
    board=st.sampled_from(sorted(BOARDS)),
    ambient=st.floats(-20.0, 55.0),
    start_share=st.floats(0.0, 1.0),
    swing=st.floats(0.0, 5.0),
    period_s=st.floats(60.0, 900.0),
    burst_share=st.floats(0.0, 0.35),
    burst_at_s=st.integers(0, 600),
    seed=st.integers(0, 1000),
    clocks=st.booleans(),
)
def test_no_zone_ever_passes_the_hard_limit(
    board: str,
    ambient: float,
    start_share: float,
    swing: float,
    period_s: float,
    burst_share: float,
    burst_at_s: int,
    seed: int,
    clocks: bool,
) -> None:
    """The model's range: up to 55 degrees around the board, with drifts; a start anywhere from the ambient to two
    degrees below the hard limit; and, where the start is cool and the air below 40 degrees, another program that
    takes up to a third of the full load from any moment on."""
    parameters = BOARDS[board]
    hard = lowest_hard(parameters)
    start = ambient + start_share * (hard - 2.0 - ambient)
    has_burst = ambient < 40.0 and start < hard - 8.0
    burst_watts = burst_share * sum(die.load_watts for die in parameters.dies.values()) if has_burst else 0.0
    scenario = Scenario(
        board=parameters,
        ambient_celsius=ambient,
        duration_s=1200,
        full_rate_hz=240.0,
        start_celsius=start,
        ambient=lambda second: ambient + swing * math.sin(second / period_s * 2 * math.pi),
        extra_watts=lambda second: burst_watts if second >= burst_at_s else 0.0,
        seed=seed,
    )
    config = ThermalConfig(source="simulated", governor=GovernorConfig(clocks=clocks))
    outcome = run(scenario, GovernedPolicy(config), config)
    assert outcome.hottest_celsius < hard
    assert outcome.throttled_s == 0.0
    assert outcome.worst_swings_per_minute <= 1


@settings(max_examples=10)
@given(board=st.sampled_from(sorted(BOARDS)), ambient=st.floats(-20.0, 55.0), above=st.floats(0.0, 8.0))
def test_board_that_starts_above_the_hard_limit_cools_below_it_for_good(
    board: str, ambient: float, above: float
) -> None:
    hard = lowest_hard(BOARDS[board])
    scenario = Scenario(BOARDS[board], ambient, 1800, 240.0, start_celsius=hard + above)
    track = run(scenario, GovernedPolicy(CONFIG), CONFIG).track
    cooled = next(second for second, celsius, _ in track if celsius < hard - 1.0)
    assert max(celsius for second, celsius, _ in track if second >= cooled) < hard
    assert all(done <= 0.1 for second, _, done in track if 2 < second < cooled)


cameras = st.dictionaries(
    st.text("abc", min_size=1, max_size=3), st.tuples(st.floats(0.1, 120.0), st.integers(1, 9)), min_size=1, max_size=8
)


@given(st.floats(0.0, 1.0), cameras)
def test_shared_ratios_add_up_to_the_common_one(ratio: float, cameras: dict[str, tuple[float, int]]) -> None:
    shares = share_ratio(ratio, cameras)
    asked = sum(rate for rate, _ in cameras.values())
    given_hz = sum(cameras[name][0] * share for name, share in shares.items())
    assert math.isclose(given_hz, ratio * asked, rel_tol=1e-9, abs_tol=1e-9)
    assert all(0.0 <= share <= 1.0 for share in shares.values())


@given(st.floats(0.0, 1.0), cameras)
def test_camera_of_better_priority_never_gets_less(ratio: float, cameras: dict[str, tuple[float, int]]) -> None:
    shares = share_ratio(ratio, cameras)
    ranked = sorted(cameras, key=lambda name: cameras[name][1])
    for better, worse in pairwise(ranked):
        assert shares[better] >= shares[worse] - 1e-12
        if cameras[better][1] == cameras[worse][1]:
            assert math.isclose(shares[better], shares[worse])
