"""Why the board throttles: heat, over-current, a cap; and what is no throttling."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.thermal.sensors.base import ThermalSample
from agent.thermal.sensors.plausible import ZoneCheck
from agent.thermal.sensors.sysfs import SysfsReader
from tests.fixtures.boards import DESKTOP, ORIN_NANO_SUPER, PI_THROTTLED, RASPBERRY_PI_5, THOR, BoardTree, tree_of
from tests.fixtures.thermal_samples import SECOND

OC3 = "class/hwmon/hwmon3/oc3_event_cnt"


class Watched:
    """A board that is read once a second."""

    def __init__(self, tree: BoardTree) -> None:
        self.tree = tree
        self.reader = SysfsReader(tree.root)
        self.second = 0

    def read(self, seconds: int = 1) -> ThermalSample:
        self.second += seconds
        return self.reader.read(self.second * SECOND)


@pytest.fixture
def nano(tmp_path: Path) -> Iterator[Watched]:
    with tree_of(ORIN_NANO_SUPER, tmp_path / "sys") as tree:
        yield Watched(tree)


def test_over_current_is_reported_while_its_counter_grows(nano: Watched) -> None:
    first = nano.read()
    assert first.over_current_events == {"oc1": 0, "oc2": 15, "oc3": 27390}
    assert (first.over_current_hz, first.throttle_causes) == ({}, {})
    for count in (27431, 27472):
        nano.tree.write(OC3, count)
        sample = nano.read()
    assert sample.over_current_hz == {"oc1": 0.0, "oc2": 0.0, "oc3": 41.0}
    assert sample.throttle_causes == {"over_current": "oc3 +41 events/s"}
    assert sample.is_throttling is True
    for _ in range(4):
        sample = nano.read()
    assert sample.over_current_hz["oc3"] == 0.0
    assert sample.is_throttling is False


@pytest.mark.parametrize("count", [2**63, 2**64 - 1, 10**30])
def test_counter_that_fits_into_no_message_cannot_be_read(nano: Watched, count: int) -> None:
    nano.read()
    nano.tree.write(OC3, count)
    sample = nano.read()
    assert sample.over_current_events == {"oc1": 0, "oc2": 15}
    assert "oc3" not in sample.over_current_hz
    assert sample.throttle_causes == {}
    nano.tree.write(OC3, 5)
    assert nano.read().over_current_events["oc3"] == 5


def test_counter_that_may_not_throttle_is_counted_and_no_cause(nano: Watched) -> None:
    nano.tree.write("class/hwmon/hwmon3/oc3_throt_en", 0)
    nano.read()
    nano.tree.write(OC3, 27490)
    sample = nano.read()
    assert sample.over_current_hz["oc3"] == 100.0
    assert sample.throttle_causes == {}


@pytest.mark.parametrize("after", [0, 5, 27389])
def test_counter_that_wraps_or_is_reset_begins_again(nano: Watched, after: int) -> None:
    nano.read()
    nano.read()
    nano.tree.write(OC3, after)
    sample = nano.read()
    assert "oc3" not in sample.over_current_hz
    assert sample.throttle_causes == {}
    nano.tree.write(OC3, after + 6)
    assert nano.read().throttle_causes == {"over_current": "oc3 +6 events/s"}


@pytest.mark.parametrize("text", ["", "many", "-1", "nan"])
def test_counter_that_cannot_be_read_is_left_out_and_back_later(nano: Watched, text: str) -> None:
    nano.read()
    nano.tree.write(OC3, text)
    assert "oc3" not in nano.read().over_current_events
    (nano.tree.root / OC3).unlink()
    assert "oc3" not in nano.read().over_current_events
    nano.tree.write(OC3, 40000)
    assert nano.read().throttle_causes == {}
    nano.tree.write(OC3, 40010)
    assert nano.read().throttle_causes == {"over_current": "oc3 +10 events/s"}


def test_counters_that_appear_later_keep_the_rates_of_the_others(nano: Watched) -> None:
    nano.read()
    nano.tree.write("class/hwmon/hwmon3/oc4_event_cnt", 3)
    nano.tree.write(OC3, 27390 + 610)
    sample = nano.read(61)
    assert sample.over_current_hz == {"oc1": 0.0, "oc2": 0.0, "oc3": 10.0}
    assert sample.over_current_events["oc4"] == 3


def test_slow_reading_still_has_a_rate(nano: Watched) -> None:
    nano.read()
    nano.tree.write(OC3, 27400)
    assert nano.read(5).over_current_hz["oc3"] == 2.0


def test_cap_beside_a_hot_zone_is_heat_until_the_kernel_has_taken_it_back(nano: Watched) -> None:
    nano.tree.heat(99.5)
    nano.tree.set_state("devfreq-17000000.gpu", 2)
    assert nano.read().throttle_causes == {"heat": "devfreq-17000000.gpu 2 of 2"}
    nano.tree.heat(80.0)
    nano.tree.set_state("devfreq-17000000.gpu", 1)
    assert nano.read().throttle_causes == {"heat": "devfreq-17000000.gpu 1 of 2"}
    nano.tree.set_state("devfreq-17000000.gpu", 0)
    assert nano.read().throttle_causes == {}
    nano.tree.set_state("devfreq-17000000.gpu", 1)
    assert nano.read().throttle_causes == {"power_cap": "devfreq-17000000.gpu 1 of 2"}


def test_cap_that_no_binding_explains_goes_by_the_limits(tmp_path: Path) -> None:
    with tree_of(THOR, tmp_path / "sys") as tree:
        watched = Watched(tree)
        tree.set_state("devfreq-gpu-gpc-0", 1)
        assert set(watched.read().throttle_causes) == {"power_cap"}
        tree.heat(107.0)
        assert set(watched.read().throttle_causes) == {"heat"}


def test_cap_that_stood_at_the_start_and_never_moves_is_no_throttling_after_a_minute(nano: Watched) -> None:
    nano.tree.set_state("cpufreq-cpu4", 2)
    assert nano.read().throttle_causes == {"power_cap": "cpufreq-cpu4 2 of 2"}
    assert set(nano.read(59).throttle_causes) == {"power_cap"}
    sample = nano.read()
    assert (sample.throttle_causes, sample.is_throttling) == ({}, False)
    assert sample.throttle_states["cpufreq-cpu4"] == 2
    nano.tree.set_state("cpufreq-cpu4", 1)
    for _ in range(20):
        assert nano.read(30).throttle_causes == {"power_cap": "cpufreq-cpu4 1 of 2"}


def test_standing_cap_of_a_hot_zone_is_heat_until_it_has_been_cool_for_a_minute(nano: Watched) -> None:
    nano.tree.set_state("cpufreq-cpu4", 2)
    nano.tree.heat(99.5)
    for _ in range(10):
        assert set(nano.read(30).throttle_causes) == {"heat"}
    nano.tree.heat(60.0)
    assert set(nano.read(59).throttle_causes) == {"heat"}
    assert nano.read().throttle_causes == {}
    nano.tree.heat(99.5)
    assert set(nano.read().throttle_causes) == {"heat"}


def test_cap_that_came_while_the_agent_ran_counts_until_it_is_taken_back(nano: Watched) -> None:
    nano.read()
    nano.tree.set_state("cpufreq-cpu4", 2)
    for _ in range(20):
        assert set(nano.read(30).throttle_causes) == {"power_cap"}
    nano.tree.set_state("cpufreq-cpu4", 0)
    assert nano.read().throttle_causes == {}


def test_alert_of_the_firmware_counts_for_as_long_as_it_stands(nano: Watched) -> None:
    nano.tree.set_state("cpu-throttle-alert", 1)
    for _ in range(20):
        assert set(nano.read(30).throttle_causes) == {"heat"}


def test_flags_of_the_firmware_count_for_as_long_as_they_stand(tmp_path: Path) -> None:
    with tree_of(RASPBERRY_PI_5, tmp_path / "sys") as tree:
        watched = Watched(tree)
        tree.write(PI_THROTTLED, "3")
        for _ in range(20):
            assert set(watched.read(30).throttle_causes) == {"power_cap"}


def test_causes_stand_side_by_side(nano: Watched) -> None:
    nano.read()
    nano.tree.write(OC3, 27399)
    nano.tree.set_state("cpu-throttle-alert", 1)
    nano.tree.set_state("cpufreq-cpu4", 2)
    assert nano.read().throttle_causes == {
        "heat": "cpu-throttle-alert 1 of 2",
        "over_current": "oc3 +9 events/s",
        "power_cap": "cpufreq-cpu4 2 of 2",
    }


def test_power_mode_that_lowers_the_highest_clock_is_no_throttling(nano: Watched) -> None:
    nano.read()
    for clock in ("max_freq", "cur_freq"):
        nano.tree.write(f"class/devfreq/17000000.gpu/{clock}", 306_000_000)
    nano.tree.write("devices/system/cpu/cpu0/cpufreq/scaling_max_freq", 729_600)
    sample = nano.read(61)
    assert (sample.gpu.max_clock_hz, sample.throttle_causes, sample.is_throttling) == (306_000_000, {}, False)


def test_fans_displays_and_offsets_are_no_throttling(tmp_path: Path) -> None:
    with tree_of(DESKTOP, tmp_path / "sys") as tree:
        for device in ("Fan", "TCC Offset"):
            tree.set_state(device, 3)
        tree.set_state("intel_powerclamp", -1)
        sample = Watched(tree).read()
        assert sample.throttle_states == {"Processor": 0}
        assert sample.is_throttling is False


@pytest.mark.parametrize(
    ("bits", "celsius", "causes"),
    [
        ("50000", 82.0, set()),
        ("1", 60.0, set()),
        ("e0008", 82.0, {"heat"}),
        ("0x4", 85.5, {"heat"}),
        ("3", 55.0, {"power_cap"}),
    ],
)
def test_firmware_of_a_raspberry_pi_says_whether_it_throttles(
    bits: str, celsius: float, causes: set[str], tmp_path: Path
) -> None:
    with tree_of(RASPBERRY_PI_5, tmp_path / "sys") as tree:
        tree.heat(celsius)
        tree.write(PI_THROTTLED, bits)
        assert set(Watched(tree).read().throttle_causes) == causes


@pytest.mark.parametrize("bits", ["", "many"])
def test_firmware_that_cannot_be_read_tells_nothing(bits: str, tmp_path: Path) -> None:
    with tree_of(RASPBERRY_PI_5, tmp_path / "sys") as tree:
        tree.write(PI_THROTTLED, bits)
        assert Watched(tree).read().is_throttling is None


def test_second_processor_that_is_slowed_counts_like_the_first(tmp_path: Path) -> None:
    with tree_of(DESKTOP, tmp_path / "sys") as tree:
        tree.write("devices/virtual/thermal/cooling_device1/cur_state", 3)
        assert Watched(tree).read().throttle_states["Processor"] == 3


def test_constant_of_a_zone_without_trip_points_is_no_temperature_until_it_moves() -> None:
    check = ZoneCheck()
    doubtful = frozenset({"die"})
    good, absent = check.check({"die": 100.0, "cpu": 45.0}, 1.0, doubtful=doubtful)
    assert (set(good), absent) == ({"cpu"}, {"die": "reads 100 degrees without change: taken for a constant"})
    assert check.check({"die": 99.5, "cpu": 45.0}, 2.0, doubtful=doubtful)[1] == {}
    assert check.check({"die": 100.0, "cpu": 45.0}, 3.0, doubtful=doubtful)[1] == {}


@pytest.mark.parametrize("zones", [{"die": 100.0, "cpu": 80.0}, {"die": 71.0, "cpu": 40.0}, {"die": 90.0}])
def test_hot_zone_is_not_taken_for_a_constant(zones: dict[str, float]) -> None:
    assert ZoneCheck().check(zones, 1.0, doubtful=frozenset({"die"}))[1] == {}


def test_round_value_of_a_zone_with_trip_points_is_believed() -> None:
    assert ZoneCheck().check({"gpu": 90.0, "cpu": 40.0}, 1.0)[1] == {}
