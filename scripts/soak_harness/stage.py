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
from pathlib import Path
from types import TracebackType

import psutil

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
    """The agent's process, started anew whenever it ends, unless its exit code says that this would change nothing."""

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


class Stage:
    """Everything, from entering to leaving the block. ``environment`` is added to the agent's."""

    def __init__(self, directory: Path, environment: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.broker = MosquittoBroker(
            directory / "broker", users={"agent": CANARY, "subscriber": _SUBSCRIBER_PASSWORD}
        )
        self.camera = RtspServer(directory, port=free_port(), credentials=("viewer", CANARY))
        self.subscriber: Recorder
        self.agent: Supervised
        self._environment = {"PYTHONPATH": str(Path.cwd()), **(environment or {})}
        self._resources = ExitStack()

    def restart_camera(self) -> None:
        """Start the camera again on its old port."""
        with ExitStack() as keep:
            keep.enter_context(self.camera)
            keep.pop_all()

    def messages_since(self, at: float, topic: str) -> list[Recorded]:
        """What arrived on ``topic`` after monotonic ``at``."""
        return [message for message in self.subscriber.messages(topic) if message.at > at]

    def __enter__(self) -> Stage:
        enter = self._resources.enter_context
        enter(self.broker)
        self.restart_camera()
        self._resources.callback(self._kill_camera)
        self.subscriber = enter(Recorder(self.broker.port, username="subscriber", password=_SUBSCRIBER_PASSWORD))
        self.agent = Supervised(self.directory, self._config(), self._environment)
        self._resources.callback(self.agent.stop)
        self.agent.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()

    def _kill_camera(self) -> None:
        self.camera.kill()

    def _config(self) -> Path:
        secret = self.directory / "password"
        secret.write_text(f"{CANARY}\n", encoding="utf-8")
        secret.chmod(0o600)
        network = {"type": "rtsp", "url": self.camera.url, "username": "viewer", "password_file": str(secret)}
        drawn = {"type": "pattern", "fps": 30, "width": 320, "height": 240}
        return write_config(
            self.directory,
            {
                "models": {"inspect": {"package": "demo", "engine": "ort-cpu"}},
                "cameras": {
                    "net": {"source": network, "rate_hz": 5, "classify": _classify()},
                    "drawn": {"source": drawn, "rate_hz": 15, "classify": _classify()},
                },
                "mqtt": {
                    "broker": self.broker.url,
                    "username": "agent",
                    "password_file": str(secret),
                    "keepalive_s": 5,
                },
                "thermal": {"source": "none", "governor": {"enabled": False}},
            },
        )


def _classify() -> list[dict[str, object]]:
    """One classifier whose label changes often, so that there are events."""
    return [{"model": "inspect", "decide": {"votes": 1, "window": 1, "enter": 0.3, "exit": 0.2}}]
