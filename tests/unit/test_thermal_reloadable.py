"""Another thermal section: one monitor after the other, never two, and none after the end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from agent.config.loader import LoadedConfig, load_config
from agent.config.sections.thermal import ThermalConfig
from agent.runtime.clock import SystemClock
from agent.thermal.decision import GovernorDecision
from agent.thermal.monitor import ThermalMonitor
from agent.thermal.reloadable import ReloadableMonitor
from agent.thermal.sensors.base import SensorDescription, ThermalSample
from tests.fixtures.agent_process import write_config


class Sensor:
    """Notes in ``diary`` when it runs."""

    def __init__(self, name: str, diary: list[str]) -> None:
        self._name, self._diary = name, diary

    def start(self) -> None:
        self._diary.append(f"{self._name} starts")

    def latest(self) -> ThermalSample | None:
        return None

    def describe(self) -> SensorDescription:
        return SensorDescription("none", "reading")

    def stop(self) -> None:
        self._diary.append(f"{self._name} stops")


class Bench:
    def __init__(self, directory: Path) -> None:
        self.diary: list[str] = []
        self.decisions: list[GovernorDecision] = []
        camera = {"source": {"type": "pattern"}, "classify": [{"model": "inspect"}]}
        path = write_config(directory, {"models": {"inspect": {"package": "demo"}}, "cameras": {"front": camera}})
        self.loaded = load_config(path)
        self.thermal = ReloadableMonitor(self.loaded.config.thermal, self._make, on_decision=self.decisions.append)

    def _make(self, config: ThermalConfig) -> ThermalMonitor:
        return ThermalMonitor(
            config,
            Sensor(config.source, self.diary),
            clock=SystemClock(),
            on_decision=lambda _: None,
            on_snapshot=lambda _: None,
        )

    def with_source(self, source: str) -> LoadedConfig:
        thermal = ThermalConfig.model_validate({"source": source})
        return replace(self.loaded, config=self.loaded.config.model_copy(update={"thermal": thermal}))


def test_the_old_monitor_has_ended_before_the_new_one_begins(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.thermal.start()
    assert bench.thermal.prepare(bench.loaded) is None
    apply_change = bench.thermal.prepare(bench.with_source("sysfs"))
    assert apply_change is not None
    assert bench.diary == ["auto starts"], "preparing changes nothing"
    apply_change()
    bench.thermal.stop()
    assert bench.diary == ["auto starts", "auto stops", "sysfs starts", "sysfs stops"]
    assert [decision.ratio for decision in bench.decisions] == [1.0], "a cut of the old governor does not outlive it"
    assert bench.thermal.failure is None


def test_no_monitor_starts_after_the_end(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.thermal.start()
    apply_change = bench.thermal.prepare(bench.with_source("none"))
    assert apply_change is not None
    bench.thermal.stop()
    apply_change()
    assert "none starts" not in bench.diary
