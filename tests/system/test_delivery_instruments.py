"""The drills' own instruments: each fault of the proxy really happens, and the checker sees each kind of fault."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from scripts.drills.broker_drills import table
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.recorder import Recorder
from tests.fixtures.recording_broker import RecordingBroker
from tests.system.delivery.arrivals import Arrival, first_arrivals
from tests.system.delivery.broker_drill import Outcome
from tests.system.delivery.checker import Identity, Ledger, Verdict, judge, read_ledger
from tests.system.delivery.kinds import HUGE, KINDS, LIMITS, REFUSAL, is_possible, missing_program
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


@pytest.fixture
def broker_behind_a_proxy() -> Iterator[tuple[RecordingBroker, FaultProxy]]:
    with RecordingBroker() as broker, FaultProxy(broker.port, is_mqtt=True) as proxy:
        yield broker, proxy


def _publish(port: int, topic: str, *, within_s: float) -> bool:
    """Whether a client at QoS 1 was told that ``topic`` has arrived."""
    client = paho.mqtt.client.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.connect("127.0.0.1", port)
    client.loop_start()
    sent = client.publish(topic, b"x" * 5000, qos=1)
    with contextlib.suppress(RuntimeError):  # the connection was closed
        sent.wait_for_publish(within_s)
    client.disconnect()
    client.loop_stop()
    client._reset_sockets()
    return sent.is_published() if sent.rc == 0 else False


def test_the_proxy_swallows_confirmations_only(broker_behind_a_proxy: tuple[RecordingBroker, FaultProxy]) -> None:
    broker, proxy = broker_behind_a_proxy
    assert _publish(proxy.port, "a", within_s=10)
    proxy.is_swallowing = True
    assert not _publish(proxy.port, "b", within_s=SHORT_S)
    assert [one.topic for one in broker.published()] == ["a", "b"]
    proxy.is_swallowing = False
    assert _publish(proxy.port, "c", within_s=10)


def test_the_proxy_closes_a_connection_for_a_poisoned_topic(
    broker_behind_a_proxy: tuple[RecordingBroker, FaultProxy],
) -> None:
    broker, proxy = broker_behind_a_proxy
    proxy.poison = "a/b"
    assert not _publish(proxy.port, "a/b", within_s=SHORT_S)
    assert _publish(proxy.port, "a/c", within_s=10)
    assert [one.topic for one in broker.published()] == ["a/c"]


def test_the_age_of_an_event_is_that_of_its_first_arrival() -> None:
    payload = b'{"at": "2026-01-02T03:04:05.500000Z", "session": 1, "seq": 0}'
    put = 1_767_323_045.5
    arrivals = [Arrival("a/event", payload, put + 2.0), Arrival("a/event", payload, put + 9.0)]
    assert first_arrivals([*arrivals, Arrival("a/state", b"", put)]) == {("a/event", 1, 0): (put, put + 2.0)}


def test_each_broker_has_the_kinds_that_it_can_show() -> None:
    assert all(is_possible(kind, "recording") for kind in KINDS)
    assert [kind for kind in KINDS if not is_possible(kind, "nats")] == [REFUSAL, HUGE, *LIMITS]
    assert is_possible(REFUSAL, "mosquitto")
    assert missing_program("recording") is None


def test_the_table_has_the_worst_of_each_kind_and_broker() -> None:
    def outcome(recovery_s: float, lost: int) -> Outcome:
        missing = tuple(("t", 1, number) for number in range(lost))
        verdict = Verdict(10, 10 - lost, missing, (), (), 2)
        return Outcome(
            "poisoned event",
            "mosquitto",
            verdict,
            recovery_s,
            4.0,
            1,
            {"peak_rss_mib": 61.2, "results": 7, "bytes": 1500},
        )

    assert list(table([outcome(1.0, 0), outcome(3.0, 1)]))[2:] == [
        "| poisoned event | mosquitto | 2 | 1 | 20 | 1 | 4 | 3.0 s | 4.0 s | 14 | 3 kB | 61 MiB |\n"
    ]


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
