"""What is published when another configuration is in force: `runtime`, and the health of every camera at once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from agent.cameras.sources.choose import make_source
from agent.config.loader import load_config
from agent.inference.pipeline import Parts, Pipeline
from agent.inference.supervision import HangMonitor
from agent.mqtt.base import SinkStatistics
from agent.mqtt.messages import CameraHealth, Message, Runtime
from agent.publish.publisher import Publisher, PublisherStatistics
from agent.publish.uplink import Uplink
from agent.reload import load_packages
from agent.telemetry.reporter import ReportedParts, Reporter
from agent.telemetry.runtime import RuntimeAnnouncer
from agent.thermal.reloadable import ReloadableMonitor
from tests.fixtures.agent_process import write_config
from tests.fixtures.model_broker import ManualClock
from tests.fixtures.parts import BrightnessEngine
from tests.fixtures.publish_samples import IDENTITY

_COOL = SimpleNamespace(
    source="none",
    hottest_zone=None,
    hottest_celsius=None,
    total_watts=None,
    is_throttling=None,
    throttle_causes={},
    over_current_hz={},
    state="off",
    rate_ratio=1.0,
)


class _Uplink:
    """Keeps what is published; ``protocol`` is that of its connection."""

    def __init__(self) -> None:
        self.protocol: tuple[str | None, str | None] = (None, None)
        self.runtimes: list[Runtime] = []
        self.offered: list[Message] = []
        self.publisher = self

    def connection(self) -> SinkStatistics:
        version, reason = self.protocol
        return SinkStatistics("connected", "memory", version, 0, None, 0, 0, protocol_reason=reason)

    def statistics(self) -> PublisherStatistics:
        return PublisherStatistics(0, {}, 0, 0, 0, self.connection(), None)

    def announce(self, _loaded: object, message: Runtime) -> None:
        self.runtimes.append(message)

    def offer(self, message: Message) -> None:
        self.offered.append(message)


class _Bench:
    """An agent with the cameras `front` and `back`, whose health was sent a moment ago; the next period is far."""

    def __init__(self, folder: Path) -> None:
        cameras = {
            name: {"source": {"type": "pattern"}, "classify": [{"model": "inspect"}]} for name in ("front", "back")
        }
        models = {"inspect": {"package": "demo"}}
        self.loaded = load_config(write_config(folder, {"models": models, "cameras": cameras}), environ={})
        self.packages, self.clock, self.uplink = load_packages(self.loaded), ManualClock(), _Uplink()
        make = partial(make_source, base_dir=folder, clock=self.clock)
        parts = Parts(lambda key, config, package, building: BrightnessEngine(len(package.labels)), make)
        self.pipeline = Pipeline(self.loaded.config, self.packages, parts, clock=self.clock, emit=lambda record: None)
        self.reporter = Reporter(IDENTITY, HangMonitor(), clock=self.clock)
        self.announcer = RuntimeAnnouncer(
            self.loaded,
            IDENTITY,
            self.pipeline,
            cast("Uplink", self.uplink),
            self.reporter,
            previous_exit=None,
            clock=self.clock,
        )

    def camera_health(self) -> list[str]:
        """The cameras whose health the next tick sends."""
        self.uplink.offered.clear()
        thermal = cast("ReloadableMonitor", SimpleNamespace(statistics=lambda: _COOL))
        self.reporter.tick(ReportedParts(self.pipeline, cast("Publisher", self.uplink), thermal))
        return [one.camera for one in self.uplink.offered if isinstance(one, CameraHealth)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[_Bench]:
    made = _Bench(tmp_path)
    with made.pipeline:
        yield made


def test_a_new_configuration_sends_the_health_of_every_camera_before_its_period(bench: _Bench) -> None:
    assert bench.camera_health() == ["back", "front"]
    assert bench.camera_health() == []
    bench.announcer.applied(bench.loaded, bench.packages)
    assert bench.camera_health() == ["back", "front"], "one that was replaced may not be connected any more"


def test_runtime_is_sent_again_once_another_protocol_is_in_use(bench: _Bench) -> None:
    bench.announcer.tick()
    assert bench.uplink.runtimes == [], "nothing is in force yet"
    bench.announcer.applied(bench.loaded, bench.packages)
    bench.announcer.tick()
    assert [one.protocol for one in bench.uplink.runtimes] == [None]
    bench.uplink.protocol = ("MQTT 3.1.1", "the broker refused MQTT 5")
    for _ in range(3):
        bench.announcer.tick()
    assert [one.protocol for one in bench.uplink.runtimes] == [None, "MQTT 3.1.1"]
    assert bench.uplink.runtimes[-1].protocol_reason == "the broker refused MQTT 5"
