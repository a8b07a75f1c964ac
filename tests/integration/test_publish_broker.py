"""The publisher with a real mosquitto: start, stop, refusals, lost and restored connections."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import structlog

from agent.commands.schemas import message_schemas
from agent.config.broker_address import BrokerAddress
from agent.mqtt.base import Received, SinkStatistics
from agent.mqtt.client import MqttClient
from agent.mqtt.settings import Credentials, MqttSettings
from agent.mqtt.subscriber import open_subscriber
from agent.publish.packets import Outgoing
from agent.publish.publisher import Publisher
from agent.runtime.errors import StageFailed
from tests.fixtures.mosquitto import MosquittoBroker, free_port
from tests.fixtures.publish_samples import (
    IDENTITY,
    SESSION,
    TOPICS,
    camera_health,
    classification,
    health,
    reply,
    runtime,
    state_change,
    vitals,
)
from tests.fixtures.recorder import Recorded, Recorder
from tests.fixtures.recording_broker import RecordingBroker

ROOT = Path(__file__).parents[2]
CANARY = "hunter2-CANARY"
RESULT = TOPICS.result("front", "inspect")
EVENT = TOPICS.event("front", "inspect")
STATE = TOPICS.state("front", "inspect")

Open = Callable[..., Publisher]


def _settings(broker: MosquittoBroker | RecordingBroker, **changes: object) -> MqttSettings:
    settings = MqttSettings(
        address=BrokerAddress.parse(broker.url), client_id="line-3", keepalive_s=5, backoff_base_s=0.05
    )
    return replace(settings, **changes)  # type: ignore[arg-type]  # fields by name


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[MosquittoBroker]:
    with MosquittoBroker(tmp_path / "broker") as running:
        yield running


@pytest.fixture
def opened() -> Iterator[Open]:
    """Start publishers; all are stopped at the end."""
    with ExitStack() as stack:

        def open_publisher(settings: MqttSettings, **options: object) -> Publisher:
            client = MqttClient(settings, will=IDENTITY.status("offline"))
            publisher = Publisher(client, identity=IDENTITY, **options)  # type: ignore[arg-type]  # by name
            stack.callback(publisher.stop)
            publisher.start()
            return publisher

        yield open_publisher


def _until(condition: Callable[[], bool], deadline_s: float = 10.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"it did not happen within {deadline_s:g} s")
        time.sleep(0.01)


def _connection(publisher: Publisher) -> SinkStatistics:
    return publisher.statistics().connection


def _connected(publisher: Publisher) -> Callable[[], bool]:
    """Wait until the status has arrived, so the publisher's thread has seen the connection."""
    return lambda: _connection(publisher).state == "connected" and publisher.statistics().sent >= 1


def _is_status(state: str) -> Callable[[Recorded], bool]:
    return lambda message: message.topic == TOPICS.status and message.json["state"] == state


def test_everything_that_is_sent_fits_the_published_schemas(broker: MosquittoBroker, opened: Open) -> None:
    with Recorder(broker.port) as recorder:
        publisher = opened(_settings(broker))
        _until(_connected(publisher))
        for message in vitals():
            publisher.offer(message)
        publisher.offer(state_change())
        publisher.offer(state_change("dent", None))
        publisher.offer(Outgoing(TOPICS.reply("snapshot"), reply(), 1, is_kept=True))
        for index in range(10):
            publisher.offer(classification(index))
        recorder.wait_count(10, RESULT)
        publisher.change_results(qos=0, max_hz=None, detail="full")
        for index in range(10, 20):
            publisher.offer(classification(index))
        publisher.stop()
        recorder.wait_for(_is_status("stopped"))
    schemas = message_schemas()
    seen = set()
    for recorded in recorder.messages():
        jsonschema.Draft202012Validator(schemas[recorded.json["schema"]]).validate(recorded.json)
        assert recorded.properties["ContentType"] == "application/json"
        seen.add(recorded.json["schema"])
    assert seen == schemas.keys() - {"health-brief/1"}
    assert [message.json["seq"] for message in recorder.messages(RESULT)] == list(range(20))
    assert all(message.properties["MessageExpiryInterval"] > 0 for message in recorder.messages(RESULT))


def test_a_late_subscriber_gets_runtime_and_states_but_no_old_results(broker: MosquittoBroker, opened: Open) -> None:
    publisher = opened(_settings(broker))
    _until(_connected(publisher))
    for message in vitals():
        publisher.offer(message)
    publisher.offer(state_change())
    publisher.offer(classification())
    _until(lambda: publisher.statistics().sent >= 9)
    with Recorder(broker.port) as recorder:
        recorder.wait_for(lambda message: message.topic == STATE)
        recorder.wait_for(_is_status("online"))
        recorder.wait_count(6)
        retained = {message.topic for message in recorder.messages() if message.retain}
    assert retained == {
        TOPICS.status,
        TOPICS.runtime,
        TOPICS.health,
        TOPICS.thermal,
        TOPICS.camera_health("front"),
        STATE,
    }


def test_a_killed_agent_is_reported_offline_with_its_session(broker: MosquittoBroker) -> None:
    with Recorder(broker.port) as recorder:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.fixtures.publishing_child", str(broker.port)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert child.stdout is not None
        with child.stdout:
            try:
                assert child.stdout.readline() == b"sent\n"
            finally:
                child.send_signal(signal.SIGKILL)
                child.wait(10)
        offline = recorder.wait_for(_is_status("offline"))
    assert offline.json["session"] == SESSION
    assert recorder.wait_for(_is_status("online")).at < offline.at
    with Recorder(broker.port) as late:
        assert late.wait_for(lambda message: message.topic == TOPICS.status).json["state"] == "offline"


def test_a_clean_stop_says_stopped_and_never_offline(broker: MosquittoBroker, opened: Open) -> None:
    with Recorder(broker.port) as recorder:
        publisher = opened(_settings(broker))
        recorder.wait_for(_is_status("online"))
        publisher.offer(state_change())
        assert publisher.stop()
        recorder.wait_for(_is_status("stopped"))
        assert recorder.messages(EVENT)
    with Recorder(broker.port, [TOPICS.status]) as late:
        assert late.wait_count(1)[0].json["state"] == "stopped"
    assert publisher.stop(), "stopping again is harmless"


def test_a_restarted_broker_gets_retained_values_and_events_again(tmp_path: Path, opened: Open) -> None:
    password = tmp_path / "password"
    password.touch(0o600)
    password.write_text("secret-1")
    with MosquittoBroker(tmp_path / "broker", users={"line-3": "secret-1", "watcher": "w"}) as broker:
        publisher = opened(_settings(broker, credentials=Credentials("line-3", password)))
        _lose_and_regain(broker, publisher)
        publisher.stop()


def _lose_and_regain(broker: MosquittoBroker, publisher: Publisher) -> None:
    publisher.offer(runtime())
    publisher.offer(camera_health())
    _until(_connected(publisher))
    publisher.offer(classification(0))
    _until(lambda: publisher.statistics().sent >= 4)
    broker.kill()
    _until(lambda: _connection(publisher).state == "disconnected")
    assert _connection(publisher).reason
    for label, previous in (("dent", "ok"), ("ok", "dent"), ("scratch", "ok")):
        publisher.offer(state_change(label, previous))
    for index in range(1, 6):
        publisher.offer(classification(index))
    _until(lambda: publisher.statistics().dropped.get("disconnected", 0) == 5)
    # The new broker must not accept the agent before the recorder is connected.
    broker.set_users({"line-3": "not yet", "watcher": "w"})
    broker.start()
    with Recorder(broker.port, username="watcher", password="w") as recorder:
        broker.set_users({"line-3": "secret-1", "watcher": "w"})
        broker.reload()
        recorder.wait_count(3, EVENT)
        _until(_connected(publisher))
        publisher.offer(state_change("ok", "scratch"))
        publisher.offer(classification(6))
        events = recorder.wait_count(4, EVENT)
        recorder.wait_for(lambda message: message.topic == STATE and message.json["seq"] == 3)
        result = recorder.wait_count(1, RESULT)[0]
        recorder.wait_for(lambda message: message.topic == TOPICS.runtime)
        recorder.wait_for(lambda message: message.topic == TOPICS.camera_health("front"))
    assert [event.json["seq"] for event in events] == [0, 1, 2, 3]
    assert [event.json["historical"] for event in events] == [True, True, True, False]
    assert recorder.messages(STATE)[-1].json["label"] == "ok"
    assert result.json["seq"] == 6, "five results went nowhere, and their numbers show it"
    statistics = publisher.statistics()
    assert statistics.dropped == {"disconnected": 5, "superseded": 2}
    assert statistics.connection.reconnects == 1


def test_a_wrong_password_is_named_and_correcting_it_needs_no_restart(tmp_path: Path, opened: Open) -> None:
    password = tmp_path / "password"
    password.touch(0o600)
    password.write_text(f"{CANARY}-wrong\n")
    with (
        MosquittoBroker(tmp_path / "broker", users={"line-3": CANARY}) as broker,
        structlog.testing.capture_logs() as lines,
    ):
        settings = _settings(broker, credentials=Credentials("line-3", password))
        publisher = opened(settings)
        _until(lambda: "not authorised" in (_connection(publisher).reason or ""))
        # more attempts, none of which may be logged
        _until(lambda: broker.log().count("not authorised") >= 4)
        assert _connection(publisher).state == "disconnected"
        told = [line for line in lines if line["event"] == "broker.disconnected"]
        password.write_text(f"{CANARY}\n")
        _until(_connected(publisher))
        publisher.stop()
    assert len(told) == 1
    assert "'line-3'" in told[0]["reason"]
    assert CANARY not in repr(lines) + repr(publisher.statistics()) + repr(settings)


def test_a_silent_broker_is_detected_within_two_keepalives(broker: MosquittoBroker, opened: Open) -> None:
    publisher = opened(_settings(broker, keepalive_s=1, connect_timeout_s=0.5))
    _until(_connected(publisher))
    broker.pause()
    try:
        _until(lambda: _connection(publisher).state == "disconnected", deadline_s=2.0 + 0.5)
        assert "no answer" in (_connection(publisher).reason or "")
        # its kernel still accepts connections
        _until(lambda: "did not answer CONNECT" in (_connection(publisher).reason or ""))
    finally:
        broker.resume()
    _until(_connected(publisher))


def test_a_port_where_nothing_listens_is_named(opened: Open) -> None:
    port = free_port()
    address = BrokerAddress("127.0.0.1", port)
    publisher = opened(MqttSettings(address=address, client_id="a", backoff_base_s=0.05))
    _until(lambda: f"nothing listens at mqtt://127.0.0.1:{port}" in (_connection(publisher).reason or ""))


def test_a_name_that_does_not_exist_is_named(opened: Open) -> None:
    publisher = opened(MqttSettings(address=BrokerAddress("no-such-host.invalid", 1883), client_id="a"))
    _until(lambda: "'no-such-host.invalid' cannot be resolved" in (_connection(publisher).reason or ""))


def test_a_server_that_is_not_a_broker_is_named(opened: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10.0)

        def hang_up() -> None:
            for _ in range(4):  # MQTT 5 twice, MQTT 3.1.1, and the look whether it speaks TLS
                server.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        address = BrokerAddress("127.0.0.1", server.getsockname()[1])
        publisher = opened(MqttSettings(address=address, client_id="a", backoff_base_s=30.0))
        _until(lambda: "is it an MQTT broker?" in (_connection(publisher).reason or ""))
        thread.join(10.0)


@pytest.mark.parametrize("state", ["never connected", "connected", "paused"])
def test_stopping_is_quick_in_every_state(broker: MosquittoBroker, opened: Open, state: str) -> None:
    if state == "never connected":
        broker.stop()
    publisher = opened(_settings(broker))
    publisher.offer(state_change())
    if state != "never connected":
        _until(_connected(publisher))
    if state == "paused":
        broker.pause()
    began = time.monotonic()
    publisher.stop(3.0)
    assert time.monotonic() - began < 4.0
    assert publisher.statistics().connection.state == "stopped"
    if state == "never connected":
        assert publisher.statistics().dropped == {"stopped": 3}, "the status, the state and the event"


def test_a_message_after_the_stop_is_counted(broker: MosquittoBroker, opened: Open) -> None:
    publisher = opened(_settings(broker))
    publisher.stop()
    publisher.offer(classification())
    publisher.offer(camera_health())
    assert publisher.statistics().dropped["stopped"] >= 2


def test_rate_limited_results_are_counted_and_leave_no_gap(broker: MosquittoBroker, opened: Open) -> None:
    with Recorder(broker.port, [RESULT]) as recorder:
        publisher = opened(_settings(broker), result_max_hz=5.0)
        _until(_connected(publisher))
        for index in range(50):  # 25 a second for two seconds of the frames' own time
            publisher.offer(classification(index))
        _until(lambda: publisher.statistics().sent >= 11)
        results = recorder.wait_count(10)
        publisher.stop()
    assert [result.json["seq"] for result in results] == list(range(10))
    assert [result.json["frame"] for result in results] == list(range(0, 50, 5))
    assert publisher.statistics().rate_limited == 40


def test_results_at_qos_1_are_confirmed(broker: MosquittoBroker, opened: Open) -> None:
    with Recorder(broker.port, [RESULT]) as recorder:
        publisher = opened(_settings(broker), result_qos=1)
        _until(_connected(publisher))
        for index in range(100):
            publisher.offer(classification(index))
        results = recorder.wait_count(100)
        _until(lambda: publisher.statistics().sent == 101)
    assert {result.qos for result in results} == {1}
    assert [result.json["seq"] for result in results] == list(range(100))


def test_what_an_access_list_forbids_for_a_while_arrives_once_and_in_order(tmp_path: Path, opened: Open) -> None:
    acl = "topic read edge/#\ntopic write edge/line-3/camera/side/+/event\n"
    with MosquittoBroker(tmp_path / "broker", acl=acl) as broker:
        with Recorder(broker.port, ["edge/#"]) as recorder:
            publisher = opened(_settings(broker))
            _until(lambda: _connection(publisher).state == "connected")
            publisher.offer(runtime())
            for number in range(30):
                publisher.offer(state_change(f"{number}", f"{number - 1}"))
                publisher.offer(state_change(f"{number}", f"{number - 1}", camera="side"))
            recorder.wait_count(30, TOPICS.event("side", "inspect"))
            _until(lambda: publisher.statistics().refused.get("not_authorised", 0) >= 4)
            waiting = publisher.statistics().delivery.held
            assert {TOPICS.status, TOPICS.runtime, TOPICS.event("front", "inspect")} <= waiting.keys()
            assert {held.reason for held in waiting.values()} == {"not_authorised"}
            (tmp_path / "broker" / "acl").write_text("topic readwrite edge/#\n")
            broker.reload()
            events = recorder.wait_count(30, TOPICS.event("front", "inspect"), 20.0)
            recorder.wait_for(_is_status("online"), 20.0)
            recorder.wait_for(lambda message: message.topic == TOPICS.runtime, 20.0)
            _until(lambda: not publisher.statistics().delivery.held, 20.0)
        assert [event.json["seq"] for event in events] == list(range(30))
        assert all(event.json["historical"] for event in events)
        # The subscriber may hear the last event before its confirmation is here.
        _until(lambda: publisher.statistics().stored == 0)
        assert publisher.statistics().dropped.keys() <= {"superseded"}
        assert _connection(publisher).reconnects == 0


def test_a_broker_of_small_packets_gets_the_short_health(tmp_path: Path, opened: Open) -> None:
    with MosquittoBroker(tmp_path / "broker", options=["max_packet_size 400"]) as broker:
        with Recorder(broker.port, [TOPICS.health]) as recorder:
            publisher = opened(_settings(broker))
            _until(_connected(publisher))
            publisher.offer(health())
            brief = recorder.wait_count(1)[0]
            publisher.offer(state_change())
            _until(lambda: "oversize" in publisher.statistics().dropped)
        assert brief.json["schema"] == "health-brief/1"
        jsonschema.Draft202012Validator(message_schemas()["health-brief/1"]).validate(brief.json)
        assert publisher.statistics().rejected[TOPICS.event("front", "inspect")] == "oversize"
        assert publisher.statistics().stored == 0
        assert TOPICS.health not in publisher.statistics().rejected


def test_a_message_too_large_for_the_broker_is_dropped_once(tmp_path: Path, opened: Open) -> None:
    with MosquittoBroker(tmp_path / "broker", options=["max_packet_size 2000"]) as broker:
        publisher = opened(_settings(broker))
        _until(_connected(publisher))
        large = replace(runtime(), board={"model": "x" * 4000})
        publisher.offer(Outgoing("edge/line-3/large", large, qos=1, retain=True))
        _until(lambda: publisher.statistics().dropped == {"oversize": 1})
        publisher.offer(camera_health())
        _until(lambda: publisher.statistics().sent == 2)
        assert _connection(publisher).reconnects == 0


def test_two_agents_with_the_same_client_id_are_detected(opened: Open) -> None:
    with RecordingBroker() as broker:
        one, other = opened(_settings(broker)), opened(_settings(broker))
        _until(lambda: any("duplicate_client_id" in (_connection(agent).reason or "") for agent in (one, other)), 20.0)
        # The agent that backs off leaves the other one alone.
        assert sum(_connection(agent).state == "connected" for agent in (one, other)) <= 1


def test_a_broker_that_just_closes_is_reported_with_possible_causes(broker: MosquittoBroker, opened: Open) -> None:
    with structlog.testing.capture_logs() as lines:
        # With one client id, and with MQTT 3.1.1, in which no broker can say why it closes a connection.
        settings = _settings(broker)
        settings = replace(settings, address=replace(settings.address, is_older=True))
        agents = [opened(settings) for _ in range(2)]
        words = "closed the connection 3 times within a minute without a reason; possible causes: another client"
        _until(lambda: any(words in (_connection(agent).reason or "") for agent in agents), 20.0)
    assert "duplicate_client_id" not in repr(lines)


def test_an_exception_in_a_callback_becomes_a_failure_of_the_publisher(broker: MosquittoBroker) -> None:
    def fail(message: Received) -> None:
        raise KeyError(message.topic)

    client = MqttClient(_settings(broker), subscriptions=["cmd/#"], on_received=fail)
    failures: list[StageFailed] = []
    publisher = Publisher(client, identity=IDENTITY, on_failure=failures.append)
    with structlog.testing.capture_logs() as lines:
        publisher.start()
        try:
            assert client.wait_subscribed(10.0)
            with Recorder(broker.port) as recorder:
                recorder.publish("cmd/x", b"1")
            _until(lambda: bool(failures))
        finally:
            publisher.stop()
    assert {"broker.client_failed", "publisher.failed"} <= {line["event"] for line in lines}
    assert "KeyError" in (publisher.statistics().failure or "")
    assert isinstance(failures[0].__cause__, KeyError)
    assert "KeyError" in (client.statistics().failure or "")


def test_a_subscriber_receives_and_survives_a_restart_of_the_broker(broker: MosquittoBroker, opened: Open) -> None:
    settings = _settings(broker, client_id="watcher")
    with open_subscriber(settings, ["edge/+/status"], timeout_s=10.0) as subscriber:
        publisher = opened(_settings(broker))
        first = subscriber.receive(10.0)
        assert first is not None
        assert first.topic == TOPICS.status
        broker.kill()
        _until(lambda: subscriber.connection().state == "disconnected")
        broker.start()
        again = subscriber.receive(10.0)
        assert again is not None
        assert again.topic == TOPICS.status
        publisher.stop()


def test_the_password_is_nowhere_in_the_process_table(tmp_path: Path, opened: Open) -> None:
    password = tmp_path / "password"
    password.touch(0o600)
    password.write_text(CANARY)
    with MosquittoBroker(tmp_path / "broker", users={"line-3": CANARY}) as broker:
        publisher = opened(_settings(broker, credentials=Credentials("line-3", password)))
        _until(_connected(publisher))
        shown = b"".join(Path(f"/proc/{os.getpid()}/{name}").read_bytes() for name in ("cmdline", "environ"))
        publisher.stop()
    assert CANARY.encode() not in shown
