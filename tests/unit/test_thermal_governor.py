"""The governor's single decisions and their reasons."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from agent.config.sections.thermal import GovernorConfig, ThermalConfig
from agent.inference.rate_sharing import share_ratio
from agent.thermal.decision import GovernorDecision
from agent.thermal.governor import Governor
from agent.thermal.levers import MIN_CLOCK_RATIO
from agent.thermal.limits import Limits, limits_of
from agent.thermal.sensors.base import ThermalSample, ThrottleCause, TripPoints
from tests.fixtures.thermal_samples import FIXED, HARD, ORIN_TRIPS, SECOND, SOFT, sample


def governor(**settings: object) -> Governor:
    return Governor(ThermalConfig(source="sysfs", governor=GovernorConfig.model_validate({**FIXED, **settings})))


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


def test_board_that_is_warm_at_the_start_leaves_room_for_the_jump_of_the_silicon() -> None:
    assert Course().hold(1, gpu=84.9).ratio == 1.0
    assert Course().hold(1, gpu=85.1).ratio == 0.1


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
    governed = governor(soft_celsius="auto", hard_celsius="auto")
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
    throttling = replace(sample(1, gpu=60.0), throttle_causes={"heat": "gpu-throttle-alert"})
    decision = governed.step(throttling, SECOND)
    assert decision.ratio == pytest.approx(0.85)
    assert "the board already throttles (gpu-throttle-alert)" in decision.reason


def test_throttling_board_is_cut_though_no_zone_can_be_read() -> None:
    dark = replace(sample(1, absent={"gpu": "reads empty"}), throttle_causes={"heat": "gpu-throttle-alert"})
    decision = governor().step(dark, SECOND)
    assert decision.ratio == 0.85
    assert "already throttles (gpu-throttle-alert)" in decision.reason


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
    assert limits_of(still, GovernorConfig()) == {
        "gpu": Limits(95.0, 98.5, 99.0, "passive trip point at 99 °C"),
        "tj": Limits(105.0, 108.5, 109.0, "no trip point lowers clocks: 5.5 K below the critical one at 114.5 °C"),
    }


def test_board_without_trip_points_gets_careful_limits_on_every_zone() -> None:
    still = ThermalSample("sysfs", 1, {"acpitz": 40.0})
    assert limits_of(still, GovernorConfig()) == {
        "acpitz": Limits(91.0, 94.5, 95.0, "no trip point that counts: 95 °C assumed")
    }


def test_configured_limits_hold_for_every_zone() -> None:
    config = GovernorConfig(soft_celsius=70.0, hard_celsius=80.0)
    still = sample(1, gpu=40.0)
    still = replace(still, temperatures={"gpu": 40.0, "wifi": 50.0})
    limits = limits_of(still, config)
    assert {zone: (limit.soft_celsius, limit.hard_celsius) for zone, limit in limits.items()} == {
        "gpu": (70.0, 80.0),
        "wifi": (70.0, 80.0),
    }


def test_soft_limit_never_comes_closer_than_one_degree_to_the_hard_one() -> None:
    limits = limits_of(sample(1, gpu=40.0), GovernorConfig(soft_celsius=110.0))["gpu"]
    assert (limits.soft_celsius, limits.hard_celsius) == (97.5, 98.5)


def closer_limit(*, jumps: bool, margin: float = 4.0) -> float:
    """The soft limit after 40 minutes at 80 degrees with a sensor's noise; ``jumps``: other programs come and go."""
    governed = governor(soft_celsius="auto", hard_celsius="auto", margin_celsius=margin)
    for second in range(1, 2400):
        noise = (second * 7 % 11 - 5) / 40
        load = 6.0 if jumps and second % 300 < 150 else 0.0
        decision = governed.step(sample(second, gpu=80.0 + noise + load), second * SECOND)
    assert decision.soft_celsius is not None
    return decision.soft_celsius


def test_margin_shrinks_where_predictions_prove_right() -> None:
    assert closer_limit(jumps=False) > 97.0


def test_margin_stays_whole_where_predictions_prove_wrong() -> None:
    assert closer_limit(jumps=True) < 95.5


def test_configured_margin_is_the_most_that_is_kept() -> None:
    assert closer_limit(jumps=True, margin=2.0) >= 97.0


def test_first_limit_keeps_the_whole_margin() -> None:
    decision = governor(soft_celsius="auto", hard_celsius="auto").step(sample(1, gpu=60.0), SECOND)
    assert (decision.soft_celsius, decision.hard_celsius, decision.margin_kelvin) == (95.0, 98.5, 4.0)


def test_board_that_throttles_below_its_limit_gets_the_whole_margin_for_good() -> None:
    governed = governor(soft_celsius="auto", hard_celsius="auto")
    for second in range(1, 4000):
        seen = sample(second, gpu=80.0)
        seen = replace(seen, throttle_causes={"heat": "gpu-throttle-alert"}) if second == 2000 else seen
        decision = governed.step(seen, second * SECOND)
        if second == 1999:
            assert decision.margin_kelvin == pytest.approx(1.5, abs=0.2)
    assert decision.margin_kelvin == 4.0


@pytest.mark.parametrize("cause", ["over_current", "power_cap"])
def test_limit_on_power_cuts_and_keeps_the_rate_below_where_it_was_met(cause: ThrottleCause) -> None:
    governed = governor()
    for second in range(1, 1500):
        seen = sample(second, gpu=60.0)
        seen = replace(seen, throttle_causes={cause: "oc3 +41 events/s"}) if second == 10 else seen
        decision = governed.step(seen, second * SECOND)
        if second == 10:
            assert decision.ratio == pytest.approx(0.85)
            assert (decision.cause, decision.levels.engaged) == (cause, ("rate",))
            assert "oc3 +41 events/s" in decision.reason
    assert decision.ratio == pytest.approx(0.97)  # not tried again for half an hour
    for second in range(1500, 4000):
        decision = governed.step(sample(second, gpu=60.0), second * SECOND)
    assert (decision.ratio, decision.cause) == (1.0, None)


def test_summary_is_one_short_line_with_lever_and_cause() -> None:
    course = Course()
    assert course.hold(60, gpu=70.0).summary == "full rate: gpu at 70.0 °C, limit 89.0"
    cut = course.hold(20, gpu=92.0)
    assert cut.summary == f"rate cut to {cut.ratio:.0%}: gpu at 92.0 °C, limit 89.0"
    assert course.hold(2, gpu=97.0).summary == "inference paused: gpu at 97.0 °C, limit 89.0"
    powered = Course(power_budget_watts=15.0).hold(30, gpu=60.0, watts=20.0)
    assert powered.summary.endswith(": power budget")
    silent = Course()
    silent.hold(5, gpu=60.0)
    assert silent.silence(31).summary == "rate held to 50%: no temperature"


def test_clocks_give_way_before_the_rate() -> None:
    governed = Governor(ThermalConfig(governor=GovernorConfig.model_validate(FIXED)), levers=["clocks"])
    seen: list[tuple[float, float]] = []
    for second in range(1, 200):
        decision = governed.step(sample(second, gpu=80.0 if second < 30 else 92.0), second * SECOND)
        seen.append((decision.levels.clock_ratio, decision.ratio))
    assert any(clock < 1.0 and rate == 1.0 for clock, rate in seen)
    assert all(clock == MIN_CLOCK_RATIO for clock, rate in seen if rate < 1.0)
    assert seen[-1][0] == MIN_CLOCK_RATIO
    assert seen[-1][1] == pytest.approx(0.1)
    assert decision.levels.engaged == ("clocks", "rate")
    assert decision.summary.startswith("clocks held to 50%, rate cut to 10%: gpu at")


def test_lost_clocks_leave_the_rate_to_do_all_of_it() -> None:
    governed = Governor(ThermalConfig(governor=GovernorConfig.model_validate(FIXED)), levers=["clocks"])
    for second in range(1, 200):
        governed.step(sample(second, gpu=80.0 if second < 30 else 92.0), second * SECOND)
    governed.use_levers([])
    decision = governed.step(sample(201, gpu=92.0), 201 * SECOND)
    assert decision.levels.clock_ratio == 1.0
    assert decision.ratio == pytest.approx(0.1)


def test_priority_one_is_spared_first() -> None:
    shares = share_ratio(0.5, {"front": (30.0, 1), "side": (30.0, 2)})
    assert shares["front"] == pytest.approx(0.875)
    assert shares["side"] == pytest.approx(0.125)
    assert share_ratio(0.0, {"front": (30.0, 1)}) == {"front": 0.0}
    with pytest.raises(ValueError, match="a ratio must be in"):
        share_ratio(1.5, {})
