"""A remote engine's server is killed and comes back: a local engine serves meanwhile, and every frame is counted."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.deadlines import wait_until
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.packages import PackageFiles, TinyModel
from tests.fixtures.recorder import Recorder

pytestmark = pytest.mark.timeout(120)

_RESULT = "edge/dut/camera/belt/m/result"


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def _server(port: int, package: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.fixtures.v2_server", str(port), str(package)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline().split() == ["ready", str(port)]
            yield server
        finally:
            server.kill()


def _serves(recorder: Recorder, engine: str, *, degraded: bool) -> bool:
    results = recorder.messages(_RESULT)
    said = results[-1].json if results else None
    return said is not None and (said["ran"][1], said.get("degraded", False)) == (engine, degraded)


def test_frames_sum_up_when_the_server_is_killed_and_restarted(
    tmp_path: Path, broker: MosquittoBroker, recorder: Recorder
) -> None:
    package, port = PackageFiles.of(TinyModel()).write(tmp_path), _free_port()
    options = {"url": f"127.0.0.1:{port}", "model": "m", "timeout_ms": 2000}
    camera = {
        "source": {"type": "pattern", "fps": 20, "width": 64, "height": 48},
        "classify": [{"model": "m"}],
    }
    config = {
        "models": {"m": {"package": str(package), "engine": "triton", "options": options}},
        "cameras": {"belt": camera},
        "mqtt": {"broker": broker.url},
    }
    path = write_config(tmp_path, config)
    with _server(port, package) as server, AgentProcess(tmp_path, "run", "-c", str(path)) as agent:
        wait_until(partial(_serves, recorder, "triton", degraded=False), within_s=60.0)
        server.send_signal(signal.SIGKILL)
        server.wait()
        wait_until(partial(_serves, recorder, "ort-cpu", degraded=True), within_s=60.0)
        with _server(port, package):
            wait_until(partial(_serves, recorder, "triton", degraded=False), within_s=60.0)
            assert agent.end() == 0
    recorder.wait_for(lambda one: one.topic == "edge/dut/status" and one.json["state"] == "stopped")
    counts = recorder.messages("edge/dut/health")[-1].json["cameras"]["belt"]
    assert counts["captured"] == counts["classified"] + sum(counts["dropped"].values())
    assert counts["in_flight"] == 0
    assert 1 <= counts["dropped"]["failed"] <= 3, "three calls in a row let the local engine take over"
    assert "ort-cpu was replaced by triton" in agent.stderr
