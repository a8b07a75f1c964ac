"""`agent reload`, which is `systemctl reload`: it ends when the reload has, and fails when that was refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.deadlines import wait_until
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.recorder import Recorder
from tests.fixtures.supervisor import Supervisor

pytestmark = pytest.mark.timeout(180)

_CAMERA = {"source": {"type": "pattern", "fps": 10, "width": 160, "height": 120}, "classify": [{"model": "inspect"}]}


class Service:
    """An agent as systemd runs it, and `agent reload` as ExecReload runs it."""

    def __init__(self, directory: Path, supervisor: Supervisor, **config: Any) -> None:
        self.directory = directory
        self.supervisor = supervisor
        self.runtime = directory / "runtime"
        self.runtime.mkdir()
        self.path = self.write(**config)
        environment = {**supervisor.environment(), "RUNTIME_DIRECTORY": str(self.runtime)}
        self.agent = AgentProcess(directory, "run", "-c", str(self.path), env=environment)

    def write(self, **config: Any) -> Path:
        models = {"inspect": {"package": "demo", "engine": "ort-cpu"}}
        whole = {"models": models, "cameras": {"cam": _CAMERA}, "mqtt": {"broker": "mqtt://127.0.0.1:1"}, **config}
        return write_config(self.directory, {**whole, "thermal": {"source": "none"}})

    def start_reload(self) -> subprocess.Popen[str]:
        environment = {**os.environ, "RUNTIME_DIRECTORY": str(self.runtime), "PYTHONPATH": str(Path.cwd())}
        command = [sys.executable, "-m", "agent", "reload"]
        return subprocess.Popen(
            command, cwd=self.directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def reload(self) -> tuple[int, str]:
        """The exit code, and all it wrote."""
        with self.start_reload() as process:
            out, err = process.communicate(timeout=60)
        return process.returncode, out + err


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with Supervisor(tmp_path) as running:
        yield running


@pytest.fixture
def service(tmp_path: Path, supervisor: Supervisor) -> Iterator[Service]:
    running = Service(tmp_path, supervisor)
    with running.agent:
        running.agent.wait_for_log("agent.ready", 60)
        yield running


def test_a_refused_reload_fails_with_file_and_line_and_the_status_says_it_until_a_good_one(service: Service) -> None:
    good = service.path.read_text()
    assert service.reload() == (0, "reloaded: unchanged\n")
    service.path.write_text(good + "typo: 1\n")
    code, said = service.reload()
    line = len(good.splitlines()) + 1
    assert (code, f"error: {service.path}:{line}: typo" in said) == (78, True), said
    assert "config.rejected" in service.agent.stderr
    told = service.supervisor.wait_for("STATUS", within_s=10)
    while "reload refused" not in (told.value("STATUS") or ""):
        told = service.supervisor.wait_for("STATUS", within_s=10)
    assert f"reload refused: agent.yaml:{line}: typo" in (told.value("STATUS") or "")
    service.path.write_text(good)
    assert service.reload() == (0, "reloaded: unchanged\n")
    while "reload refused" in (told.value("STATUS") or ""):
        told = service.supervisor.wait_for("STATUS", within_s=15)
    assert service.agent.end() == 0


def test_a_model_that_cannot_be_served_fails_the_reload_too(service: Service) -> None:
    service.write(models={"inspect": {"package": "demo", "engine": "tensorrt", "strict": True}})
    code, said = service.reload()
    assert (code, "error: " in said, "tensorrt" in said) == (69, True, True), said
    service.write(cameras={"cam": {**_CAMERA, "rate_hz": 5}})
    assert service.reload() == (0, "reloaded: applied\n")
    assert service.agent.end() == 0


def test_reloads_at_once_are_each_answered(service: Service) -> None:
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(service.reload()[0])) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0] * 5
    assert service.agent.end() == 0


def test_an_agent_that_is_killed_meanwhile_or_does_not_run_fails_the_reload(service: Service) -> None:
    service.agent.process.send_signal(signal.SIGSTOP)
    with service.start_reload() as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(3)
        service.agent.process.kill()
        _, said = process.communicate(timeout=20)
    assert (process.returncode, "ended before it answered" in said) == (69, True), said
    code, said = service.reload()
    assert (code, "systemctl start agent" in said) == (69, True), said


def test_a_new_start_inside_the_process_is_a_success_once_it_is_ready_and_a_failure_where_it_is_not(
    service: Service,
) -> None:
    service.write(device={"id": "another"})
    assert service.reload() == (0, "reloaded: restarting\n")
    assert service.agent.stderr.count("agent.ready") == 2
    (service.directory / "file").touch()
    service.write(device={"id": "another"}, state_dir="file/below")
    code, said = service.reload()
    assert (code, "ended before it answered" in said) == (69, True), said
    assert service.agent.wait() == 78


def test_a_new_password_beside_the_configuration_is_taken_up_by_a_reload(
    tmp_path: Path, supervisor: Supervisor
) -> None:
    word = tmp_path / "mqtt-password"
    with MosquittoBroker(tmp_path / "broker", users={"dut": "first-word", "eye": "see"}) as broker:
        word.write_text("first-word\n")
        word.chmod(0o640)
        service = Service(tmp_path, supervisor, mqtt={"broker": broker.url, "username": "dut"})
        with service.agent, Recorder(broker.port, username="eye", password="see") as recorder:
            recorder.wait_for(lambda one: one.topic == "edge/dut/status" and one.json["state"] == "online", 60)
            assert service.reload() == (0, "reloaded: unchanged\n")
            word.write_text("second-word\n")
            assert service.reload() == (0, "reloaded: applied\n")
            # It leaves the connection of the old password, and tries until the broker knows the new one.
            recorder.wait_for(lambda one: one.topic == "edge/dut/status" and one.json["state"] == "stopped", 30)
            service.agent.wait_for_log("not authorised")
            broker.set_users({"dut": "second-word", "eye": "see"})
            broker.reload()
            wait_until(lambda: recorder.messages("edge/dut/status")[-1].json["state"] == "online", within_s=30)
            assert service.reload() == (0, "reloaded: unchanged\n")
            assert service.agent.end() == 0


def test_a_new_password_of_a_camera_is_no_unchanged_configuration(tmp_path: Path, supervisor: Supervisor) -> None:
    word = tmp_path / "word"
    word.write_text("one\n")
    word.chmod(0o600)
    source = {"type": "rtsp", "url": "rtsp://127.0.0.1:1/x", "username": "u", "password_file": "word"}
    cameras = {"cam": _CAMERA, "far": {"source": source, "classify": [{"model": "inspect"}]}}
    service = Service(tmp_path, supervisor, cameras=cameras)
    with service.agent:
        service.agent.wait_for_log("agent.ready", 60)
        service.agent.wait_for_log("camera.lost")
        assert service.reload() == (0, "reloaded: unchanged\n")
        word.write_text("two\n")
        assert service.reload() == (0, "reloaded: applied\n")
        assert service.reload() == (0, "reloaded: unchanged\n")
        assert service.agent.stderr.count('"camera.connected"') == 1, "the other camera was opened again"
        assert service.agent.end() == 0
