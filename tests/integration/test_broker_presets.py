"""What the agent sends fits the services' limits: a real broker with each preset's TLS, ALPN, client certificates and
packet size, and every kind of message over it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agent.config.broker_address import BrokerAddress
from agent.config.profiles import PROFILES, BrokerProfile
from agent.config.sections.broker import ProfileName
from agent.mqtt.client import MqttClient
from agent.mqtt.settings import Credentials, MqttSettings, TlsFiles
from agent.mqtt.topics import Topics
from agent.publish.publisher import Publisher
from tests.fixtures.certificates import Authority
from tests.fixtures.deadlines import wait_until
from tests.fixtures.gateways import TlsFront
from tests.fixtures.mosquitto import MosquittoBroker, free_port
from tests.fixtures.publish_samples import IDENTITY, classification, state_change, vitals
from tests.fixtures.recorder import Recorder


@dataclass(frozen=True)
class Preset:
    """How a preset of docs/brokers.md reaches its service."""

    profile: ProfileName
    has_certificate: bool = False
    alpn: str | None = None
    is_websocket: bool = False
    username: str | None = None


PRESETS = {
    "aws certificate": Preset("aws-iot", has_certificate=True, alpn="x-amzn-mqtt-ca"),
    "aws authorizer": Preset("aws-iot", alpn="mqtt", username="line-3?x-amz-customauthorizer-name=Plant"),
    "azure": Preset("azure-event-grid", has_certificate=True, username="line-3"),
    "hivemq": Preset("hivemq-cloud", username="line-3"),
    "hivemq websocket": Preset("hivemq-cloud", is_websocket=True, username="line-3"),
    "emqx": Preset("emqx-serverless", is_websocket=True, username="line-3"),
}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "ours")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as resources:
        yield resources


def _settings(
    preset: Preset, folder: Path, authority: Authority, stack: ExitStack
) -> tuple[MqttSettings, MosquittoBroker]:
    """A mosquitto with the limits of the service behind a TLS front end, and the way to it."""
    profile = PROFILES[preset.profile]
    assert profile.max_payload_bytes is not None
    websocket = free_port()
    options = [
        f"max_packet_size {profile.max_payload_bytes}", f"message_size_limit {profile.max_payload_bytes}",
        f"listener {websocket} 127.0.0.1", "protocol websockets",
    ]  # fmt: skip
    users = {"line-3": "a token", "recorder": "another"} if preset.username else None
    broker = stack.enter_context(MosquittoBroker(folder / "broker", options=options, users=_users(preset, users)))
    certificate = authority.server(f"front-{folder.name}".replace("_", "-"), asks_clients=preset.has_certificate)
    target = websocket if preset.is_websocket else broker.port
    front = stack.enter_context(TlsFront(certificate, target, alpn=[preset.alpn] if preset.alpn else []))
    files = TlsFiles(ca=authority.certificate, alpn=preset.alpn)
    if preset.has_certificate:
        client_certificate, key = authority.client("line-3")
        files = replace(files, cert=client_certificate, key=key)
    token = folder / "token"
    token.touch(0o600)
    token.write_text("a token\n")
    scheme = "wss" if preset.is_websocket else "mqtts"
    settings = MqttSettings(
        address=BrokerAddress.parse(f"{scheme}://localhost:{front.port}"), client_id="line-3", tls=files,
        credentials=Credentials(preset.username, token if preset.username else None),
    )  # fmt: skip
    return settings, broker


def _users(preset: Preset, users: dict[str, str] | None) -> dict[str, str] | None:
    """mosquitto knows the whole user name, with an authorizer's query."""
    return None if users is None else {preset.username or "": users["line-3"], "recorder": users["recorder"]}


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("is_older", [False, True], ids=["5", "3.1.1"])
def test_every_message_of_a_preset_arrives_and_is_within_the_limits(
    tmp_path: Path, authority: Authority, stack: ExitStack, name: str, *, is_older: bool
) -> None:
    preset = PRESETS[name]
    settings, broker = _settings(preset, tmp_path, authority, stack)
    settings = replace(settings, address=replace(settings.address, is_older=is_older))
    # A broker without users accepts these too.
    recorder = stack.enter_context(Recorder(broker.port, username="recorder", password="another"))
    # The longest prefix that the profiles allow.
    identity = replace(IDENTITY, topics=Topics("plant/hall/line", "line-3"))
    # The larger of the two kinds of result.
    client = MqttClient(settings, will=identity.status("offline"))
    publisher = Publisher(client, identity=identity, result_detail="full")
    stack.callback(publisher.stop)
    publisher.start()
    recorder.wait_for(lambda one: one.topic == identity.topics.status)  # before that a result would be dropped
    assert publisher.statistics().connection.protocol == ("MQTT 3.1.1" if is_older else "MQTT 5")
    publisher.offer(state_change())
    publisher.offer(classification())
    for message in vitals():
        publisher.offer(message)
    wanted = {"status", "state", "event", "result", *(message.schema.split("/")[0] for message in vitals())}
    wait_until(lambda: {one.json["schema"].split("/")[0] for one in recorder.messages()} == wanted)
    publisher.stop()
    _assert_within(PROFILES[preset.profile], recorder)
    assert publisher.statistics().dropped == {}


def _assert_within(profile: BrokerProfile, recorder: Recorder) -> None:
    levels, size = profile.max_topic_levels or 99, profile.max_topic_bytes or 65535
    for one in recorder.messages():
        assert one.topic.count("/") + 1 <= levels
        assert len(one.topic.encode()) <= size
        assert one.qos <= min(1, profile.max_qos)
        assert len(one.payload) <= (profile.max_payload_bytes or 0)
        assert not one.retain or len(one.payload) <= (profile.max_retained_bytes or len(one.payload))
    assert max(one.topic.count("/") + 1 for one in recorder.messages()) == 8
