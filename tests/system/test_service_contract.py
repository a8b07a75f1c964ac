"""The agent under a service manager: ready, watched, stopped, and killed when it hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.drills import note
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.recorder import Recorder
from tests.fixtures.supervisor import Supervisor

pytestmark = pytest.mark.timeout(120)

_CAMERA = {
    "source": {"type": "pattern", "fps": 15, "width": 160, "height": 120},
    "classify": [{"model": "inspect"}],
}


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with Supervisor(tmp_path) as running:
        yield running


def _config(directory: Path, broker: str = "mqtt://127.0.0.1:1") -> Path:
    models = {"inspect": {"package": "demo", "engine": "ort-cpu"}}
    return write_config(directory, {"models": models, "cameras": {"cam": _CAMERA}, "mqtt": {"broker": broker}})


def test_the_manager_hears_ready_after_the_engines_then_life_then_the_end(
    tmp_path: Path, supervisor: Supervisor
) -> None:
    environment = supervisor.environment(watchdog_s=3.0)
    with AgentProcess(tmp_path, "run", "-c", str(_config(tmp_path)), env=environment) as agent:
        ready = supervisor.wait_for("READY", "1", within_s=60)
        assert "engine.loaded" in agent.stderr
        assert ready.pid == agent.process.pid
        status = ready.value("STATUS") or ""
        # No broker is there: what is wrong goes before what runs.
        assert status.startswith("broker mqtt://127.0.0.1:1 not connected for ")
        for _ in range(4):
            # systemd would kill after this time.
            supervisor.wait_for("WATCHDOG", "1", within_s=3.0)
        agent.process.send_signal(signal.SIGTERM)
        supervisor.wait_for("STOPPING", "1", within_s=5)
        assert agent.wait(10) == 0
    assert {notice.pid for notice in supervisor.notices} == {agent.process.pid}
    assert [notice for notice in supervisor.notices if notice.value("READY")] == [ready]


def test_a_refused_configuration_is_never_ready_and_ends_with_78(tmp_path: Path, supervisor: Supervisor) -> None:
    path = write_config(tmp_path, {"models": {}, "cameras": {}})
    with AgentProcess(tmp_path, "run", "-c", str(path), env=supervisor.environment()) as agent:
        assert agent.wait() == 78
    assert supervisor.receive(0.1) is None


def test_without_a_watchdog_none_is_fed(tmp_path: Path, supervisor: Supervisor) -> None:
    with AgentProcess(tmp_path, "run", "-c", str(_config(tmp_path)), env=supervisor.environment()) as agent:
        supervisor.wait_for("READY", within_s=60)
        assert agent.end() == 0
    while supervisor.receive(0.05) is not None:
        pass
    assert all(notice.value("WATCHDOG") is None for notice in supervisor.notices)


# Holds the interpreter's lock for ever, from inside the process, some time after it is ready.
_HANG = """
import ctypes, pathlib, sys, threading, time
from agent.__main__ import main

def hang():
    while not pathlib.Path("hang-now").exists():
        time.sleep(0.05)
    ctypes.PyDLL(None).sleep(1000)

threading.Thread(target=hang, daemon=True).start()
sys.exit(main(["run", "-c", sys.argv[1]]))
"""


def test_an_agent_whose_interpreter_is_held_is_killed_and_the_next_one_says_so(
    tmp_path: Path,
    supervisor: Supervisor,
) -> None:
    watchdog_s = 2.0
    with MosquittoBroker(tmp_path / "broker") as broker, Recorder(broker.port) as recorder:
        config = _config(tmp_path, broker.url)
        environment = {**os.environ, **supervisor.environment(watchdog_s), "PYTHONPATH": str(Path.cwd())}
        with (tmp_path / "hung").open("wb") as stderr:
            hung = subprocess.Popen(
                [sys.executable, "-c", _HANG, str(config)], cwd=tmp_path, env=environment, stderr=stderr
            )
        try:
            supervisor.wait_for("READY", within_s=60)
            supervisor.wait_for("WATCHDOG", within_s=watchdog_s)
            (tmp_path / "hang-now").touch()
            began = time.monotonic()
            while True:
                notice = supervisor.receive(watchdog_s)
                if notice is None:
                    break
                assert time.monotonic() - began < 10 * watchdog_s, "it was fed although no thread can run"
            hung.send_signal(signal.SIGABRT)
            assert hung.wait(10) == -signal.SIGABRT
        finally:
            hung.kill()
            hung.wait()
        note(seen_s=time.monotonic() - began)
        assert "Current thread" in (tmp_path / "hung").read_text()
        restarted = time.monotonic()
        with AgentProcess(tmp_path, "run", "-c", str(config)) as agent:
            runtime = recorder.wait_for(lambda one: one.topic.endswith("/runtime") and one.json["session"] == 2, 60)
            note(recovery_s=time.monotonic() - restarted)
            assert "killed" in runtime.json["previous_exit"]
            assert agent.end() == 0


def test_starts_that_keep_failing_wait_for_the_manager_and_a_stop_ends_the_wait(
    tmp_path: Path, supervisor: Supervisor
) -> None:
    models = {"inspect": {"package": "demo", "engine": "tensorrt", "strict": True}}
    config = write_config(
        tmp_path, {"models": models, "cameras": {"cam": _CAMERA}, "mqtt": {"broker": "mqtt://127.0.0.1:1"}}
    )
    for _ in range(3):
        with AgentProcess(tmp_path, "run", "-c", str(config), env=supervisor.environment()) as agent:
            assert agent.wait() == 69
            assert "start.delayed" not in agent.stderr
    with AgentProcess(tmp_path, "run", "-c", str(config), env=supervisor.environment()) as agent:
        waits = supervisor.wait_for("EXTEND_TIMEOUT_USEC", within_s=60)
        assert "3 starts in a row failed" in (waits.value("STATUS") or "")
        assert agent.end() == 0
    # A person who stopped it may have fixed the cause.
    with AgentProcess(tmp_path, "run", "-c", str(config), env=supervisor.environment()) as agent:
        assert agent.wait() == 69
        assert "start.delayed" not in agent.stderr
