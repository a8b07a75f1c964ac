"""One image file: read, with what names it in a result, or skipped; and what all sources of image files share."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from agent.cameras.sources.base import Capture
from agent.cameras.sources.images.slow_images import NOTICED_AFTER_S, SlowImages
from agent.cameras.sources.lifecycle import SourceBase
from agent.config.sections.sources import FolderSource, ImageSource, ImagesSource
from agent.runtime.clock import Clock
from agent.runtime.logs import get_logger
from agent.runtime.records import Image, ImageOrigin
from engines import IMAGE_SUFFIXES, ImageRejected, decode_image, has_16_bits, read_image_bytes

log = get_logger(__name__)

_MAX_OF_12_BITS = 16
"""The highest value of 12 bits, 4095, once a file of 16 was scaled to 8; OpenCV rounds for TIFF."""


def read_image_file(path: Path, slow: SlowImages, bits: int | None = None) -> tuple[Image, ImageOrigin]:
    """The image, and its file's name and hash; ``slow`` knows the images that took too long before.

    ``bits``: see ``decode_image``. Without it, an image of 16 bits that is dark enough to be one of 12 is logged.

    Raises:
        ImageRejected: it cannot be read or decoded, or took too long before.
        FileNotFoundError: it has vanished.
    """
    try:
        path.stat()
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise ImageRejected(f"image {path} cannot be read: {exc.strerror or exc}", path=str(path)) from exc
    if slow.is_known(path):
        raise ImageRejected(
            f"{path} took more than {NOTICED_AFTER_S:g} s to decode before, so it is not read again until it changes: "
            "save it as a baseline JPEG or scale it down"
        )
    with slow.reading(path):
        data = read_image_bytes(path)
        image = decode_image(data, name=str(path), bits=bits)
    if bits is None and int(image.max()) <= _MAX_OF_12_BITS and has_16_bits(data):
        # `detail` does not tell one line from another, so a folder of such images gives a line each ten seconds.
        log.warning("image.low_values", folder=sendable(str(path.parent)), detail=sendable(path.name))
    return image, ImageOrigin(sendable(path.name), hashlib.sha256(data).hexdigest())


class ImageFiles(SourceBase):
    """What sources of image files share: the time that one may take, and what happens to one that cannot be read."""

    def __init__(
        self,
        config: FolderSource | ImageSource | ImagesSource,
        *,
        base_dir: Path,
        clock: Clock,
        state_dir: Path | None = None,
        slow: SlowImages | None = None,
    ) -> None:
        """``state_dir`` None forgets at the end of the process which images took too long."""
        super().__init__(f"{config.type} {config.path}", clock=clock)
        self._path = base_dir / config.path
        self._bits = config.bits
        self._slow = slow or SlowImages(self._path, state_dir)

    def is_there(self) -> bool | None:
        """See Source. A path that exists can be opened, or its opening tells more."""
        try:
            self._path.stat()
        except OSError:
            return False
        return True

    def _read_file(self, path: Path) -> Capture:
        """The frame of one file, not counted yet; raises as ``read_image_file``."""
        started_ns, started_utc_ns = self._clock.monotonic_ns(), self._clock.utc_ns()
        image, origin = read_image_file(path, self._slow, self._bits)
        return self._capture(image, started_ns, started_utc_ns, origin)

    def _skip_file(self, path: str, reason: str) -> None:
        """Count and name a file that cannot be read."""
        self.count_skipped("unreadable_image")
        log.warning("image.skipped", path=sendable(path), reason=sendable(reason))


def is_image_name(name: str) -> bool:
    """Whether a file of this name is read: no hidden one, and only the kinds that can be decoded."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 - 5 x faster


def sendable(text: str) -> str:
    """``text`` for logs and messages: bytes of a file name that are not UTF-8 become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
