"""The embedded broker."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import psutil
import pytest
from paho.mqtt.enums import MQTTProtocolVersion

from agent.config.broker_address import BrokerAddress
from agent.mqtt.client import MqttClient
from agent.mqtt.embedded.broker import EmbeddedBroker
from agent.mqtt.settings import MqttSettings
from agent.publish.publisher import Publisher
from agent.runtime.errors import BrokerUnavailable
from tests.fixtures.processes import is_alive
from tests.fixtures.publish_samples import IDENTITY, TOPICS, state_change
from tests.fixtures.recorder import Recorder

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("kind", "protocol"), [("mosquitto", "MQTT 5"), ("amqtt", "MQTT 3.1.1")])
def test_either_broker_serves_the_agent_with_its_own_protocol(
    kind: Literal["mosquitto", "amqtt"], protocol: str
) -> None:
    with (
        EmbeddedBroker(kind) as broker,
        Recorder(broker.port, ["edge/#"], protocol=MQTTProtocolVersion.MQTTv311) as recorder,
    ):
        settings = MqttSettings(address=broker.address, client_id="a", backoff_base_s=0.05)
        publisher = Publisher(MqttClient(settings, will=IDENTITY.status("offline")), identity=IDENTITY)
        publisher.start()
        try:
            publisher.offer(state_change())
            event = recorder.wait_for(lambda message: message.topic == TOPICS.event("front", "inspect"))
            statistics = publisher.statistics()
        finally:
            publisher.stop()
        recorder.wait_for(lambda message: message.topic == TOPICS.status and message.json["state"] == "stopped")
    assert broker.kind == kind
    assert broker.version[0].isdigit()
    assert statistics.connection.protocol == protocol
    assert event.json["to_label"] == "dent"


def test_mosquitto_is_preferred_and_its_files_are_private_and_removed() -> None:
    with EmbeddedBroker() as broker:
        assert broker.kind == "mosquitto"
        child = next(child for child in psutil.Process().children() if child.name() == "mosquitto")
        config = Path(child.cmdline()[-1])
        assert stat.S_IMODE(config.parent.stat().st_mode) == 0o700
        assert config.parent.parent == Path(tempfile.gettempdir())
        listening = [found.laddr for found in child.net_connections("inet") if found.status == psutil.CONN_LISTEN]
        assert [tuple(address) for address in listening] == [("127.0.0.1", broker.port)]
    assert not config.parent.exists()
    assert not child.is_running()


def test_a_broker_restarts_on_the_given_port() -> None:
    with EmbeddedBroker("mosquitto") as first, Recorder(first.port, ["edge/#"]):
        pass
    with EmbeddedBroker("mosquitto", port=first.port) as second, Recorder(first.port, ["edge/#"]):
        assert second.port == first.port


@pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])
def test_the_broker_dies_with_a_killed_agent(kind: str) -> None:
    program = (
        "import psutil, sys, time\n"
        "from agent.mqtt.embedded.broker import EmbeddedBroker\n"
        f"with EmbeddedBroker({kind!r}):\n"
        "    print(psutil.Process().children()[0].pid, file=sys.stderr, flush=True)\n"
        "    time.sleep(60)\n"
    )
    agent = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert agent.stderr is not None
    with agent.stderr:
        pid = int(agent.stderr.readline())
        broker = psutil.Process(pid)
        agent.send_signal(signal.SIGKILL)
        agent.wait(10)
    deadline = time.monotonic() + 5.0
    while is_alive(broker):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            pytest.fail("the broker outlived its agent")
        time.sleep(0.01)


def test_without_any_broker_it_says_what_to_install() -> None:
    program = (
        "import sys\n"
        "sys.modules['amqtt'] = None\n"  # as if it were not installed
        "from agent.runtime.errors import BrokerUnavailable\n"
        "import agent.mqtt.embedded.broker as broker\n"
        "import importlib.util\n"
        "try:\n"
        "    broker.EmbeddedBroker('amqtt').__enter__()\n"
        "except BrokerUnavailable as exc:\n"
        "    print(exc.message)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    assert "sudo apt install mosquitto" in told.stdout
    assert issubclass(BrokerUnavailable, Exception)


@pytest.mark.parametrize("will", [True, False], ids=["with a will", "without a will"])
def test_an_older_broker_is_detected(*, will: bool) -> None:
    # amqtt refuses an MQTT 5 client that has no will, and never answers one that has a will.
    with EmbeddedBroker("amqtt") as broker:
        address = BrokerAddress(broker.host, broker.port)
        settings = MqttSettings(address=address, client_id="a", backoff_base_s=0.05, connect_timeout_s=0.7)
        client = MqttClient(settings, will=IDENTITY.status("offline") if will else None)
        publisher = Publisher(client, identity=IDENTITY)
        publisher.start()
        try:
            deadline = time.monotonic() + 10.0
            while client.statistics().protocol != "MQTT 3.1.1":
                assert time.monotonic() < deadline, client.statistics().reason
                time.sleep(0.01)
        finally:
            publisher.stop()
