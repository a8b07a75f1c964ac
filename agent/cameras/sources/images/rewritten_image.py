"""One image file that another program writes again and again."""

from __future__ import annotations

import stat
import time
from pathlib import Path

from agent.cameras.sources.base import Capture
from agent.cameras.sources.images.image_file import ImageFiles, sendable
from agent.config.sections.sources import ImageSource
from agent.runtime.clock import Clock
from agent.runtime.records import ImageOrigin
from engines import ImageRejected


class RewrittenImage(ImageFiles):
    """A live image: each new content is a frame, and an unchanged one is none.

    Looked at every ``poll_s``. A file that does not decode is being written: it is read again at the next look, and
    counts as skipped if it stays so for ``settle_s``. ``captured_at_ns`` is when the reading began.
    """

    is_live = True
    kind = "image"

    def __init__(self, config: ImageSource, *, base_dir: Path, clock: Clock, state_dir: Path | None = None) -> None:
        super().__init__(config, base_dir=base_dir, clock=clock, state_dir=state_dir)
        self._config = config
        self._is_open = False
        self._delivered_origin: ImageOrigin | None = None
        self._looked_at: tuple[int, int, int] | None = None

    def open(self) -> None:
        """See Source."""
        self.check_open()
        try:
            mode = self._path.stat().st_mode
        except OSError as exc:
            raise self.unavailable(
                "missing", f"there is no image {self._path} ({exc.strerror}). Correct `path`, or start what writes it"
            ) from exc
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
            raise self.unavailable(
                "no_file",
                f"{self._path} must be an image file, but it is {what}. Correct `path`; for images in a folder take "
                "`type: folder`, for a device `type: v4l2`",
            )
        # The image is the first frame of each connection, changed or not.
        self._slow.start()
        self._is_open, self._delivered_origin, self._looked_at = True, None, None

    def read(self) -> Capture | None:
        """See Source. ``stalled`` is a file that did not change for ``read_timeout_s``, ``damaged`` one that is no
        image."""
        began, refusal = time.monotonic(), ""
        while True:
            self.opened(self._is_open or None)
            try:
                capture = self._look()
                refusal = ""
            except (ImageRejected, OSError) as exc:
                capture, refusal = None, sendable(str(exc))
            if capture is not None:
                return capture
            if refusal and time.monotonic() - began > self._config.settle_s:
                self.count_skipped("unreadable_image")
                raise self.lost("damaged", f"{self.description} is no whole image: {refusal}")
            if time.monotonic() - began > self._config.read_timeout_s:
                raise self.lost(
                    "stalled",
                    f"{self.description} has not changed for {self._config.read_timeout_s:g} s, which is its "
                    "`read_timeout_s`. Check the program that writes it, or raise that limit",
                )
            self.interrupted.wait(self._config.poll_s)

    def close(self) -> None:
        """See Source."""
        self._slow.stop()
        self._is_open = False

    def _look(self) -> Capture | None:
        """The image if its content is new."""
        status = self._path.stat()
        version = (status.st_mtime_ns, status.st_size, status.st_ino)
        if version == self._looked_at:
            return None
        capture = self._read_file(self._path)
        self._looked_at = version
        if capture.origin == self._delivered_origin:
            return None
        self._delivered_origin = capture.origin
        self.count_delivered()
        return capture
