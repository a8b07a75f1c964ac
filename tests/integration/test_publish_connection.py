"""One connection to a real broker: its socket options, its properties, its start and its end."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from agent.config.broker_address import BrokerAddress
from agent.mqtt.base import NullListener, Packet, Received
from agent.mqtt.client import MqttClient
from agent.mqtt.settings import MqttSettings, TlsFiles
from tests.fixtures.certificates import Authority
from tests.fixtures.deadlines import wait_until
from tests.fixtures.mosquitto import MosquittoBroker

MANNERS = ["5", "3.1.1", "tls"]


@contextmanager
def _client(settings: MqttSettings, *filters: str) -> Iterator[tuple[MqttClient, list[Received]]]:
    received: list[Received] = []
    client = MqttClient(settings, subscriptions=filters, on_received=received.append)
    client.start(NullListener())
    try:
        yield client, received
    finally:
        client.stop(5.0)


def _settings(url: str) -> MqttSettings:
    return MqttSettings(address=BrokerAddress.parse(url), client_id="line-3", backoff_base_s=0.05)


@contextmanager
def _broker(folder: Path, manner: str, *options: str) -> Iterator[MqttSettings]:
    authority = Authority(folder / "certificates") if manner == "tls" else None
    tls = None if authority is None else authority.server("good")
    with MosquittoBroker(folder / "broker", tls=tls, options=options) as broker:
        settings = _settings(broker.url)
        if authority is not None:
            settings = replace(settings, tls=TlsFiles(ca=authority.certificate))
        yield replace(settings, address=replace(settings.address, is_older=manner == "3.1.1"))


def _sockets_to(port: int) -> list[bool]:
    """TCP_NODELAY of each of this process's connections to ``port``."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            number = int(entry.name)
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                with socket.socket(fileno=os.dup(number)) as copy:
                    if copy.family == socket.AF_INET and copy.getpeername()[1] == port:
                        found.append(bool(copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
    return found


@pytest.mark.parametrize("manner", MANNERS)
def test_nagle_is_off_so_no_message_waits_for_the_previous_one(tmp_path: Path, manner: str) -> None:
    with _broker(tmp_path, manner) as settings, _client(settings) as (client, _):
        wait_until(lambda: client.statistics().state == "connected")
        assert _sockets_to(settings.address.port) == [True]


@pytest.mark.parametrize("manner", MANNERS)
def test_correlation_data_is_only_in_its_own_reply(tmp_path: Path, manner: str) -> None:
    with _broker(tmp_path, manner) as settings, _client(settings, "t") as (client, received):
        assert client.wait_subscribed(5.0)
        for number, correlation in enumerate([None, b"one", None, b"other"]):
            assert client.send(Packet("t", b"%d" % number, 1, expiry_s=60, correlation=correlation)) is None
        wait_until(lambda: len(received) == 4)
    assert [message.payload for message in received] == [b"0", b"1", b"2", b"3"]
    none = [None] * 4
    assert [one.correlation for one in received] == (none if manner == "3.1.1" else [None, b"one", None, b"other"])


def test_correlation_data_counts_against_the_broker_s_limit(tmp_path: Path) -> None:
    with _broker(tmp_path, "5", "max_packet_size 2000") as settings, _client(settings) as (client, _):
        wait_until(lambda: client.statistics().state == "connected")
        assert client.send(Packet("t", b"1", 1, correlation=bytes(3000))) == "oversize"
        assert client.send(Packet("t", b"1", 1, correlation=bytes(1000))) is None
        wait_until(lambda: client.statistics().unconfirmed == 0)
        assert client.statistics().reconnects == 0


@pytest.mark.parametrize("url", ["mqtt://a..b", "mqtts://.example"])
def test_an_impossible_host_name_is_reported_and_ends_no_thread(url: str) -> None:
    with _client(_settings(url)) as (client, _):
        wait_until(lambda: "check mqtt.broker" in (client.statistics().reason or ""))
        assert client.statistics().failure is None


def test_a_stop_during_the_handshake_sends_no_connect(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "certificates")
    certificate = authority.server("good")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    context.num_tickets = 0  # a ticket for a peer that is gone makes recv() raise BrokenPipeError
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings = replace(
            _settings(f"mqtts://127.0.0.1:{server.getsockname()[1]}"), tls=TlsFiles(ca=authority.certificate)
        )
        with _client(settings) as (client, _):
            plain, _address = server.accept()
            leaving = threading.Thread(target=client.stop, args=(5.0,))
            leaving.start()
            wait_until(client._stop.is_set)  # nothing else shows that stop() was called
            with context.wrap_socket(plain, server_side=True) as secure:
                heard.append(secure.recv(100))
            leaving.join()
    assert heard == [b""]
