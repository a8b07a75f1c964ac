"""Who listens to sinks beside the publisher's own thread."""

from __future__ import annotations

import threading

from agent.mqtt.base import SinkListener


class Ear:
    """Listens to one sink for ``listener``, until ``close``: after it nothing of that sink reaches the listener."""

    def __init__(self, listener: SinkListener) -> None:
        self._listener = listener
        self._lock = threading.Lock()
        """Held while the listener is told, or a word could come in just behind ``close``."""
        self._is_open = True

    def close(self) -> None:
        """That sink has been left."""
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


class Deaf:
    """Listens to a mirror, whose fate concerns nobody."""

    def on_connected(self) -> None:
        """See SinkListener."""

    def on_disconnected(self, reason: str) -> None:
        """See SinkListener."""

    def on_confirmed(self, key: int, problem: str | None) -> None:
        """See SinkListener."""

    def on_failed(self, error: BaseException) -> None:
        """See SinkListener."""
