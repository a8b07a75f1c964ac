"""A thread that keeps what ended it: the one place where the exception of a stage is caught."""

from __future__ import annotations

import threading
from collections.abc import Callable


class StageThread:
    """Runs ``work`` once. An exception that leaves it is kept in ``failure`` for the owner to raise in main.

    ``on_failure`` is called with it, on the stage's own thread. It is a daemon: a library that never comes back must
    not keep the process from ending, and the owner says which one was cut off.
    """

    def __init__(
        self, name: str, work: Callable[[], None], *, on_failure: Callable[[Exception], None] | None = None
    ) -> None:
        self.failure: Exception | None = None
        self._work = work
        self._on_failure = on_failure
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    def start(self) -> None:
        """Start it; once."""
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait for its end; False when it is still at work after ``timeout_s``. True before it was started."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def is_alive(self) -> bool:
        """It was started and has not ended."""
        return self._thread.is_alive()

    def _main(self) -> None:
        try:
            self._work()
        except Exception as exc:  # noqa: BLE001 - top of every stage's thread: recorded, the owner raises it in main
            self.failure = exc
            if self._on_failure is not None:
                self._on_failure(exc)
