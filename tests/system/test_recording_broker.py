"""The recording broker with clients of other makes: it is a broker, it records, and each misbehaviour happens."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.fixtures.deadlines import wait_until
from tests.fixtures.mqtt_packets import Property, encoded_text, packet
from tests.fixtures.recorder import Recorder
from tests.fixtures.recording_broker import RecordingBroker
from tests.fixtures.recording_link import NOT_AUTHORISED, QUOTA_EXCEEDED, SERVER_MOVED, is_match

V5, V311 = MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311
VERSIONS = pytest.mark.parametrize("version", ["311", "5"])


@pytest.fixture
def broker() -> Iterator[RecordingBroker]:
    with RecordingBroker() as running:
        yield running


class Client:
    """paho, with everything that it was told."""

    def __init__(self, broker: RecordingBroker, protocol: MQTTProtocolVersion = V5, client_id: str = "c") -> None:
        self.codes: list[int] = []
        self.ends: list[int] = []
        self.connects: list[tuple[int, dict[str, object]]] = []
        self.paho = client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=protocol, reconnect_on_failure=False
        )
        client.on_publish = lambda *told: self.codes.append(told[3].value)
        client.on_disconnect = lambda *told: self.ends.append(told[3].value)
        client.on_connect = lambda *told: self.connects.append(
            (told[3].value, {} if told[4] is None else dict(told[4].json()))
        )
        client.connect("127.0.0.1", broker.port)
        client.loop_start()
        wait_until(lambda: self.connects or self.ends)

    def stop(self) -> None:
        self.paho.disconnect()
        self.paho.loop_stop()
        self.paho._reset_sockets()


@contextlib.contextmanager
def client_of(broker: RecordingBroker, protocol: MQTTProtocolVersion = V5, client_id: str = "c") -> Iterator[Client]:
    client = Client(broker, protocol, client_id)
    try:
        yield client
    finally:
        client.stop()


def _mosquitto_pub(broker: RecordingBroker, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["mosquitto_pub", "-p", str(broker.port), "-h", "127.0.0.1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


@VERSIONS
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_it_serves_mosquitto_pub_and_mosquitto_sub(broker: RecordingBroker, version: str, qos: int) -> None:
    command = ["mosquitto_sub", "-V", version, "-h", "127.0.0.1", "-p", str(broker.port), "-q", "1", "-C", "1"]
    with subprocess.Popen([*command, "-t", "a/+", "-v"], stdout=subprocess.PIPE, text=True) as subscriber:
        broker.wait_subscribed("a/+")
        sent = _mosquitto_pub(broker, "-V", version, "-q", str(qos), "-t", "a/b", "-m", "hello", "-i", "sender")
        assert sent.returncode == 0, sent.stderr
        assert subscriber.communicate(timeout=20)[0] == "a/b hello\n"
    (one,) = broker.published()
    assert (one.topic, one.payload, one.qos, one.client_id) == ("a/b", b"hello", qos, "sender")
    assert broker.connects[0].version == (5 if version == "5" else 4)
    assert broker.violations == []


@pytest.mark.parametrize("protocol", [V5, V311])
def test_it_serves_paho_with_retained_messages_and_properties(
    broker: RecordingBroker, protocol: MQTTProtocolVersion
) -> None:
    with client_of(broker, protocol) as client:
        for number in range(200):
            client.paho.publish(f"a/{number % 3}", b"%d" % number, qos=1, retain=True).wait_for_publish(10)
        with Recorder(broker.port, ["a/#"], protocol=protocol) as recorder:
            recorder.wait_count(3)
            wait_until(lambda: broker.confirmed_by_clients == 3)
    assert [one.payload for one in broker.published("a/#")] == [b"%d" % number for number in range(200)]
    assert {one.payload for one in recorder.messages()} == {b"197", b"198", b"199"}
    assert all(one.retain for one in recorder.messages())


def test_it_writes_a_publication_down_before_it_confirms_it(broker: RecordingBroker, tmp_path: Path) -> None:
    broker.log_file = tmp_path / "log"
    with client_of(broker) as client:
        client.paho.publish("a/b", b"1", qos=1).wait_for_publish(10)
        assert broker.log_file.read_text() == "a/b 1\n"


def test_the_last_will_comes_after_a_cut_only(broker: RecordingBroker) -> None:
    with Recorder(broker.port, ["will/#"]) as recorder:
        for name in ("clean", "cut"):
            client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=V311)
            client.will_set(f"will/{name}", b"gone", qos=1)
            client.connect("127.0.0.1", broker.port)
            client.loop()
            wait_until(lambda: broker.connected == 2)
            if name == "clean":
                client.disconnect()
            elif (sock := client.socket()) is not None:
                sock.close()
            client._reset_sockets()
            wait_until(lambda: broker.connected == 1)
        assert recorder.wait_for(lambda _: True).topic == "will/cut"


def test_a_refusal_has_its_code_its_topics_and_its_end(broker: RecordingBroker) -> None:
    broker.refuse("a/#", NOT_AUTHORISED)
    broker.refuse("b/c", QUOTA_EXCEEDED, for_s=0.0)
    with client_of(broker) as client:
        for topic in ("a/x", "b/c", "d"):
            client.paho.publish(topic, b"", qos=1).wait_for_publish(10)
        broker.accept_all()
        client.paho.publish("a/x", b"", qos=1).wait_for_publish(10)
        wait_until(lambda: len(client.codes) == 4)
        assert client.codes == [NOT_AUTHORISED, 0, 0, 0]
    assert [one.topic for one in broker.published(is_accepted=False)] == ["a/x"]
    assert [one.topic for one in broker.published(is_accepted=True)] == ["b/c", "d", "a/x"]


def test_withheld_confirmations_never_come_and_pings_do(broker: RecordingBroker) -> None:
    broker.is_withholding = True
    with client_of(broker) as client:
        client.paho.publish("a", b"", qos=1)
        broker.wait_published("a")
        broker.is_withholding = False
        client.paho.publish("b", b"", qos=1).wait_for_publish(10)
        assert client.codes == [0]
    with _raw(broker) as sock:
        broker.is_withholding = True
        sock.sendall(bytes([12 << 4, 0]))
        assert sock.recv(2) == bytes([13 << 4, 0])


@pytest.mark.parametrize("protocol", [V5, V311])
def test_poison_ends_the_connection_without_an_answer(broker: RecordingBroker, protocol: MQTTProtocolVersion) -> None:
    broker.poison = ("a/poison",)
    with client_of(broker, protocol) as client:
        client.paho.publish("a/good", b"", qos=1).wait_for_publish(10)
        client.paho.publish("a/poison", b"", qos=1)
        wait_until(lambda: client.ends)
        assert client.codes == [0]


GRANTS: dict[Property, int | str] = {
    Property.RETAIN_AVAILABLE: 0,
    Property.MAXIMUM_QOS: 0,
    Property.RECEIVE_MAXIMUM: 1,
    Property.MAXIMUM_PACKET_SIZE: 400,
    Property.SERVER_KEEP_ALIVE: 0,
    Property.ASSIGNED_CLIENT_ID: "given",
    Property.WILDCARD_AVAILABLE: 0,
}


def test_grants_reach_the_client(broker: RecordingBroker) -> None:
    broker.grants.update(GRANTS)
    with client_of(broker, client_id="") as client:
        code, told = client.connects[0]
    assert code == 0
    assert told == {
        "RetainAvailable": 0,
        "MaximumQoS": 0,
        "ReceiveMaximum": 1,
        "MaximumPacketSize": 400,
        "ServerKeepAlive": 0,
        "AssignedClientIdentifier": "given",
        "WildcardSubscriptionAvailable": 0,
    }


def test_a_moved_server_names_the_other_one(broker: RecordingBroker) -> None:
    broker.connect_code = SERVER_MOVED
    broker.grants[Property.SERVER_REFERENCE] = "other.example:1884"
    with client_of(broker) as client:
        assert client.connects == [(SERVER_MOVED, {"ServerReference": "other.example:1884"})]
    assert _mosquitto_pub(broker, "-V", "311", "-t", "a", "-m", "").returncode == 3  # server unavailable


@pytest.mark.parametrize(
    ("name", "value", "arguments"),
    [
        (Property.RETAIN_AVAILABLE, 0, ["-r"]),
        (Property.MAXIMUM_QOS, 0, ["-q", "1"]),
        (Property.MAXIMUM_PACKET_SIZE, 30, ["-m", "x" * 40]),
    ],
)
def test_who_goes_beyond_a_grant_is_noted(
    broker: RecordingBroker, name: Property, value: int, arguments: list[str]
) -> None:
    broker.grants[name] = value
    with _raw(broker) as sock:
        flags = 1 if "-r" in arguments else 2 if "-q" in arguments else 0
        identifier = b"\0\1" if "-q" in arguments else b""
        payload = b"x" * (40 if "-m" in arguments else 1)
        sock.sendall(packet(3, flags, encoded_text("a") + identifier + b"\0" + payload))
        assert sock.recv(1) == bytes([14 << 4])
    assert len(broker.violations) == 1
    assert broker.published() == []


@pytest.mark.parametrize(("together", "is_breach"), [(1, False), (2, True)])
def test_more_than_receive_maximum_is_noted(broker: RecordingBroker, together: int, *, is_breach: bool) -> None:
    broker.grants[Property.RECEIVE_MAXIMUM] = 1
    with _raw(broker) as sock:
        sock.sendall(
            b"".join(packet(3, 2, encoded_text("a") + bytes([0, one + 1]) + b"\0") for one in range(together))
        )
        sock.recv(1)
    assert bool(broker.violations) == is_breach


def test_no_wildcards_means_none(broker: RecordingBroker) -> None:
    broker.grants[Property.WILDCARD_AVAILABLE] = 0
    codes: list[int] = []
    with client_of(broker) as client:
        client.paho.on_subscribe = lambda *told: codes.extend(one.value for one in told[3])
        client.paho.subscribe([("a/+", 1), ("a/b", 1)])
        wait_until(lambda: len(codes) == 2)
    assert codes == [0xA2, 1]


@pytest.mark.parametrize("way", ["closed", "refused", "unknown"])
def test_protocol_5_is_closed_or_refused_and_3_1_1_is_not(
    broker: RecordingBroker, way: Literal["closed", "refused", "unknown"]
) -> None:
    broker.version_5 = way
    assert _mosquitto_pub(broker, "-V", "5", "-t", "a", "-m", "").returncode != 0
    assert _mosquitto_pub(broker, "-V", "311", "-t", "a", "-m", "").returncode == 0
    assert [one.version for one in broker.connects] == [5, 4]


def test_a_thin_line_is_as_thin_as_it_says() -> None:
    with RecordingBroker(receive_buffer_bytes=4096) as broker, _raw(broker) as sock:
        broker.read_bytes_per_s = 20_000.0
        began = time.monotonic()
        for number in range(10):
            sock.sendall(packet(3, 2, encoded_text("a") + bytes([0, number + 1]) + b"\0" + b"x" * 1000))
        broker.wait_published("a", 10)
        assert time.monotonic() - began >= 10_000 / 20_000.0 * 0.9


def test_a_paused_broker_keeps_the_connection_and_answers_later(broker: RecordingBroker) -> None:
    with client_of(broker) as client:
        broker.pause()
        sent = client.paho.publish("a", b"", qos=1)
        sent.wait_for_publish(0.1)
        assert not sent.is_published()
        broker.resume()
        sent.wait_for_publish(10)
        assert client.ends == []


def test_it_sends_what_the_standard_forbids(broker: RecordingBroker) -> None:
    broker.greet(b"bad/\xff", b"greeting", [(Property.CONTENT_TYPE, "\ufeff")])
    with _raw(broker, subscribes=True) as sock:
        broker.wait_subscribed("t")
        broker.send(b"bad/\xfe", b"sent", properties=[(Property.USER_PROPERTY, ("\ufeff", "x"))])
        broker.send_raw(b"\xf0\0")
        received = bytearray()
        while not received.endswith(b"\xf0\0"):
            received += sock.recv(4096)
    assert b"bad/\xff\x06\x03\0\x03\xef\xbb\xbfgreeting" in received
    assert b"bad/\xfe\x09&\0\x03\xef\xbb\xbf\0\x01xsent" in received


def test_a_huge_message_arrives_whole(broker: RecordingBroker) -> None:
    with _raw(broker) as sock:
        sender = threading.Thread(target=broker.send, args=("big", b"x" * 20_000_000))
        sender.start()
        size = 0
        while size < 20_000_000:
            size += len(sock.recv(1 << 20))
        sender.join()


def test_a_client_that_is_no_client_is_noted(broker: RecordingBroker) -> None:
    for data in (packet(3, 0, encoded_text("a")), packet(1, 0, encoded_text("HTTP")), packet(1, 0, b"\0")):
        with socket.create_connection(("127.0.0.1", broker.port), 5) as sock:
            sock.sendall(data)
            assert sock.recv(1) == b""
    wait_until(lambda: len(broker.violations) == 3)


def test_the_same_client_id_ends_the_older_connection(broker: RecordingBroker) -> None:
    with client_of(broker) as older, client_of(broker):
        wait_until(lambda: older.ends)
        assert older.ends == [0x8E]


def test_it_starts_again_on_its_port_and_remembers(broker: RecordingBroker) -> None:
    assert _mosquitto_pub(broker, "-q", "1", "-t", "a", "-m", "1").returncode == 0
    broker.kill()
    assert _mosquitto_pub(broker, "-q", "1", "-t", "a", "-m", "2").returncode != 0
    broker.start()
    assert _mosquitto_pub(broker, "-q", "1", "-t", "a", "-m", "3").returncode == 0
    assert [one.payload for one in broker.published("a")] == [b"1", b"3"]


@pytest.mark.parametrize(
    ("topic_filter", "fits", "does_not"),
    [
        ("#", ["a", "a/b", "/"], ["$SYS/a"]),
        ("a/#", ["a", "a/", "a/b/c"], ["ab", "b/a"]),
        ("a/+", ["a/", "a/b"], ["a", "a/b/c"]),
        ("+/b", ["a/b", "/b"], ["a/b/c", "$SYS/b"]),
        ("a.b", ["a.b"], ["axb"]),
    ],
)
def test_topic_filters_fit_as_the_standard_says(
    topic_filter: str, fits: Sequence[str], does_not: Sequence[str]
) -> None:
    assert [one for one in (*fits, *does_not) if is_match(topic_filter, one)] == list(fits)


@contextlib.contextmanager
def _raw(broker: RecordingBroker, *, subscribes: bool = False) -> Iterator[socket.socket]:
    """A connection by hand, after its CONNACK."""
    with socket.create_connection(("127.0.0.1", broker.port), 10) as sock:
        sock.sendall(packet(1, 0, encoded_text("MQTT") + b"\x05\x02\0\x3c\0" + encoded_text("raw")))
        head = sock.recv(2)
        answer = b""
        while len(answer) < head[1]:
            answer += sock.recv(head[1] - len(answer))
        assert answer[1] == 0
        if subscribes:
            sock.sendall(packet(8, 2, b"\0\x01\0" + encoded_text("t") + b"\x01"))
        yield sock
