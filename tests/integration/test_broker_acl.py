"""Access lists of a real broker: the documented one works, and one that silences the commands is noticed."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import paho.mqtt.publish
import pytest
from structlog.testing import capture_logs

from agent.config.broker_address import BrokerAddress
from agent.config.loader import load_config
from agent.mqtt.base import NullListener, Received
from agent.mqtt.client import MqttClient
from agent.mqtt.loopback import AGAIN_S
from agent.mqtt.settings import Credentials, MqttSettings
from agent.runtime.clock import Clock, SystemClock
from agent.tools.doctor.broker import broker_findings
from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.deadlines import wait_until
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.recorder import Recorder

USERS = {"line-3": "device-secret", "dashboard": "dashboard-secret"}
SET, EXPLAIN = "edge/line-3/cmd/set", "edge/line-3/cmd/explain"
SILENT = "pattern write edge/%u/#\nuser dashboard\ntopic readwrite edge/#\n"


def _documented() -> str:
    page = Path("docs/mqtt.md").read_text(encoding="utf-8")
    found = re.search(r"^# acl: .*?(?=^```)", page, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[0]


class _HurriedClock(SystemClock):
    """Its monotonic time runs sixty times as fast."""

    def monotonic_ns(self) -> int:
        return time.monotonic_ns() * 60


@contextmanager
def _client(
    broker: MosquittoBroker, folder: Path, version: Literal["5", "3.1.1"], clock: Clock
) -> Iterator[MqttClient]:
    password = folder / "password"
    password.write_text(USERS["line-3"])
    password.chmod(0o600)
    settings = MqttSettings(
        address=BrokerAddress("127.0.0.1", broker.port),
        client_id="line-3",
        protocol=version,
        credentials=Credentials("line-3", password),
    )
    received: list[Received] = []
    client = MqttClient(
        settings,
        subscriptions=(SET, EXPLAIN),
        command_topics=(SET, EXPLAIN),
        on_received=received.append,
        clock=clock,
    )
    client.start(NullListener())
    try:
        assert client.wait_commands_tried(10.0)
        yield client
    finally:
        assert client.stop(5.0)
    assert received == [], "a probe is no command"


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_the_documented_list_lets_commands_arrive(tmp_path: Path, version: Literal["5", "3.1.1"]) -> None:
    with (
        MosquittoBroker(tmp_path / "broker", users=USERS, acl=_documented()) as broker,
        _client(broker, tmp_path, version, SystemClock()) as client,
    ):
        assert client.statistics().limits == ()


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_list_that_silences_commands_is_noticed_until_it_is_mended(
    tmp_path: Path, version: Literal["5", "3.1.1"]
) -> None:
    with (
        MosquittoBroker(tmp_path / "broker", users=USERS, acl=SILENT) as broker,
        capture_logs() as logs,
        _client(broker, tmp_path, version, _HurriedClock()) as client,
    ):
        (problem,) = client.statistics().limits
        assert f"accepted the subscription to {SET}, {EXPLAIN}" in problem
        (tmp_path / "broker" / "acl").write_text(_documented())
        broker.reload()
        wait_until(lambda: client.statistics().limits == (), within_s=AGAIN_S / 60 + 10.0)
    events = [entry["event"] for entry in logs if entry["event"].startswith("broker.commands")]
    assert events == ["broker.commands_silent", "broker.commands_heard"]


def test_an_agent_behind_the_documented_list_answers_and_appears_in_home_assistant(tmp_path: Path) -> None:
    """The recipe as a whole: a device, a dashboard that sends a command, and the discovery message."""
    with MosquittoBroker(
        tmp_path / "broker", users={**USERS, "home": "home"}, acl=f"{_documented()}{_HOME}"
    ) as broker:
        dashboard = {"username": "dashboard", "password": USERS["dashboard"]}
        home = Recorder(broker.port, username="home", password="home")
        (tmp_path / "mqtt-password").write_text(USERS["line-3"])
        (tmp_path / "mqtt-password").chmod(0o600)
        path = write_config(tmp_path, _agent_config(broker))
        with home, AgentProcess(tmp_path, "run", "-c", str(path)) as agent:
            home.wait_count(1, "homeassistant/device/edge_inference_agent_line-3/config", 30)
            command = '{"id": "a1", "camera": "front"}'
            paho.mqtt.publish.single(EXPLAIN, command, qos=1, hostname="127.0.0.1", port=broker.port, auth=dashboard)  # type: ignore[arg-type]  # the library's own TypedDict
            reply = home.wait_count(1, "edge/line-3/reply/explain", 20)[-1].json
            assert reply["outcome"] == "done"
            for example in _documented_commands("cmd/set"):
                _run_documented(example, broker)
            values = [one.json["details"] for one in home.wait_count(2, "edge/line-3/reply/set", 20)]
            assert values[0]["classifiers"]["inspect"]["enter"] == 0.8
            assert (values[0]["kept"], values[1]["rate_hz"]) == (True, 5)
            home.wait_count(1, "edge/line-3/health", 20)
            assert agent.end() == 0, agent.stderr
        assert home.messages("edge/line-3/health")[-1].json["connection"]["limits"] == []
        assert "broker.commands_silent" not in agent.stderr


def _documented_commands(topic: str) -> list[str]:
    """The commands of the page that publish on ``topic``, each on one line."""
    page = Path("docs/mqtt.md").read_text(encoding="utf-8").replace("\\\n", "")
    return [line for line in page.splitlines() if line.startswith("mosquitto_pub ") and topic in line]


def _run_documented(line: str, broker: MosquittoBroker) -> None:
    user = f"-u dashboard -P {USERS['dashboard']}"
    command = line.replace("-h BROKER", f"-h 127.0.0.1 -p {broker.port} {user}")
    subprocess.run(["bash", "-c", command], check=True, capture_output=True, timeout=20)


_HOME = "\nuser home\ntopic read #\n"


def _agent_config(broker: MosquittoBroker) -> dict[str, Any]:
    camera = {"source": {"type": "pattern", "fps": 5}, "classify": [{"model": "inspect"}]}
    return {
        "device": {"id": "line-3"},
        "models": {"inspect": {"package": "demo", "engine": "ort-cpu"}},
        "cameras": {"front": camera},
        "mqtt": {
            "broker": broker.url,
            "username": "line-3",
            "commands": {"enabled": True, "allow": ["set", "explain"]},
            "home_assistant": {"enabled": True},
        },
    }


def test_the_doctor_names_silenced_commands_and_packets_that_are_too_small(tmp_path: Path) -> None:
    (tmp_path / "mqtt-password").write_text(USERS["line-3"])
    (tmp_path / "mqtt-password").chmod(0o600)
    broker = MosquittoBroker(tmp_path / "broker", users=USERS, acl=SILENT, options=["max_packet_size 400"])
    with broker:
        config = _agent_config(broker)
        config["mqtt"] |= {"results": {"detail": "full"}}
        loaded = load_config(write_config(tmp_path, config), environ={})
        found = {(one.name, one.state): one for one in broker_findings(loaded)}
    assert found["broker", "ok"].is_needed
    assert "set mqtt.results.detail to compact" in found["packets", "failed"].remedy
    assert found["packets", "failed"].is_needed
    assert "the broker accepts packets of at most 400" in found["packets", "failed"].detail
    assert "commands do not arrive" in found["broker", "warning"].detail
