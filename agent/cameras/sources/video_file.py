"""Frames from a video file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from agent.cameras.sources.base import Capture
from agent.cameras.sources.decoded import DecodedSource
from agent.cameras.sources.decoder import Decoder, open_decoder, option_gate
from agent.config.sources import FileSource
from agent.runtime.clock import Clock
from agent.runtime.errors import SourceLost, SourceUnavailable

_GATE_TIMEOUT_S = 60.0
_MISSING_FRAMES = 2
_MISSING_RATIO = 0.02
_MAX_BOXES = 64
_ADVICE = "Convert the file to 8 bit H.264"


class VideoFile(DecodedSource):
    """A video file, read on demand; nothing is dropped.

    ``captured_at_ns`` is when the reading of a frame began. With `loop`, the file is opened again at its end, which
    takes a few milliseconds: seeking back is not exact in every container.
    """

    is_live = False
    kind = "file"

    def __init__(self, config: FileSource, *, base_dir: Path, clock: Clock) -> None:
        super().__init__(f"file {config.path}", clock=clock, advice=_ADVICE)
        self._config = config
        self._base_dir = base_dir
        self._frames_of_pass = 0
        self._position_ms = 0.0
        self._ended = False

    def read(self) -> Capture | None:
        """See Source."""
        decoder = self._lifecycle.opened(self._decoder)
        if self._ended:
            return None
        started_ns, started_utc_ns = self._clock.monotonic_ns(), self._clock.utc_ns()
        if not decoder.grab():
            self._check_complete(decoder)
            if not self._config.loop:
                self._ended = True
                return None
            decoder = self._start_again()
        self._frames_of_pass += 1
        self._position_ms = decoder.position_ms
        return self._delivered(self._retrieve(decoder), started_ns, started_utc_ns)

    def _open_decoder(self) -> Decoder:
        path = self._path()
        lifecycle = self._lifecycle
        self._check_file(path)
        # Files use the gate too: FFmpeg reads the environment variable here, while a stream may change it.
        with option_gate.holding(None, timeout_s=_GATE_TIMEOUT_S, interrupted=lifecycle.interrupted) as entered:
            decoder = open_decoder(str(path), backend="ffmpeg", properties={}) if entered else None
        if decoder is None:
            lifecycle.check_open()
            raise lifecycle.unavailable("unreadable", f"{path} cannot be opened as a video: {_why_unreadable(path)}")
        self._frames_of_pass, self._position_ms, self._ended = 0, 0.0, False
        return decoder

    def _check_file(self, path: Path) -> None:
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise self._lifecycle.unavailable(
                "missing", f"there is no file {path}. Relative paths start at {self._base_dir}; correct `path`"
            ) from exc
        except OSError as exc:
            raise self._lifecycle.unavailable(
                "permission",
                f"{path} cannot be reached ({exc.strerror}) by the agent's user (uid {os.geteuid()}). Give that user "
                "execute permission on every folder of the path, or correct `path`",
            ) from exc
        if not stat.S_ISREG(mode):
            raise self._lifecycle.unavailable(
                "not_a_file",
                f"{path} is not a file, but `type: file` reads one video. For a folder use `type: images`",
            )

    def _path(self) -> Path:
        if self._config.path == "demo":
            from agent.demo import demo_clip

            return demo_clip()
        return self._base_dir / self._config.path

    def _start_again(self) -> Decoder:
        """Open the file again and grab its first frame."""
        self.close()
        try:
            self.open()
        except SourceUnavailable as exc:
            raise self._lifecycle.lost("missing", f"{self.description} cannot loop: {exc.message}") from exc
        decoder = self._lifecycle.opened(self._decoder)
        if not decoder.grab():
            raise self._truncated(0, decoder.frame_count)
        return decoder

    def _check_complete(self, decoder: Decoder) -> None:
        """Check that the file did not end early.

        Raises:
            SourceLost: the container announces more frames than came.
        """
        frames = self._frames_of_pass
        if not frames:
            raise self._truncated(0, decoder.frame_count)
        announced, fps = decoder.frame_count, decoder.fps
        if announced is None or fps is None:
            return
        # Both the count and the time must be short: a file with a variable rate has fewer frames than duration x rate.
        tolerated = max(_MISSING_FRAMES, announced * _MISSING_RATIO)
        missing_ms = (announced - 1) * 1000.0 / fps - self._position_ms
        if announced - frames > tolerated and missing_ms > tolerated * 1000.0 / fps:
            raise self._truncated(frames, announced)

    def _truncated(self, frames: int, announced: int | None) -> SourceLost:
        container = "announces no number" if announced is None else f"announces {announced}"
        return self._lifecycle.lost(
            "truncated",
            f"{self.description} ended after {frames} frames, but its container {container}: the file is truncated or "
            "damaged. Copy or record it again",
            frames=frames,
            announced=announced,
        )


def _why_unreadable(path: Path) -> str:
    """The likely cause by the file's size and first bytes, and the remedy."""
    try:
        size, boxes = path.stat().st_size, _mp4_boxes(path)
    except OSError as exc:
        return f"it cannot be read ({exc.strerror}). Give the agent's user (uid {os.geteuid()}) read permission"
    if size == 0:
        return "it is empty (0 bytes). Copy or record it again"
    if boxes and "moov" not in boxes:
        return (
            f"it is an MP4 without its index (boxes {', '.join(boxes)}, no moov): the recording was cut off. Record "
            "it again, or repair it with a complete recording of the same camera"
        )
    return f"FFmpeg finds no video in its {size} bytes. If it is a video, convert it to MP4 with H.264"


def _mp4_boxes(path: Path) -> list[str]:
    """Types of the top-level boxes; empty if the file is not an MP4. Source: ISO/IEC 14496-12, 4.2."""
    boxes: list[str] = []
    size = path.stat().st_size
    with path.open("rb") as stream:
        place = 0
        while place + 8 <= size and len(boxes) < _MAX_BOXES:
            stream.seek(place)
            header = stream.read(16)
            length = int.from_bytes(header[:4], "big")
            if length == 1:  # a 64-bit size follows the type
                length = int.from_bytes(header[8:16], "big")
            boxes.append(header[4:8].decode("ascii", "replace"))
            if length < 8:
                break
            place += length
    return boxes if boxes and boxes[0] == "ftyp" else []
