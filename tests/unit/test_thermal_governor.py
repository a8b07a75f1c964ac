"""The governor's single decisions and their reasons."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from agent.config.thermal import GovernorConfig, ThermalConfig
from agent.inference.rate_sharing import share_ratio
from agent.thermal.governor import Governor, GovernorDecision
from agent.thermal.limits import Limits, limits_of
from agent.thermal.sensors.base import ThermalSample, TripPoints
from tests.fixtures.thermal_samples import HARD, ORIN_TRIPS, SECOND, SOFT, sample


def governor(**settings: object) -> Governor:
    return Governor(ThermalConfig(source="sysfs", governor=GovernorConfig.model_validate(settings)))


class Course:
    """Feeds a governor one reading a second."""

    def __init__(self, **settings: object) -> None:
        self.governor = governor(**settings)
        self.second = 0

    def hold(self, seconds: int, *, watts: float | None = None, **zones: float) -> GovernorDecision:
        for _ in range(seconds):
            self.second += 1
            decision = self.governor.step(sample(self.second, watts=watts, absent=None, **zones), self.second * SECOND)
        return decision

    def silence(self, seconds: int, last: ThermalSample | None = None) -> GovernorDecision:
        for _ in range(seconds):
            self.second += 1
            decision = self.governor.step(last, self.second * SECOND)
        return decision


def test_cool_board_runs_at_its_full_rate() -> None:
    decision = Course().hold(300, gpu=70.0)
    assert (decision.ratio, decision.state, decision.changed) == (1.0, "free", False)
    assert (decision.zone, decision.soft_celsius, decision.hard_celsius) == ("gpu", SOFT, HARD)


def test_rising_board_is_cut_before_it_reaches_the_soft_limit() -> None:
    course = Course()
    cut_at = None
    for tenth in range(600, 890):
        decision = course.hold(1, gpu=tenth / 10)
        if decision.changed and cut_at is None:
            cut_at = decision.celsius
            assert decision.ratio < 1.0
            assert "gpu at" in decision.reason
            assert "soft limit 89.0 °C: rate cut from 100% to" in decision.reason
    assert cut_at is not None
    assert cut_at < SOFT - 5.0


def test_board_that_is_hot_at_the_start_begins_at_the_smallest_rate() -> None:
    decision = Course().hold(1, gpu=91.0)
    assert decision.ratio == 0.1
    assert "gpu at 91.0 °C at the start" in decision.reason


def test_cut_comes_fast_and_recovery_waits_a_minute_and_is_slow() -> None:
    course = Course()
    course.hold(10, gpu=85.0)
    assert course.hold(15, gpu=91.0).ratio < 0.8
    cuts: list[int] = [course.second]
    recoveries: list[tuple[int, float]] = []
    for _ in range(3600):
        decision = course.hold(1, gpu=80.0)
        if decision.ratio < decision.previous_ratio:
            cuts.append(course.second)
        elif decision.ratio > decision.previous_ratio:
            recoveries.append((course.second, decision.ratio - decision.previous_ratio))
            assert "rate back from" in decision.reason
    assert recoveries[0][0] - cuts[-1] >= 45
    assert all(later - sooner >= 10 for (sooner, _), (later, _) in pairwise(recoveries))
    assert max(step for _, step in recoveries) <= 0.03 + 1e-9
    assert decision.state == "free"


def test_single_reading_at_the_hard_limit_does_not_pause_and_two_do() -> None:
    course = Course()
    course.hold(60, gpu=70.0)
    assert not course.hold(1, gpu=97.0).paused
    course.hold(30, gpu=70.0)
    decision = course.hold(2, gpu=97.0)
    assert (decision.paused, decision.ratio, decision.state) == (True, 0.0, "paused")
    assert "hard limit 96.0 °C: inference pauses" in decision.reason


def test_pause_ends_after_a_minute_below_the_soft_limit_at_the_smallest_rate() -> None:
    course = Course()
    course.hold(3, gpu=97.0)
    assert course.hold(30, gpu=85.0).paused
    assert course.hold(40, gpu=88.5).paused  # cool for long enough, not cool enough
    decision = course.hold(1, gpu=87.5)
    assert (decision.paused, decision.ratio) == (False, 0.1)


def test_hot_zone_decides_though_others_are_cool() -> None:
    course = Course()
    course.hold(30, cpu=50.0, gpu=85.0, soc0=45.0)
    decision = course.hold(30, cpu=50.0, gpu=92.0, soc0=45.0)
    assert decision.zone == "gpu"
    assert decision.ratio < 1.0


def test_silence_caps_the_rate_after_thirty_seconds() -> None:
    course = Course()
    course.hold(60, gpu=60.0)
    assert course.silence(29).ratio == 1.0
    decision = course.silence(1)
    assert (decision.ratio, decision.state, decision.changed) == (0.5, "blind", True)
    assert "no temperature for 30 s" in decision.reason
    back = course.hold(1, gpu=60.0)
    assert (back.state, back.changed) == ("reduced", True)
    assert course.hold(1200, gpu=60.0).state == "free"


def test_repeated_sample_is_silence() -> None:
    course = Course()
    course.hold(10, gpu=60.0)
    assert course.silence(40, sample(10, gpu=60.0)).state == "blind"


def test_zones_that_all_lie_are_silence() -> None:
    course = Course()
    for _ in range(40):
        course.second += 1
        lying = sample(course.second, absent={"gpu": "reads -256 degrees: offline"})
        decision = course.governor.step(lying, course.second * SECOND)
    assert decision.state == "blind"


def test_machine_without_thermal_zones_is_not_capped() -> None:
    course = Course()
    for _ in range(100):
        course.second += 1
        decision = course.governor.step(sample(course.second), course.second * SECOND)
    assert (decision.state, decision.ratio) == ("free", 1.0)


def test_hot_zone_that_vanishes_caps_the_rate_though_others_are_seen() -> None:
    course = Course()
    course.hold(30, gpu=80.0, cpu=60.0)
    assert course.hold(29, cpu=60.0).ratio == 1.0
    decision = course.hold(1, cpu=60.0)
    assert decision.state == "blind"
    assert "gpu gives no temperature" in decision.reason


def test_other_zones_are_still_cut_for_while_one_that_was_hot_is_gone() -> None:
    course = Course()
    course.hold(30, gpu=80.0, cpu=60.0)
    assert course.hold(40, cpu=60.0).ratio == 0.5
    decision = course.hold(60, cpu=92.0)
    assert decision.state == "blind"
    assert decision.ratio < 0.3
    assert "cpu at 92.0 °C" in decision.reason
    paused = course.hold(2, cpu=97.0)
    assert paused.paused
    assert "inference pauses" in paused.reason


def test_rate_waits_a_minute_after_the_last_moment_without_a_temperature() -> None:
    course = Course()
    course.hold(60, gpu=60.0)
    assert course.silence(40).ratio == 0.5
    assert course.hold(59, gpu=60.0).ratio == 0.5
    assert course.hold(30, gpu=60.0).ratio > 0.5


def test_cool_zone_that_vanishes_changes_nothing() -> None:
    course = Course()
    course.hold(30, gpu=50.0, cpu=60.0)
    assert course.hold(120, cpu=60.0).state == "free"


@pytest.mark.parametrize("what", ["zone", "trip points"])
def test_zone_that_stood_in_for_the_governed_ones_is_only_watched_once_they_are_back(what: str) -> None:
    governed = governor()
    points = {"cpu": ORIN_TRIPS, "wifi": TripPoints()}
    for second in range(1, 200):
        is_known = second not in (60, 61)
        zones = {"wifi": 75.0, **({"cpu": 50.0} if is_known or what == "trip points" else {})}
        seen = replace(sample(second, absent=None, **zones), trip_points=points if is_known or what == "zone" else {})
        decision = governed.step(seen, second * SECOND)
        assert (decision.state, decision.ratio) == ("free", 1.0)
    assert decision.zone == "cpu"


def test_pause_outlasts_the_zone_that_called_for_it() -> None:
    course = Course()
    course.hold(3, gpu=97.0, cpu=60.0)
    assert course.hold(290, cpu=60.0).paused
    decision = course.hold(30, cpu=60.0)
    assert (decision.paused, decision.ratio, decision.state) == (False, 0.1, "blind")


def test_pause_without_any_temperature_ends_after_five_minutes_at_the_smallest_rate() -> None:
    course = Course()
    course.hold(3, gpu=97.0)
    assert course.silence(290).paused
    decision = course.silence(30)
    assert (decision.paused, decision.ratio, decision.state) == (False, 0.1, "blind")


def test_throttling_board_is_cut_though_its_zones_look_cool() -> None:
    governed = governor()
    throttling = replace(sample(1, gpu=60.0), throttle_alerts={"gpu-throttle-alert": 1, "cpu-throttle-alert": 0})
    decision = governed.step(throttling, SECOND)
    assert decision.ratio == pytest.approx(0.85)
    assert "the board throttles already (gpu-throttle-alert)" in decision.reason


def test_throttling_board_is_cut_though_no_zone_can_be_read() -> None:
    dark = replace(sample(1, absent={"gpu": "reads empty"}), throttle_alerts={"gpu-throttle-alert": 1})
    decision = governor().step(dark, SECOND)
    assert decision.ratio == 0.85
    assert "throttles already (gpu-throttle-alert)" in decision.reason


def test_power_budget_brings_the_rate_to_what_it_allows() -> None:
    course = Course(power_budget_watts=15.0)
    ratio = 1.0
    for _ in range(600):
        decision = course.hold(1, gpu=60.0, watts=5.0 + 15.0 * ratio)
        ratio = decision.ratio
    watts = 5.0 + 15.0 * ratio
    assert 15.0 * 0.93 < watts <= 15.0
    assert "budget 15.0 W" in decision.reason


def test_governor_that_is_off_never_changes_the_rate() -> None:
    for config in (ThermalConfig(source="none"), ThermalConfig(governor=GovernorConfig(enabled=False))):
        governed = Governor(config)
        decision = [governed.step(sample(at, gpu=103.0), at * SECOND) for at in range(1, 50)][-1]
        assert (decision.state, decision.ratio, decision.changed) == ("off", 1.0, False)


def test_smallest_rate_is_kept_up_to_the_hard_limit() -> None:
    assert Course(min_rate_ratio=0.25).hold(600, gpu=95.0).ratio == 0.25


def test_limits_come_from_the_passive_point_else_from_the_critical_one() -> None:
    trips = {"gpu": TripPoints(passive=99.0, critical=104.5), "tj": TripPoints(critical=114.5), "wifi": TripPoints()}
    still = ThermalSample("sysfs", 1, dict.fromkeys(trips, 40.0), trips)
    assert limits_of(still, GovernorConfig()) == {"gpu": Limits(89.0, 96.0), "tj": Limits(99.5, 106.5)}


def test_board_without_trip_points_gets_careful_limits_on_every_zone() -> None:
    still = ThermalSample("sysfs", 1, {"acpitz": 40.0})
    assert limits_of(still, GovernorConfig()) == {"acpitz": Limits(85.0, 92.0)}


def test_configured_limits_hold_for_every_zone() -> None:
    config = GovernorConfig(soft_celsius=70.0, hard_celsius=80.0)
    still = sample(1, gpu=40.0)
    still = replace(still, temperatures={"gpu": 40.0, "wifi": 50.0})
    assert limits_of(still, config) == {"gpu": Limits(70.0, 80.0), "wifi": Limits(70.0, 80.0)}


def test_soft_limit_never_comes_closer_than_two_degrees_to_the_hard_one() -> None:
    assert limits_of(sample(1, gpu=40.0), GovernorConfig(soft_celsius=110.0)) == {"gpu": Limits(94.0, 96.0)}


def test_priority_one_is_spared_first() -> None:
    shares = share_ratio(0.5, {"front": (30.0, 1), "side": (30.0, 2)})
    assert shares["front"] == pytest.approx(0.875)
    assert shares["side"] == pytest.approx(0.125)
    assert share_ratio(0.0, {"front": (30.0, 1)}) == {"front": 0.0}
    with pytest.raises(ValueError, match="a ratio lies in"):
        share_ratio(1.5, {})
