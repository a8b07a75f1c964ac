"""The probes on command topics: silence is said once, tried again, and never said where it is not known."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from agent.mqtt.base import Packet, Received
from agent.mqtt.loopback import AGAIN_S, WITHIN_S, Loopback, is_probe, probe_payload
from tests.fixtures.model_broker import ManualClock

BROKER = "mqtt://broker:1883"
TOPICS = ("edge/dut/cmd/set", "edge/dut/cmd/explain")


class _Line:
    """Keeps what is sent; ``problem`` refuses it."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, Packet]] = []
        self.problem: str | None = None

    def send(self, packet: Packet, key: int) -> str | None:
        if self.problem is None:
            self.sent.append((key, packet))
        return self.problem


def _begun(topics: tuple[str, ...] = TOPICS) -> tuple[Loopback, _Line, ManualClock]:
    clock, line = ManualClock(), _Line()
    loopback = Loopback(topics, clock)
    loopback.subscribed(None, BROKER)
    loopback.turn(line.send)
    return loopback, line, clock


def _hear(loopback: Loopback, packet: Packet) -> bool:
    return loopback.is_own(Received(packet.topic, packet.payload, 1, retain=False))


def _confirm(loopback: Loopback, line: _Line, problem: str | None = None) -> None:
    for key, _ in line.sent:
        loopback.confirmed(key, problem)


def test_a_broker_that_delivers_the_probes_has_no_problem() -> None:
    loopback, line, clock = _begun()
    assert [packet.topic for _, packet in line.sent] == [*TOPICS]
    assert all(key < 0 and packet.qos == 1 and not packet.retain for key, packet in line.sent)
    _confirm(loopback, line)
    assert not loopback.wait_known(0.0)
    with capture_logs() as logs:
        assert all(_hear(loopback, packet) for _, packet in line.sent)
        loopback.turn(line.send)
        assert loopback.wait_known(0.0)
        clock.advance(10 * AGAIN_S)
        loopback.turn(line.send)
    assert (loopback.problems, logs, len(line.sent)) == ((), [], len(TOPICS))


def test_a_topic_that_never_hears_itself_is_said_once_and_tried_again_until_it_does() -> None:
    loopback, line, clock = _begun()
    _confirm(loopback, line)
    _hear(loopback, line.sent[1][1])
    with capture_logs() as logs:
        loopback.turn(line.send)
        assert not loopback.problems, "not before its time is up"
        clock.advance(WITHIN_S)
        loopback.turn(line.send)
        (problem,) = loopback.problems
        assert "commands do not arrive" in problem
        assert TOPICS[0] in problem
        assert TOPICS[1] not in problem
        assert "edge/dut/cmd/#" in problem
        for _ in range(3):
            clock.advance(AGAIN_S)
            loopback.turn(line.send)
            _confirm(loopback, line)
            _hear(loopback, line.sent[-1][1])
            clock.advance(WITHIN_S)
            loopback.turn(line.send)
        clock.advance(AGAIN_S)
        loopback.turn(line.send)
        for _, packet in line.sent[-len(TOPICS) :]:
            _hear(loopback, packet)
        loopback.turn(line.send)
    assert loopback.problems == ()
    assert [entry["event"] for entry in logs] == ["broker.commands_silent", "broker.commands_heard"]


def test_a_probe_that_is_not_confirmed_yet_is_not_lost() -> None:
    loopback, line, clock = _begun()
    for _ in range(3):
        clock.advance(WITHIN_S)
        loopback.turn(line.send)
    assert not loopback.wait_known(0.0)
    _confirm(loopback, line)
    clock.advance(WITHIN_S)
    loopback.turn(line.send)
    assert len(loopback.problems) == 1
    assert len(line.sent) == len(TOPICS)


def test_a_broker_that_refuses_the_probe_says_nothing_about_commands() -> None:
    loopback, line, clock = _begun()
    _confirm(loopback, line, "not_authorised")
    clock.advance(WITHIN_S)
    loopback.turn(line.send)
    assert loopback.problems == ()
    assert loopback.wait_known(0.0)


def test_a_line_without_room_says_nothing_about_commands() -> None:
    clock, line = ManualClock(), _Line()
    line.problem = "backlog"
    loopback = Loopback(TOPICS, clock)
    loopback.subscribed(None, BROKER)
    loopback.turn(line.send)
    clock.advance(WITHIN_S)
    loopback.turn(line.send)
    assert loopback.problems == ()


def test_a_broker_that_closes_the_connection_on_a_probe_gets_no_other() -> None:
    loopback, line, clock = _begun()
    loopback.ended(BROKER)
    clock.advance(WITHIN_S)
    loopback.subscribed(None, BROKER)
    loopback.turn(line.send)
    assert len(line.sent) == len(TOPICS)
    loopback.subscribed(None, "mqtt://other:1883")
    loopback.turn(line.send)
    assert len(line.sent) == 2 * len(TOPICS)


def test_a_new_connection_is_tried_again_after_one_that_ended_later() -> None:
    loopback, line, clock = _begun()
    _confirm(loopback, line)
    loopback.ended(BROKER)
    loopback.turn(line.send)
    assert len(line.sent) == len(TOPICS), "not without a connection"
    loopback.subscribed(None, BROKER)
    loopback.turn(line.send)
    assert len(line.sent) == 2 * len(TOPICS)
    _hear(loopback, line.sent[0][1])
    _confirm(loopback, line)
    clock.advance(WITHIN_S)
    loopback.turn(line.send)
    assert len(loopback.problems) == 1, "a probe of the earlier connection proves nothing"


def test_a_refused_subscription_is_a_problem_of_its_own() -> None:
    loopback = Loopback(TOPICS, ManualClock())
    loopback.subscribed("'edge/dut/cmd/set': Not authorized", BROKER)
    line = _Line()
    loopback.turn(line.send)
    assert line.sent == []
    assert "refused to subscribe" in loopback.problems[0]
    assert loopback.wait_known(0.0)


def test_a_refused_subscription_to_something_else_leaves_the_commands_tried() -> None:
    loopback, line = Loopback(TOPICS, ManualClock()), _Line()
    loopback.subscribed("'edge/+/status': Not authorized", BROKER)
    loopback.turn(line.send)
    assert len(line.sent) == len(TOPICS)
    assert loopback.problems == ()


def test_without_commands_nothing_is_sent() -> None:
    loopback, line, _ = _begun(())
    assert line.sent == []
    assert loopback.wait_known(0.0)


@pytest.mark.parametrize("payload", [b"", b"{}", b'{"id": "1"}', b'{"loopback":"' + b"0" * 100 + b'"}'])
def test_a_command_is_no_probe(payload: bytes) -> None:
    loopback, _, _ = _begun()
    assert not is_probe(payload)
    assert not loopback.is_own(Received(TOPICS[0], payload, 1, retain=False))


def test_the_probe_of_another_client_is_no_command_and_proves_nothing() -> None:
    loopback, line, clock = _begun()
    _confirm(loopback, line)
    for topic in TOPICS:
        assert loopback.is_own(Received(topic, probe_payload("abc"), 1, retain=False))
    clock.advance(WITHIN_S)
    loopback.turn(line.send)
    assert len(loopback.problems) == 1
