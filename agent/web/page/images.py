"""The newest frame of a camera as JPEG, encoded once for all who look at it, and only when somebody asks."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from agent.cameras.jpeg import jpeg_from_image
from agent.mqtt.messages import utc_text
from agent.runtime.records import Frame

WIDTHS = (160, 320, 480, 640, 960, 1280, 1920)
"""What a page may ask for; few, so that viewers share the encoded images."""
_QUALITY = 80
_KEPT = 32


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """A frame as JPEG; ``tag`` names frame and width."""

    tag: str
    content: bytes
    captured_at: str


class Images:
    """Encodes frames. Any thread; two that ask for the same camera wait for one encoding."""

    def __init__(self, newest_frame: Callable[[str], Frame | None]) -> None:
        self._newest_frame = newest_frame
        self._lock = threading.Lock()
        self._encoding: dict[str, threading.Lock] = {}
        """One lock for each camera that was asked for; there are no more than cameras."""
        self._kept: OrderedDict[tuple[str, int], EncodedFrame] = OrderedDict()

    def tag(self, camera: str, width: int) -> str | None:
        """The tag of the newest frame; None before the first. Encodes nothing.

        Raises:
            KeyError: no such camera runs.
        """
        frame = self._newest_frame(camera)
        return None if frame is None else _tag(frame, width)

    def newest(self, camera: str, width: int) -> EncodedFrame | None:
        """The newest frame; None before the first. Takes some milliseconds.

        Raises:
            KeyError: no such camera runs.
        """
        frame = self._newest_frame(camera)
        if frame is None:
            return None
        key, tag = (camera, width), _tag(frame, width)
        with self._lock:
            encoding = self._encoding.setdefault(camera, threading.Lock())
        with encoding:
            with self._lock:
                kept = self._kept.get(key)
            if kept is not None and kept.tag == tag:
                return kept
            content, _, _ = jpeg_from_image(frame.image, max_width=width, quality=_QUALITY)
            return self._keep(key, EncodedFrame(tag, content, utc_text(frame.captured_at_utc_ns)))

    def _keep(self, key: tuple[str, int], encoded: EncodedFrame) -> EncodedFrame:
        with self._lock:
            self._kept[key] = encoded
            self._kept.move_to_end(key)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return encoded


def _tag(frame: Frame, width: int) -> str:
    return f'"{frame.captured_at_utc_ns:x}-{frame.index}-{width}"'
