"""A time limit for a whole exchange over a connection, whatever its single reads do.

The timeouts of httpx hold for one read each, so a server that sends a byte now and then never meets them.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from agent.cameras.sources.failures import StreamFailed

_STOP_S = 1.0


class TimeLimit:
    """Ends the newest connection when an exchange takes longer than allowed, which wakes the call that waits for it.

    ``cut`` is for any thread; the rest is for the source's. It owns a second descriptor of the connection until
    ``stop``, since TLS takes the first one away while it begins.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._connection: socket.socket | None = None
        self._due: float | None = None
        self._wakes_at: float | None = None
        self._is_over = self._is_cut = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._thread = threading.Thread(target=self._watch, name="http-time-limit", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and give up the connection."""
        thread, self._thread = self._thread, None
        with self._changed:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._is_over, self._due = False, None
            self._changed.notify()
        if thread is not None:
            thread.join(_STOP_S)

    def cut(self) -> None:
        """End the connection, and each further one."""
        with self._changed:
            self._is_cut = True
            self._shut()

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """Learn of a new connection: the extension ``trace`` of a request."""
        if event != "connection.connect_tcp.complete":
            return
        with self._changed:
            if self._connection is not None:
                self._connection.close()
            self._connection = info["return_value"].get_extra_info("socket").dup()
            if self._is_over or self._is_cut:
                self._shut()

    @contextmanager
    def within(self, seconds: float, missing: str) -> Iterator[None]:
        """The body has ``seconds``.

        Raises:
            StreamFailed: it took longer; what the ended connection raised inside is its context.
        """
        self._set(time.monotonic() + seconds)
        try:
            yield
        finally:
            is_over = self._is_over
            self._set(None)
            if is_over:
                raise StreamFailed("timeout", f"{missing} within {seconds:g} s")

    def _set(self, due: float | None) -> None:
        with self._changed:
            self._due, self._is_over = due, False
            if due is not None and (self._wakes_at is None or due < self._wakes_at):
                self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while self._thread is threading.current_thread():
                if self._due is not None and time.monotonic() >= self._due:
                    self._is_over, self._due = True, None
                    self._shut()
                self._wakes_at = self._due
                self._changed.wait(None if self._due is None else self._due - time.monotonic())

    def _shut(self) -> None:
        if self._connection is not None:
            with suppress(OSError):  # the other side has ended it already
                self._connection.shutdown(socket.SHUT_RDWR)
