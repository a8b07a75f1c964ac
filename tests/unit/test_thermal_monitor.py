"""The thread that watches: what it publishes, when, and what it tells the latency message."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agent.config.thermal import ThermalConfig
from agent.mqtt.messages import encode
from agent.mqtt.messages.thermal import Thermal
from agent.runtime.clock import SystemClock
from agent.thermal.governor import GovernorDecision
from agent.thermal.monitor import ThermalMonitor
from agent.thermal.sensors.base import GpuSample, MemorySample, SensorDescription, ThermalSample
from tests.fixtures.deadlines import wait_until
from tests.fixtures.thermal_samples import ManualClock, ScriptedSensor, sample


class Watched:
    """A monitor whose time and sensor are set by hand."""

    def __init__(self, source: str = "sysfs") -> None:
        self.clock = ManualClock()
        self.sensor = ScriptedSensor()
        self.decisions: list[GovernorDecision] = []
        self.messages: list[Thermal] = []
        self.monitor = ThermalMonitor(
            ThermalConfig.model_validate({"source": source}),
            self.sensor,
            clock=self.clock,
            device="line-3",
            session=7,
            on_decision=self.decisions.append,
            on_message=self.messages.append,
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
    shown = replace(shown, gpu=GpuSample(0.25, 612, 918), memory=MemorySample(100, 40), throttle_alerts={"a": 0})
    watched.show(shown)
    sent = json.loads(encode(watched.messages[-1]))
    assert sent["schema"] == "thermal/1"
    assert (sent["device"], sent["session"], sent["source"], sent["age_s"]) == ("line-3", 7, "sysfs", 0.0)
    assert sent["zones"]["gpu"] == {
        "celsius": 47.25,
        "passive_celsius": 99.0,
        "critical_celsius": 104.5,
        "soft_celsius": 89.0,
        "hard_celsius": 96.0,
    }
    assert sent["hottest"] == "cpu"
    assert sent["absent"] == {"cv0": "EAGAIN: not now"}
    assert sent["power"] == {
        "rails": {"VDD_IN": 9.5},
        "total_watts": 9.5,
        "total_meaning": "VDD_IN: the whole board",
    }
    assert sent["gpu"] == {"load_ratio": 0.25, "clock_hz": 612, "max_clock_hz": 918}
    assert sent["memory"] == {"total_bytes": 100, "used_bytes": 40}
    assert sent["is_throttling"] is False
    assert sent["governor"]["state"] == "free"
    assert sent["governor"]["rate_ratio"] == 1.0
    assert sent["governor"]["zone"] == "cpu"


def test_message_without_any_reading_has_nulls_and_not_zeros() -> None:
    watched = Watched()
    watched.show(None)
    sent = watched.messages[-1]
    assert (sent.zones, sent.hottest, sent.age_s, sent.memory, sent.is_throttling) == ({}, None, None, None, None)
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
        {"throttle_alerts": {"gpu-throttle-alert": 1}},
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
    assert statistics.messages == len(watched.messages)


def test_throttling_is_remembered_for_the_window_that_asks() -> None:
    watched = Watched()
    start = watched.clock.now_ns
    watched.look(5, gpu=50.0)
    assert watched.monitor.throttled_between(start, watched.clock.now_ns) is None
    watched.clock.pass_s(1.0)
    watched.show(replace(sample(watched.clock.now_ns / 1e9, gpu=50.0), throttle_alerts={"gpu-throttle-alert": 1}))
    middle = watched.clock.now_ns
    watched.clock.pass_s(1.0)
    watched.show(replace(sample(watched.clock.now_ns / 1e9, gpu=50.0), throttle_alerts={"gpu-throttle-alert": 0}))
    assert watched.monitor.throttled_between(start, watched.clock.now_ns) is True
    assert watched.monitor.throttled_between(middle + 1, watched.clock.now_ns) is False
    assert watched.monitor.throttled_between(0, start - 1) is None


def test_thread_reads_until_it_is_stopped() -> None:
    seen: list[Thermal] = []
    config = ThermalConfig(source="sysfs", interval_s=0.2)
    sensor = ScriptedSensor()
    monitor = ThermalMonitor(
        config, sensor, clock=SystemClock(), device="d", session=1, on_decision=lambda _: None, on_message=seen.append
    )
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
        device="d",
        session=1,
        on_decision=lambda _: None,
        on_message=lambda _: None,
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
