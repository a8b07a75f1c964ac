"""TLS to a real broker: what must not connect is refused with its reason."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agent.config.broker_address import BrokerAddress
from agent.mqtt.base import Packet, SinkStatistics
from agent.mqtt.client import MqttClient
from agent.mqtt.settings import MqttSettings, TlsFiles
from tests.fixtures.certificates import Authority
from tests.fixtures.mosquitto import MosquittoBroker


@dataclass
class Listener:
    """Records whether there ever was a connection."""

    was_connected: bool = False

    def on_connected(self) -> None:
        self.was_connected = True

    def on_disconnected(self, reason: str) -> None: ...

    def on_confirmed(self, key: int, problem: str | None) -> None: ...

    def on_failed(self, error: BaseException) -> None: ...


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "ours")


@contextmanager
def _client(settings: MqttSettings) -> Iterator[tuple[MqttClient, Listener]]:
    client, listener = MqttClient(settings), Listener()
    client.start(listener)
    try:
        yield client, listener
    finally:
        client.stop(5.0)


def _settings(broker: MosquittoBroker, authority: Authority, **changes: object) -> MqttSettings:
    settings = MqttSettings(
        address=BrokerAddress.parse(broker.url),
        client_id="line-3",
        tls=TlsFiles(ca=authority.certificate),
        backoff_base_s=0.05,
    )
    return replace(settings, **changes)  # type: ignore[arg-type]  # fields by name


def _wait(client: MqttClient, *, state: str, reason: str = "", deadline_s: float = 5.0) -> SinkStatistics:
    deadline = time.monotonic() + deadline_s
    while True:
        statistics = client.statistics()
        if statistics.state == state and reason in (statistics.reason or ""):
            return statistics
        assert time.monotonic() < deadline, f"{statistics.state}: {statistics.reason}"
        time.sleep(0.01)


def test_a_broker_signed_by_the_configured_authority_is_accepted(tmp_path: Path, authority: Authority) -> None:
    with (
        MosquittoBroker(tmp_path, tls=authority.server("good")) as broker,
        _client(_settings(broker, authority)) as (client, _),
    ):
        assert _wait(client, state="connected").protocol == "MQTT 5"
        assert client.send(Packet("t", b"1", qos=1)) is None


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        ({"ends": "20200201000000Z"}, "has expired"),
        ({"begins": "20480101000000Z"}, "is not yet valid: check the clock"),
        ({"alternatives": "DNS:other.example"}, "is for another host name"),
    ],
    ids=["expired", "not yet valid", "wrong host"],
)
def test_a_wrong_certificate_is_refused_with_its_reason(
    tmp_path: Path, authority: Authority, certificate: dict[str, str], reason: str
) -> None:
    wrong = authority.server(tmp_path.name.replace("_", "-"), **certificate)  # type: ignore[arg-type]  # by name
    with (
        MosquittoBroker(tmp_path, tls=wrong) as broker,
        _client(_settings(broker, authority)) as (client, listener),
    ):
        _wait(client, state="disconnected", reason=reason)
        assert not listener.was_connected


def test_a_foreign_authority_is_refused_until_its_file_is_replaced(tmp_path: Path, authority: Authority) -> None:
    foreign = Authority(tmp_path / "foreign")
    ca = tmp_path / "ca.pem"
    ca.write_bytes(foreign.certificate.read_bytes())
    with (
        MosquittoBroker(tmp_path / "broker", tls=authority.server("mine")) as broker,
        _client(_settings(broker, authority, tls=TlsFiles(ca=ca))) as (client, listener),
    ):
        _wait(client, state="disconnected", reason="is signed by an authority that is not in mqtt.tls.ca_file")
        assert not listener.was_connected
        ca.write_bytes(authority.certificate.read_bytes())
        _wait(client, state="connected")


def test_a_required_client_certificate_is_sent_or_its_absence_named(tmp_path: Path, authority: Authority) -> None:
    certificate, key = authority.client("line-3")
    with MosquittoBroker(tmp_path, tls=authority.server("mutual", asks_clients=True)) as broker:
        with _client(_settings(broker, authority)) as (client, listener):
            _wait(client, state="disconnected", reason="client certificate")
            assert not listener.was_connected
        files = TlsFiles(authority.certificate, certificate, key)
        with _client(_settings(broker, authority, tls=files)) as (client, _):
            _wait(client, state="connected")


def test_plain_mqtt_to_a_tls_port_is_named(tmp_path: Path, authority: Authority) -> None:
    with MosquittoBroker(tmp_path, tls=authority.server("confused")) as broker:
        address = BrokerAddress("localhost", broker.port)
        with _client(_settings(broker, authority, address=address)) as (client, listener):
            _wait(client, state="disconnected", reason="speaks TLS: write mqtts://")
            assert not listener.was_connected


def test_tls_to_a_plain_port_is_named_and_no_password_goes_over_it(tmp_path: Path, authority: Authority) -> None:
    with MosquittoBroker(tmp_path) as broker:
        address = BrokerAddress("localhost", broker.port, is_tls=True)
        with _client(_settings(broker, authority, address=address)) as (client, listener):
            _wait(client, state="disconnected", reason="TLS")
            assert not listener.was_connected
