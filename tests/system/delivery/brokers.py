"""The two brokers that drills use, with a common interface."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol

from tests.fixtures.mosquitto import MosquittoBroker, free_port

ROOT = Path(__file__).parents[3]


class Broker(Protocol):
    """What a drill does to a broker."""

    port: int

    def start(self) -> object: ...

    def kill(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def stop(self) -> None: ...


class AmqttBroker:
    """amqtt, which speaks only MQTT 3.1.1, on a free port."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> AmqttBroker:
        """Start it and wait until it listens."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "agent.mqtt.amqtt_child", str(self.port)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 15.0
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.5):
                return self
            time.sleep(0.02)
        self.kill()
        raise RuntimeError("amqtt does not listen after 15 s")

    def kill(self) -> None:
        """Kill it."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Stop it. Idempotent."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Keep its connections but stop answering."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Answer again."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> AmqttBroker:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def make_broker(kind: str, directory: Path, users: Mapping[str, str] | None = None) -> Broker:
    """``mosquitto`` or ``amqtt``, not started yet; amqtt accepts every client."""
    return AmqttBroker() if kind == "amqtt" else MosquittoBroker(directory, users=users)
