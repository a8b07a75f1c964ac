"""Who listens to sinks beside the publisher's own thread."""

from __future__ import annotations

from agent.publish.base import SinkListener


class Ear:
    """Listens to one sink for ``listener``, as long as that sink ``is_open``: the one in use."""

    def __init__(self, listener: SinkListener) -> None:
        self._listener = listener
        self.is_open = True

    def on_connected(self) -> None:
        """See SinkListener."""
        if self.is_open:
            self._listener.on_connected()

    def on_disconnected(self, reason: str) -> None:
        """See SinkListener."""
        if self.is_open:
            self._listener.on_disconnected(reason)

    def on_confirmed(self, key: int, problem: str | None) -> None:
        """See SinkListener."""
        if self.is_open:
            self._listener.on_confirmed(key, problem)

    def on_failed(self, error: BaseException) -> None:
        """See SinkListener."""
        if self.is_open:
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
