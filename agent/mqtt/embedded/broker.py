"""A private broker for a first try: ``mqtt.broker: embedded``."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Literal

from agent.config.broker_address import BrokerAddress
from agent.runtime.errors import BrokerUnavailable
from agent.runtime.logs import get_logger
from engines import module_command

Kind = Literal["mosquitto", "amqtt"]

START_WITHIN_S = 10.0
_PORT_ATTEMPTS = 3
_PR_SET_PDEATHSIG = 1
"""Source: prctl(2)."""

log = get_logger(__name__)


class EmbeddedBroker:
    """mosquitto if it is installed, else amqtt (MQTT 3.1.1), on a port of the loopback interface.

    It ends with its ``with`` block; the kernel kills it when the thread that started it ends, so it cannot outlive the
    agent. ``kind`` asks for one of the two, ``port`` for this port instead of a free one. ``port``, ``kind`` and
    ``version`` are valid inside the block.
    """

    host = "127.0.0.1"

    def __init__(self, kind: Kind | None = None, *, port: int | None = None) -> None:
        self._wanted = kind
        self._wanted_port = port
        self._resources = contextlib.ExitStack()
        self.kind: Kind = kind or "mosquitto"
        self.version = ""
        self.port = port or 0

    @property
    def address(self) -> BrokerAddress:
        """Where to connect to."""
        return BrokerAddress(self.host, self.port, is_older=self.kind == "amqtt")

    def __enter__(self) -> EmbeddedBroker:
        """Start the broker and wait until it listens.

        Raises:
            BrokerUnavailable: neither mosquitto nor amqtt is installed, or it does not start.
        """
        self.kind, self.version = _choose(self._wanted)
        with contextlib.ExitStack() as resources:
            # created with mode 0700
            directory = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="agent-broker-")))
            process, self.port = _start(self.kind, directory, self._wanted_port)
            resources.callback(_end, process)
            self._resources = resources.pop_all()
        log.info("broker.embedded", kind=self.kind, version=self.version, port=self.port)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()


def _choose(kind: Kind | None) -> tuple[Kind, str]:
    """The broker to start, and its version."""
    program = _mosquitto()
    if program is not None and kind in (None, "mosquitto"):
        return "mosquitto", _mosquitto_version(program)
    if importlib.util.find_spec("amqtt") is not None and kind in (None, "amqtt"):
        return "amqtt", version("amqtt")
    wanted = "mqtt.broker is `embedded`" if kind is None else f"an embedded {kind} is wanted"
    raise BrokerUnavailable(
        f"{wanted}, and {'neither mosquitto nor amqtt' if kind is None else 'it'} is installed. Install one of them "
        "(sudo apt install mosquitto, or pip install amqtt) or name a broker in mqtt.broker"
    )


def _mosquitto() -> str | None:
    # On Debian only root's PATH has its folder.
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def _mosquitto_version(program: str) -> str:
    usage = subprocess.run([program, "-h"], capture_output=True, text=True, timeout=10, check=False).stdout
    start = usage.split()[:3]
    return start[2] if start[:2] == ["mosquitto", "version"] and len(start) == 3 else "unknown"


def _start(kind: Kind, directory: Path, wanted_port: int | None) -> tuple[subprocess.Popen[bytes], int]:
    """Start it. Without ``wanted_port`` try up to three free ports: another process may take one first."""
    problem = ""
    for _ in range(_PORT_ATTEMPTS if wanted_port is None else 1):
        port = _free_port() if wanted_port is None else wanted_port
        process = _spawn(_command(kind, directory, port), directory / "broker.log")
        try:
            with contextlib.ExitStack() as undo:
                undo.callback(_end, process)
                _wait_listening(process, port)
                undo.pop_all()
        except BrokerUnavailable as exc:
            problem = exc.message
        else:
            return process, port
    last = _last_line(directory / "broker.log")
    raise BrokerUnavailable(
        f"the embedded broker ({kind}) does not start: {problem}. Last line of its log: {last}", kind=kind
    )


def _command(kind: Kind, directory: Path, port: int) -> list[str]:
    if kind == "amqtt":
        return module_command("agent.mqtt.embedded.child", str(port))
    config = directory / "mosquitto.conf"
    # Started by root, mosquitto switches to a user that cannot read this private directory.
    lines = ["user root"] if os.geteuid() == 0 else []
    lines += [
        "persistence false",
        "log_dest stderr",
        "set_tcp_nodelay true",
        f"listener {port} 127.0.0.1",
        "allow_anonymous true",
    ]
    config.write_text("\n".join(lines) + "\n")
    return [_mosquitto() or "mosquitto", "-c", str(config)]


def _spawn(command: list[str], log_file: Path) -> subprocess.Popen[bytes]:
    with log_file.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C on the terminal must reach only the agent, which ends the broker last
            preexec_fn=_die_with_parent,  # noqa: PLW1509 (two system calls, no lock is taken)
        )


_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    """Runs in the child before exec: the kernel kills the child when the thread that started it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _wait_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BrokerUnavailable(f"it ended with code {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
            return
        time.sleep(0.02)
    raise BrokerUnavailable(f"it does not listen on port {port} after {START_WITHIN_S:g} s")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(3.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "none")
