"""A running agent is given a model that never comes to an end: it goes on serving the old one, and can be stopped."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.deadlines import wait_until
from tests.fixtures.hostile_models import endless_model, write_package
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.processes import is_alive
from tests.fixtures.recorder import Recorder

pytestmark = pytest.mark.timeout(180)

_RESULT = "edge/dut/camera/cam/inspect/result"


def _write(directory: Path, broker: MosquittoBroker, package: str) -> Path:
    camera: dict[str, Any] = {
        "source": {"type": "pattern", "fps": 30, "width": 320, "height": 240},
        "classify": [{"model": "inspect"}],
    }
    config = {
        "models": {"inspect": {"package": package, "engine": "ort-cpu"}},
        "cameras": {"cam": camera},
        "mqtt": {"broker": broker.url},
        "thermal": {"source": "none"},
    }
    return write_config(directory, config)


def _loads(agent: AgentProcess) -> list[psutil.Process]:
    children = psutil.Process(agent.process.pid).children(recursive=True)
    return [child for child in children if any("engines.select.load_child" in part for part in _command(child))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has just ended: the child that read the package
        return []


def test_the_old_model_serves_while_an_endless_one_is_tried_and_a_stop_ends_the_trial(
    tmp_path: Path, broker: MosquittoBroker, recorder: Recorder
) -> None:
    endless = write_package(endless_model(), tmp_path / "models")
    with AgentProcess(tmp_path, "run", "-c", str(_write(tmp_path, broker, "demo"))) as agent:
        agent.wait_for_log("agent.ready")
        recorder.wait_count(5, _RESULT, 30)
        _write(tmp_path, broker, str(endless))
        agent.process.send_signal(signal.SIGHUP)
        wait_until(lambda: _loads(agent), within_s=30)
        (child,) = _loads(agent)
        seen = len(recorder.messages(_RESULT))
        recorder.wait_count(seen + 10, _RESULT, 30)
        assert child.is_running()
        models = {message.json["ran"][0] for message in recorder.messages(_RESULT)}
        (runtime,) = {message.json["models"]["inspect"]["sha256"] for message in recorder.messages("edge/dut/runtime")}
        assert models == {runtime[:8]}
        assert agent.end() == 0, agent.stderr
        wait_until(lambda: not is_alive(child))
