"""Creates the source that a camera's configuration asks for, and probes one."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from agent.cameras.sources.base import Source
from agent.config.sections.sources import (
    CsiSource,
    FileSource,
    FolderSource,
    GStreamerSource,
    HttpSource,
    ImageSource,
    ImagesSource,
    PatternSource,
    RtspSource,
    SourceConfig,
    StreamSource,
    V4l2Source,
)
from agent.config.state_dir import resolved_path
from agent.runtime.clock import Clock
from agent.runtime.errors import SourceLost, SourceUnavailable

_PATHS = ("path", "move_to", "password_file", "ca_file")
"""The keys of sources that name a file or a folder."""


def make_source(config: SourceConfig, *, base_dir: Path, clock: Clock, state_dir: Path | None = None) -> Source:
    """The source of ``config``, not opened yet; relative paths start at ``base_dir``.

    ``state_dir`` is where a source keeps what it must know after a restart; None forgets it with the process.
    Libraries are imported with the first source that needs them.

    Raises:
        ConfigError: a path begins with ``~/``, and there is no home directory.
    """
    config = _with_home(config, base_dir)
    if isinstance(config, FileSource):
        from agent.cameras.sources.video_file import VideoFile

        return VideoFile(config, base_dir=base_dir, clock=clock)
    if isinstance(config, ImagesSource):
        from agent.cameras.sources.images.all_images import ImageFolder

        return ImageFolder(config, base_dir=base_dir, clock=clock, state_dir=state_dir)
    if isinstance(config, FolderSource):
        from agent.cameras.sources.images.folder import WatchedFolder

        return WatchedFolder(config, base_dir=base_dir, clock=clock, state_dir=state_dir)
    if isinstance(config, ImageSource):
        from agent.cameras.sources.images.rewritten_image import RewrittenImage

        return RewrittenImage(config, base_dir=base_dir, clock=clock, state_dir=state_dir)
    if (
        isinstance(config, (CsiSource, GStreamerSource))
        or (isinstance(config, (RtspSource, V4l2Source)) and config.reader == "gstreamer")
        or (isinstance(config, StreamSource) and config.url.startswith("srt://"))  # not in the FFmpeg of PyAV's wheels
    ):
        from agent.cameras.sources.gstreamer.camera import GStreamerCamera

        return GStreamerCamera(config, base_dir=base_dir, clock=clock)
    if isinstance(config, (RtspSource, StreamSource)):
        from agent.cameras.sources.network_stream import NetworkStream

        return NetworkStream(config, base_dir=base_dir, clock=clock)
    if isinstance(config, HttpSource):
        from agent.cameras.sources.http.camera import HttpCamera

        return HttpCamera(config, base_dir=base_dir, clock=clock)
    if isinstance(config, PatternSource):
        from agent.cameras.sources.pattern import Pattern

        return Pattern(config, clock=clock)
    from agent.cameras.sources.v4l2.camera import V4l2Camera

    return V4l2Camera(config, clock=clock)


def _with_home(config: SourceConfig, base_dir: Path) -> SourceConfig:
    """``config`` with the home directory instead of each ``~/``: sources only add ``base_dir``."""
    values = {key: getattr(config, key, None) for key in _PATHS}
    found = {key: value for key, value in values.items() if isinstance(value, str) and value.startswith("~/")}
    return config.model_copy(update={key: str(resolved_path(value, base_dir)) for key, value in found.items()})


def for_probe(config: SourceConfig, deadline_s: float) -> SourceConfig:
    """``config`` to read one frame from: it opens within ``deadline_s``, so its error names what was missing, and a
    watched folder keeps its images."""
    if isinstance(config, FolderSource):
        return config.model_copy(update={"after": "keep", "move_to": None, "existing": "process"})
    timeout_s = getattr(config, "open_timeout_s", 0.0)
    return config.model_copy(update={"open_timeout_s": deadline_s}) if timeout_s > deadline_s else config


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The result of reading one frame. ``detail`` is one line for people: size and rate, or the error."""

    ok: bool
    width: int | None
    height: int | None
    fps: float | None
    detail: str


def probe_source(source: Source, *, deadline_s: float) -> ProbeResult:
    """Open ``source``, read one frame, close it; give up after ``deadline_s`` (longer if a driver blocks).

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
        late = f"no frame within {deadline_s:g} s from {source.description}"
        detail = late if exc.fields.get("reason") == "interrupted" else exc.message
        return ProbeResult(ok=False, width=None, height=None, fps=None, detail=detail)
    finally:
        timer.cancel()
        timer.join()
        source.close()
    if capture is None:
        is_waiting = not source.has_end and source.statistics().skipped == 0
        return ProbeResult(
            ok=is_waiting,
            width=None,
            height=None,
            fps=fps,
            detail="no image is there yet" if is_waiting else f"{source.description} holds no image that can be read",
        )
    height, width = capture.image.shape[:2]
    rate = "" if fps is None else f" at {fps:g} fps"
    return ProbeResult(ok=True, width=width, height=height, fps=fps, detail=f"{width}x{height}{rate}")
