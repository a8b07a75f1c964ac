"""The contract of a source: what a camera, a stream, a video or a folder of images must do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from agent.runtime.records import Image


@dataclass(frozen=True, slots=True)
class Capture:
    """One picture as a source delivers it.

    ``image`` is ``(H, W, 3)`` uint8 BGR, C-contiguous, a fresh array that belongs to the caller and may be kept; its
    size may differ from the picture before. ``captured_at_ns`` (monotonic) is as close to the exposure as the source
    knows, ``captured_at_utc_ns`` is the same moment for people, and ``capture_ms`` is what passed from then until the
    image was ready. So a live picture does not count the wait for the camera, and one from a file counts all of its
    reading and decoding.
    """

    image: Image
    captured_at_ns: int
    captured_at_utc_ns: int
    capture_ms: float


@dataclass(frozen=True, slots=True)
class SourceStatistics:
    """Counts since the source was made: pictures handed out, and pictures passed over because they were unreadable."""

    delivered: int
    skipped: int


class Source(Protocol):
    """A camera, a stream, a video or a folder of pictures.

    One thread opens, reads and closes a source; only ``interrupt`` and ``statistics`` may be called from another one.
    After ``close`` it may be opened again, which is how a camera comes back after a loss.
    """

    @property
    def is_live(self) -> bool:
        """True: the newest picture wins, older ones may be dropped. False: nothing is dropped, the reader waits."""
        ...

    @property
    def kind(self) -> str:
        """The ``type`` of the configuration: ``file``, ``rtsp`` ..."""
        ...

    @property
    def description(self) -> str:
        """What it reads from, for people; holds no credentials."""
        ...

    @property
    def fps(self) -> float | None:
        """Pictures a second that an opened source announces; None where it does not say."""
        ...

    def open(self) -> None:
        """Get ready to read; harmless on an open source.

        Raises:
            SourceUnavailable: it cannot be opened. ``fields["reason"]`` is one word, ``interrupted`` after
                ``interrupt``.
        """
        ...

    def read(self) -> Capture | None:
        """The next picture; None at the end of a file or folder, now and at every later call. A live one has no end.

        Blocks at most the source's read timeout.

        Raises:
            SourceLost: it stopped delivering; close and open it again. ``fields["reason"]`` is one word: ``stalled``,
                ``ended``, ``truncated`` (a file that ends before its container says), ``interrupted``, ``not_open``.
        """
        ...

    def close(self) -> None:
        """Give everything back; harmless when called twice or before ``open``."""
        ...

    def interrupt(self) -> None:
        """From any thread: make ``open`` and ``read`` raise soon, the running call and every later one, for good.

        Soon is at once where the source waits itself, and at most its timeout where it waits inside a library.
        """
        ...

    def statistics(self) -> SourceStatistics:
        """From any thread: the counts at this moment."""
        ...
