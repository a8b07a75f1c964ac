"""What a soak runs on: a broker, a network camera, a subscriber, and an agent that is started again when it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

from scripts.soak_harness.line import Line
from scripts.soak_harness.machine import Machine
from tests.fixtures.agent_process import write_config
from tests.fixtures.mosquitto import MosquittoBroker, free_port
from tests.fixtures.recorder import Recorded, Recorder
from tests.fixtures.rtsp_server import RtspServer

CANARY = "hunter2-CANARY"
RESULTS = {"net": "edge/dut/camera/net/inspect/result", "drawn": "edge/dut/camera/drawn/inspect/result"}
_SUBSCRIBER_PASSWORD = "listens"  # noqa: S105 - of a broker that lives for one run
_RESTART_S = 1.0
_STAYS_DOWN = frozenset({2, 78})


class Supervised:
    """The agent's process, restarted whenever it ends, unless its exit code is final."""

    def __init__(self, directory: Path, config: Path, environment: Mapping[str, str]) -> None:
        self.log = directory / "agent.log"
        self.exits: list[tuple[float, int]] = []
        self._command = [sys.executable, "-m", "agent", "run", "-c", str(config)]
        self._environment = {**os.environ, **environment}
        self._directory = directory
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="supervisor")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it for the first time."""
        self._thread.start()

    @property
    def process(self) -> psutil.Process | None:
        """The running process, None between two."""
        process = self._process
        if process is None or process.poll() is not None:
            return None
        try:
            return psutil.Process(process.pid)
        except psutil.NoSuchProcess:
            return None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the running process, if there is one."""
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(number)

    def stop(self) -> float:
        """End it for good; the seconds that it took."""
        self._ending.set()
        began_s = time.monotonic()
        self.send(signal.SIGTERM)
        self._thread.join(20.0)
        if self._thread.is_alive():
            self.send(signal.SIGKILL)
            self._thread.join()
        return time.monotonic() - began_s

    def _supervise(self) -> None:
        while not self._ending.is_set():
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command, cwd=self._directory, env=self._environment, stdout=log, stderr=log
                )
            code = self._process.wait()
            self.exits.append((time.monotonic(), code))
            if code in _STAYS_DOWN:
                return
            self._ending.wait(_RESTART_S)


@dataclass(frozen=True, slots=True)
class Before:
    """How things stood when a fault began; ``at`` is monotonic seconds."""

    at: float
    log_bytes: int
    exits: int
    shown: int
    connections: int


class Stage:
    """Everything, from entering to leaving the block. ``environment`` is added to the agent's.

    The agent reaches broker and camera through a ``Line`` each; the subscriber is at the broker itself.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.broker = MosquittoBroker(directory / "broker", users=_users(CANARY))
        self.camera = self._camera(CANARY, free_port())
        self.subscriber: Recorder
        self.agent: Supervised
        self.config = directory / "agent.yaml"
        self.machine: Machine
        self.broker_line = Line(self.broker.port)
        self.camera_line = Line(self.camera.port)
        self._environment = {"PYTHONPATH": str(Path.cwd()), **(environment or {})}
        self._resources = ExitStack()

    def before(self) -> Before:
        """How things stand now."""
        agent, line = self.agent, self.broker_line
        return Before(time.monotonic(), len(self.log()), len(agent.exits), self.machine.shown, line.connections)

    def log(self) -> str:
        """What the agent has logged so far, in all its starts."""
        return self.agent.log.read_text(encoding="utf-8", errors="replace") if self.agent.log.exists() else ""

    def end_camera(self) -> None:
        """Unplug the camera: nothing answers at its address."""
        self.camera.kill()
        self.camera_line.cut()

    def start_camera(self, password: str = CANARY) -> None:
        """Let a camera with this password be at the old address."""
        self.camera.kill()
        self.camera = self._camera(password, self.camera.port)
        with ExitStack() as keep:
            keep.enter_context(self.camera)
            keep.pop_all()
        self.camera_line.mend()

    def end_broker(self, number: signal.Signals) -> None:
        """End the broker by this signal; nothing answers at its address."""
        (self.broker.kill if number == signal.SIGKILL else self.broker.stop)()
        self.broker_line.cut()

    def start_broker(self) -> None:
        """Start it again at the old address."""
        self.broker.start()
        self.broker_line.mend()

    def set_agents_password(self, password: str) -> None:
        """Let the broker accept only this password; it disconnects clients with another one."""
        self.broker.set_users(_users(password))
        self.broker.reload()

    def _camera(self, password: str, port: int) -> RtspServer:
        return RtspServer(self.directory, port=port, credentials=("viewer", password))

    def messages_since(self, at: float, topic: str) -> list[Recorded]:
        """What arrived on ``topic`` after monotonic ``at``."""
        return [message for message in self.subscriber.messages(topic) if message.at > at]

    def __enter__(self) -> Stage:
        try:
            self._set_up()
        except BaseException:
            # Nobody leaves a block that was not entered, and the supervisor's thread would go on.
            self._resources.close()
            raise
        return self

    def _set_up(self) -> None:
        enter = self._resources.enter_context
        self.machine = Machine(self.directory, self.directory / "state")
        self._resources.callback(self.machine.close)
        enter(self.broker_line)
        enter(self.camera_line)
        enter(self.broker)
        self._resources.callback(self._kill_camera)
        self.start_camera()
        self.subscriber = enter(Recorder(self.broker.port, username="subscriber", password=_SUBSCRIBER_PASSWORD))
        self._write_config()
        self.agent = Supervised(self.directory, self.config, {**self._environment, **self.machine.environment})
        self._resources.callback(self.agent.stop)
        self.agent.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()

    def _kill_camera(self) -> None:
        self.camera.kill()

    def _write_config(self) -> None:
        secret = self.directory / "password"
        secret.write_text(f"{CANARY}\n", encoding="utf-8")
        secret.chmod(0o600)
        url = f"rtsp://127.0.0.1:{self.camera_line.port}/camera"
        network = {"type": "rtsp", "url": url, "username": "viewer", "password_file": str(secret)}
        drawn = {"type": "pattern", "fps": 30, "width": 320, "height": 240}
        write_config(
            self.directory,
            {
                "models": {"inspect": {"package": "demo", "engine": "ort-cpu"}},
                "cameras": {
                    "net": {"source": network, "rate_hz": 5, "classify": _classify()},
                    "drawn": {"source": drawn, "rate_hz": 15, "classify": _classify()},
                },
                "mqtt": {
                    "broker": f"mqtt://127.0.0.1:{self.broker_line.port}",
                    "username": "agent",
                    "password_file": str(secret),
                    "keepalive_s": 5,
                },
                "thermal": {"source": "none", "governor": {"enabled": False}},
            },
        )


def _users(agents_password: str) -> dict[str, str]:
    return {"agent": agents_password, "subscriber": _SUBSCRIBER_PASSWORD}


def _classify() -> list[dict[str, object]]:
    """One classifier whose label changes often, so that there are events."""
    return [{"model": "inspect", "decide": {"votes": 1, "window": 1, "enter": 0.3, "exit": 0.2}}]
