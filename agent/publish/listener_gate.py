"""Cuts a sink off from its listener, when another sink takes over."""

from __future__ import annotations

import threading

from agent.mqtt.base import SinkListener


class ListenerGate:
    """Passes the calls of one sink to ``listener`` until ``close``; after that it ignores them."""

    def __init__(self, listener: SinkListener) -> None:
        self._listener = listener
        self._lock = threading.Lock()
        """Held during each call, so no call can reach the listener after ``close`` has returned."""
        self._is_open = True

    def close(self) -> None:
        """Ignore this sink from now on."""
        with self._lock:
            self._is_open = False

    def on_connected(self) -> None:
        """See SinkListener."""
        with self._lock:
            if self._is_open:
                self._listener.on_connected()

    def on_disconnected(self, reason: str) -> None:
        """See SinkListener."""
        with self._lock:
            if self._is_open:
                self._listener.on_disconnected(reason)

    def on_confirmed(self, key: int, problem: str | None) -> None:
        """See SinkListener."""
        with self._lock:
            if self._is_open:
                self._listener.on_confirmed(key, problem)

    def on_failed(self, error: BaseException) -> None:
        """See SinkListener."""
        with self._lock:
            if self._is_open:
                self._listener.on_failed(error)
