"""The head start of a camera: its source is opened while the engines still load.

A network camera takes a second or more to open, an engine as long to load; one after the other, the first result waits
for both. No frame, error or state leaves the camera before ``begin``.
"""

from __future__ import annotations

import threading

from agent.cameras.sources.base import Capture, Source
from agent.runtime.clock import Clock
from agent.runtime.errors import SourceLost, SourceUnavailable
from agent.runtime.heartbeat import Heartbeat

EARLY_S = 5.0
"""How long a live source stays open before ``begin``: it is decoded for nothing, and a build takes minutes."""


_OPEN_DEADLINE_S = 150.0
"""More than the maximum of `open_timeout_s` and `read_timeout_s` together (60 s each): later, the library is stuck."""


class HeadStart:
    """``open`` and ``take`` are for the camera's thread, ``begin`` for any."""

    def __init__(self, source: Source, heartbeat: Heartbeat, *, clock: Clock) -> None:
        self._source = source
        self._heartbeat = heartbeat
        self._clock = clock
        self._has_begun = threading.Event()
        self._first: Capture | None = None

    def begin(self) -> None:
        """The camera may deliver frames, or end."""
        self._has_begun.set()

    def open(self) -> None:
        """Open the source, and wait for ``begin``.

        A live source is read meanwhile, or its first frames would be old; one that had to wait too long is closed, and
        opened again at ``begin``. One that fails raises then: it is not asked twice.

        Raises:
            SourceUnavailable, SourceLost: see Source.
        """
        self._heartbeat.beat(_OPEN_DEADLINE_S)
        try:
            self._source.open()
            if self._has_begun.is_set() or self._stays_open():
                return
        except (SourceUnavailable, SourceLost):
            if not self._has_begun.is_set():
                self._source.close()
                self._wait()
            raise
        self._source.close()
        self._wait()
        self._heartbeat.beat(_OPEN_DEADLINE_S)
        self._source.open()

    def take(self) -> Capture | None:
        """The frame that was being read at ``begin``, once."""
        first, self._first = self._first, None
        return first

    def _stays_open(self) -> bool:
        if not self._source.is_live:
            self._wait()
            return True
        until_ns = self._clock.monotonic_ns() + round(EARLY_S * 1e9)
        while self._clock.monotonic_ns() < until_ns:
            capture = self._source.read()
            if self._has_begun.is_set():
                self._first = capture
                return True
        return False

    def _wait(self) -> None:
        self._heartbeat.rest()
        self._has_begun.wait()
