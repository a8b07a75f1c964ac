"""The brokers that drills use, with a common interface."""

from __future__ import annotations

import os
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

from scripts.sealed_path import UNSEALED
from tests.fixtures.mosquitto import MosquittoBroker, free_port

ROOT = Path(__file__).parents[3]
START_WITHIN_S = 60.0
END_WITHIN_S = 10.0


class Broker(Protocol):
    """What a drill does to a broker."""

    port: int

    def start(self) -> object: ...

    def kill(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def stop(self) -> None: ...


class _ProcessBroker:
    """A broker that is one process on a free port."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _environment(self) -> dict[str, str]:
        return dict(os.environ)

    def start(self) -> None:
        """Start it and wait until it listens."""
        self._process = subprocess.Popen(
            self._command(),
            cwd=ROOT,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_WITHIN_S
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.5):
                return
            time.sleep(0.02)
        self.kill()
        raise RuntimeError(f"{type(self).__name__} does not listen after {START_WITHIN_S:g} s")

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
            process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class AmqttBroker(_ProcessBroker):
    """amqtt, which speaks only MQTT 3.1.1, on a free port."""

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "agent.mqtt.embedded.child", str(self.port)]

    def __enter__(self) -> AmqttBroker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class NatsBroker(_ProcessBroker):
    """nats-server, which speaks MQTT 3.1.1 over its JetStream; run by hand, no test needs it."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        directory.mkdir(parents=True, exist_ok=True)
        self._config = directory / "nats.conf"
        self._config.write_text(
            f"server_name: drill\nlisten: 127.0.0.1:{free_port()}\njetstream {{ store_dir: {directory / 'store'} }}\n"
            f"mqtt {{ listen: 127.0.0.1:{self.port} }}\n"
        )

    def _command(self) -> list[str]:
        return ["nats-server", "-c", str(self._config)]


class RabbitBroker(_ProcessBroker):
    """RabbitMQ with its MQTT plugin; run by hand, no test needs it. It has files and an epmd of its own."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._epmd_port = free_port()
        (directory / "plugins").write_text("[rabbitmq_mqtt].\n")
        (directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.default = 127.0.0.1:{free_port()}\nmqtt.listeners.tcp.default = 127.0.0.1:{self.port}\n"
            "mqtt.allow_anonymous = true\nloopback_users = none\n"
        )

    def _command(self) -> list[str]:
        # Not the program in PATH, which changes the user.
        return ["/usr/lib/rabbitmq/bin/rabbitmq-server"]

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": os.environ.get(UNSEALED, os.environ["PATH"]),
            "HOME": str(self._directory),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": f"drill{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(self._directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self._directory / "log"),
            "RABBITMQ_CONFIG_FILE": str(self._directory / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._directory / "plugins"),
        }

    def _end(self, number: int) -> None:
        super()._end(number)
        subprocess.run(["epmd", "-kill"], env=self._environment(), capture_output=True, check=False)


def make_broker(kind: str, directory: Path, users: Mapping[str, str] | None = None) -> Broker:
    """``mosquitto`` or ``amqtt``, not started yet; amqtt accepts every client."""
    return AmqttBroker() if kind == "amqtt" else MosquittoBroker(directory, users=users)
