"""Memory that comes to an end under a whole agent: the kernel kills it, and the next one makes up for it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from agent.publish.outbox.file import OutboxFile
from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.canary import with_canary
from tests.fixtures.deadlines import wait_until
from tests.fixtures.memory_group import memory_group, why_not
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.recorder import Recorder

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.usefixtures("no_password_leaks"),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]

_EVENT = "edge/dut/camera/cam/inspect/event"
_LARGE = {"type": "pattern", "fps": 5, "width": 3840, "height": 2160}
_LEFT_BYTES = 16 << 20
"""Less than one frame of such a camera."""


def _write(directory: Path, broker: str, *, large: int = 0) -> Path:
    clip: dict[str, Any] = {"source": {"type": "file", "path": "demo", "loop": True}, "rate_hz": 15}
    cameras = {"cam": {**clip, "classify": [{"model": "inspect", "decide": {"votes": 1, "window": 1}}]}}
    for number in range(large):
        cameras[f"large-{number}"] = {"source": dict(_LARGE), "classify": [{"model": "inspect"}]}
    models = {"inspect": {"package": "demo", "engine": "ort-cpu"}}
    return write_config(
        directory, with_canary(directory, {"models": models, "cameras": cameras, "mqtt": {"broker": broker}})
    )


def _events_in_file(directory: Path) -> int:
    file = OutboxFile(directory / "state" / "outbox.sqlite")
    try:
        return file.content().rows
    finally:
        file.close()


def test_an_agent_that_the_kernel_kills_for_its_memory_says_so_next_time_and_loses_no_event(tmp_path: Path) -> None:
    broker = MosquittoBroker(tmp_path / "broker")
    config = _write(tmp_path, broker.url)
    with memory_group() as group, AgentProcess(tmp_path, "run", "-c", str(config)) as agent:
        group.take(agent.process.pid)
        agent.wait_for_log("agent.ready", 60)
        wait_until(lambda: _events_in_file(tmp_path) >= 3, within_s=60)
        group.leave_free(_LEFT_BYTES)
        _write(tmp_path, broker.url, large=4)
        agent.process.send_signal(signal.SIGHUP)
        assert agent.wait(60) == -signal.SIGKILL, agent.stderr
    left = _events_in_file(tmp_path)
    assert left >= 3
    _write(tmp_path, broker.url)
    with broker, Recorder(broker.port) as recorder, AgentProcess(tmp_path, "run", "-c", str(config)) as agent:
        runtime = recorder.wait_for(lambda one: one.topic == "edge/dut/runtime", 60).json
        wait_until(lambda: len([one for one in recorder.messages(_EVENT) if one.json["session"] == 1]) >= left)
        assert agent.end() == 0, agent.stderr
    assert runtime["session"] == 2
    assert "killed" in runtime["previous_exit"]
