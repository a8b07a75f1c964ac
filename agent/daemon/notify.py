"""The contract with systemd: a datagram for each change of state. Source: sd_notify(3), systemd.service(5)."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from types import TracebackType

from agent.runtime.logs import get_logger

log = get_logger(__name__)


class Notifier:
    """Sends states to the service manager; does nothing where there is none.

    ``watchdog_s`` is how often the manager wants to hear from us at the latest, None where it does not watch.
    """

    def __init__(self, address: str | None, watchdog_s: float | None = None) -> None:
        self.watchdog_s = watchdog_s
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
        """Take the manager's address out of the environment, so that no child process speaks in our name."""
        environ = os.environ if environ is None else environ
        address = environ.pop("NOTIFY_SOCKET", None)
        usec = environ.pop("WATCHDOG_USEC", None)
        is_for_us = environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watchdog_s = int(usec) / 1e6 if usec is not None and usec.isdigit() and is_for_us and address else None
        return cls(address, watchdog_s)

    @property
    def is_listened_to(self) -> bool:
        """A service manager started this process."""
        return self._socket is not None

    def ready(self, status: str) -> None:
        """The agent works from now on."""
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={_line(text)}")

    def extend_timeout(self, seconds: float, status: str) -> None:
        """Starting takes longer: do not give up for ``seconds`` from now."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}\nSTATUS={_line(status)}")

    def alive(self) -> None:
        """Every stage has made progress since the last call."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """The agent is on its way out."""
        self._send("STOPPING=1\nSTATUS=Stopping")

    def close(self) -> None:
        """Give the socket back; harmless when repeated."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> Notifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, state: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.send(state.encode("utf-8"))
        except OSError as exc:
            # The manager is restarting or its queue is full; the next state follows soon enough.
            log.warning("notify.failed", error=str(exc))


def _line(text: str) -> str:
    return " ".join(text.split())
