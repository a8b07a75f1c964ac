"""Frames from a folder of images, or from one image."""

from __future__ import annotations

import stat
from collections import deque
from pathlib import Path

from agent.cameras.sources.base import Capture
from agent.cameras.sources.images.image_file import ImageFiles, is_image_name, sendable
from agent.cameras.sources.images.slow_images import SlowImages
from agent.config.sections.sources import ImagesSource
from agent.runtime.clock import Clock
from agent.runtime.errors import SourceUnavailable
from engines import IMAGE_SUFFIXES, ImageRejected


class ImageFolder(ImageFiles):
    """The images of a folder in the order of their names, without subfolders; nothing is dropped.

    Unreadable images are skipped, counted and logged. ``captured_at_ns`` is when the reading of an image began. With
    `loop`, the folder is listed again for each pass.
    """

    is_live = False
    kind = "images"

    def __init__(
        self,
        config: ImagesSource,
        *,
        base_dir: Path,
        clock: Clock,
        state_dir: Path | None = None,
        slow: SlowImages | None = None,
    ) -> None:
        super().__init__(config, base_dir=base_dir, clock=clock, state_dir=state_dir, slow=slow)
        self._config = config
        self._waiting: deque[Path] | None = None
        self._has_delivered = False
        self._last_refusal = ""

    @property
    def has_end(self) -> bool:
        """See Source. One that loops waits for images, also if there are none for a while."""
        return not self._config.loop

    def open(self) -> None:
        """See Source."""
        self.check_open()
        if self._waiting is None:
            self._waiting = self._list()
            self._slow.start()
            self._has_delivered = False

    def read(self) -> Capture | None:
        """See Source. A further ``reason`` is ``unreadable``: no image of a whole pass could be read."""
        while True:
            waiting = self.opened(self._waiting)
            if not waiting:
                if not self._has_delivered:
                    raise self.lost(
                        "unreadable",
                        f"{self.description}: no image can be read; the last error: {self._last_refusal}",
                    )
                if not self._config.loop:
                    return None
                self._start_again()
                continue
            capture = self._read_image(waiting.popleft())
            if capture is not None:
                return capture

    def close(self) -> None:
        """See Source."""
        self._waiting = None
        self._slow.stop()

    def _read_image(self, path: Path) -> Capture | None:
        try:
            capture = self._read_file(path)
        except (ImageRejected, FileNotFoundError) as exc:
            self._last_refusal = sendable(str(exc))
            self._skip_file(str(path), self._last_refusal)
            return None
        self._has_delivered = True
        self.count_delivered()
        return capture

    def _start_again(self) -> None:
        self._has_delivered = False
        try:
            self._waiting = self._list()
        except SourceUnavailable as exc:
            raise self.lost("missing", f"{self.description} cannot loop: {exc.message}") from exc

    def _list(self) -> deque[Path]:
        path = self._path
        try:
            if path.is_file():
                return deque([path])
            found = sorted(path.iterdir(), key=lambda entry: entry.name)
            images = deque(entry for entry in found if _is_image(entry))
        except OSError as exc:
            raise self.unavailable(
                "missing", f"the folder or image {path} cannot be read ({exc.strerror}). Correct `path`"
            ) from exc
        if not images:
            kinds = " ".join(sorted(IMAGE_SUFFIXES))
            raise self.unavailable(
                "empty", f"the folder {path} has {len(found)} entries but no image ({kinds}). Correct `path`"
            )
        return images


def _is_image(path: Path) -> bool:
    if not is_image_name(path.name):
        return False
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return False
    except OSError:  # a loop of links, or one to a place without permission: reading it names the reason
        return True
