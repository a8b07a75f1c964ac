"""One suite for every sensor, and proof that it catches the sensors that break it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from agent.config.sections.thermal import SimulatedBoardConfig, ThermalConfig
from agent.runtime.clock import SystemClock
from agent.thermal.sensors.auto import JtopOverSysfs
from agent.thermal.sensors.base import NoSensor, Sensor
from agent.thermal.sensors.choose import make_sensor, read_once
from agent.thermal.sensors.jtop import JtopSensor, JtopTimes
from agent.thermal.sensors.simulated import SimulatedSensor
from agent.thermal.sensors.sysfs import SysfsSensor
from tests.conformance import broken_sensors
from tests.conformance.sensor_contract import CONTRACT, MakeSensor, Promise
from tests.fixtures.jtop_children import child
from tests.fixtures.jtop_service_process import JtopService
from tests.fixtures.sysfs_tree import orin_nx_tree

CLOCK = SystemClock()
TIMES = JtopTimes(first_wait_s=0.05, max_wait_s=0.1)
SENSORS = ("sysfs", "simulated", "jtop", "auto", "auto without jtop", "real jtop")


@pytest.fixture(params=SENSORS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeSensor]:
    root = orin_nx_tree(tmp_path / "sys").root
    service: JtopService | None = None
    if request.param == "real jtop":
        service = real_service(root, tmp_path)

    def of(kind: str) -> Sensor:
        if kind == "sysfs":
            return SysfsSensor(root, clock=CLOCK, interval_s=0.2)
        if kind == "simulated":
            return SimulatedSensor(SimulatedBoardConfig(), clock=CLOCK, interval_s=0.2, rate_hz=lambda: 5.0)
        if kind == "jtop":
            return JtopSensor(child("steady"), clock=CLOCK, times=TIMES)
        if kind == "auto":
            return JtopOverSysfs(JtopSensor(child("steady"), clock=CLOCK, times=TIMES), of("sysfs"), falls_back=True)
        if kind == "auto without jtop":
            jtop = JtopSensor(child("not installed"), clock=CLOCK, times=TIMES)
            return JtopOverSysfs(jtop, of("sysfs"), falls_back=True)
        assert service is not None
        config = ThermalConfig(source="jtop", interval_s=0.5, jtop_python=os.environ["JTOP_PYTHON"])
        return make_sensor(config, clock=CLOCK, rate_hz=lambda: 0.0, sysfs_root=root, jtop_socket=service.socket)

    yield lambda: of(request.param)
    if service is not None:
        service.kill()


def real_service(root: Path, folder: Path) -> JtopService:
    if "JTOP_PYTHON" not in os.environ:
        reason = "jetson-stats 7.2 is not there: JTOP_PYTHON names no Python that has it"
        if os.environ.get("REQUIRE_JTOP") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    service = JtopService(os.environ["JTOP_PYTHON"], root, folder)
    service.start()
    return service


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_sensor_keeps_its_promise(promise: Promise, make: MakeSensor) -> None:
    promise(make, 10.0)


def breaches(make: MakeSensor) -> set[str]:
    """Names of the promises that the sensor does not keep."""
    broken = set()
    for promise in CONTRACT:
        made: list[Sensor] = []

        def remembered(made: list[Sensor] = made) -> Sensor:
            made.append(make())
            return made[-1]

        try:
            promise(remembered, 0.5)
        except AssertionError:
            broken.add(promise.__name__)
        finally:
            for sensor in made:
                with suppress(AssertionError):
                    sensor.stop()
    return broken


def test_good_sensor_has_no_breach() -> None:
    assert breaches(broken_sensors.GoodSensor) == set()


@pytest.mark.parametrize(
    ("sensor", "promise"),
    [
        (broken_sensors.GivesNumbersForTheAbsent, "delivers_believable_samples"),
        (broken_sensors.BothThereAndAbsent, "delivers_believable_samples"),
        (broken_sensors.NamesAnotherSource, "delivers_believable_samples"),
        (broken_sensors.SpeaksBeforeStart, "has_nothing_before_start"),
        (broken_sensors.SpeaksAfterStop, "has_nothing_after_stop"),
        (broken_sensors.RepeatsItself, "goes_on_delivering"),
        (broken_sensors.WaitsForever, "never_waits"),
        (broken_sensors.StaysStopped, "starts_again_after_stop"),
        (broken_sensors.StartsAThreadEachTime, "starts_once_when_told_twice"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_suite_catches_the_broken_sensor(sensor: type[broken_sensors.GoodSensor], promise: str) -> None:
    assert promise in breaches(sensor)


def test_no_sensor_says_nothing_and_why() -> None:
    sensor = make_sensor(ThermalConfig(source="none"), clock=CLOCK, rate_hz=lambda: 0.0)
    assert isinstance(sensor, NoSensor)
    sensor.start()
    assert sensor.latest() is None
    assert sensor.describe().detail == "thermal.source is none"
    sensor.stop()


def test_one_reading_for_a_report_takes_sysfs_where_jtop_is_not_installed(tmp_path: Path) -> None:
    root = orin_nx_tree(tmp_path / "sys").root
    config = ThermalConfig(source="auto", jtop_python="no-such-python")
    sample, description = read_once(config, clock=CLOCK, sysfs_root=root)
    assert sample is not None
    assert (sample.source, description.source) == ("sysfs", "sysfs")
    assert "jtop is silent: not_installed" in description.detail


def test_one_reading_for_a_report_ends_where_nothing_answers() -> None:
    config = ThermalConfig(source="jtop", jtop_python="no-such-python")
    sample, description = read_once(config, clock=CLOCK, timeout_s=0.5)
    assert sample is None
    assert description.state == "silent"
    assert read_once(ThermalConfig(source="none"), clock=CLOCK)[0] is None
