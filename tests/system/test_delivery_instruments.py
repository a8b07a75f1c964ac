"""The drills' own instruments: each fault of the proxy really happens, and the checker sees each kind of fault."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.recorder import Recorder
from tests.system.delivery.checker import Identity, Ledger, judge, read_ledger
from tests.system.delivery.proxy import FaultProxy
from tests.system.delivery.wire import Witness

SHORT_S = 0.25


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""
    stop = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                connection.sendall(data)

    threads: list[threading.Thread] = []

    def accept() -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = server.accept()
                connection.settimeout(10)
                threads.append(threading.Thread(target=serve, args=(connection,)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        yield server.getsockname()[1]
        stop.set()
        acceptor.join()
        for thread in threads:
            thread.join()


@pytest.fixture
def proxy(echo: int) -> Iterator[FaultProxy]:
    with FaultProxy(echo) as running:
        yield running


@contextlib.contextmanager
def _connected(proxy: FaultProxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), 5) as connection:
        connection.sendall(b"hello")
        assert connection.recv(5) == b"hello"
        yield connection


def _roundtrip_s(connection: socket.socket, size: int) -> float:
    began = time.monotonic()
    connection.sendall(b"x" * size)
    got = 0
    while got < size:
        got += len(connection.recv(65536))
    return time.monotonic() - began


def test_without_a_fault_everything_gets_through(proxy: FaultProxy) -> None:
    with _connected(proxy) as connection:
        _roundtrip_s(connection, 200_000)
    assert proxy.connections == 1


def test_latency_delays_both_ways(proxy: FaultProxy) -> None:
    with _connected(proxy) as connection:
        proxy.latency_s = SHORT_S
        assert _roundtrip_s(connection, 10) >= 2 * SHORT_S


def test_bandwidth_limits_both_ways(proxy: FaultProxy) -> None:
    with _connected(proxy) as connection:
        proxy.bytes_per_s = 20_000.0
        assert _roundtrip_s(connection, 8_000) >= 0.4


def test_the_slicer_cuts_and_loses_nothing(proxy: FaultProxy) -> None:
    with _connected(proxy) as connection:
        proxy.slice_bytes = 3
        connection.sendall(bytes(range(200)))
        pieces: list[bytes] = []
        while len(b"".join(pieces)) < 200:
            pieces.append(connection.recv(65536))
    assert b"".join(pieces) == bytes(range(200))
    assert len(proxy._pieces(b"x" * 200)) >= 60


def test_a_black_hole_swallows_and_gives_back_when_it_ends(proxy: FaultProxy) -> None:
    with _connected(proxy) as connection:
        proxy.is_black_hole = True
        connection.sendall(b"lost?")
        connection.settimeout(SHORT_S)
        with pytest.raises(TimeoutError):
            connection.recv(5)
        with socket.create_connection(("127.0.0.1", proxy.port), 5):
            pass  # connections are still accepted
        proxy.is_black_hole = False
        connection.settimeout(5)
        assert connection.recv(5) == b"lost?"


def test_a_reset_is_a_reset(proxy: FaultProxy) -> None:
    with _connected(proxy) as connection:
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            connection.recv(5)


def test_down_closes_and_refuses_until_it_is_healed(proxy: FaultProxy) -> None:
    with _connected(proxy) as connection:
        proxy.go_down()
        assert connection.recv(5) == b""
    with socket.create_connection(("127.0.0.1", proxy.port), 5) as refused:
        assert refused.recv(5) == b""
    proxy.heal()
    with _connected(proxy):
        pass


def test_the_witness_sees_what_the_broker_acknowledged(tmp_path: Path) -> None:
    import paho.mqtt.publish
    from paho.mqtt.enums import MQTTProtocolVersion

    witness = Witness()
    with (
        MosquittoBroker(tmp_path, users={"a": "p"}, acl="user a\ntopic readwrite good/#\n") as broker,
        Recorder(broker.port, ["good/#"], username="a", password="p") as recorder,
        FaultProxy(broker.port, witness=witness) as proxy,
    ):
        proxy.slice_bytes = 5
        messages = [(f"good/{number % 2}", b"%d" % number, 1, False) for number in range(40)]
        for version in (MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311):
            paho.mqtt.publish.multiple(
                [*messages, ("bad/1", b"x", 1, False), ("good/q0", b"q", 0, False)],
                hostname="127.0.0.1",
                port=proxy.port,
                auth={"username": "a", "password": "p"},
                protocol=version,
            )
        recorder.wait_count(82)
    seen = [(one.topic, one.payload) for one in witness.acknowledged() if not one.topic.startswith("bad")]
    assert seen == [(topic, payload) for topic, payload, *_ in messages] * 2
    # MQTT 3.1.1 acknowledges also what the access list forbids.
    assert [one.topic for one in witness.acknowledged()].count("bad/1") == 1


def _ids(*numbers: int, topic: str = "t", session: int = 1) -> list[Identity]:
    return [(topic, session, number) for number in numbers]


LEDGER = Ledger(tuple(_ids(0, 1, 2, 3)), frozenset(_ids(0, 1, 2)))


@pytest.mark.parametrize(
    ("delivered", "wrong"),
    [
        (_ids(0, 1, 2), None),
        (_ids(0, 1, 2, 3), None),
        (_ids(0, 1, 0, 1, 2), None),
        (_ids(0, 2), "lost"),
        (_ids(0, 1, 2, 4), "unexpected"),
        (_ids(1, 0, 2), "out_of_order"),
        ([*_ids(0, session=2), *_ids(0, 1, 2)], "out_of_order"),
    ],
)
def test_the_checker_names_each_kind_of_fault(delivered: list[Identity], wrong: str | None) -> None:
    verdict = judge(LEDGER, delivered)
    assert verdict.is_good == (wrong is None)
    if wrong is not None:
        assert getattr(verdict, wrong)


def test_the_checker_counts_duplicates() -> None:
    assert judge(LEDGER, _ids(0, 1, 0, 1, 2)).duplicates == 2


def test_a_ledger_whose_last_line_was_cut_off_is_read(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    path.write_text("P a/event 1 0\nC a/event 1 0\nP a/event 1 1\nC a/eve")
    ledger = read_ledger(path)
    assert ledger.put == (("a/event", 1, 0), ("a/event", 1, 1))
    assert ledger.committed == {("a/event", 1, 0)}
