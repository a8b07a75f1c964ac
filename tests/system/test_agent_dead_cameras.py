"""A camera removed from the configuration leaves no retained topics on the broker."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.tools.watch.fleet import FleetView
from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.deadlines import wait_until
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.recorder import Recorder

pytestmark = pytest.mark.timeout(180)

CAMERAS = "edge/dut/camera"
HEALTH, STATE = f"{CAMERAS}/goes/health", f"{CAMERAS}/goes/inspect/state"


def _camera(*classifiers: str, **more: Any) -> dict[str, Any]:
    return {
        "source": {"type": "pattern", "fps": 20, "width": 160, "height": 120},
        "classify": [{"model": "inspect", "name": name} for name in classifiers or ("inspect",)],
        **more,
    }


class Site:
    """A broker, its configuration file and one agent after another."""

    def __init__(self, directory: Path, broker: MosquittoBroker) -> None:
        self.directory, self.broker = directory, broker
        self.path = directory / "agent.yaml"

    def write(self, cameras: dict[str, Any], **mqtt: Any) -> None:
        write_config(
            self.directory,
            {
                "models": {"inspect": {"package": "demo", "engine": "ort-cpu"}},
                "cameras": cameras,
                "mqtt": {"broker": self.broker.url, **mqtt},
                "thermal": {"source": "none"},
            },
        )

    def agent(self) -> AgentProcess:
        return AgentProcess(self.directory, "run", "-c", str(self.path))

    def retained(self) -> set[str]:
        """The retained camera topics that a new subscriber receives."""
        with Recorder(self.broker.port, ["edge/#", "$SYS/broker/uptime"]) as recorder:
            recorder.wait_count(1, "$SYS/broker/uptime")  # retained too, and sent after the others
            return {one.topic for one in recorder.messages() if one.retain and one.topic.startswith(CAMERAS)}

    def shows(self, *topics: str) -> None:
        """Wait until exactly these ``topics`` below ``camera/`` are retained."""
        wanted = {f"{CAMERAS}/{topic}" for topic in topics}
        wait_until(lambda: self.retained() == wanted, within_s=30)

    def watched(self) -> dict[str, list[str]]:
        """What a new `agent watch` shows: classifiers by camera."""
        view = FleetView("edge")
        with Recorder(self.broker.port, ["edge/#", "$SYS/broker/uptime"]) as recorder:
            recorder.wait_count(1, "$SYS/broker/uptime")
            for one in recorder.messages():
                if one.retain and one.topic.startswith("edge/"):
                    view.update(one.topic, one.payload, now_s=one.at)
        device = view.devices["dut"]
        return {name: sorted(device.cameras[name].classifiers) for name in device.visible_cameras()}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with MosquittoBroker(tmp_path / "broker", options=["sys_interval 1"]) as broker:
        yield Site(tmp_path, broker)


def test_topics_removed_by_a_reload_are_cleared_and_come_back_with_the_next(site: Site) -> None:
    site.write({"stays": _camera("inspect", "again"), "goes": _camera()})
    with site.agent() as agent:
        site.shows("stays/health", "stays/inspect/state", "stays/again/state", "goes/health", "goes/inspect/state")
        site.write({"stays": _camera("inspect")})
        agent.process.send_signal(signal.SIGHUP)
        site.shows("stays/health", "stays/inspect/state")
        assert site.watched() == {"stays": ["inspect"]}
        site.write({"stays": _camera("inspect"), "goes": _camera()})
        agent.process.send_signal(signal.SIGHUP)
        site.shows("stays/health", "stays/inspect/state", "goes/health", "goes/inspect/state")
        assert agent.end() == 0, agent.stderr
    site.shows("stays/health", "stays/inspect/state", "goes/health", "goes/inspect/state")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["a stop", "a kill"])
def test_topics_removed_between_two_starts_are_cleared_by_the_second(site: Site, end: signal.Signals) -> None:
    site.write({"stays": _camera(), "goes": _camera()}, home_assistant={"enabled": True})
    with site.agent() as agent:
        site.shows("stays/health", "stays/inspect/state", "goes/health", "goes/inspect/state")
        agent.end(end)
    site.write({"stays": _camera()}, home_assistant={"enabled": True})
    with site.agent() as agent:
        site.shows("stays/health", "stays/inspect/state")
        assert site.watched() == {"stays": ["inspect"]}
        with Recorder(site.broker.port, ["homeassistant/#"]) as home:
            parts = home.wait_count(1)[-1].json["cmps"]
        assert parts["goes_inspect_label"] == {"p": "sensor"}
        wait_until(lambda: "goes" not in (site.directory / "state" / "retained.json").read_text())
        assert agent.end() == 0, agent.stderr


def test_topics_removed_while_the_broker_is_away_are_cleared_when_it_is_back(site: Site) -> None:
    site.broker.stop()
    kept = MosquittoBroker(
        site.directory / "kept",
        options=["persistence true", f"persistence_location {site.directory}/", "sys_interval 1"],
    )
    # Later lines of mosquitto's configuration win over earlier ones.
    site.broker = kept.start()
    try:
        site.write({"stays": _camera(), "goes": _camera()})
        with site.agent() as agent:
            site.shows("stays/health", "stays/inspect/state", "goes/health", "goes/inspect/state")
            kept.stop()
            agent.wait_for_log("broker.disconnected")
            site.write({"stays": _camera()})
            agent.process.send_signal(signal.SIGHUP)
            agent.wait_for_log("config.applied")
            assert agent.end() == 0, agent.stderr
        assert HEALTH in (site.directory / "state" / "retained.json").read_text()
        kept.start()
        with site.agent() as agent:
            site.shows("stays/health", "stays/inspect/state")
            assert agent.end() == 0, agent.stderr
    finally:
        kept.stop()


def test_a_new_prefix_clears_the_cameras_of_the_old_one(site: Site) -> None:
    site.write({"goes": _camera()})
    with site.agent() as agent:
        site.shows("goes/health", "goes/inspect/state")
        site.write({"goes": _camera()}, prefix="plant")
        agent.process.send_signal(signal.SIGHUP)
        site.shows()
        assert agent.end() == 0, agent.stderr


def test_a_disabled_camera_is_reported_as_disabled_and_decides_nothing(site: Site) -> None:
    site.write({"stays": _camera(), "goes": _camera()})
    with site.agent() as agent, Recorder(site.broker.port) as recorder:
        recorder.wait_count(1, STATE, 30)
        site.write({"stays": _camera(), "goes": _camera(enabled=False)})
        agent.process.send_signal(signal.SIGHUP)
        recorder.wait_for(
            lambda one: one.topic == HEALTH and one.payload != b"" and one.json["state"] == "disabled", 20
        )
        site.shows("stays/health", "stays/inspect/state", "goes/health")
        assert agent.end() == 0, agent.stderr


def test_an_unreadable_list_of_topics_does_not_stop_the_agent(site: Site) -> None:
    (site.directory / "state").mkdir()
    (site.directory / "state" / "retained.json").write_bytes(b'{"topics": [1, "#", "a/+/camera/b/health", ')
    site.write({"stays": _camera()})
    with site.agent() as agent:
        site.shows("stays/health", "stays/inspect/state")
        assert "retained.read_failed" in agent.stderr
        assert agent.end() == 0, agent.stderr
