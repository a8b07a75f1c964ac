"""An agent with several addresses: its messages say which is in use, and why the others are not."""

from __future__ import annotations

from pathlib import Path

from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.mosquitto import MosquittoBroker, free_port
from tests.fixtures.recorder import Recorder


def test_health_names_the_address_in_use_and_why_the_first_is_not(tmp_path: Path) -> None:
    socket, away = tmp_path / "s", f"mqtts://127.0.0.1:{free_port()}"
    options = [f"listener 0 {socket}", "allow_anonymous true"]
    with (
        MosquittoBroker(tmp_path / "broker", options=options) as broker,
        Recorder(broker.port, ["edge/#"]) as recorder,
    ):
        config = {
            "models": {"inspect": {"package": "demo", "engine": "ort-cpu"}},
            "cameras": {"front": {"source": {"type": "pattern"}, "rate_hz": 5, "classify": [{"model": "inspect"}]}},
            "mqtt": {"broker": [away, f"unix://{socket}"]},
        }
        with AgentProcess(tmp_path, "run", "-c", str(write_config(tmp_path, config))) as agent:
            health = recorder.wait_for(lambda one: one.topic == "edge/dut/health", deadline_s=60.0).json
            connection = health["connection"]
            assert (connection["state"], connection["broker"]) == ("connected", f"unix://{socket}")
            assert connection["others"] == {
                away: f"nothing listens at {away} (connection refused): is the broker running?"
            }
            assert agent.end() == 0
