"""What real brokers do besides dying: withheld confirmations, bad messages, floods, limits, redirections.

The recording broker does it; the agent's client has to go on, and to say what happened.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from agent.config.broker_address import BrokerAddress
from agent.mqtt.base import NullListener, Packet, Received
from agent.mqtt.client import MqttClient
from agent.mqtt.settings import Credentials, MqttSettings
from agent.mqtt.subscriber import open_subscriber
from agent.telemetry.process import ProcessMeter
from tests.fixtures.deadlines import wait_until
from tests.fixtures.mosquitto import MosquittoBroker, free_port
from tests.fixtures.mqtt_packets import Properties, Property, packet, publish
from tests.fixtures.recording_broker import RecordingBroker
from tests.fixtures.recording_link import SERVER_MOVED

BOM = "\ufeff"
WILL = Packet("will", b"{}", 1, retain=True)
COMMANDS = "cmd/#"


class Listener(NullListener):
    """Records confirmations and lost connections."""

    def __init__(self) -> None:
        self.confirmed: list[tuple[int, str | None]] = []
        self.ends: list[str] = []
        self.failures: list[BaseException] = []

    def on_disconnected(self, reason: str) -> None:
        self.ends.append(reason)

    def on_confirmed(self, key: int, problem: str | None) -> None:
        self.confirmed.append((key, problem))

    def on_failed(self, error: BaseException) -> None:
        self.failures.append(error)


class Running:
    """A started client, what it received, and what it reported."""

    def __init__(self, settings: MqttSettings, *filters: str, will: Packet | None = None) -> None:
        self.received: list[Received] = []
        self.heard = Listener()
        self.client = MqttClient(settings, subscriptions=filters, on_received=self.received.append, will=will)
        self.client.start(self.heard)

    def wait_connected(self) -> None:
        wait_until(lambda: self.client.statistics().state == "connected")

    @property
    def rejected(self) -> dict[str, int]:
        return dict(self.client.statistics().rejected)


@contextlib.contextmanager
def running(settings: MqttSettings, *filters: str, will: Packet | None = None) -> Iterator[Running]:
    one = Running(settings, *filters, will=will)
    try:
        yield one
    finally:
        one.client.stop(5.0)
    assert one.heard.failures == []


def _settings(broker: RecordingBroker | MosquittoBroker, version: str = "auto", **changes: object) -> MqttSettings:
    settings = MqttSettings(
        address=BrokerAddress.parse(broker.url),
        client_id="line-3",
        keepalive_s=5,
        backoff_base_s=0.05,
        protocol=version,  # type: ignore[arg-type]  # one of its values
        max_packet_bytes=65536,
        max_received_per_s=100.0,
    )
    return replace(settings, **changes)  # type: ignore[arg-type]  # fields by name


@pytest.fixture
def broker() -> Iterator[RecordingBroker]:
    with RecordingBroker() as one:
        yield one


VERSIONS = pytest.mark.parametrize("version", ["5", "3.1.1"])


@VERSIONS
def test_withheld_confirmations_end_the_connection_by_name(broker: RecordingBroker, version: str) -> None:
    with running(_settings(broker, version, confirm_within_s=0.5)) as one:
        one.wait_connected()
        assert one.client.send(Packet("t", b"0", 1), 0) is None
        wait_until(lambda: one.heard.confirmed == [(0, None)])
        broker.is_withholding = True
        for key in range(1, 4):
            assert one.client.send(Packet("t", b"%d" % key, 1), key) is None
        wait_until(lambda: one.heard.ends)
        broker.accept_all()
        broker.wait_connected(2)
        wait_until(lambda: one.client.send(Packet("t", b"9", 1), 9) is None)
        wait_until(lambda: (9, None) in one.heard.confirmed)
    assert one.heard.ends[0].startswith("no_confirmations: ")
    assert "3 wait" in one.heard.ends[0]
    assert one.heard.confirmed == [(0, None), (9, None)]


BAD: dict[str, tuple[str | bytes, Properties, dict[str, int]]] = {
    "topic": (b"cmd/\xff\xfe", (), {"invalid_topic": 1}),
    "user property": ("cmd/x", ((Property.USER_PROPERTY, ("a", "\0")),), {"invalid_properties": 1}),
    "content type": ("cmd/x", ((Property.CONTENT_TYPE, b"\xff"),), {"invalid_properties": 1}),
    "response topic": ("cmd/x", ((Property.RESPONSE_TOPIC, "#"),), {"invalid_properties": 1}),
    "legal user property": ("cmd/x", ((Property.USER_PROPERTY, (BOM, BOM)),), {}),
    "legal content type": ("cmd/x", ((Property.CONTENT_TYPE, BOM),), {}),
    "legal response topic": ("cmd/x", ((Property.RESPONSE_TOPIC, BOM),), {}),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("qos", [0, 1])
def test_one_bad_message_costs_neither_the_connection_nor_the_next_one(
    broker: RecordingBroker, name: str, qos: int
) -> None:
    topic, properties, rejected = BAD[name]
    broker.greet(topic, b"retained", properties)  # after each subscription: a retained one comes again at each start
    with running(_settings(broker, "5"), COMMANDS) as one:
        assert one.client.wait_subscribed(10.0)
        broker.send(topic, b"bad", qos=qos, properties=properties)  # type: ignore[arg-type]  # 0 or 1
        broker.send("cmd/good", b"good", qos=1)
        wait_until(lambda: any(message.payload == b"good" for message in one.received))
        wait_until(lambda: broker.confirmed_by_clients == qos + 1)
        expected = dict.fromkeys(rejected, 2)
        assert one.rejected == expected
        assert len(one.received) == (1 if expected else 3)
        assert one.heard.ends == []
    assert len(broker.connects) == 1


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_bad_topic_does_not_freeze_a_subscriber(broker: RecordingBroker, version: str) -> None:
    broker.greet(b"a/\xff", b"retained", ((Property.CONTENT_TYPE, BOM),))
    with open_subscriber(_settings(broker, version), ["a/#"], timeout_s=10.0) as subscriber:
        broker.send("a/b", b"good", properties=((Property.USER_PROPERTY, (BOM, BOM)),))
        message = subscriber.receive(10.0)
        assert message is not None
        assert message.payload == b"good"
        wait_until(lambda: subscriber.connection().rejected == {"invalid_topic": 1})


def test_limits_for_received_messages_are_announced(broker: RecordingBroker) -> None:
    with running(_settings(broker, "5"), COMMANDS):
        (connect,) = broker.wait_connected()
    assert connect.properties[Property.MAXIMUM_PACKET_SIZE] == 65536
    assert connect.properties[Property.RECEIVE_MAXIMUM] == 16


@pytest.mark.parametrize(("version", "qos"), [("5", 0), ("3.1.1", 1)])
def test_a_huge_message_takes_no_memory_and_costs_no_connection(
    broker: RecordingBroker, version: str, qos: int
) -> None:
    size, chunk = 250 * 2**20, bytes(2**20)
    identifier = None if qos == 0 else 77
    whole = publish("cmd/x", b"", packet_id=identifier, properties=() if version == "5" else None)
    body = whole[2:]
    head = bytearray([whole[0]])
    left = len(body) + size
    while left >= 0x80:
        head.append(left & 0x7F | 0x80)
        left >>= 7
    head.append(left)
    with running(_settings(broker, version, keepalive_s=60), COMMANDS) as one:
        assert one.client.wait_subscribed(10.0)
        before = ProcessMeter().read().rss_bytes
        peak = before
        broker.send_raw(bytes(head) + body)
        for _ in range(size // len(chunk)):
            assert broker.send_raw(chunk) == 1
            peak = max(peak, ProcessMeter().read().rss_bytes)
        broker.send("cmd/good", b"good")
        wait_until(lambda: bool(one.received), within_s=30)
        assert one.rejected == {"oversize": 1}
        assert one.heard.ends == []
        wait_until(lambda: broker.confirmed_by_clients == qos)
    assert peak - before < 8 * 2**20


def test_a_long_message_on_a_thin_line_is_no_silence(broker: RecordingBroker) -> None:
    with running(_settings(broker, "3.1.1", keepalive_s=1), COMMANDS) as one:
        assert one.client.wait_subscribed(10.0)
        broker.send_raw(b"\x30\xff\xff\x7f" + b"\0\5cmd/x")  # two megabytes, and replies to pings come behind them
        ends_at = time.monotonic() + 2.8
        while time.monotonic() < ends_at:
            broker.send_raw(bytes(1000))
            time.sleep(0.1)
        assert one.heard.ends == []


def test_a_flood_of_commands_leaves_room_for_confirmations(broker: RecordingBroker) -> None:
    flood = publish("cmd/set", b"junk", packet_id=None, properties=()) * 1000
    done = threading.Event()

    def send() -> None:
        while not done.wait(0.04):  # 25,000 a second
            broker.send_raw(flood)

    with running(_settings(broker, "5"), COMMANDS) as one:
        assert one.client.wait_subscribed(10.0)
        thread = threading.Thread(target=send)
        thread.start()
        try:
            wait_until(lambda: sum(one.rejected.values()) > 25_000, within_s=30)
            for key in range(20):
                assert one.client.send(Packet("event", b"%d" % key, 1), key) is None
                wait_until(lambda key=key: (key, None) in one.heard.confirmed)  # type: ignore[misc]  # no lambda type
        finally:
            done.set()
            thread.join()
        assert one.heard.ends == []
        assert one.rejected.keys() == {"rate_limited"}
        assert len(one.received) < 3000


@VERSIONS
def test_what_breaks_the_protocol_ends_the_connection_with_the_reason(broker: RecordingBroker, version: str) -> None:
    with running(_settings(broker, version)) as one:
        one.wait_connected()
        broker.send_raw(packet(15, 0, b""))
        wait_until(lambda: one.heard.ends)
        assert "broke the protocol: it sent a packet of type 15" in one.heard.ends[0]
        wait_until(lambda: one.client.statistics().reconnects >= 1)


def test_a_broker_without_retain_and_qos_1_gets_everything_without_them(broker: RecordingBroker) -> None:
    broker.grants = {Property.RETAIN_AVAILABLE: 0, Property.MAXIMUM_QOS: 0}
    with structlog.testing.capture_logs() as lines, running(_settings(broker), will=WILL) as one:
        one.wait_connected()
        assert one.client.send(Packet("state", b"{}", 1, retain=True), 1) is None
        wait_until(lambda: one.heard.confirmed == [(1, None)])
        (published,) = broker.wait_published("state")
        assert (published.qos, published.retain) == (0, False)
        limits = one.client.statistics().limits
        broker.disconnect()
        wait_until(lambda: one.client.statistics().reconnects == 1)
    wills = [(connect.will.retain, connect.will.qos) for connect in broker.connects if connect.will is not None]
    assert wills == [(True, 1), (False, 1), (False, 0), (False, 0)], "the broker's limits are remembered"
    assert broker.violations == []
    for words in ("without retain", "only QoS 0", "last will"):
        assert any(words in limit for limit in limits)
    assert [line["event"] for line in lines].count("broker.limited") == 1
    assert [line["event"] for line in lines].count("broker.will_reduced") == 2


def test_a_broker_without_wildcards_gets_the_plain_topics(broker: RecordingBroker) -> None:
    broker.grants = {Property.WILDCARD_AVAILABLE: 0}
    with running(_settings(broker), "cmd/set", "cmd/+") as one:
        assert one.client.wait_subscribed(10.0)
        broker.send("cmd/set", b"good")
        wait_until(lambda: bool(one.received))
        assert any("cmd/+" in limit for limit in one.client.statistics().limits)
    assert broker.subscribed == [("line-3", "cmd/set")]
    assert broker.violations == []


def test_a_subscriber_to_wildcards_alone_says_why_it_hears_nothing(broker: RecordingBroker) -> None:
    broker.grants = {Property.WILDCARD_AVAILABLE: 0}
    with (
        structlog.testing.capture_logs() as lines,
        open_subscriber(_settings(broker), ["a/#"], timeout_s=5.0) as subscriber,
    ):
        assert "not subscribed to a/#" in subscriber.connection().limits[0]
    assert any(line.get("problem") == "the broker has no wildcard subscriptions" for line in lines)
    assert broker.violations == []


def test_the_limits_on_size_and_on_unconfirmed_packets_are_kept(broker: RecordingBroker) -> None:
    broker.grants = {Property.MAXIMUM_PACKET_SIZE: 400, Property.RECEIVE_MAXIMUM: 1}
    with structlog.testing.capture_logs() as lines, running(_settings(broker)) as one:
        one.wait_connected()
        assert one.client.send(Packet("t", bytes(400), 1), 0) == "oversize"
        for key in range(1, 11):
            wait_until(lambda key=key: one.client.send(Packet("t", bytes(300), 1), key) is None)  # type: ignore[misc]  # no lambda type
        wait_until(lambda: len(one.heard.confirmed) == 10)
    assert broker.violations == []
    (limited,) = [line["limits"] for line in lines if line["event"] == "broker.limited"]
    assert ["400 bytes" in limit for limit in limited] == [True]


def _keepalive_s(one: Running) -> int:
    connection = one.client._connection
    assert connection is not None
    assert connection._client is not None
    return connection._client.keepalive


@pytest.mark.parametrize(("granted_s", "used_s"), [(0, 2), (1, 1)])
def test_the_keepalive_of_the_broker_is_kept(broker: RecordingBroker, granted_s: int, used_s: int) -> None:
    broker.grants = {Property.SERVER_KEEP_ALIVE: granted_s}
    with running(_settings(broker, keepalive_s=2)) as one:
        one.wait_connected()
        assert _keepalive_s(one) == used_s
        broker.pause()
        try:
            wait_until(lambda: one.heard.ends, within_s=2.5 * used_s)
        finally:
            broker.resume()
        assert f"keepalive of {used_s} s" in one.heard.ends[0]


@contextlib.contextmanager
def _two_brokers() -> Iterator[tuple[RecordingBroker, RecordingBroker]]:
    with RecordingBroker() as first, RecordingBroker() as second:
        yield first, second


def test_a_moved_server_is_followed_once() -> None:
    with _two_brokers() as (first, second):
        first.connect_code = second.connect_code = SERVER_MOVED
        first.grants = {Property.SERVER_REFERENCE: f"127.0.0.1:{second.port}"}
        second.grants = {Property.SERVER_REFERENCE: f"127.0.0.1:{first.port}"}
        with running(_settings(first, backoff_base_s=30.0)) as one:
            first.wait_connected()
            second.wait_connected()
            wait_until(lambda: "moved" in (one.client.statistics().reason or ""))
        assert (len(first.connects), len(second.connects)) == (1, 1), "a circle is not followed"


def test_a_disconnect_with_another_server_is_followed() -> None:
    with _two_brokers() as (first, second), running(_settings(first)) as one:
        one.wait_connected()
        first.disconnect(0x9C, ((0x1F, f"for{BOM}repair"), (Property.SERVER_REFERENCE, f"127.0.0.1:{second.port}")))
        second.wait_connected()
        wait_until(lambda: one.client.statistics().address == second.url)
        assert one.heard.ends == [
            (
                f"lost the connection to {first.url}: the broker closed it: use another server (0x9C); it says "
                f"'for\\ufeffrepair'; it names '127.0.0.1:{second.port}' instead"
            )
        ]
        one.wait_connected()
        second.disconnect()
        first.wait_connected(2)
        wait_until(lambda: one.client.statistics().address == first.url)


def test_no_password_goes_to_another_server_without_tls(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.touch(0o600)
    password.write_text("secret-1")
    with _two_brokers() as (first, second), structlog.testing.capture_logs() as lines:
        first.connect_code = SERVER_MOVED
        first.grants = {Property.SERVER_REFERENCE: f"127.0.0.1:{second.port}"}
        with running(_settings(first, credentials=Credentials("me", password))):
            first.wait_connected(2)
        assert second.connects == []
    assert any(line["event"] == "broker.redirection_ignored" for line in lines)


def test_one_closed_connection_does_not_change_the_version(broker: RecordingBroker) -> None:
    broker.version_5 = "closed"
    reasons: list[str | None] = []
    with running(_settings(broker)) as one:
        broker.wait_connected(1)
        one.wait_connected()
        reasons.append(one.client.statistics().protocol_reason)
        assert one.client.statistics().protocol == "MQTT 3.1.1"
    assert [connect.version for connect in broker.connects] == [5, 5, 4]
    assert reasons == ["the broker gave no answer to MQTT 5"]


def test_a_glitch_at_the_first_connection_is_healed_by_the_second() -> None:
    with RecordingBroker() as broker:
        broker.version_5 = "closed"
        original = broker.note_connect

        def once(*arguments: object) -> None:
            original(*arguments)  # type: ignore[arg-type]  # passed on
            broker.version_5 = "accepted"

        broker.note_connect = once  # type: ignore[method-assign, assignment]  # the first one alone is closed
        with running(_settings(broker)) as one:
            one.wait_connected()
            assert one.client.statistics().protocol == "MQTT 5"


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_configured_version_is_kept(broker: RecordingBroker, version: str) -> None:
    broker.version_5 = "refused"
    with running(_settings(broker, version)) as one:
        if version == "5":
            wait_until(lambda: "does not speak this version" in (one.client.statistics().reason or ""))
            broker.version_5 = "accepted"
        one.wait_connected()
        assert one.client.statistics().protocol == f"MQTT {version}"


@pytest.mark.parametrize("code", [0x80, 0x83, 0x87, 0x90, 0x95, 0x97, 0x99, 0xEE])
def test_every_refusal_has_its_name(broker: RecordingBroker, code: int) -> None:
    names = {0x87: "not_authorised", 0x90: "topic_refused", 0x95: "oversize", 0x97: "quota_exceeded"}
    broker.refuse("t", code)
    with running(_settings(broker)) as one:
        one.wait_connected()
        assert one.client.send(Packet("t", b"", 1), 1) is None
        wait_until(lambda: bool(one.heard.confirmed))
    assert one.heard.confirmed == [(1, {**names, 0x99: "payload_invalid"}.get(code, "refused"))]


def test_a_thin_line_is_measured_and_kept_short() -> None:
    rate = 5_000
    with RecordingBroker(receive_buffer_bytes=2048) as broker:
        with running(_settings(broker, keepalive_s=60)) as one:
            one.wait_connected()
            broker.read_bytes_per_s = rate
            began = time.monotonic()
            handed: list[float] = []
            while time.monotonic() - began < 4.0:
                one.client.send(Packet("result", b"%d" % len(handed) + bytes(500)), None)
                if one.client.send(Packet("event", bytes(500), 1), len(handed)) is None:
                    handed.append(time.monotonic())
                time.sleep(0.02)
            line = one.client.line()
            events = broker.published("event")
        assert one.heard.ends == []
    assert line.bytes_per_s is not None
    assert 0.5 * rate < line.bytes_per_s < 3 * rate
    assert line.queued_bytes < 4 * rate
    ages = [event.at - at for event, at in zip(events, handed, strict=False)]
    assert ages[-1] < 4.0


def test_mosquitto_s_own_limits_are_kept(tmp_path: Path) -> None:
    options = ("retain_available false", "max_packet_size 2000", "max_keepalive 10")
    with (
        MosquittoBroker(tmp_path / "broker", options=options, listener_options=["max_qos 0"]) as broker,
        running(_settings(broker, keepalive_s=60), will=WILL) as one,
    ):
        one.wait_connected()
        assert _keepalive_s(one) == 10
        assert one.client.send(Packet("state", b"{}", 1, retain=True), 1) is None
        assert one.client.send(Packet("state", bytes(2000), 1), 2) == "oversize"
        wait_until(lambda: one.heard.confirmed == [(1, None)])
        limits = one.client.statistics().limits
        assert ["without retain" in limits[0], "QoS 0" in limits[1]] == [True, True]
        assert one.client.statistics().reconnects == 0


def test_a_moved_server_that_is_gone_leads_back(broker: RecordingBroker) -> None:
    broker.connect_code = SERVER_MOVED
    broker.grants = {Property.SERVER_REFERENCE: f"127.0.0.1:{free_port()}"}
    with running(_settings(broker)) as one:
        broker.wait_connected(2)
        broker.connect_code, broker.grants = 0, {}
        one.wait_connected()
        assert one.client.statistics().address == broker.url
