"""A whole agent in Home Assistant."""

from __future__ import annotations

from pathlib import Path

import paho.mqtt.publish
import pytest

from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.discovery_schema import problems_of_discovery
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.recorder import Recorder

pytestmark = pytest.mark.timeout(90)

CONFIG = {
    "models": {"inspect": {"package": "demo", "engine": "ort-cpu"}},
    "cameras": {"front": {"source": {"type": "pattern", "fps": 10}, "classify": [{"model": "inspect"}]}},
}
TOPIC = "homeassistant/device/edge_inference_agent_dut/config"


def test_the_agent_appears_and_publishes_again_when_home_assistant_starts(tmp_path: Path) -> None:
    with MosquittoBroker(tmp_path / "broker") as broker, Recorder(broker.port) as recorder:
        path = write_config(
            tmp_path,
            {
                **CONFIG,
                "mqtt": {
                    "broker": broker.url,
                    "commands": {"enabled": True, "allow": ["set", "snapshot"]},
                    "home_assistant": {"enabled": True, "snapshots": True},
                },
            },
        )
        with AgentProcess(tmp_path, "run", "-c", str(path)) as agent:
            message = recorder.wait_count(1, TOPIC, 30)[0]
            assert list(problems_of_discovery(message.json)) == []
            labels = message.json["cmps"]["front_inspect_label"]["ops"]
            assert labels == ["ok", "scratch", "dent", "missing_label", "empty", "unknown", "stale"]
            agent.wait_for_log("agent.ready")
            recorder.wait_count(1, "edge/dut/camera/front/inspect/state")
            recorder.clear()
            paho.mqtt.publish.single("homeassistant/status", b"online", qos=1, hostname="127.0.0.1", port=broker.port)
            recorder.wait_count(1, TOPIC)
            recorder.wait_count(1, "edge/dut/camera/front/inspect/state")
            assert agent.end() == 0, agent.stderr
        with Recorder(broker.port, [TOPIC]) as late:
            assert late.wait_count(1)[0].retain


def test_another_device_id_and_prefix_leave_nothing_of_the_old_device_behind(tmp_path: Path) -> None:
    with MosquittoBroker(tmp_path / "broker") as broker:
        for device, prefix in (("dut", "edge"), ("other", "plant/line")):
            mqtt = {"broker": broker.url, "prefix": prefix, "home_assistant": {"enabled": True}}
            path = write_config(tmp_path, {**CONFIG, "device": {"id": device}, "mqtt": mqtt})
            with AgentProcess(tmp_path, "run", "-c", str(path)) as agent, Recorder(broker.port) as recorder:
                recorder.wait_count(1, f"{prefix}/{device}/camera/front/inspect/state", 30)
                recorder.wait_count(1, f"{prefix}/{device}/thermal")
                if device == "other":
                    recorder.wait_for(lambda one: one.topic == TOPIC and not one.payload)
                assert agent.end() == 0, agent.stderr
        with Recorder(broker.port) as late:
            late.wait_count(1, "homeassistant/device/edge_inference_agent_other/config")
            late.wait_count(1, "plant/line/other/status")
            late.publish("end", b"")
            late.wait_count(1, "end")
        assert [one.topic for one in late.messages() if "dut" in one.topic] == []
