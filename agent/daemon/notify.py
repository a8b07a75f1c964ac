"""The contract with systemd: a datagram for each change of state. Source: sd_notify(3), systemd.service(5)."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from pathlib import Path
from types import TracebackType

from agent.daemon.alive import INTERVAL_S, VARIABLE, AliveFile
from agent.runtime.logs import get_logger

log = get_logger(__name__)


class Notifier:
    """Sends states to the service manager; does nothing without one.

    ``watchdog_s`` is the longest time between two watchdog messages; None if nobody expects them. The same signs of
    life are written to ``alive_file``, for the health check of a container.
    """

    def __init__(
        self, address: str | None, watchdog_s: float | None = None, *, alive_file: Path | None = None
    ) -> None:
        self._alive_file = AliveFile(alive_file) if alive_file else None
        self._last_status = ""
        self.watchdog_s = INTERVAL_S if watchdog_s is None and alive_file else watchdog_s
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            try:
                # A leading @ stands for the zero byte of an abstract address.
                self._socket.connect("\0" + address[1:] if address.startswith("@") else address)
            except OSError as exc:
                log.warning("notify.unreachable", error=str(exc))
                self.close()

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] | None = None) -> Notifier:
        """Take the manager's variables out of the environment, so that no child process uses them."""
        environ = os.environ if environ is None else environ
        address = environ.pop("NOTIFY_SOCKET", None)
        usec = environ.pop("WATCHDOG_USEC", None)
        is_for_us = environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watchdog_s = int(usec) / 1e6 if usec is not None and usec.isdigit() and is_for_us and address else None
        alive_file = environ.pop(VARIABLE, None)
        return cls(address, watchdog_s, alive_file=Path(alive_file) if alive_file else None)

    @property
    def is_listened_to(self) -> bool:
        """Whether a service manager started this process."""
        return self._socket is not None

    def ready(self, status: str) -> None:
        """The agent is ready."""
        self._last_status = _line(status)
        self._send(f"READY=1\nSTATUS={self._last_status}")
        self._write_alive()

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._last_status = _line(text)
        self._send(f"STATUS={self._last_status}")

    def extend_timeout(self, seconds: float, status: str | None = None) -> None:
        """A start or a reload takes longer: extend its limit to ``seconds`` from now."""
        line = ""
        if status is not None:
            self._last_status = _line(status)
            line = f"\nSTATUS={self._last_status}"
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}{line}")
        if self._alive_file is not None:
            self._alive_file.write(seconds, self._last_status)

    def alive(self) -> None:
        """Feed the watchdog: every stage has made progress since the last call."""
        self._send("WATCHDOG=1")
        self._write_alive()

    def stopping(self) -> None:
        """The agent is stopping."""
        self._send("STOPPING=1\nSTATUS=Stopping")

    def close(self) -> None:
        """Close the socket and delete the file; harmless when repeated."""
        if self._alive_file is not None:
            self._alive_file.remove()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> Notifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write_alive(self) -> None:
        if self._alive_file is not None and self.watchdog_s is not None:
            self._alive_file.write(self.watchdog_s, self._last_status)

    def _send(self, state: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.send(state.encode("utf-8"))
        except OSError as exc:
            # The manager restarts, or its queue is full. The next state follows within seconds.
            log.warning("notify.failed", error=str(exc))


def _line(text: str) -> str:
    return " ".join(text.split())
