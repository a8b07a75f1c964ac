"""The contract of a source: a camera, a stream, a video or a folder of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from agent.runtime.records import Image


@dataclass(frozen=True, slots=True)
class Capture:
    """One frame as a source delivers it.

    ``image`` is ``(H, W, 3)`` uint8 BGR, C-contiguous, a new array that belongs to the caller; its size may differ
    from frame to frame. ``captured_at_ns`` (monotonic) is as close to the exposure as the source knows,
    ``captured_at_utc_ns`` is the same moment in UTC, and ``capture_ms`` is the time from then until the image was
    ready. For a live source that excludes the wait for the camera; for a file it is all of the reading and decoding.
    """

    image: Image
    captured_at_ns: int
    captured_at_utc_ns: int
    capture_ms: float


@dataclass(frozen=True, slots=True)
class SourceStatistics:
    """Counts since the source was created: frames delivered, and unreadable frames skipped."""

    delivered: int
    skipped: int


class Source(Protocol):
    """A camera, a stream, a video or a folder of images.

    One thread opens, reads and closes a source; only ``interrupt`` and ``statistics`` are for other threads, too.
    A closed source can be opened again: that is how a camera reconnects.
    """

    @property
    def is_live(self) -> bool:
        """True: the newest frame wins, older ones may be dropped. False: nothing is dropped, the reader waits."""
        ...

    @property
    def kind(self) -> str:
        """The ``type`` of the configuration: ``file``, ``rtsp`` ..."""
        ...

    @property
    def description(self) -> str:
        """What it reads from, for messages; holds no credentials."""
        ...

    @property
    def fps(self) -> float | None:
        """Frame rate that an open source announces; None if it announces none."""
        ...

    def open(self) -> None:
        """Get ready to read; does nothing on an open source.

        Raises:
            SourceUnavailable: it cannot be opened. ``fields["reason"]`` is one word, ``interrupted`` after
                ``interrupt``.
        """
        ...

    def read(self) -> Capture | None:
        """The next frame; None at the end of a file or folder, and on every call after it. Live sources have no end.

        Blocks for at most the source's read timeout.

        Raises:
            SourceLost: it stopped delivering; close and open it again. ``fields["reason"]`` is one word: ``stalled``,
                ``ended``, ``truncated`` (fewer frames than the container announces), ``interrupted``, ``not_open``.
        """
        ...

    def close(self) -> None:
        """Release everything; may be called twice, and before ``open``."""
        ...

    def interrupt(self) -> None:
        """From any thread: make the running call of ``open`` or ``read`` raise, and every later one.

        A call that waits inside a library may take until its timeout; every other call raises at once.
        """
        ...

    def statistics(self) -> SourceStatistics:
        """The current counts. From any thread."""
        ...
