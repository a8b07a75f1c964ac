"""Frames from a video file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from agent.cameras.sources.base import Capture
from agent.cameras.sources.failures import Interrupted, StreamFailed
from agent.cameras.sources.ffmpeg import DecodedFrame, Video, open_video
from agent.cameras.sources.lifecycle import SourceBase
from agent.config.sections.sources import FileSource
from agent.runtime.clock import Clock
from agent.runtime.errors import SourceLost, SourceUnavailable

_READ_TIMEOUT_S = 60.0
_MISSING_FRAMES = 2
_MISSING_RATIO = 0.02


class VideoFile(SourceBase):
    """A video file, read on demand; nothing is dropped.

    ``captured_at_ns`` is when the reading of a frame began. With `loop`, the file is opened again at its end, which
    takes a few milliseconds: seeking back is not exact in every container.
    """

    is_live = False
    kind = "file"

    def __init__(self, config: FileSource, *, base_dir: Path, clock: Clock) -> None:
        super().__init__(f"file {config.path}", clock=clock)
        self._config = config
        self._base_dir = base_dir
        self._video: Video | None = None
        self._frames_of_pass = 0
        self._position_s = 0.0
        self._ended = False

    @property
    def fps(self) -> float | None:
        """See Source."""
        return None if self._video is None else self._video.fps

    def open(self) -> None:
        """See Source."""
        self.check_open()
        if self._video is not None:
            return
        path = self._path()
        self._check_file(path)
        try:
            # `file:` because FFmpeg takes what stands before a colon for a protocol; the other option keeps a playlist
            # that lies there as a file from opening addresses.
            options = {"protocol_whitelist": "file"}
            self._video = open_video(f"file:{path}", clock=self._clock, options=options, is_live=False, threads=0)
        except StreamFailed as exc:
            raise self.unavailable(
                "unreadable", f"{path} cannot be opened as a video: {_why_unreadable(path, exc)}"
            ) from exc
        self._frames_of_pass, self._position_s, self._ended = 0, 0.0, False

    def read(self) -> Capture | None:
        """See Source."""
        video = self.opened(self._video)
        if self._ended:
            return None
        started_ns, started_utc_ns = self._clock.monotonic_ns(), self._clock.utc_ns()
        frame = self._next(video)
        if frame is None:
            self._check_complete(video)
            if not self._config.loop:
                self._ended = True
                return None
            video, frame = self._start_again()
        self._frames_of_pass += 1
        self._position_s = video.position_s(frame)
        # Converted here, if it must be: a file drops no frame, and the thread that classifies has enough to do.
        picture = frame.image() if frame.planes is None else frame
        return self._delivered(picture, started_ns, started_utc_ns)

    def close(self) -> None:
        """See Source."""
        if self._video is not None:
            self._video.close()
            self._video = None

    def _next(self, video: Video) -> DecodedFrame | None:
        """The next frame; None at the end of the file, also at an early one."""
        damaged = video.damaged
        try:
            return video.read(_READ_TIMEOUT_S, self.interrupted)
        except Interrupted:
            self.opened(self._video)
            raise
        except StreamFailed as exc:
            if exc.kind == "colours":
                raise self.lost(
                    "colours",
                    f"{self.description} codes its colours by {exc.detail}, but FFmpeg does not convert those. "
                    "Convert it to BT.709",
                ) from exc
            if exc.kind != "undecodable":
                return None
            raise self.lost(
                "damaged", f"{self.description} holds no frame that can be decoded ({exc.detail}). Record it again"
            ) from exc
        finally:
            self.count_skipped("damaged_data", video.damaged - damaged)

    def _check_file(self, path: Path) -> None:
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise self.unavailable(
                "missing", f"there is no file {path}. Relative paths start at {self._base_dir}; correct `path`"
            ) from exc
        except OSError as exc:
            raise self.unavailable(
                "permission",
                f"{path} cannot be reached ({exc.strerror}) by the agent's user (uid {os.geteuid()}). Give that user "
                "execute permission on every folder of the path, or correct `path`",
            ) from exc
        if not stat.S_ISREG(mode):
            raise self.unavailable(
                "not_a_file",
                f"{path} is not a file, but `type: file` reads one video. For a folder use `type: images`",
            )

    def _path(self) -> Path:
        if self._config.path == "demo":
            from agent.demo import demo_clip

            return demo_clip()
        return self._base_dir / self._config.path

    def _start_again(self) -> tuple[Video, DecodedFrame]:
        """Open the file again and read its first frame."""
        self.close()
        try:
            self.open()
        except SourceUnavailable as exc:
            raise self.lost("missing", f"{self.description} cannot loop: {exc.message}") from exc
        video = self.opened(self._video)
        frame = self._next(video)
        if frame is None:
            raise self._truncated(0, video.frame_count)
        return video, frame

    def _check_complete(self, video: Video) -> None:
        """Check that the file did not end early.

        Raises:
            SourceLost: the container announces more frames than came.
        """
        frames = self._frames_of_pass
        if not frames:
            raise self._truncated(0, video.frame_count)
        announced, fps = video.frame_count, video.fps
        if announced is None or fps is None:
            return
        # Both the count and the time must be short: a file with a variable rate has fewer frames than duration x rate.
        tolerated = max(_MISSING_FRAMES, announced * _MISSING_RATIO)
        missing_s = (announced - 1) / fps - self._position_s
        if announced - frames > tolerated and missing_s > tolerated / fps:
            raise self._truncated(frames, announced)

    def _truncated(self, frames: int, announced: int | None) -> SourceLost:
        container = "announces no number" if announced is None else f"announces {announced}"
        return self.lost(
            "truncated",
            f"{self.description} ended after {frames} frames, but its container {container}: the file is truncated or "
            "damaged. Copy or record it again",
            frames=frames,
            announced=announced,
        )


def _why_unreadable(path: Path, failure: StreamFailed) -> str:
    """The likely cause by the file's size and first bytes, and the remedy."""
    try:
        with path.open("rb") as stream:
            start, size = stream.read(8), path.stat().st_size
    except OSError as exc:
        return f"it cannot be read ({exc.strerror}). Give the agent's user (uid {os.geteuid()}) read permission"
    if size == 0:
        return "it is empty (0 bytes). Copy or record it again"
    if start[4:] == b"ftyp" and failure.detail.startswith("moov atom not found"):
        # Source: ISO/IEC 14496-12, 4.3. FFmpeg takes a file for an MP4 by its name too.
        return (
            f"it is an MP4 without its index ({failure.detail}): the recording was cut off. Record it again, or "
            "repair it with a complete recording of the same camera"
        )
    if failure.kind == "codec":
        return f"{failure.detail}. Convert it to MP4 with H.264"
    return (
        f"FFmpeg finds no video in its {size} bytes ({failure.detail}). If it is a video, convert it to MP4 with H.264"
    )
