"""Which trip point counts, and which cooling devices lower clocks."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config.sections.thermal import GovernorConfig
from agent.thermal.limits import limits_of, throttling_of
from agent.thermal.sensors.base import ThermalSample, TripPoints
from agent.thermal.sensors.cooling import role_of
from agent.thermal.sensors.sysfs import SysfsReader
from tests.fixtures.boards import Board, BoardTree, Zone, tree_of
from tests.fixtures.thermal_samples import SECOND

THROTTLES = (
    *("cpufreq-cpu0", "thermal-cpufreq-0", "cpufreq-policy4", "devfreq-17000000.gpu", "thermal-devfreq-0"),
    *("devfreq-gpu-gpc-0", "gpu-throttle-alert", "soc012-throttle-alert", "Processor", "intel_powerclamp"),
    *("cpu-balanced", "gpu-balanced", "heavy", "17000000.gpu", "gpu", "thermal-idle-0", "cpu-throttle"),
    *("idle-cpu0", "skin-balanced", "light", "cpu-hotplug4", "cpu-isolate7", "thermal-pause-F0"),
)
OTHERS = {
    "hint": ("hot-surface-alert", "skin_alert"),
    "fan": ("pwm-fan", "Fan", "rpi-poe-fan", "gpu-fan", "cpufan0", "pwmfan"),
    "unknown": ("LCD", "TCC Offset", "iwlwifi", "battery", "backlight", "highlight", "mmc0", "", "cpu", "emc"),
}


@pytest.mark.parametrize("kind", THROTTLES)
def test_device_that_lowers_clocks_is_known(kind: str) -> None:
    assert role_of(kind) == "throttle"


@pytest.mark.parametrize(("role", "kind"), [(role, kind) for role, kinds in OTHERS.items() for kind in kinds])
def test_device_that_lowers_no_clock_is_not_taken_for_one(role: str, kind: str) -> None:
    assert role_of(kind) == role


def points_of(tmp_path: Path, zone: Zone, *devices: str) -> TripPoints:
    with tree_of(Board("one zone", "made up", [zone], devices), tmp_path / "sys") as tree:
        return SysfsReader(tree.root).read(SECOND).trip_points["x"]


def test_lowest_trip_point_that_lowers_clocks_counts_whatever_its_kind(tmp_path: Path) -> None:
    trips = (("passive", 95.0), ("hot", 88.0), ("active", 60.0), ("passive", 70.0), ("critical", 105.0))
    bound = [("cpufreq-cpu0", 0), ("heavy", 1), ("pwm-fan", 2), ("hot-surface-alert", 3), ("cpufreq-cpu0", 4)]
    points = points_of(
        tmp_path, Zone("x", 40.0, trips, bound), "cpufreq-cpu0", "heavy", "pwm-fan", "hot-surface-alert"
    )
    assert (points.passive, points.critical) == (88.0, 105.0)
    assert points.source == "trip 1 at 88 °C, the lowest bound to heavy"
    assert points.hints == {"pwm-fan": 60.0, "hot-surface-alert": 70.0}


def test_slow_board_that_really_lowers_clocks_at_70_is_held_to_70(tmp_path: Path) -> None:
    zone = Zone("x", 40.0, (("passive", 70.0), ("passive", 75.0), ("critical", 95.0)), [("thermal-cpufreq-0", 0)])
    assert points_of(tmp_path, zone, "thermal-cpufreq-0").passive == 70.0


@pytest.mark.parametrize(
    ("trips", "expected"),
    [
        ((("passive", 70.0), ("passive", 90.0), ("critical", 104.0)), 90.0),
        ((("passive", 79.9), ("critical", 104.0)), 98.5),
        ((("passive", 110.0), ("critical", 100.0)), 94.5),
        ((("passive", 95.5), ("critical", -40.0)), 95.5),
        ((("passive", -274.0), ("critical", 0.0)), None),
        ((("critical", 103.0), ("hot", 92.0)), 92.0),
        ((("critical", 60.0),), None),
        ((("hot", 90.0),), None),
        ((("passive", 200.0), ("critical", 300.0)), None),
        ((), None),
    ],
)
def test_limit_without_bindings_is_the_passive_point_from_80_on_else_the_default(
    trips: tuple[tuple[str, float], ...], expected: float | None, tmp_path: Path
) -> None:
    found = throttling_of(points_of(tmp_path, Zone("x", 40.0, trips)))
    assert (None if found is None else found[0]) == expected


def test_trip_point_of_an_alert_alone_never_counts_however_hot_it_is(tmp_path: Path) -> None:
    zone = Zone("x", 40.0, (("passive", 85.0), ("critical", 104.5)), [("hot-surface-alert", 0)])
    points = points_of(tmp_path, zone, "hot-surface-alert")
    assert points.passive is None
    assert throttling_of(points) == (99.0, "no trip point lowers clocks: 5.5 K below the critical one at 104.5 °C")


def test_unknown_device_makes_no_limit_below_80(tmp_path: Path) -> None:
    zone = Zone("x", 40.0, (("passive", 60.0), ("passive", 91.0), ("critical", 104.5)), [("LCD", 0), ("LCD", 1)])
    assert points_of(tmp_path, zone, "LCD").passive == 91.0


@pytest.mark.parametrize("broken", ["dangling", "no number", "minus one", "loop"])
def test_binding_that_cannot_be_read_is_none(broken: str, tmp_path: Path) -> None:
    zone = Zone("x", 40.0, (("passive", 60.0), ("passive", 91.0)), [("cpufreq-cpu0", 0)])
    tree = BoardTree(tmp_path / "sys", Board("one zone", "made up", [zone], ["cpufreq-cpu0"]))
    link = tree.root / "devices/virtual/thermal/thermal_zone0/cdev0"
    number = link.with_name("cdev0_trip_point")
    if broken in ("dangling", "loop"):
        link.unlink()
        link.symlink_to("../gone" if broken == "dangling" else "cdev0")
    else:
        number.write_text("-1" if broken == "minus one" else "")
    assert SysfsReader(tree.root).read(SECOND).trip_points["x"].passive == 91.0


def test_limits_say_where_they_come_from() -> None:
    trips = {"gpu": TripPoints(passive=99.0, source="trip 0"), "cpu": TripPoints(assumed=80.0, source="firmware")}
    limits = limits_of(ThermalSample("sysfs", 1, dict.fromkeys(trips, 40.0), trips), GovernorConfig())
    assert {zone: (limit.throttle_celsius, limit.source) for zone, limit in limits.items()} == {
        "gpu": (99.0, "trip 0"),
        "cpu": (80.0, "firmware"),
    }
