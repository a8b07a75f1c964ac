"""The seam between the agent and whatever delivers pictures, and the choice of the source that a camera asked for."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.config.sources import (
    CsiSource,
    FileSource,
    GStreamerSource,
    ImagesSource,
    PatternSource,
    RtspSource,
    SourceConfig,
    V4l2Source,
)
from agent.runtime.clock import Clock
from agent.runtime.errors import SourceLost, SourceUnavailable
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


def make_source(config: SourceConfig, *, base_dir: Path, clock: Clock) -> Source:
    """The source that ``config`` asks for, not opened yet; relative paths start at ``base_dir``.

    Libraries are imported when the first source that needs them is made.
    """
    if isinstance(config, FileSource):
        from agent.cameras.sources.video_file import VideoFile

        return VideoFile(config, base_dir=base_dir, clock=clock)
    if isinstance(config, ImagesSource):
        from agent.cameras.sources.images import ImageFolder

        return ImageFolder(config, base_dir=base_dir, clock=clock)
    if isinstance(config, (CsiSource, GStreamerSource)) or (
        isinstance(config, (RtspSource, V4l2Source)) and config.reader == "gstreamer"
    ):
        from agent.cameras.sources.gst_camera import GStreamerCamera

        return GStreamerCamera(config, base_dir=base_dir, clock=clock)
    if isinstance(config, RtspSource):
        from agent.cameras.sources.rtsp import RtspStream

        return RtspStream(config, base_dir=base_dir, clock=clock)
    if isinstance(config, PatternSource):
        from agent.cameras.sources.pattern import Pattern

        return Pattern(config, clock=clock)
    from agent.cameras.sources.v4l2 import V4l2Camera

    return V4l2Camera(config, clock=clock)


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one picture of a source told. ``detail`` is one line for people: what came, or what to do."""

    ok: bool
    width: int | None
    height: int | None
    fps: float | None
    detail: str


def probe_source(source: Source, *, deadline_s: float) -> ProbeResult:
    """Open ``source``, read one picture, close it; give up after ``deadline_s`` (plus what its library blocks).

    Never raises for a source that cannot be read.
    """
    timer = threading.Timer(deadline_s, source.interrupt)
    timer.name = "source-probe"
    timer.start()
    try:
        source.open()
        capture = source.read()
        fps = source.fps
    except (SourceUnavailable, SourceLost) as exc:
        late = f"no picture within {deadline_s:g} s from {source.description}"
        detail = late if exc.fields.get("reason") == "interrupted" else exc.message
        return ProbeResult(ok=False, width=None, height=None, fps=None, detail=detail)
    finally:
        timer.cancel()
        timer.join()
        source.close()
    if capture is None:
        return ProbeResult(
            ok=False,
            width=None,
            height=None,
            fps=fps,
            detail=f"{source.description} holds no picture that can be read",
        )
    height, width = capture.image.shape[:2]
    rate = "" if fps is None else f" at {fps:g} fps"
    return ProbeResult(ok=True, width=width, height=height, fps=fps, detail=f"{width}x{height}{rate}")
