"""The thread that watches: what it publishes, when, and what it tells the latency message."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.config.sections.thermal import ThermalConfig
from agent.mqtt.identity import Identity
from agent.mqtt.messages.thermal import Thermal
from agent.mqtt.topics import Topics, encode
from agent.runtime.clock import SystemClock
from agent.telemetry.thermal import thermal_message
from agent.thermal.decision import GovernorDecision
from agent.thermal.levers import Lever, LeverName
from agent.thermal.minutes import MinuteFile, read_minutes
from agent.thermal.monitor import ThermalMonitor, ThermalSnapshot
from agent.thermal.sensors.base import GpuSample, MemorySample, SensorDescription, ThermalSample
from tests.fixtures.deadlines import wait_until
from tests.fixtures.thermal_samples import ManualClock, ScriptedSensor, sample

_IDENTITY = Identity(
    device="line-3", session=7, agent="1", started="2026-01-01T00:00:00.000000Z", topics=Topics("edge", "line-3")
)


class Watched:
    """A monitor whose time and sensor are set by hand."""

    def __init__(
        self, source: str = "sysfs", *, levers: Sequence[Lever] = (), minutes: MinuteFile | None = None
    ) -> None:
        self.clock = ManualClock()
        self.sensor = ScriptedSensor()
        self.decisions: list[GovernorDecision] = []
        self.messages: list[Thermal] = []
        self.monitor = ThermalMonitor(
            ThermalConfig.model_validate({"source": source}),
            self.sensor,
            clock=self.clock,
            on_decision=self.decisions.append,
            on_snapshot=lambda snapshot: self.messages.append(thermal_message(snapshot, _IDENTITY)),
            levers=levers,
            minutes=minutes,
        )

    def look(self, seconds: int = 1, **zones: float) -> None:
        for _ in range(seconds):
            self.clock.pass_s(1.0)
            self.show(sample(self.clock.now_ns / 1e9, watts=None, absent=None, **zones))

    def show(self, shown: ThermalSample | None) -> None:
        self.sensor.sample = shown
        self.monitor.look()


def test_message_says_everything_and_is_json() -> None:
    watched = Watched()
    watched.clock.pass_s(1.0)
    shown = sample(watched.clock.now_ns / 1e9, watts=9.5, absent={"cv0": "EAGAIN: not now"}, gpu=47.254, cpu=48.5)
    shown = replace(shown, gpu=GpuSample(0.25, 612, 918), memory=MemorySample(100, 40), throttle_states={"a": 0})
    watched.show(shown)
    sent = json.loads(encode(watched.messages[-1]))
    assert sent["schema"] == "thermal/1"
    assert (sent["device"], sent["session"], sent["source"], sent["age_s"]) == ("line-3", 7, "sysfs", 0.0)
    assert sent["zones"]["gpu"] == {
        "celsius": 47.25,
        "passive_celsius": 99.0,
        "critical_celsius": 104.5,
        "soft_celsius": 95.0,
        "hard_celsius": 98.5,
        "throttle_celsius": 99.0,
        "limit_source": "passive trip point at 99 °C",
        "hints": {},
    }
    assert sent["hottest"] == "cpu"
    assert sent["unusable_sensors"] == {"cv0": "EAGAIN: not now"}
    assert sent["power"] == {
        "rails": {"VDD_IN": 9.5},
        "total_watts": 9.5,
        "total_meaning": "VDD_IN: the whole board",
    }
    assert sent["gpu"] == {"load_ratio": 0.25, "clock_hz": 612, "max_clock_hz": 918}
    assert sent["memory"] == {"total_bytes": 100, "used_bytes": 40}
    assert sent["throttled"] is False
    assert sent["governor"]["state"] == "free"
    assert sent["governor"]["rate_ratio"] == 1.0
    assert sent["governor"]["zone"] == "cpu"


def test_message_without_any_reading_has_nulls_and_not_zeros() -> None:
    watched = Watched()
    watched.show(None)
    sent = watched.messages[-1]
    assert (sent.zones, sent.hottest, sent.age_s, sent.memory, sent.throttled) == ({}, None, None, None, None)
    assert sent.power.total_watts is None
    assert sent.governor.predicted_celsius is None


def test_small_drift_is_published_each_half_minute_only() -> None:
    watched = Watched()
    watched.look(1, gpu=50.0)
    watched.look(29, gpu=50.4)
    assert len(watched.messages) == 1
    watched.look(1, gpu=50.4)
    assert len(watched.messages) == 2


def test_move_of_more_than_half_a_degree_is_published_at_once() -> None:
    watched = Watched()
    watched.look(1, gpu=50.0)
    watched.look(1, gpu=50.5)
    assert len(watched.messages) == 1
    watched.look(1, gpu=50.6)
    assert len(watched.messages) == 2
    assert watched.messages[-1].zones["gpu"].celsius == 50.6


@pytest.mark.parametrize(
    "change",
    [
        {"throttle_causes": {"heat": "gpu-throttle-alert"}},
        {"power_mode": "15W"},
        {"absent": {"cv0": "EAGAIN"}},
        {"source": "jtop"},
        {"temperatures": {"gpu": 50.0, "cpu": 50.0}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_news_is_published_at_once(change: dict[str, object]) -> None:
    watched = Watched()
    watched.look(1, gpu=50.0)
    watched.clock.pass_s(1.0)
    watched.show(replace(sample(watched.clock.now_ns / 1e9, gpu=50.0), **change))  # type: ignore[arg-type]  # fields by name
    assert len(watched.messages) == 2


def test_loss_of_the_sensor_is_published_at_once() -> None:
    watched = Watched()
    watched.look(1, gpu=50.0)
    watched.show(None)
    assert len(watched.messages) == 2
    assert watched.monitor.sample() is None
    assert watched.monitor.statistics().silent_looks == 1


def test_change_of_the_rate_is_announced_with_its_reason_and_published() -> None:
    watched = Watched()
    watched.look(10, gpu=85.0)
    watched.look(10, gpu=92.0)
    assert watched.decisions
    assert all(decision.changed for decision in watched.decisions)
    assert watched.messages[-1].governor.state == "reduced"
    assert watched.messages[-1].governor.reason == watched.decisions[-1].reason
    statistics = watched.monitor.statistics()
    assert statistics.changes == len(watched.decisions)
    assert statistics.rate_ratio == watched.decisions[-1].ratio < 1.0
    assert (statistics.readings, statistics.hottest_zone, statistics.hottest_celsius) == (20, "gpu", 92.0)
    assert statistics.snapshots == len(watched.messages)


def test_throttling_is_remembered_for_the_window_that_asks() -> None:
    watched = Watched()
    start = watched.clock.now_ns
    watched.look(5, gpu=50.0)
    assert watched.monitor.throttled_between(start, watched.clock.now_ns) is None
    watched.clock.pass_s(1.0)
    watched.show(replace(sample(watched.clock.now_ns / 1e9, gpu=50.0), throttle_causes={"heat": "gpu-throttle-alert"}))
    middle = watched.clock.now_ns
    watched.clock.pass_s(1.0)
    watched.show(replace(sample(watched.clock.now_ns / 1e9, gpu=50.0), throttle_states={"gpu-throttle-alert": 0}))
    assert watched.monitor.throttled_between(start, watched.clock.now_ns) is True
    assert watched.monitor.throttled_between(middle + 1, watched.clock.now_ns) is False
    assert watched.monitor.throttled_between(0, start - 1) is None


def test_thread_reads_until_it_is_stopped() -> None:
    seen: list[ThermalSnapshot] = []
    config = ThermalConfig(source="sysfs", interval_s=0.2)
    sensor = ScriptedSensor()
    monitor = ThermalMonitor(config, sensor, clock=SystemClock(), on_decision=lambda _: None, on_snapshot=seen.append)
    monitor.start()
    wait_until(lambda: seen)
    monitor.stop()
    monitor.stop()
    assert monitor.failure is None
    assert monitor.decision.state == "free"


def test_fault_of_the_program_ends_the_thread_and_is_kept_for_the_owner() -> None:
    class FaultySensor(ScriptedSensor):
        def latest(self) -> ThermalSample | None:
            raise RuntimeError("a mistake")

    monitor = ThermalMonitor(
        ThermalConfig(source="sysfs"),
        FaultySensor(),
        clock=SystemClock(),
        on_decision=lambda _: None,
        on_snapshot=lambda _: None,
    )
    monitor.start()
    wait_until(lambda: monitor.failure)
    assert isinstance(monitor.failure, RuntimeError)
    monitor.stop()


def test_statistics_name_the_sensor_before_the_first_reading() -> None:
    class StartingSensor(ScriptedSensor):
        def describe(self) -> SensorDescription:
            return SensorDescription("jtop", "starting", restarts=3)

    watched = Watched()
    watched.monitor._sensor = StartingSensor()
    statistics = watched.monitor.statistics()
    assert (statistics.source, statistics.sensor, statistics.jtop_restarts) == ("jtop", "starting", 3)
    assert statistics.hottest_celsius is None


def test_a_look_that_comes_back_after_the_end_decides_nothing() -> None:
    watched = Watched()
    watched.monitor.stop()
    watched.look(5, gpu=98.0)
    assert (watched.decisions, watched.messages) == ([], [])


class RecordedLever:
    """Remembers what it was asked for; ``fails`` makes it unavailable at the first call."""

    def __init__(self, name: LeverName, *, fails: bool = False) -> None:
        self.name: LeverName = name
        self.is_available = True
        self.levels: list[float | None] = []
        self._fails = fails

    def engage(self, level: float) -> None:
        self.levels.append(level)
        self.is_available = not self._fails

    def release(self) -> None:
        self.levels.append(None)


def test_levers_follow_the_governor_and_are_released_at_the_end() -> None:
    clocks, batches = RecordedLever("clocks"), RecordedLever("batches")
    watched = Watched(levers=(clocks, batches))
    watched.look(30, gpu=80.0)
    assert set(clocks.levels) == set(batches.levels) == {None}
    watched.look(60, gpu=97.0)
    assert batches.levels[-1] == 1.0
    level = clocks.levels[-1] or 1.0
    assert level < 1.0
    statistics = watched.monitor.statistics()
    assert (statistics.cause, statistics.levers[0], statistics.clock_ratio) == ("heat", "batches", level)
    assert statistics.reason.startswith("clocks held to ")
    sent = json.loads(encode(watched.messages[-1]))["governor"]
    assert (sent["cause"], sent["levers"][:2]) == ("heat", ["batches", "clocks"])
    assert sent["clock_ratio"] == pytest.approx(level, abs=0.001)
    watched.monitor.stop()
    assert [lever.levels[-1] for lever in (clocks, batches)] == [None, None]


def test_lever_that_fails_is_given_up_and_the_rate_takes_over() -> None:
    clocks = RecordedLever("clocks", fails=True)
    watched = Watched(levers=(clocks,))
    watched.look(30, gpu=80.0)
    watched.look(60, gpu=97.0)
    statistics = watched.monitor.statistics()
    assert (statistics.clock_ratio, statistics.levers) == (1.0, ("rate",))
    assert statistics.rate_ratio < 0.9
    assert len([level for level in clocks.levels if level is not None]) == 1


def test_event_names_cause_and_levers() -> None:
    watched = Watched(levers=(RecordedLever("clocks"),))
    with capture_logs() as logs:
        watched.look(30, gpu=80.0)
        watched.look(20, gpu=97.0)
    event = next(entry for entry in logs if entry["event"] == "thermal.governor_changed")
    assert (event["cause"], event["levers"], event["log_level"]) == ("heat", ["clocks"], "warning")
    assert event["clock_ratio"] < 1.0


def test_message_shows_the_limit_that_is_in_force_and_its_margin() -> None:
    watched = Watched()
    watched.look(3000, gpu=70.0)
    sent = json.loads(encode(watched.messages[-1]))
    assert sent["zones"]["gpu"]["soft_celsius"] == pytest.approx(97.5, abs=0.1)
    assert sent["governor"]["margin_kelvin"] == pytest.approx(1.5, abs=0.1)


def test_minutes_are_kept_while_it_looks(tmp_path: Path) -> None:
    watched = Watched(minutes=MinuteFile(tmp_path / "minutes"))
    watched.look(125, gpu=70.0)
    kept = read_minutes(tmp_path / "minutes").minutes
    assert [minute.max_celsius for minute in kept] == [70.0, 70.0]
    assert kept[1].utc_s - kept[0].utc_s == 60
