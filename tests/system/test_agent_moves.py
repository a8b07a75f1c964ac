"""A changed broker, credentials or thermal section: the rest of the agent continues undisturbed."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import paho.mqtt.publish
import pytest

from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.deadlines import wait_until
from tests.fixtures.mosquitto import MosquittoBroker, free_port
from tests.fixtures.recorder import Recorder

pytestmark = pytest.mark.timeout(180)

ROOT = "edge/dut"
RESULT = f"{ROOT}/camera/belt/inspect/result"
EVENT = f"{ROOT}/camera/belt/inspect/event"
USER, PASSWORD = "dut", "first-word"


class Moving:
    """An agent on the bundled clip (whose label changes often), and two brokers."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self._stack = stack
        self.old = stack.enter_context(MosquittoBroker(directory / "old"))
        self.new = stack.enter_context(MosquittoBroker(directory / "new", users={USER: PASSWORD, "eye": "see"}))
        self.at_old = self.subscribe(self.old)
        self.at_new = self.subscribe(self.new, username="eye", password="see")
        self.agent: AgentProcess

    def subscribe(self, broker: MosquittoBroker, **who: Any) -> Recorder:
        recorder = Recorder(broker.port, **who).start()
        self._stack.callback(recorder.stop)
        return recorder

    def write(self, mqtt: dict[str, Any], **more: Any) -> Path:
        camera = {
            "source": {"type": "file", "path": "demo", "loop": True},
            "rate_hz": 30,
            "classify": [{"model": "inspect"}],
        }
        return write_config(
            self.directory,
            {
                "models": {"inspect": {"package": "demo", "engine": "ort-cpu"}},
                "cameras": {"belt": camera},
                "mqtt": mqtt,
                "thermal": {"source": "none"},
                **more,
            },
        )

    def start(self, mqtt: dict[str, Any]) -> None:
        self.agent = self._stack.enter_context(AgentProcess(self.directory, "run", "-c", str(self.write(mqtt))))
        self.agent.wait_for_log("agent.ready")

    def with_password(self, word: str = PASSWORD) -> dict[str, Any]:
        path = self.directory / "word"
        path.write_text(word)
        path.chmod(0o600)
        return {"broker": self.new.url, "username": USER, "password_file": str(path)}

    def reload(self, log: str = "config.applied") -> None:
        before = self.agent.stderr.count(log)
        self.agent.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.agent.stderr.count(log) > before, within_s=30)

    def end(self) -> None:
        assert self.agent.end() == 0, self.agent.stderr


@pytest.fixture
def moving(tmp_path: Path) -> Iterator[Moving]:
    with ExitStack() as stack:
        yield Moving(tmp_path, stack)


def _seqs(*recorders: Recorder, topic: str = RESULT) -> list[int]:
    return [message.json["seq"] for recorder in recorders for message in recorder.messages(topic)]


def _more(recorder: Recorder, topic: str = RESULT, count: int = 15) -> None:
    recorder.wait_count(len(recorder.messages(topic)) + count, topic, 30)


def _books_are_exact(recorder: Recorder) -> None:
    wait_until(lambda: recorder.messages(f"{ROOT}/status")[-1].json["state"] == "stopped")
    health = recorder.messages(f"{ROOT}/health")[-1].json
    (camera,) = health["cameras"].values()
    assert camera["captured"] == camera["classified"] + sum(camera["dropped"].values())
    assert set(camera["dropped"]) <= {"stopping"}, "a file drops nothing while the agent runs"
    assert health["publisher"]["dropped"].keys() <= {"superseded"}


def test_a_reload_switches_to_another_broker_without_losing_a_result(moving: Moving) -> None:
    moving.start({"broker": moving.old.url})
    _more(moving.at_old)
    moving.write(moving.with_password())
    moving.reload()
    _more(moving.at_new)
    farewell = moving.at_old.messages(f"{ROOT}/status")[-1].json
    assert (farewell["state"], farewell["reason"], farewell["session"]) == ("stopped", "moved", 1)
    moving.end()
    results = _seqs(moving.at_old, moving.at_new)
    assert results == list(range(len(results)))
    events = _seqs(moving.at_old, moving.at_new, topic=EVENT)
    assert list(dict.fromkeys(events)) == list(range(max(events) + 1))
    birth = {message.topic for message in moving.at_new.messages()}
    assert birth >= {f"{ROOT}/{name}" for name in ("status", "runtime", "health", "camera/belt/health")}
    assert moving.at_new.messages(f"{ROOT}/status")[0].json["state"] == "online"
    assert {message.json["session"] for message in moving.at_new.messages(RESULT)} == {1}
    assert moving.agent.stderr.count("engine.loaded") == 1
    assert moving.agent.stderr.count('"camera":"belt","source"') == 1
    assert "broker.changed" in moving.agent.stderr
    _books_are_exact(moving.at_new)


def test_a_late_subscriber_of_the_new_broker_gets_every_retained_message(moving: Moving) -> None:
    moving.start({"broker": moving.old.url})
    _more(moving.at_old)
    home = {"home_assistant": {"enabled": True}}
    moving.write({**moving.with_password(), **home})
    moving.reload()
    _more(moving.at_new)
    late = moving.subscribe(moving.new, username="eye", password="see")
    for topic in ("status", "runtime", "health", "camera/belt/health", "camera/belt/inspect/state"):
        assert late.wait_count(1, f"{ROOT}/{topic}")[0].retain
    assert late.wait_count(1, "homeassistant/device/edge_inference_agent_dut/config")[0].retain
    moving.end()


def test_events_that_waited_for_the_old_broker_are_delivered_to_the_new_one(moving: Moving) -> None:
    moving.start({"broker": moving.old.url})
    _more(moving.at_old, EVENT, 2)
    moving.at_old.stop()
    moving.old.kill()
    seen = len(moving.at_old.messages(EVENT))
    moving.agent.wait_for_log("broker.disconnected")
    time.sleep(1.0)  # events come to wait; how many does not matter
    moving.write(moving.with_password())
    moving.reload()
    _more(moving.at_new, EVENT, 6)
    moving.end()
    events = [message.json for message in moving.at_new.messages(EVENT)]
    assert events[0]["seq"] <= seen
    assert events[0]["historical"]
    assert [event["seq"] for event in events] == list(range(events[0]["seq"], events[-1]["seq"] + 1))


def test_an_unreachable_new_broker_is_switched_to_and_named(moving: Moving) -> None:
    moving.start({"broker": moving.old.url})
    _more(moving.at_old)
    port = free_port()
    moving.write({"broker": f"mqtt://127.0.0.1:{port}"})
    moving.reload()
    wait_until(lambda: moving.at_old.messages(f"{ROOT}/status")[-1].json["reason"] == "moved")
    moving.agent.wait_for_log(f"nothing listens at mqtt://127.0.0.1:{port}")
    late = MosquittoBroker(moving.directory / "late", port=port)
    with late, Recorder(late.port) as recorder:
        recorder.wait_count(10, RESULT, 60)
        events = [message.json["seq"] for message in recorder.wait_count(3, EVENT, 60)]
        assert events == list(range(events[0], events[0] + len(events)))
        moving.end()


def test_an_old_broker_that_does_not_answer_does_not_delay_the_switch(moving: Moving) -> None:
    moving.start({"broker": moving.old.url})
    _more(moving.at_old)
    moving.old.pause()
    moving.write(moving.with_password())
    moving.reload()
    _more(moving.at_new)
    moving.old.resume()
    # The status `stopped`, or the last will if the broker sees the broken connection before it has read that.
    wait_until(lambda: moving.at_old.messages(f"{ROOT}/status")[-1].json["state"] != "online", within_s=60)
    moving.end()
    results = _seqs(moving.at_new)
    assert results == list(range(results[0], results[0] + len(results)))


def test_an_unusable_file_leaves_the_connection_and_is_named(moving: Moving) -> None:
    moving.start({"broker": moving.old.url})
    _more(moving.at_old)
    bad = moving.with_password()
    (moving.directory / "word").chmod(0o644)
    for mqtt in ({"broker": "mqtt//x"}, bad, {**bad, "password_file": "absent"}):
        moving.write(mqtt)
        moving.reload("config.rejected")
        _more(moving.at_old, count=5)
    assert {message.json["state"] for message in moving.at_old.messages(f"{ROOT}/status")} == {"online"}
    moving.end()


def test_a_reload_applies_a_changed_password_file(moving: Moving) -> None:
    moving.start(moving.with_password())
    _more(moving.at_new)
    moving.reload("config.unchanged")
    assert "broker.changed" not in moving.agent.stderr
    moving.with_password("second-word")
    moving.reload()
    moving.agent.wait_for_log("not authorised")
    moving.with_password()
    moving.reload()
    _more(moving.at_new)
    moving.end()
    states = [message.json["state"] for message in moving.at_new.messages(f"{ROOT}/status")]
    # The old connection may succeed with the right password just before the switch.
    changes = [state for state, _ in itertools.groupby(states)]
    assert changes[:4] == ["online", "stopped", "online", "stopped"]
    assert changes[-1] == "stopped"


def test_a_wrong_password_is_named_and_the_right_one_fixes_it(moving: Moving) -> None:
    moving.start({"broker": moving.old.url})
    _more(moving.at_old)
    moving.write(moving.with_password("wrong-word"))
    moving.reload()
    moving.agent.wait_for_log("not authorised")
    moving.with_password()
    moving.reload()
    _more(moving.at_new)
    assert "wrong-word" not in moving.agent.stderr
    moving.end()


def test_the_reply_to_the_reload_command_goes_to_the_old_broker(moving: Moving) -> None:
    commands = {"commands": {"enabled": True, "allow": ["reload"]}}
    moving.start({"broker": moving.old.url, **commands})
    _more(moving.at_old)
    moving.write({**moving.with_password(), **commands})
    body = orjson.dumps({"id": "one", "expires_at": time.time() + 30})
    paho.mqtt.publish.single(f"{ROOT}/cmd/reload", body, qos=1, hostname="127.0.0.1", port=moving.old.port)
    reply = moving.at_old.wait_count(1, f"{ROOT}/reply/reload", 20)[0].json
    assert (reply["outcome"], reply["details"]) == ("done", {"outcome": "applied"})
    _more(moving.at_new)
    moving.end()


def test_results_at_another_rate_need_no_other_connection(moving: Moving) -> None:
    moving.start({"broker": moving.old.url})
    _more(moving.at_old)
    moving.write({"broker": moving.old.url, "results": {"qos": 1, "max_hz": 5}})
    moving.reload()
    moving.at_old.wait_for(lambda message: message.topic == RESULT and message.qos == 1, 20)
    moving.end()
    assert "broker.changed" not in moving.agent.stderr
    results = _seqs(moving.at_old)
    assert results == list(range(len(results)))


def test_a_changed_thermal_section_restarts_only_the_thermal_monitor(moving: Moving) -> None:
    moving.start({"broker": moving.old.url})
    _more(moving.at_old)
    simulated = {"source": "simulated", "simulated": {"board": "thor", "speed": 20}}
    moving.write({"broker": moving.old.url}, thermal=simulated)
    moving.reload()
    moving.at_old.wait_for(
        lambda message: message.topic == f"{ROOT}/thermal" and message.json["source"] == "simulated", 20
    )
    _more(moving.at_old)
    moving.end()
    results = _seqs(moving.at_old)
    assert results == list(range(len(results)))
    assert moving.agent.stderr.count("engine.loaded") == 1
    assert moving.agent.stderr.count("broker.connected") == 1
    _books_are_exact(moving.at_old)
