"""The contract of a source: a camera, a stream, a video or a folder of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from agent.runtime.records import Image, ImageOrigin, LazyImage, image_of


@dataclass(frozen=True, slots=True)
class Capture:
    """One frame as a source delivers it.

    ``image`` is ``(H, W, 3)`` uint8 BGR, C-contiguous, a new array that belongs to the caller; its size may differ
    from frame to frame. ``picture`` is that image, or a decoded frame that becomes it at the first use: a live source
    does not convert frames that nobody needs. ``captured_at_ns`` (monotonic) is as close to the exposure as the source
    knows, ``captured_at_utc_ns`` is the same moment in UTC, and ``capture_ms`` is the time from then until the picture
    was ready. For a live source that excludes the wait for the camera; for a file it is all of the reading and
    decoding. ``origin`` is the file of an image. ``not_before_ns`` (monotonic) is a time that the capture certainly
    does not precede, for a source whose ``captured_at_ns`` is when an image was complete: None if it is that.
    """

    picture: Image | LazyImage
    captured_at_ns: int
    captured_at_utc_ns: int
    capture_ms: float
    origin: ImageOrigin | None = None
    not_before_ns: int | None = None

    @property
    def earliest_ns(self) -> int:
        """The monotonic time that the capture certainly does not precede, as far as the source knows."""
        return self.captured_at_ns if self.not_before_ns is None else self.not_before_ns

    @property
    def image(self) -> Image:
        """The picture's image."""
        return image_of(self.picture)


@dataclass(frozen=True, slots=True)
class SourceStatistics:
    """Counts since the source was created: frames delivered, and unreadable ones skipped, which are no frames."""

    delivered: int
    skipped: int
    skipped_by_reason: Mapping[str, int] = field(default_factory=dict)


class Source(Protocol):
    """A camera, a stream, a video or a folder of images.

    One thread opens, reads and closes a source; only ``interrupt`` and ``statistics`` are for other threads, too.
    A closed source can be opened again: that is how a camera reconnects.
    """

    wanted_hz: float | None
    """How many frames per second will be classified, None if all; the camera sets it, and a source may decode less."""

    @property
    def is_live(self) -> bool:
        """True: the newest frame wins, older ones may be dropped. False: nothing is dropped, the reader waits."""
        ...

    @property
    def has_end(self) -> bool:
        """True: a file or folder that is read once; its end, and any loss, ends the camera."""
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
        """Frame rate that an open source announces; None if it announces none. It may change while it is open."""
        ...

    def open(self) -> None:
        """Get ready to read; does nothing on an open source.

        Raises:
            SourceUnavailable: it cannot be opened. ``fields["reason"]`` is one word, ``interrupted`` after
                ``interrupt``.
        """
        ...

    def read(self) -> Capture | None:
        """The next frame. None at the end of a source that has one, and on every call after it.

        Blocks for at most the source's read timeout. A watched folder returns None if no file came meanwhile.

        Raises:
            SourceLost: it stopped delivering; close and open it again. ``fields["reason"]`` is one word: ``stalled``,
                ``ended``, ``truncated`` (fewer frames than the container announces), ``interrupted``, ``not_open``.
        """
        ...

    def is_there(self) -> bool | None:
        """Whether a closed source could be opened now, asked without opening it: a device that is plugged in, a server
        that accepts a connection. None if only an opening tells.

        Takes a second, or as long as the lookup of a name; False after ``interrupt``.
        """
        ...

    def close(self) -> None:
        """Release everything; may be called twice, and before ``open``."""
        ...

    def interrupt(self) -> None:
        """From any thread: make the running call of ``open`` or ``read`` raise, and every later one.

        A call that waits inside a library may take until its timeout, five seconds at most unless a driver or a
        network drive blocks it; every other call raises at once.
        """
        ...

    def statistics(self) -> SourceStatistics:
        """The current counts. From any thread."""
        ...


@runtime_checkable
class FetchingSource(Protocol):
    """A source that fetches image after image, and can fetch one at once."""

    def fetch_now(self) -> None:
        """From any thread: fetch an image now, and deliver it even if it has not changed."""
        ...
