"""Addresses, credentials, back-off, outbox in memory, retained values."""

from __future__ import annotations

import random
import ssl
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.config.broker_address import BrokerAddress
from agent.config.model import MqttConfig
from agent.mqtt.base import Packet
from agent.mqtt.client import Recurrence
from agent.mqtt.settings import Credentials, TlsFiles, settings_from_config
from agent.publish.delivery.retained_values import RetainedValues
from agent.publish.delivery.waiting_events import historical
from agent.publish.outbox.base import MemoryOutbox
from agent.runtime.backoff import Backoff
from agent.runtime.clock_sync import ClockWatch
from agent.runtime.errors import ConfigError
from tests.fixtures.certificates import Authority

CANARY = "hunter2-CANARY"


def _packet(number: int) -> Packet:
    return Packet(f"t/{number}", b'{"historical":false}')


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtt://broker.example", BrokerAddress("broker.example", 1883)),
        ("mqtts://broker.example/", BrokerAddress("broker.example", 8883, is_tls=True)),
        ("mqtt://[2001:db8::1]:1884", BrokerAddress("2001:db8::1", 1884)),
    ],
)
def test_an_address_is_read_with_its_default_port(url: str, address: BrokerAddress) -> None:
    assert BrokerAddress.parse(url) == address
    assert BrokerAddress.parse(str(address)) == address


def test_credentials_in_an_address_are_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="password_file") as caught:
        BrokerAddress.parse(f"mqtt://me:{CANARY}@broker.example")
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "mqtt://",
        "tcp://host",
        "mqtt://host:0",
        "mqtt://host:65536",
        "mqtt://host\n",
        "mqtt://ho st",
        "mqtt://host/topic",
    ],
)
def test_a_text_that_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"must look like mqtt://host:1883|is outside 1 to 65535"):
        BrokerAddress.parse(url)


def test_the_password_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.touch(0o600)
    path.write_text(f"{CANARY}\nsecond line\n")
    password = Credentials("me", path).password()
    assert password is not None
    assert password.reveal() == CANARY


def test_the_last_good_password_serves_while_the_file_is_unusable(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.touch(0o600)
    path.write_text(f"{CANARY}\n")
    credentials = settings_from_config(MqttConfig(username="me"), device="line-3", password_file=path).credentials
    with capture_logs() as logs:
        for content in ("", "\n"):
            path.write_text(content)
            assert (credentials.password() or pytest.fail()).reveal() == CANARY
        path.unlink()
        assert (credentials.password() or pytest.fail()).reveal() == CANARY
    assert [entry["event"] for entry in logs] == ["mqtt.password_read_failed"]
    assert f"the first line of the password file {path} is empty" in logs[0]["reason"]
    assert CANARY not in repr(logs) + repr(credentials)
    path.touch(0o600)
    path.write_text("another one")
    assert (credentials.password() or pytest.fail()).reveal() == "another one"


def test_a_password_that_could_never_be_read_is_an_error_at_each_attempt(tmp_path: Path) -> None:
    credentials = Credentials("me", tmp_path / "missing")
    for _ in range(2):
        with pytest.raises(ConfigError, match="cannot be opened"):
            credentials.password()


def test_a_world_readable_password_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text(CANARY)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod o=") as caught:
        settings_from_config(MqttConfig(username="me", password_file=str(path)), device="line-3")
    assert CANARY not in str(caught.value) + repr(caught.value.fields)


def test_settings_show_no_password(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.touch(0o600)
    path.write_text(CANARY)
    settings = settings_from_config(MqttConfig(username="me"), device="line-3", password_file=path)
    assert settings.credentials.password_file == path
    assert settings.client_id == "edge-line-3"
    assert CANARY not in repr(settings) + str(settings)


def test_a_world_readable_client_key_is_refused(tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path / "ca").client("agent")
    assert TlsFiles(cert=certificate, key=key).context().minimum_version == ssl.TLSVersion.TLSv1_2
    key.chmod(0o644)
    with pytest.raises(ConfigError, match="every user of this machine"):
        TlsFiles(cert=certificate, key=key).context()


@pytest.mark.parametrize("name", ["ca", "cert", "key"])
def test_a_missing_certificate_file_is_named(tmp_path: Path, name: str) -> None:
    certificate, key = Authority(tmp_path / "ca").client("agent")
    files = {"cert": certificate, "key": key} | {name: tmp_path / "missing.pem"}
    with pytest.raises(ConfigError, match=r"missing\.pem|cert_file"):
        TlsFiles(**files).context()  # type: ignore[arg-type]  # fields by name


def test_a_file_without_a_certificate_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("this is no certificate")
    with pytest.raises(ConfigError, match=r"ca_file .*ca\.pem cannot be used"):
        TlsFiles(ca=path).context()


def test_the_wait_grows_to_its_cap_and_starts_again_after_a_good_connection() -> None:
    class Highest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return b

    backoff = Backoff(rng=Highest())
    assert [backoff.next_s(30.0) for _ in range(7)] == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert backoff.next_s(120.0) == 120.0
    backoff.reset()
    assert backoff.next_s(120.0) == 1.0


def test_waits_are_spread_from_zero_to_their_maximum() -> None:
    backoff = Backoff(rng=random.Random(7))
    waits = [backoff.next_s(30.0) for _ in range(500)][6:]
    assert min(waits) < 1.0
    assert max(waits) > 29.0


def test_three_takeovers_within_a_minute_mean_a_second_agent() -> None:
    guard = Recurrence()
    assert [guard.note(second * 1_000_000_000) for second in (0, 10, 20)] == [False, False, True]
    guard.clear()
    assert not guard.note(30 * 1_000_000_000)
    slow = Recurrence()
    assert [slow.note(second * 1_000_000_000) for second in (0, 40, 80, 120)] == [False, False, False, False]


def test_an_outbox_returns_packets_in_order_until_they_are_acknowledged() -> None:
    outbox = MemoryOutbox(10)
    keys = [outbox.put(Packet("t", b"")) for _ in range(4)]
    outbox.ack(keys[1])
    seen, after = [], 0
    while (stored := outbox.first("t", after)) is not None:
        seen.append(stored.key)
        after = stored.key
    assert seen == [keys[0], keys[2], keys[3]]
    assert outbox.last_key == keys[-1]


def test_a_full_outbox_drops_the_oldest_and_counts_it() -> None:
    outbox = MemoryOutbox(3)
    for number in range(5):
        outbox.put(_packet(number))
    assert outbox.waiting() == {"t/2": 1, "t/3": 1, "t/4": 1}
    outbox.close()
    outbox.close()
    assert outbox.first("t/2", 0) is None
    statistics = outbox.statistics()
    assert statistics.dropped == {"outbox_full": 2, "stopped": 3}
    assert statistics.put == statistics.acknowledged + sum(statistics.dropped.values()) + statistics.stored


def test_acknowledging_twice_counts_once() -> None:
    outbox = MemoryOutbox()
    key = outbox.put(_packet(0))
    outbox.ack(key)
    outbox.ack(key)
    outbox.ack(99)
    assert outbox.statistics().acknowledged == 1


def test_only_the_newest_value_of_a_retained_topic_waits() -> None:
    values = RetainedValues()
    old, new, other = Packet("a", b"1"), Packet("a", b"2"), Packet("b", b"3")
    assert [values.put(packet) for packet in (old, other, new)] == [False, False, True]
    sent = []
    while (packet := values.next()) is not None:
        sent.append(packet)
        values.sent(packet)
    assert sent == [new, other]
    values.resend_all()
    assert (values.pending, values.unsent) == (2, 0)
    assert not values.put(new), "what was sent once is not superseded"
    assert (values.pending, values.unsent) == (2, 1)


def test_a_late_event_says_that_it_is_historical() -> None:
    assert historical(_packet(1)).payload == b'{"historical":true}'
    other = Packet("t", b'{"historical":false,"x":1}')
    assert historical(other) is other


def test_the_state_of_the_clock_is_known() -> None:
    assert ClockWatch().state() in {"synced", "unsynced"}
