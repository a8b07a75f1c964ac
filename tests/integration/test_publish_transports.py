"""The ways to a real broker: WebSocket, unix socket, proxies, a TLS front end with SNI and ALPN, an encrypted key."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent.config.broker_address import BrokerAddress, ProxyAddress
from agent.mqtt.base import NullListener, Packet, Received
from agent.mqtt.client import MqttClient
from agent.mqtt.settings import Credentials, MqttSettings, Proxy, TlsFiles
from tests.fixtures.certificates import Authority
from tests.fixtures.deadlines import wait_until
from tests.fixtures.gateways import ConnectProxy, Gateway, SocksProxy, TlsFront, WebServer
from tests.fixtures.mosquitto import MosquittoBroker, free_port
from tests.fixtures.recording_broker import RecordingBroker

CANARY = "hunter2-CANARY"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "ours")


def _settings(url: str, **changes: object) -> MqttSettings:
    settings = MqttSettings(address=BrokerAddress.parse(url), client_id="line-3", backoff_base_s=0.05)
    return replace(settings, **changes)  # type: ignore[arg-type]  # fields by name


@contextmanager
def _client(settings: MqttSettings, *topics: str) -> Iterator[tuple[MqttClient, list[Received]]]:
    received: list[Received] = []
    client = MqttClient(settings, subscriptions=topics, on_received=received.append)
    client.start(NullListener())
    try:
        yield client, received
    finally:
        client.stop(5.0)


def _echo(settings: MqttSettings, *payloads: bytes) -> None:
    """Every payload comes back over the same way."""
    with _client(settings, "t") as (client, received):
        assert client.wait_subscribed(10.0), client.statistics().reason
        for payload in payloads or (b"1",):
            assert client.send(Packet("t", payload, 1)) is None
        wait_until(lambda: len(received) == len(payloads or (b"1",)))
        assert [message.payload for message in received] == list(payloads or (b"1",))
        assert client.statistics().reconnects == 0


def _reason(settings: MqttSettings, words: str) -> str:
    """The reason for a refusal that holds ``words``, and no secret."""
    with _client(settings) as (client, _):
        wait_until(lambda: words in (client.statistics().reason or ""))
        assert client.statistics().failure is None
        reason = client.statistics().reason or ""
    assert CANARY not in reason + repr(settings)
    return reason


def _secret(path: Path, value: str) -> Path:
    path.touch(0o600)
    path.write_text(f"{value}\n")
    return path


@pytest.fixture(scope="module")
def sockets(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[dict[str, str]]:
    """One mosquitto that listens at a WebSocket, the same with TLS, and a unix socket."""
    folder = tmp_path_factory.mktemp("b")
    plain, secure = free_port(), free_port()
    certificate = authority.server("websocket")
    options = [
        f"listener {plain} 127.0.0.1", "protocol websockets", "allow_anonymous true",
        f"listener {secure} 127.0.0.1", "protocol websockets", "allow_anonymous true",
        f"certfile {certificate.certificate}", f"keyfile {certificate.key}",
        f"listener 0 {folder / 's'}", "allow_anonymous true",
    ]  # fmt: skip
    with MosquittoBroker(folder / "broker", options=["per_listener_settings true", *options]) as broker:
        yield {
            "ws": f"ws://127.0.0.1:{plain}/mqtt",
            "wss": f"wss://localhost:{secure}",
            "unix": f"unix://{folder / 's'}",
            "mqtt": broker.url,
        }


@pytest.mark.parametrize("way", ["ws", "wss", "unix"])
@pytest.mark.parametrize("is_older", [False, True], ids=["5", "3.1.1"])
def test_messages_of_every_size_go_both_ways(
    sockets: dict[str, str], authority: Authority, way: str, *, is_older: bool
) -> None:
    settings = _settings(sockets[way], tls=TlsFiles(ca=authority.certificate))
    settings = replace(settings, address=replace(settings.address, is_older=is_older))
    # No longer ones: mosquitto 2.0.11 reads a WebSocket at 40 kB/s; see test_mqtt_websocket.py for them.
    _echo(settings, b"", *(bytes(size) for size in (100, 126, 2000)))


def test_a_websocket_sends_its_headers_and_a_refusal_has_its_status(tmp_path: Path) -> None:
    token = _secret(tmp_path / "token", f"Bearer {CANARY}")
    with WebServer(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n") as server:
        settings = _settings(f"ws://127.0.0.1:{server.port}/broker/a", header_files=(("Authorization", token),))
        reason = _reason(settings, "HTTP status 403")
        request = server.asked[0]
    assert "check host, port and path in mqtt.broker, and mqtt.websocket.header_files" in reason
    assert request.startswith("GET /broker/a HTTP/1.1\r\n")
    assert f"\r\nAuthorization: Bearer {CANARY}\r\n" in request
    assert "sec-websocket-protocol: mqtt\r\n" in request.lower()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "closed the connection during the WebSocket handshake"),
        (b"\x20\x02\x00\x05", "does not speak HTTP or WebSocket"),
        (b"HTTP/1.1 301 Moved\r\nLocation: https://x/\r\nContent-Length: 0\r\n\r\n", "HTTP status 301"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "HTTP status 200"),
        (b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: eA==\r\n\r\n",
         "does not speak HTTP or WebSocket"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000, "does not speak HTTP or WebSocket"),
    ],
    ids=["nothing", "MQTT", "moved", "a page", "wrong key", "endless"],
)  # fmt: skip
def test_a_server_that_opens_no_websocket_is_named(answer: bytes, words: str) -> None:
    with WebServer(answer) as server:
        _reason(_settings(f"ws://127.0.0.1:{server.port}"), words)


def test_a_broker_s_tcp_port_is_no_websocket(sockets: dict[str, str]) -> None:
    _reason(_settings(sockets["mqtt"].replace("mqtt://", "ws://")), "WebSocket")


def test_a_unix_socket_that_is_not_there_is_named(tmp_path: Path) -> None:
    _reason(_settings(f"unix://{tmp_path}/none"), "there is no socket at")


@pytest.mark.parametrize("kind", ["http", "socks5", "socks5h"])
@pytest.mark.parametrize("way", ["mqtt", "wss"])
def test_a_proxy_with_a_password_lets_through(
    sockets: dict[str, str], authority: Authority, tmp_path: Path, kind: str, way: str
) -> None:
    file = _secret(tmp_path / "proxy", CANARY)
    proxy: Gateway = (ConnectProxy if kind == "http" else SocksProxy)(user="me", password=CANARY)
    with proxy:
        settings = _settings(sockets[way].replace("127.0.0.1", "localhost"), tls=TlsFiles(ca=authority.certificate))
        _echo(replace(settings, proxy=Proxy(ProxyAddress(kind, "127.0.0.1", proxy.port), "me", file)), bytes(2000))
        port = settings.address.port
        wanted = {"http": f"CONNECT localhost:{port}", "socks5": f"number 127.0.0.1:{port}"}
        assert proxy.asked == [wanted.get(kind, f"name localhost:{port}")]


def test_the_proxy_looks_up_names_that_this_device_cannot(sockets: dict[str, str]) -> None:
    port = BrokerAddress.parse(sockets["mqtt"]).port
    with ConnectProxy(names=["broker.plant.invalid"]) as proxy:
        way = Proxy(ProxyAddress("http", "127.0.0.1", proxy.port))
        _echo(_settings(f"mqtt://broker.plant.invalid:{port}", proxy=way))


@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_a_wrong_proxy_password_is_named_and_read_again(sockets: dict[str, str], tmp_path: Path, kind: str) -> None:
    file = _secret(tmp_path / "proxy", f"wrong-{CANARY}")
    proxy: Gateway = (ConnectProxy if kind == "http" else SocksProxy)(user="me", password="right one")
    with proxy:
        way = Proxy(ProxyAddress(kind, "127.0.0.1", proxy.port), "me", file)
        with _client(_settings(sockets["mqtt"], proxy=way)) as (client, _):
            wait_until(lambda: "check mqtt.proxy.username and mqtt.proxy.password_file" in str(client.statistics()))
            assert CANARY not in repr(client.statistics())
            _secret(file, "right one")
            wait_until(lambda: client.statistics().state == "connected")


def test_every_other_failure_of_a_proxy_is_named(sockets: dict[str, str]) -> None:
    with ConnectProxy(status="502 Bad Gateway") as proxy:
        way = Proxy(ProxyAddress("http", "127.0.0.1", proxy.port))
        _reason(_settings(sockets["mqtt"], proxy=way), "(502 Bad Gateway): is the broker allowed there?")
    with SocksProxy() as proxy:
        way = Proxy(ProxyAddress("socks5", "127.0.0.1", proxy.port))
        _reason(_settings(f"mqtt://127.0.0.1:{free_port()}", proxy=way), "opened no way to 127.0.0.1")
    way = Proxy(ProxyAddress("socks5", "127.0.0.1", free_port()))
    _reason(_settings(sockets["mqtt"], proxy=way), "cannot be reached")
    with SocksProxy() as proxy:
        way = Proxy(ProxyAddress("socks5", "127.0.0.1", proxy.port))
        _reason(_settings("mqtt://nobody.invalid", proxy=way), "'127.0.0.1' or 'nobody.invalid' cannot be resolved")
    way = Proxy(ProxyAddress("http", "nobody.invalid", 3128))
    _reason(_settings(sockets["mqtt"], proxy=way), "the host name 'nobody.invalid' cannot be resolved")
    with WebServer(b"no proxy\r\n\r\n") as server:
        way = Proxy(ProxyAddress("http", "127.0.0.1", server.port))
        _reason(_settings(sockets["mqtt"], proxy=way), "does not answer like an HTTP proxy")


def test_no_proxy_is_taken_from_the_environment(sockets: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with ConnectProxy() as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy", "mqtt_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        _echo(_settings(sockets["mqtt"]))
        _echo(_settings(sockets["ws"]))
        assert proxy.asked == []


def test_the_server_sees_the_configured_name_and_protocol(sockets: dict[str, str], authority: Authority) -> None:
    certificate = authority.server("iot", alternatives="DNS:account.iot.example")
    target = BrokerAddress.parse(sockets["mqtt"]).port
    with TlsFront(certificate, target, alpn=["x-amzn-mqtt-ca", "mqtt"]) as front:
        files = TlsFiles(ca=authority.certificate, alpn="mqtt", server_name="account.iot.example")
        _echo(_settings(f"mqtts://127.0.0.1:{front.port}", tls=files), bytes(100_000))
        assert front.asked == ["server name account.iot.example", "protocol mqtt"]
        _reason(_settings(f"mqtts://127.0.0.1:{front.port}", tls=replace(files, server_name=None)), "another address")
        _reason(_settings(f"mqtts://127.0.0.1:{front.port}", tls=replace(files, alpn="amqp")), "mqtt.tls.alpn")


def test_an_encrypted_key_needs_its_password(tmp_path: Path, authority: Authority) -> None:
    certificate, key = authority.client("line-3")
    encrypted = tmp_path / "key.pem"
    command = ["openssl", "pkey", "-in", str(key), "-aes256", "-passout", f"pass:{CANARY}", "-out", str(encrypted)]
    subprocess.run(command, check=True, capture_output=True)
    encrypted.chmod(0o600)
    password = _secret(tmp_path / "password", "wrong")
    files = TlsFiles(authority.certificate, certificate, encrypted, password)
    with MosquittoBroker(tmp_path / "broker", tls=authority.server("mutual", asks_clients=True)) as broker:
        _reason(_settings(broker.url, tls=replace(files, key_password=None)), "mqtt.tls.key_password_file is not set")
        with _client(_settings(broker.url, tls=files)) as (client, _):
            wait_until(lambda: "cannot be decrypted" in (client.statistics().reason or ""))
            _secret(password, CANARY)
            wait_until(lambda: client.statistics().state == "connected")


def test_a_long_token_is_read_again_and_a_long_user_name_hides_its_query(tmp_path: Path) -> None:
    token = "e" * 65_535
    name = f"line-3?x-amz-customauthorizer-name=plant&key={CANARY}"
    with MosquittoBroker(tmp_path / "broker", users={"line-3": "no"}) as broker:
        credentials = Credentials(name, _secret(tmp_path / "token", token))
        assert "of user 'line-3?...'" in _reason(_settings(broker.url, credentials=credentials), "refused")
    # Not mosquitto, which from 2.1 on closes the connection at so large a CONNECT packet.
    with RecordingBroker() as open_broker:
        _echo(_settings(open_broker.url, credentials=Credentials("n" * 65_535, tmp_path / "token")))
