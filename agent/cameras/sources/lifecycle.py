"""Shared by all sources: counts, interruption from another thread, and errors that name the source."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TypeVar

from agent.cameras.sources.base import Capture, SourceStatistics
from agent.runtime.clock import Clock
from agent.runtime.errors import SourceLost, SourceUnavailable
from agent.runtime.records import Image, ImageOrigin, LazyImage

T = TypeVar("T")


class Lifecycle:
    """Counts and interruption of one source.

    The source's own thread calls everything; ``interrupt`` and ``statistics`` may be called from any thread.
    """

    def __init__(self, description: str) -> None:
        self.description = description
        self.interrupted = threading.Event()
        self._frames = 0
        self._skipped: Counter[str] = Counter()

    def interrupt(self) -> None:
        """See Source."""
        self.interrupted.set()

    def statistics(self) -> SourceStatistics:
        """See Source."""
        skipped = dict(self._skipped)
        return SourceStatistics(delivered=self._frames, skipped=sum(skipped.values()), skipped_by_reason=skipped)

    def count_delivered(self) -> None:
        """One more frame delivered."""
        self._frames += 1

    def count_skipped(self, reason: str, count: int = 1) -> None:
        """So many more unreadable frames skipped."""
        if count:
            self._skipped[reason] += count

    def check_open(self) -> None:
        """Refuse to open a source that was interrupted.

        Raises:
            SourceUnavailable: it was interrupted.
        """
        if self.interrupted.is_set():
            raise self.unavailable("interrupted", f"opening {self.description} was interrupted: it is being stopped")

    def opened(self, handle: T | None) -> T:
        """``handle``, the object that an open source reads from.

        Raises:
            SourceLost: the source was interrupted, or is not open.
        """
        if self.interrupted.is_set():
            raise self.lost("interrupted", f"reading {self.description} was interrupted: it is being stopped")
        if handle is None:
            raise self.lost("not_open", f"{self.description} is not open: open it before reading")
        return handle

    def unavailable(self, reason: str, message: str, **fields: object) -> SourceUnavailable:
        """The error of a source that cannot be opened."""
        return SourceUnavailable(message, reason=reason, source=self.description, **fields)

    def lost(self, reason: str, message: str, **fields: object) -> SourceLost:
        """The error of a source that stopped delivering."""
        return SourceLost(message, reason=reason, source=self.description, **fields)


class SourceBase(Lifecycle):
    """The part of Source that all sources share; each kind adds how it opens, reads and closes."""

    is_live: bool

    def __init__(self, description: str, *, clock: Clock) -> None:
        super().__init__(description)
        self.wanted_hz: float | None = None
        self._clock = clock

    @property
    def has_end(self) -> bool:
        """See Source."""
        return not self.is_live

    @property
    def fps(self) -> float | None:
        """See Source."""
        return None

    def is_there(self) -> bool | None:
        """See Source."""
        return None

    def _delivered(self, picture: Image | LazyImage, captured_at_ns: int, captured_at_utc_ns: int) -> Capture:
        """Count ``picture`` and wrap it, ready at this moment."""
        self.count_delivered()
        return self._capture(picture, captured_at_ns, captured_at_utc_ns)

    def _capture(
        self,
        picture: Image | LazyImage,
        captured_at_ns: int,
        captured_at_utc_ns: int,
        origin: ImageOrigin | None = None,
    ) -> Capture:
        """``picture`` as a frame, ready at this moment."""
        capture_ms = (self._clock.monotonic_ns() - captured_at_ns) / 1e6
        return Capture(picture, captured_at_ns, captured_at_utc_ns, capture_ms, origin)
