"""The owner of the jtop child, with children that misbehave."""

from __future__ import annotations

import shlex
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from agent.runtime.clock import SystemClock
from agent.thermal.sensors.auto import JtopOverSysfs, overlaid
from agent.thermal.sensors.base import FanSample, GpuSample, PowerSample, ThermalSample, TripPoints
from agent.thermal.sensors.jtop import JtopSensor, JtopTimes, jtop_command
from tests.fixtures.deadlines import wait_until
from tests.fixtures.jtop_children import child
from tests.fixtures.processes import is_alive
from tests.fixtures.thermal_samples import ScriptedSensor

QUICK = JtopTimes(fresh_s=0.3, first_sample_s=1.0, silence_s=0.5, first_wait_s=0.05, max_wait_s=0.1)


def sensor(behaviour: str, times: JtopTimes = QUICK) -> JtopSensor:
    return JtopSensor(child(behaviour), clock=SystemClock(), times=times)


def test_sample_of_the_child_is_delivered_and_fresh() -> None:
    jtop = sensor("steady")
    jtop.start()
    try:
        wait_until(jtop.latest)
        sample = jtop.latest()
        assert sample is not None
        assert sample.temperatures == {"gpu": 50.0}
        description = jtop.describe()
        assert (description.source, description.state, description.detail) == ("jtop", "reading", "jetson-stats 7.2.2")
    finally:
        jtop.stop()
    assert jtop.latest() is None


@pytest.mark.parametrize(
    "behaviour",
    ["one sample, then mute", "repeats its last answer", "one sample, then stops", "ignores everything"],
)
def test_child_without_news_is_killed_and_started_again(behaviour: str) -> None:
    jtop = sensor(behaviour)
    jtop.start()
    try:
        wait_until(jtop.latest)
        wait_until(lambda: jtop.latest() is None)
        wait_until(lambda: jtop.describe().state == "silent" or jtop.describe().restarts)
        wait_until(lambda: jtop.describe().restarts >= 2)
        wait_until(jtop.latest)
    finally:
        jtop.stop()


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("mute", "silent: no new sample for 1 s, child killed"),
        ("no end of line", "silent: no new sample for 1 s, child killed"),
        ("closes its output", "silent: no new sample for 0.5 s, child killed"),
        ("one sample, then ends", "ended: the child left with exit code 0"),
        ("one sample, then killed", "ended: the child left with signal 9 (SIGKILL)"),
        ("says why", "no_permission: not in group"),
    ],
)
def test_reason_of_the_end_is_reported(behaviour: str, reason: str) -> None:
    jtop = sensor(behaviour, JtopTimes(0.3, 1.0, 0.5, first_wait_s=5.0, max_wait_s=5.0))
    jtop.start()
    try:
        wait_until(lambda: jtop.describe().state == "silent")
        assert jtop.describe().detail.startswith(reason)
    finally:
        jtop.stop()


def test_absent_jetson_stats_is_asked_for_once() -> None:
    jtop = sensor("not installed")
    jtop.start()
    try:
        wait_until(lambda: jtop.describe().state == "silent")
        assert jtop.describe().detail == "not_installed: no jtop"
        wait_until(lambda: jtop._thread is not None and not jtop._thread.is_alive())
        assert jtop.describe().restarts == 0
    finally:
        jtop.stop()


def test_interpreter_that_does_not_exist_is_named() -> None:
    jtop = JtopSensor(jtop_command("no-such-python", interval_s=1.0), clock=SystemClock(), times=QUICK)
    jtop.start()
    try:
        wait_until(lambda: jtop.describe().state == "silent")
        assert jtop.describe().detail.startswith("not_installed: no-such-python cannot be run")
    finally:
        jtop.stop()


def test_child_that_could_not_be_started_for_a_moment_is_started_later(tmp_path: Path) -> None:
    program = tmp_path / "child"
    program.write_text(f"#!/bin/sh\nexec {shlex.join(child('steady'))}\n")
    program.chmod(0o700)
    jtop = JtopSensor([str(program)], clock=SystemClock(), times=QUICK)
    with program.open("a"):  # what is open for writing cannot be run
        jtop.start()
        wait_until(lambda: jtop.describe().state == "silent")
        assert jtop.describe().detail == f"failed: {program} cannot be run: Text file busy"
    try:
        wait_until(jtop.latest)
    finally:
        jtop.stop()


def test_nonsense_between_the_lines_is_ignored() -> None:
    jtop = sensor("talks nonsense")
    jtop.start()
    try:
        wait_until(jtop.latest)
    finally:
        jtop.stop()


def test_stop_ends_the_child_with_everything_it_started() -> None:
    before = set(psutil.Process().children(recursive=True))
    jtop = sensor("has children")
    jtop.start()
    wait_until(jtop.latest)
    family = set(psutil.Process().children(recursive=True)) - before
    assert len(family) == 2
    started = time.monotonic()
    jtop.stop()
    assert time.monotonic() - started < 5.0
    wait_until(lambda: not any(is_alive(process) for process in family))


def test_child_that_ends_leaves_nothing_behind() -> None:
    before = set(psutil.Process().children(recursive=True))

    def started() -> set[psutil.Process]:
        return set(psutil.Process().children(recursive=True)) - before

    jtop = sensor("ends before its child", JtopTimes(0.3, 1.0, 0.9, first_wait_s=30.0, max_wait_s=30.0))
    jtop.start()
    try:
        wait_until(lambda: any(process.name() == "sleep" for process in started()))
        family = started()
        wait_until(lambda: jtop.describe().state == "silent")
        assert jtop.describe().detail.startswith("ended: the child left with exit code 0")
        wait_until(lambda: not any(is_alive(one) for one in family))
    finally:
        jtop.stop()


def test_stop_before_start_and_twice_is_harmless() -> None:
    jtop = sensor("steady")
    jtop.stop()
    jtop.start()
    jtop.stop()
    jtop.stop()
    assert jtop.describe().state == "stopped"


JTOP = ThermalSample(
    source="jtop",
    taken_at_ns=2,
    temperatures={"cpu": 50.0},
    power=PowerSample({"VIN": 80.0}, 80.0, "VIN: the whole board"),
    gpu=GpuSample(load_ratio=0.9),
    power_mode="MAXN",
    absent={"gpu": "jtop says offline"},
)
SYSFS = ThermalSample(
    source="sysfs",
    taken_at_ns=1,
    temperatures={"cpu": 49.0, "gpu": 48.0},
    trip_points={"cpu": TripPoints(critical=104.5)},
    power=PowerSample({"VDD_IN": 9.0}, 9.0, "VDD_IN: the whole board"),
    gpu=GpuSample(load_ratio=0.5, clock_hz=600, max_clock_hz=900),
    fans={"pwmfan": FanSample(speed_ratio=0.5)},
    throttle_causes={"over_current": "oc3 +41 events/s"},
    throttle_states={"cpu-throttle-alert": 0},
    over_current_hz={"oc3": 41.0},
    over_current_events={"oc3": 27390},
    hints={"hot-surface-alert": 1},
    absent={"cv0": "EAGAIN: Resource temporarily unavailable"},
)


def test_jtop_is_completed_by_what_only_sysfs_knows() -> None:
    both = overlaid(JTOP, SYSFS)
    assert both.source == "jtop"
    assert both.temperatures == {"cpu": 50.0, "gpu": 48.0}
    assert both.trip_points == SYSFS.trip_points
    assert both.throttle_states == SYSFS.throttle_states
    assert both.throttle_causes == {"over_current": "oc3 +41 events/s"}
    assert (both.over_current_hz, both.over_current_events) == ({"oc3": 41.0}, {"oc3": 27390})
    assert both.hints == {"hot-surface-alert": 1}
    assert both.power == JTOP.power
    assert both.gpu == SYSFS.gpu
    assert both.power_mode == "MAXN"
    assert both.fans == SYSFS.fans
    assert both.absent == {"cv0": "EAGAIN: Resource temporarily unavailable"}


def test_constant_that_sysfs_found_out_does_not_come_back_by_jtop() -> None:
    sysfs = replace(SYSFS, absent={"die": "reads 100 degrees without change: taken for a constant"})
    both = overlaid(replace(JTOP, temperatures={"cpu": 50.0, "die": 100.0}), sysfs)
    assert both.hottest == ("cpu", 50.0)
    assert "die" in both.absent


@pytest.mark.parametrize(("falls_back", "source"), [(True, "sysfs"), (False, None)])
def test_silent_jtop_leaves_sysfs_only_where_that_was_asked_for(falls_back: bool, source: str | None) -> None:
    jtop, sysfs = ScriptedSensor(), ScriptedSensor()
    both = JtopOverSysfs(jtop, sysfs, falls_back=falls_back)
    sysfs.sample = SYSFS
    latest = both.latest()
    assert (None if latest is None else latest.source) == source
    jtop.sample = JTOP
    latest = both.latest()
    assert latest is not None
    assert latest.source == "jtop"
