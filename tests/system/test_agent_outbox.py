"""The events of a whole agent survive faults of the broker, the agent and the disk."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.publish.outbox.file import OutboxFile
from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.canary import with_canary
from tests.fixtures.deadlines import wait_until
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.recorder import Recorder

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("no_password_leaks")]

EVENT = "edge/dut/camera/belt/inspect/event"


def _config(directory: Path, broker: MosquittoBroker, **mqtt: Any) -> Path:
    config = with_canary(
        directory,
        {
            "models": {"inspect": {"package": "demo", "engine": "ort-cpu"}},
            "cameras": {
                "belt": {
                    "source": {"type": "file", "path": "demo", "loop": True},
                    "rate_hz": 60,
                    "classify": [{"model": "inspect"}],
                }
            },
            "mqtt": {"broker": broker.url, **mqtt},
        },
    )
    return write_config(directory, config)


def _waiting(directory: Path) -> int:
    file = OutboxFile(directory / "state" / "outbox.sqlite")
    try:
        return file.content().rows
    finally:
        file.close()


def test_events_of_a_killed_agent_that_never_saw_its_broker_arrive_from_the_next_one(tmp_path: Path) -> None:
    broker = MosquittoBroker(tmp_path / "broker")
    config = _config(tmp_path, broker)
    with AgentProcess(tmp_path, "run", "-c", str(config)) as agent:
        agent.wait_for_log("agent.ready")
        wait_until(lambda: _waiting(tmp_path) >= 3, within_s=30)
        agent.end(signal.SIGKILL)
    left = _waiting(tmp_path)
    with broker, Recorder(broker.port, [EVENT]) as recorder:
        with AgentProcess(tmp_path, "run", "-c", str(config)) as agent:
            recorder.wait_for(lambda one: one.json["session"] == 2, 40)
            assert agent.end() == 0, agent.stderr
        events = recorder.messages(EVENT)
    first = [event.json for event in events if event.json["session"] == 1]
    assert [event["seq"] for event in first] == list(range(left))
    assert all(event["historical"] for event in first)
    assert not any(event.json["historical"] for event in events if event.json["session"] == 2)
    assert _waiting(tmp_path) == 0


def _damaged(state: Path) -> None:
    (state / "outbox.sqlite").write_bytes(b"no database at all\n" * 500)


def _of_the_future(state: Path) -> None:
    import sqlite3

    database = sqlite3.connect(state / "outbox.sqlite")
    database.executescript("CREATE TABLE t (x); PRAGMA user_version = 99;")
    database.close()


@pytest.mark.parametrize(
    ("spoil", "told", "durability"),
    [(_damaged, "outbox.sqlite.corrupt-1", "each"), (_of_the_future, "newer version", "memory")],
    ids=["damaged", "of the future"],
)
def test_an_agent_runs_with_an_unusable_outbox_and_reports_it(
    tmp_path: Path, spoil: Callable[[Path], None], told: str, durability: str
) -> None:
    (tmp_path / "state").mkdir()
    spoil(tmp_path / "state")
    with (
        MosquittoBroker(tmp_path / "broker") as broker,
        Recorder(broker.port) as recorder,
        AgentProcess(tmp_path, "run", "-c", str(_config(tmp_path, broker))) as agent,
    ):
        recorder.wait_count(2, EVENT, 40)
        health = recorder.wait_for(lambda one: one.topic == "edge/dut/health", 20).json["publisher"]
        assert agent.end() == 0, agent.stderr
        assert told in agent.stderr
    assert health["durability"] == durability
    assert (health["reason"] is None) == (durability == "each")
