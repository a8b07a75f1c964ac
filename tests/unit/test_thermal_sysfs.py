"""What is read from sysfs, and what is not believed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.runtime.clock import SystemClock
from agent.thermal.sensors.base import ThermalSample, TripPoints
from agent.thermal.sensors.plausible import ZoneCheck
from agent.thermal.sensors.sysfs import SysfsReader, SysfsSensor
from tests.fixtures.sysfs_tree import GPU, SysfsTree, make_fifo_that_says_eagain, orin_nx_tree
from tests.fixtures.thermal_samples import SECOND, message_of


def read(tree: SysfsTree, second: float = 1.0) -> ThermalSample:
    return SysfsReader(tree.root).read(round(second * SECOND))


@pytest.fixture
def orin(tmp_path: Path) -> SysfsTree:
    return orin_nx_tree(tmp_path)


def test_everything_an_orin_shows_is_read(orin: SysfsTree) -> None:
    sample = read(orin)
    assert sample.temperatures == {"cpu": 48.5, "gpu": 47.25, "soc0": 46.0, "tj": 48.5}
    assert sample.hottest == ("cpu", 48.5)
    assert sample.trip_points["gpu"] == TripPoints(passive=99.0, critical=104.5)
    assert sample.trip_points["tj"] == TripPoints(critical=104.5)
    assert sample.power.rails == {"VDD_IN": 9.5, "VDD_CPU_GPU_CV": 3.5, "VDD_SOC": 2.0}
    assert (sample.power.total_watts, sample.power.total_meaning) == (9.5, "VDD_IN: the whole board")
    assert sample.gpu.load_ratio == 0.25
    assert (sample.gpu.clock_hz, sample.gpu.max_clock_hz) == (612_000_000, 918_000_000)
    assert sample.fans["pwmfan"].speed_ratio == pytest.approx(0.502, abs=0.001)
    assert sample.fans["pwm_tach"].rpm == 2400
    assert sample.throttle_alerts == {"cpu-throttle-alert": 0, "gpu-throttle-alert": 0, "soc0-throttle-alert": 0}
    assert sample.is_throttling is False
    assert sample.memory is not None
    assert 0 < sample.memory.used_bytes < sample.memory.total_bytes
    assert sample.absent == {}


def test_raised_alert_is_throttling(orin: SysfsTree) -> None:
    orin.alert(1, "gpu-throttle-alert", 1)
    assert read(orin).is_throttling is True


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("-256000", "reads -256 degrees: offline"),
        ("-273150", "reads -273.15 degrees: offline"),
        ("0", "reads exactly 0 degrees: not measuring"),
        ("126000", "reads 126 degrees: outside -40 to 125"),
        ("-41000", "reads -41 degrees: outside -40 to 125"),
        ("", "reads empty"),
        ("hot", "reads 'hot', which is no number"),
        ("nan", "reads nan degrees: outside -40 to 125"),
        ("inf", "reads inf degrees: outside -40 to 125"),
    ],
)
def test_lying_zone_is_absent_with_its_reason(orin: SysfsTree, text: str, reason: str) -> None:
    orin.temperature_file(1).write_text(text)
    sample = read(orin)
    assert "gpu" not in sample.temperatures
    assert sample.absent["gpu"] == reason
    assert sample.temperatures["cpu"] == 48.5


def test_zone_that_says_eagain_is_absent_and_back_when_it_reads_again(orin: SysfsTree) -> None:
    reader = SysfsReader(orin.root)
    writer = make_fifo_that_says_eagain(orin.temperature_file(1))
    try:
        assert reader.read(SECOND).absent["gpu"].startswith("EAGAIN: ")
    finally:
        os.close(writer)
    orin.set_celsius(1, 50.0)
    assert reader.read(2 * SECOND).temperatures["gpu"] == 50.0


def test_zone_that_is_a_folder_or_gone_is_absent(orin: SysfsTree) -> None:
    reader = SysfsReader(orin.root)
    reader.read(SECOND)
    orin.temperature_file(1).unlink()
    assert reader.read(2 * SECOND).absent["gpu"].startswith("ENOENT: ")
    orin.temperature_file(1).mkdir()
    assert reader.read(3 * SECOND).absent["gpu"].startswith("EISDIR: ")


def test_zones_that_appear_later_are_found_within_a_minute(orin: SysfsTree) -> None:
    reader = SysfsReader(orin.root)
    reader.read(SECOND)
    orin.zone(4, "cv0-thermal", 44.0)
    assert reader.read(62 * SECOND).temperatures["cv0"] == 44.0


def test_names_are_the_same_on_every_generation(tmp_path: Path) -> None:
    tree = SysfsTree(tmp_path)
    for number, kind in enumerate(("CPU-therm", "GPU-therm", "PMIC-Die", "Tboard_tegra", "soc012-thermal", "cpu-2")):
        tree.zone(number, kind, 40.0 + number)
    sample = read(tree)
    assert sorted(sample.temperatures) == ["cpu", "cpu2", "gpu", "soc012", "tboard"]
    assert sample.absent == {"pmic": "the PMIC's zone gives a constant"}


def test_trip_points_that_mean_nothing_are_left_out(tmp_path: Path) -> None:
    tree = SysfsTree(tmp_path)
    tree.zone(0, "x86_pkg_temp", 60.0, passive=-274.0)
    tree.write("devices/virtual/thermal/thermal_zone0/trip_point_1_type", "active")
    tree.write("devices/virtual/thermal/thermal_zone0/trip_point_1_temp", 55000)
    assert read(tree).trip_points == {"x86": TripPoints()}


def test_total_of_agx_orin_is_a_sum_and_says_so(tmp_path: Path) -> None:
    tree = SysfsTree(tmp_path)
    tree.ina3221([("VDD_GPU_SOC", 5000, 2000), ("VDD_CPU_CV", 5000, 1000), ("VIN_SYS_5V0", 5000, 800)])
    tree.ina3221([("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 5000, 200), ("NC", 0, 0)], number=2)
    power = read(tree).power
    assert power.total_watts == pytest.approx(20.0)
    assert power.total_meaning == "sum of 4 rails: the module without what no rail measures"


def test_total_of_thor_is_its_input_monitor(tmp_path: Path) -> None:
    tree = SysfsTree(tmp_path)
    tree.ina3221([("VDD_GPU", 12000, 3000), ("VDD_CPU_SOC_MSS", 12000, 1500), ("VIN_SYS_5V0", 5000, 800)])
    tree.write("class/hwmon/hwmon5/name", "ina238")
    tree.write("class/hwmon/hwmon5/power1_input", 78_500_000)
    power = read(tree).power
    assert (power.total_watts, power.total_meaning) == (78.5, "VIN: the whole board")


def test_rail_that_cannot_be_read_is_absent_and_not_zero(orin: SysfsTree) -> None:
    (orin.root / "bus/i2c/devices/1-0040/hwmon/hwmon1/curr2_input").unlink()
    orin.write("bus/i2c/devices/1-0040/hwmon/hwmon1/curr3_input", -5000)
    sample = read(orin)
    assert set(sample.power.rails) == {"VDD_IN"}
    assert sample.absent["power VDD_CPU_GPU_CV"] == "cannot be read"
    assert "outside 0 to 1000" in sample.absent["power VDD_SOC"]
    assert sample.has_zones


@pytest.mark.parametrize("text", ["-1", "nan", "inf"])
def test_figures_that_cannot_be_are_left_out_and_the_message_can_be_sent(
    orin: SysfsTree, tmp_path: Path, text: str
) -> None:
    orin.alert(1, "gpu-throttle-alert")
    for path in (
        "devices/virtual/thermal/cooling_device1/cur_state",
        f"devices/platform/{GPU}/devfreq/{GPU}/cur_freq",
        f"devices/platform/{GPU}/devfreq/{GPU}/max_freq",
    ):
        assert (orin.root / path).exists()
        orin.write(path, text)
    for fan in (*orin.root.rglob("rpm"), *orin.root.rglob("fan1_input"), *orin.root.rglob("pwm1")):
        fan.write_text(text)
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 1001 kB\n")
    sample = SysfsReader(orin.root, proc=proc).read(SECOND)
    assert "gpu-throttle-alert" not in sample.throttle_alerts
    assert (sample.gpu.clock_hz, sample.gpu.max_clock_hz) == (None, None)
    assert all(fan.rpm is None for fan in sample.fans.values())
    assert sample.memory is not None
    assert sample.memory.used_bytes == 0
    assert message_of(sample).zones["cpu"].celsius == 48.5


def test_empty_tree_gives_a_sample_without_anything(tmp_path: Path) -> None:
    sample = read(SysfsTree(tmp_path))
    assert (sample.temperatures, sample.absent, sample.has_zones) == ({}, {}, False)
    assert sample.hottest is None
    assert sample.is_throttling is None
    assert SysfsReader(tmp_path / "missing").read(1).temperatures == {}


def test_power_mode_is_read_from_nvpmodel(orin: SysfsTree, tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("pmode:0002\n")
    assert SysfsReader(orin.root, nvpmodel=status).read(1).power_mode == "2"
    status.write_text("pmode:\n")
    assert SysfsReader(orin.root, nvpmodel=status).read(1).power_mode is None
    assert SysfsReader(orin.root, nvpmodel=tmp_path / "none").read(1).power_mode is None


def feed(check: ZoneCheck, seconds: range, readings: Callable[[int], dict[str, float]]) -> dict[str, str]:
    for second in seconds:
        absent = check.check(readings(second), float(second))[1]
    return absent


def test_stuck_zone_is_absent_once_the_others_have_moved_without_it() -> None:
    check = ZoneCheck()
    absent = feed(
        check, range(300), lambda at: {"gpu": 45.0, "cpu": 45.0 + min(at * 0.1, 20.0), "soc": 44.0 + at * 0.07}
    )
    assert "stuck at 45 degrees for 299 s while the other zones moved from" in absent["gpu"]
    assert set(absent) == {"gpu"}
    assert check.check({"gpu": 45.1, "cpu": 65.0, "soc": 65.0}, 300.0)[1] == {}


def test_zone_that_was_dark_meanwhile_is_not_stuck_when_it_comes_back_as_it_was() -> None:
    check = ZoneCheck()
    assert not feed(check, range(100), lambda second: {"gpu": 45.0, "cpu": 40.0 if second < 90 else 50.0})
    assert not feed(check, range(100, 1000), lambda _: {"cpu": 50.0})
    assert not feed(check, range(1000, 1050), lambda _: {"gpu": 45.0, "cpu": 50.0})


def test_steady_board_is_not_taken_for_a_stuck_one() -> None:
    assert feed(ZoneCheck(), range(7200), lambda _: {"gpu": 45.0, "cpu": 45.5}) == {}


def test_short_burst_of_one_block_makes_no_other_zone_a_liar() -> None:
    check = ZoneCheck()
    assert feed(check, range(600), lambda at: {"board": 40.0, "cpu": 70.0 if at % 60 < 30 else 45.0 + at % 7}) == {}


def test_bus_that_hangs_makes_the_sensor_silent_and_holds_nobody_up(orin: SysfsTree) -> None:
    """A reader that blocks stands for an I2C read that does not return."""
    blocked, released = threading.Event(), threading.Event()

    class HangingReader(SysfsReader):
        def read(self, now_ns: int) -> ThermalSample:
            blocked.set()
            released.wait(20.0)
            return super().read(now_ns)

    sensor = SysfsSensor(orin.root, clock=SystemClock(), interval_s=0.2, reader=HangingReader(orin.root))
    sensor.start()
    try:
        assert blocked.wait(5.0)
        started = time.monotonic()
        assert sensor.latest() is None
        sensor.stop()
        assert time.monotonic() - started < 5.0
    finally:
        released.set()
