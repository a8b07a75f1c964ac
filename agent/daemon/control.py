"""The socket of `agent reload`: the request, and on the same connection the result.

    agent reload (ExecReload=)  ── "reload" ──►  RUNTIME_DIRECTORY/control  ──►  the agent's main loop
                                ◄── one line of JSON, when the reload has ended

Each connection is one request. So two reloads at once get their own answers, a reload may take minutes, and a
connection that ends without an answer means that the agent has ended. Only the agent's user and root can enter the
directory (``RuntimeDirectoryMode=0700``).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, Protocol

from agent.daemon.notify import Notifier
from agent.runtime.errors import AgentError, ConfigError, ReloadAbandoned, Unavailable
from agent.runtime.logs import get_logger
from engines.errors import EngineError

log = get_logger(__name__)

SOCKET = "control"
USUAL_DIRECTORY = Path("/run/agent")
"""RuntimeDirectory= of the unit."""
_REQUEST = b"reload\n"
_REQUEST_WITHIN_S = 5.0
_MAX_CONNECTIONS = 16
_MAX_ERROR_CHARACTERS = 16_000
_CONNECT_WITHIN_S = 5.0
_PATIENCE_EVERY_S, _PATIENCE_S = 5.0, 20.0
"""Seconds. The second is below WatchdogSec=: extending the time of a reload also delays the watchdog, so a hang right
afterwards is found that much later (seen with systemd 249 and 252)."""

Outcome = Literal["unchanged", "restarting", "applied"]


class Asked(Protocol):
    """A requested reload: ``outcome`` or ``error`` (with its exit code) is set once it has ended."""

    outcome: Outcome | None
    error: AgentError | EngineError | None


class _Connection:
    """One client. ``asked`` is None until its request has arrived whole."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self.received = b""
        self.give_up_s = time.monotonic() + _REQUEST_WITHIN_S
        self.is_whole = False
        self.asked: Asked | None = None

    def receive(self) -> bool:
        """Read what has arrived; False if the client has gone, sends something else, or nothing in time."""
        try:
            data = self.end.recv(64)
        except BlockingIOError:
            return self.is_whole or time.monotonic() < self.give_up_s
        except OSError:
            return False
        self.received += data
        self.is_whole = self.received == _REQUEST
        return bool(data) and _REQUEST.startswith(self.received)

    def answer(self, document: Mapping[str, object]) -> None:
        self.end.settimeout(1.0)
        with contextlib.suppress(OSError):  # the client has gone
            self.end.sendall(json.dumps(document).encode() + b"\n")


class ControlSocket:
    """Listens at ``path``; does nothing if that is None. Main thread only, never blocks.

    While a client waits, ``notifier`` extends the service manager's time limit, which would fail the reload after
    ``TimeoutStartSec=``. The socket stays open when the agent builds all its parts again, so that a client whose
    reload caused that gets the result.
    """

    def __init__(self, path: Path | None, notifier: Notifier | None = None) -> None:
        self._path = path
        self._notifier = notifier or Notifier(None)
        self._patience_due_s: float | None = None
        self._listener: socket.socket | None = None
        self._connections: list[_Connection] = []

    @classmethod
    def from_environment(cls, notifier: Notifier, environ: Mapping[str, str] | None = None) -> ControlSocket:
        """In the first directory of ``RUNTIME_DIRECTORY``; disabled without that variable."""
        directory = (os.environ if environ is None else environ).get("RUNTIME_DIRECTORY", "").split(":")[0]
        return cls(Path(directory) / SOCKET if directory else None, notifier)

    def open(self) -> None:
        """Listen. If that fails, the agent runs without it: SIGHUP and the MQTT command `reload` still work."""
        if self._path is None or self._listener is not None:
            return
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            self._remove_stale(self._path)
            listener.bind(str(self._path))
            self._path.chmod(0o600)
            listener.listen(_MAX_CONNECTIONS)
        except OSError as exc:
            listener.close()
            log.warning("control.listen_failed", path=str(self._path), error=exc.strerror or str(exc))
            return
        self._listener = listener

    def tick(self, request: Callable[[], Asked]) -> None:
        """Accept new requests, call ``request`` for each, and answer those that have ended."""
        self._accept()
        for connection in tuple(self._connections):
            if not connection.receive():
                self._drop(connection)
                continue
            if connection.is_whole and connection.asked is None:
                connection.asked = request()
            if connection.asked is not None:
                self._answer(connection, connection.asked)
        self.extend_timeout()

    def extend_timeout(self) -> None:
        """While a client waits for the end of a reload, ask the service manager for more time."""
        if not any(connection.is_whole for connection in self._connections):
            self._patience_due_s = None
            return
        now_s = time.monotonic()
        if self._patience_due_s is None:
            self._patience_due_s = now_s + _PATIENCE_EVERY_S
        elif now_s >= self._patience_due_s:
            self._patience_due_s = now_s + _PATIENCE_EVERY_S
            self._notifier.extend_timeout(_PATIENCE_S)

    def ready(self) -> None:
        """The agent is ready, perhaps with parts that were built again.

        Clients whose reload was ``restarting`` get that answer now. Requests that came meanwhile were dropped with the
        old parts, so they are made again at the next ``tick``.
        """
        for connection in tuple(self._connections):
            asked = connection.asked
            if asked is not None and asked.outcome == "restarting":
                self._send(connection, {"outcome": "restarting"})
            elif asked is not None and asked.outcome is None and isinstance(asked.error, ReloadAbandoned | None):
                connection.asked = None

    def close(self) -> None:
        """Close all connections, from which the clients learn that the agent has ended; harmless when repeated."""
        for connection in tuple(self._connections):
            self._drop(connection)
        if self._listener is not None and self._path is not None:
            self._listener.close()
            self._listener = None
            with contextlib.suppress(OSError):
                self._path.unlink()

    @staticmethod
    def _remove_stale(path: Path) -> None:
        """Delete a socket that nobody listens on.

        Raises:
            OSError: another agent listens there.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trying:
            try:
                trying.connect(str(path))
            except (FileNotFoundError, ConnectionRefusedError):
                path.unlink(missing_ok=True)
                return
        raise OSError(0, "another agent listens there; give each agent its own RUNTIME_DIRECTORY")

    def _accept(self) -> None:
        while self._listener is not None and len(self._connections) < _MAX_CONNECTIONS:
            try:
                end, _ = self._listener.accept()
            except OSError:  # no client waits, or no descriptor is free now
                return
            end.setblocking(False)  # noqa: FBT003 - the library takes it by position
            self._connections.append(_Connection(end))

    def _answer(self, connection: _Connection, asked: Asked) -> None:
        if asked.error is not None:
            text = asked.error.message[:_MAX_ERROR_CHARACTERS]
            self._send(connection, {"error": text, "exit_code": asked.error.exit_code})
        elif asked.outcome is not None and asked.outcome != "restarting":
            self._send(connection, {"outcome": asked.outcome})

    def _send(self, connection: _Connection, document: Mapping[str, object]) -> None:
        connection.answer(document)
        self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        connection.end.close()
        self._connections.remove(connection)


def ask_for_reload(directory: Path) -> str:
    """Make the agent that listens in ``directory`` reload, wait for it, and return the outcome.

    This takes minutes if an engine has to be built.

    Raises:
        ConfigError, Unavailable, AgentError: the agent refused, with its message and exit code; or it does not run, or
            ended before it answered.
    """
    path = directory / SOCKET
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
        end.settimeout(_CONNECT_WITHIN_S)
        try:
            end.connect(str(path))
            end.sendall(_REQUEST)
        except OSError as exc:
            raise Unavailable(_unreachable(path, exc), path=str(path)) from exc
        end.settimeout(None)
        answer = _whole_answer(end)
    if not answer.endswith(b"\n"):
        raise Unavailable(
            "the agent ended before it answered, so the outcome of the reload is unknown. "
            "See: journalctl -u agent -n 50",
            path=str(path),
        )
    document = json.loads(answer)
    if "error" in document:
        raise _family(document["exit_code"])(document["error"])
    return str(document["outcome"])


def _whole_answer(end: socket.socket) -> bytes:
    parts = []
    try:
        while part := end.recv(65536):
            parts.append(part)
    except OSError:  # reset: the agent was killed
        return b""
    return b"".join(parts)


def _family(exit_code: int) -> type[AgentError]:
    known: dict[int, type[AgentError]] = {kind.exit_code: kind for kind in (ConfigError, Unavailable)}
    return known.get(exit_code, AgentError)


def _unreachable(path: Path, exc: OSError) -> str:
    if isinstance(exc, PermissionError):
        return f"{path} is open to the agent's user and root only; run this with sudo"
    if isinstance(exc, FileNotFoundError | ConnectionRefusedError):
        return (
            f"no agent listens at {path}, so there is none to reload. Start it: systemctl start agent. An agent that "
            "systemd did not start reloads at SIGHUP"
        )
    return f"the agent cannot be reached at {path}: {exc.strerror or exc}"
