"""Every sink fulfils the contract ``agent.mqtt.base.Sink``, and the suite detects sinks that do not."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import orjson
import pytest

from agent.config.broker_address import BrokerAddress
from agent.mqtt.base import LineStatistics, Packet, Sink, SinkListener, SinkState, SinkStatistics
from agent.mqtt.client import MqttClient
from agent.mqtt.settings import MqttSettings
from agent.publish.json_lines import JsonLinesSink
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.recorder import Recorder

DEADLINE_S = 10.0
SHORT_S = 0.3


class Listener:
    """Records the calls of a sink."""

    def __init__(self) -> None:
        self.connected = threading.Event()
        self.confirmed: list[tuple[int, str | None]] = []
        self.failures: list[BaseException] = []

    def on_connected(self) -> None:
        self.connected.set()

    def on_disconnected(self, reason: str) -> None:
        self.connected.clear()

    def on_confirmed(self, key: int, problem: str | None) -> None:
        self.confirmed.append((key, problem))

    def on_failed(self, error: BaseException) -> None:
        self.failures.append(error)


class Case(Protocol):
    """One kind of sink, and a view of what it sent."""

    def make(self) -> Sink: ...

    def arrived(self) -> list[tuple[str, bytes]]: ...


class JsonLinesCase:
    def __init__(self) -> None:
        self.stream = io.BytesIO()

    def make(self) -> Sink:
        return JsonLinesSink(self.stream)

    def arrived(self) -> list[tuple[str, bytes]]:
        lines = [orjson.loads(line) for line in self.stream.getvalue().splitlines()]
        return [(line["topic"], orjson.dumps(line["message"])) for line in lines]


class MqttCase:
    def __init__(self, broker: MosquittoBroker, recorder: Recorder) -> None:
        self._settings = MqttSettings(
            address=BrokerAddress.parse(broker.url), client_id="conformance", backoff_base_s=0.1
        )
        self._recorder = recorder
        recorder.clear()

    def make(self) -> Sink:
        return MqttClient(self._settings)

    def arrived(self) -> list[tuple[str, bytes]]:
        return [(message.topic, message.payload) for message in self._recorder.messages()]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MosquittoBroker]:
    with MosquittoBroker(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture(scope="module")
def recorder(broker: MosquittoBroker) -> Iterator[Recorder]:
    with Recorder(broker.port) as recording:
        yield recording


@pytest.fixture(params=["mqtt", "json-lines"])
def case(request: pytest.FixtureRequest, broker: MosquittoBroker, recorder: Recorder) -> Case:
    return MqttCase(broker, recorder) if request.param == "mqtt" else JsonLinesCase()


def _packets(count: int) -> list[Packet]:
    return [Packet(f"conformance/{number % 3}", b'{"n":%d}' % number, qos=1) for number in range(count)]


def _until(condition: Callable[[], bool], deadline_s: float) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, "the sink did not do it in time"
        time.sleep(0.005)


def check_takes_nothing_before_it_is_connected(case: Case, deadline_s: float) -> None:
    sink = case.make()
    assert sink.send(_packets(1)[0]) == "disconnected"
    assert sink.statistics().state in {"disconnected", "connecting"}
    assert sink.stop(deadline_s)


def check_delivers_every_packet_once_in_order_and_confirms_it(case: Case, deadline_s: float) -> None:
    sink, listener = case.make(), Listener()
    sink.start(listener)
    try:
        assert listener.connected.wait(deadline_s)
        assert sink.statistics().state == "connected"
        packets = _packets(60)
        for key, packet in enumerate(packets):
            assert sink.send(packet, key) is None
        _until(lambda: len(case.arrived()) >= len(packets), deadline_s)
        _until(lambda: len(listener.confirmed) >= len(packets), deadline_s)
    finally:
        sink.stop(deadline_s)
    assert case.arrived() == [(packet.topic, packet.payload) for packet in packets]
    assert sorted(listener.confirmed) == [(key, None) for key in range(len(packets))]
    assert listener.failures == []


def check_confirms_nothing_that_has_no_key(case: Case, deadline_s: float) -> None:
    sink, listener = case.make(), Listener()
    sink.start(listener)
    try:
        assert listener.connected.wait(deadline_s)
        for packet in (*_packets(2), replace(_packets(1)[0], qos=0)):
            assert sink.send(packet) is None
        _until(lambda: len(case.arrived()) == 3, deadline_s)
    finally:
        sink.stop(deadline_s)
    assert listener.confirmed == []


def check_takes_nothing_after_stop_and_stops_twice(case: Case, deadline_s: float) -> None:
    sink, listener = case.make(), Listener()
    sink.start(listener)
    assert listener.connected.wait(deadline_s)
    assert sink.stop(deadline_s)
    assert sink.stop(deadline_s)
    assert sink.statistics().state == "stopped"
    assert sink.send(_packets(1)[0]) == "disconnected"
    assert case.arrived() == []


CHECKS = (
    check_takes_nothing_before_it_is_connected,
    check_delivers_every_packet_once_in_order_and_confirms_it,
    check_confirms_nothing_that_has_no_key,
    check_takes_nothing_after_stop_and_stops_twice,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_a_sink_keeps_its_promise(case: Case, check: Callable[[Case, float], None]) -> None:
    check(case, DEADLINE_S)


class GoodSink(Sink):
    """A correct sink in memory: the control, and the base of the broken ones."""

    def __init__(self, arrived: list[tuple[str, bytes]]) -> None:
        self.out = arrived
        self.listener: SinkListener | None = None
        self.is_stopped = False

    def start(self, listener: SinkListener) -> None:
        self.listener = listener
        listener.on_connected()

    def send(self, packet: Packet, key: int | None = None) -> str | None:
        if self.listener is None or self.is_stopped:
            return "disconnected"
        self.deliver(packet)
        self.confirm(key)
        return None

    def deliver(self, packet: Packet) -> None:
        self.out.append((packet.topic, packet.payload))

    def confirm(self, key: int | None) -> None:
        if key is not None and self.listener is not None:
            self.listener.on_confirmed(key, None)

    def stop(self, timeout_s: float) -> bool:
        self.is_stopped = True
        return True

    def statistics(self) -> SinkStatistics:
        state: SinkState = (
            "stopped" if self.is_stopped else "connected" if self.listener is not None else "disconnected"
        )
        return SinkStatistics(state, "memory", None, 0, None, 0, 0)

    def line(self) -> LineStatistics:
        return LineStatistics(None, 0)


class LosesSome(GoodSink):
    def deliver(self, packet: Packet) -> None:
        if packet.payload != b'{"n":7}':
            super().deliver(packet)


class SendsTwice(GoodSink):
    def deliver(self, packet: Packet) -> None:
        for _ in range(2 if packet.payload == b'{"n":7}' else 1):
            super().deliver(packet)


class Reorders(GoodSink):
    def deliver(self, packet: Packet) -> None:
        self.out.insert(max(0, len(self.out) - 1), (packet.topic, packet.payload))


class ChangesPayload(GoodSink):
    def deliver(self, packet: Packet) -> None:
        self.out.append((packet.topic, packet.payload + b" "))


class NeverConfirms(GoodSink):
    def confirm(self, key: int | None) -> None:
        return


class ConfirmsTwice(GoodSink):
    def confirm(self, key: int | None) -> None:
        super().confirm(key)
        super().confirm(key)


class ConfirmsWithoutAKey(GoodSink):
    def confirm(self, key: int | None) -> None:
        super().confirm(0 if key is None else key)


class NeverTellsThatItIsConnected(GoodSink):
    def start(self, listener: SinkListener) -> None:
        self.listener = listener


class TakesPacketsBeforeStart(GoodSink):
    def send(self, packet: Packet, key: int | None = None) -> str | None:
        return super().send(packet, key) if self.listener is not None else None


class TakesPacketsAfterStop(GoodSink):
    def stop(self, timeout_s: float) -> bool:
        return True


class CannotStopTwice(GoodSink):
    def stop(self, timeout_s: float) -> bool:
        if self.is_stopped:
            raise RuntimeError("stopped already")
        return super().stop(timeout_s)


BROKEN = (
    LosesSome,
    SendsTwice,
    Reorders,
    ChangesPayload,
    NeverConfirms,
    ConfirmsTwice,
    ConfirmsWithoutAKey,
    NeverTellsThatItIsConnected,
    TakesPacketsBeforeStart,
    TakesPacketsAfterStop,
    CannotStopTwice,
)


class MemoryCase:
    def __init__(self, kind: type[GoodSink]) -> None:
        self._kind = kind
        self._arrived: list[tuple[str, bytes]] = []

    def make(self) -> Sink:
        return self._kind(self._arrived)

    def arrived(self) -> list[tuple[str, bytes]]:
        return list(self._arrived)


def _failures(kind: type[GoodSink]) -> list[str]:
    return [check.__name__ for check in CHECKS if not _passes(check, kind)]


def _passes(check: Callable[[Case, float], None], kind: type[GoodSink]) -> bool:
    try:
        check(MemoryCase(kind), SHORT_S)
    except (AssertionError, RuntimeError):
        return False
    return True


def test_the_suite_passes_a_sink_that_keeps_all_promises() -> None:
    assert _failures(GoodSink) == []


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_the_suite_notices_a_sink_that_breaks_a_promise(kind: type[GoodSink]) -> None:
    assert _failures(kind) != []


def test_a_closed_output_ends_the_json_lines_and_nothing_else(tmp_path: Path) -> None:
    listener = Listener()
    with (tmp_path / "out").open("wb") as stream:
        sink = JsonLinesSink(stream)
        sink.start(listener)
        assert sink.send(_packets(1)[0], 1) is None
    assert sink.send(_packets(1)[0], 2) == "disconnected"
    assert listener.confirmed == [(1, None)]
    assert "cannot write to the output" in (sink.statistics().reason or "")
    assert sink.stop(0.0)
