"""The machine around the agent: full disks, read-only ones, no descriptors left, a clock that jumps, an idle log."""

from __future__ import annotations

import io
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from agent.app import Agent
from agent.config.loader import load_config
from agent.publish.json_lines import JsonLinesSink
from agent.runtime.clock import SystemClock
from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.canary import Search, with_canary
from tests.fixtures.deadlines import wait_until
from tests.fixtures.drills import note
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.namespaces import isolated
from tests.fixtures.recorder import Recorder

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("no_password_leaks")]

_RESULT = "edge/dut/camera/cam/inspect/result"
_MAX_STOP_S = 5.0


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[MosquittoBroker]:
    with MosquittoBroker(tmp_path / "broker") as running:
        yield running


def _config(directory: Path, broker: str, **more: Any) -> Path:
    camera = {
        "source": {"type": "pattern", "fps": 15, "width": 160, "height": 120},
        "classify": [{"model": "inspect"}],
    }
    models = {"inspect": {"package": "demo", "engine": "ort-cpu"}}
    config = {"models": models, "cameras": {"cam": camera}, "mqtt": {"broker": broker}, **more}
    return write_config(directory, with_canary(directory, config))


def _run(directory: Path, broker: str) -> AgentProcess:
    return AgentProcess(directory, "run", "-c", str(_config(directory, broker)))


def _wait_for_more(recorder: Recorder, count: int = 10, deadline_s: float = 20.0) -> None:
    """Wait for ``count`` results beyond those that are there."""
    recorder.wait_count(len(recorder.messages(_RESULT)) + count, _RESULT, deadline_s)


def test_a_disk_that_fills_up_stops_neither_results_nor_the_end(
    tmp_path: Path, broker: MosquittoBroker, no_password_leaks: Search
) -> None:
    with Recorder(broker.port) as recorder, _run(tmp_path, broker.url) as agent:
        recorder.wait_count(5, _RESULT, 60)
        process = psutil.Process(agent.process.pid)
        # From here on no file can grow, as on a full disk.
        process.rlimit(psutil.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        _wait_for_more(recorder)
        process.rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        _wait_for_more(recorder)
        no_password_leaks.bundle(tmp_path / "agent.yaml", tmp_path / "bundle")
        process.rlimit(psutil.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        assert agent.end(deadline_s=_MAX_STOP_S) == 0


@pytest.mark.parametrize(
    "mounts",
    [
        ["mount -t tmpfs -o size=16k none state", "head -c 16000 /dev/zero > state/full || true"],
        ["mount --bind state state", "mount -o remount,ro,bind state"],
    ],
    ids=["full", "read-only"],
)
def test_the_agent_starts_on_a_full_or_read_only_disk(
    tmp_path: Path, broker: MosquittoBroker, mounts: Sequence[str]
) -> None:
    assert "state.session_write_failed" in _log_of_a_start(tmp_path, broker, mounts)


def test_the_agent_starts_on_a_disk_with_room_for_a_number_alone(tmp_path: Path, broker: MosquittoBroker) -> None:
    log = _log_of_a_start(tmp_path, broker, ["mount -t tmpfs -o size=64k none state"])
    assert "state.cache_relocated" in log
    assert "state.session_write_failed" not in log


def _log_of_a_start(tmp_path: Path, broker: MosquittoBroker, mounts: Sequence[str]) -> str:
    """What an agent writes that gives five results on such a disk and ends in time."""
    config = _config(tmp_path, broker.url)
    (tmp_path / "state").mkdir()
    command = isolated([sys.executable, "-m", "agent", "run", "-c", str(config)], f"cd {tmp_path}", *mounts)
    with Recorder(broker.port) as recorder, (tmp_path / "log").open("wb") as stderr:
        agent = subprocess.Popen(
            command, stderr=stderr, env={"PYTHONPATH": str(Path.cwd()), "PATH": os.environ["PATH"]}
        )
        try:
            wait_until(lambda: agent.poll() is not None or len(recorder.messages(_RESULT)) >= 5, within_s=60)
            assert agent.poll() is None, f"it ended by itself: {(tmp_path / 'log').read_text()}"
            agent.send_signal(signal.SIGTERM)
            assert agent.wait(_MAX_STOP_S) == 0
        finally:
            agent.kill()
            agent.wait()
    return (tmp_path / "log").read_text()


def test_an_agent_without_a_descriptor_to_spare_goes_on_and_recovers(tmp_path: Path, broker: MosquittoBroker) -> None:
    with Recorder(broker.port) as recorder, _run(tmp_path, broker.url) as agent:
        recorder.wait_count(5, _RESULT, 60)
        process = psutil.Process(agent.process.pid)
        usual = process.rlimit(psutil.RLIMIT_NOFILE)
        process.rlimit(psutil.RLIMIT_NOFILE, (3, usual[1]))
        _wait_for_more(recorder)
        broker.kill()
        began_s = sum(process.cpu_times()[:2])
        time.sleep(3.0)
        used_s = sum(process.cpu_times()[:2]) - began_s
        assert agent.process.poll() is None, agent.stderr
        process.rlimit(psutil.RLIMIT_NOFILE, usual)
        broker.start()
        freed = time.monotonic()
        _wait_for_more(recorder, deadline_s=40)
        note(recovery_s=time.monotonic() - freed)
        assert agent.end(deadline_s=_MAX_STOP_S) == 0
    assert used_s < 3.0, "it turned in a circle"
    assert "Traceback" not in agent.stderr


class _JumpingClock(SystemClock):
    """UTC that can be moved; everything else is the machine's."""

    ahead_ns = 0

    def utc_ns(self) -> int:
        return super().utc_ns() + self.ahead_ns


def test_a_clock_that_jumps_ten_years_both_ways_moves_no_timer(tmp_path: Path) -> None:
    clock, output, switch_interval_s = _JumpingClock(), io.BytesIO(), sys.getswitchinterval()
    agent = Agent(
        load_config(_config(tmp_path, "mqtt://127.0.0.1:1")), extra_sinks=[JsonLinesSink(output)], clock=clock
    )

    def jump() -> None:
        for years in (10, -10, 0):
            time.sleep(0.7)
            clock.ahead_ns = years * 365 * 86400 * 10**9

    jumper = threading.Thread(target=jump)
    try:
        agent.run(for_s=3.0, on_ready=jumper.start)
    finally:
        sys.setswitchinterval(switch_interval_s)
        jumper.join()
    messages = [orjson.loads(line)["message"] for line in output.getvalue().splitlines()]
    results = [message for message in messages if message["schema"] == "result-compact/1"]
    assert [result["seq"] for result in results] == list(range(len(results)))
    # 15 frames a second for 3 s: a timer that had jumped would have stopped them or let them all through.
    assert 20 <= len(results) <= 60
    assert min(value for result in results for value in result["stages_ms"]) >= 0.0
    assert max(sum(result["stages_ms"]) for result in results) < 60_000
    assert len({result["captured_at"][:3] for result in results}) >= 2
    assert {one["label"] for one in messages if one["schema"] == "state/1"} - {"unknown", "stale"}


_CALM_S = 6.0
_CALM_BYTES_A_DAY = 1_000_000


def test_an_undisturbed_agent_writes_less_than_a_megabyte_a_day(tmp_path: Path, broker: MosquittoBroker) -> None:
    with _run(tmp_path, broker.url) as agent:
        agent.wait_for_log("agent.ready")
        agent.wait_for_log("broker.connected")
        time.sleep(1.0)
        before = len(agent.stderr)
        time.sleep(_CALM_S)
        written = len(agent.stderr) - before
        assert agent.end(deadline_s=_MAX_STOP_S) == 0
    note(bytes_a_day=written * 86400 / _CALM_S)
    assert written <= _CALM_BYTES_A_DAY * _CALM_S / 86400


@pytest.mark.parametrize(("number", "delay_s"), [(signal.SIGTERM, 0.3), (signal.SIGINT, 0.9), (signal.SIGTERM, 1.3)])
def test_a_signal_while_it_starts_ends_it(
    tmp_path: Path, broker: MosquittoBroker, number: signal.Signals, delay_s: float
) -> None:
    with _run(tmp_path, broker.url) as agent:
        time.sleep(delay_s)
        # Before its handlers are there, Python's own defaults hold.
        assert agent.end(number, deadline_s=_MAX_STOP_S) in {0, -number, 130}
    assert "Traceback" not in agent.stderr or delay_s < 0.5


def test_a_second_signal_ends_it_at_once_while_the_broker_is_away(tmp_path: Path) -> None:
    with _run(tmp_path, "mqtt://127.0.0.1:1") as agent:
        agent.wait_for_log("agent.ready")
        agent.process.send_signal(signal.SIGINT)
        agent.process.send_signal(signal.SIGINT)
        assert agent.wait(_MAX_STOP_S) in {0, 128 + signal.SIGINT, -signal.SIGINT}
