"""The boundary to OpenCV's VideoCapture for V4L2 cameras, and to arrays of other libraries.

OpenCV writes to stderr on its own, up to once per frame. So it is silenced before its first use; OPENCV_LOG_LEVEL, set
in the environment, takes precedence (for debugging).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np

from agent.runtime.records import Image

OpenCapture = Callable[[str, int, "list[int]"], Any]
"""Makes an object with the methods of ``cv2.VideoCapture`` from a name, a backend and pairs of property and value."""

_MAX_FPS = 1000.0
_SILENT = 0


def _silence_libraries() -> None:
    # Seconds that OpenCV's V4L2 backend waits for a frame in one call; read once per process, default 10.
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "1")
    if "OPENCV_LOG_LEVEL" not in os.environ:
        # OpenCV read the variable when cv2 was imported, so setting it now would do nothing.
        # The setter moved between OpenCV 4.8 and 4.14.
        setter: Callable[[int], object] = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
        setter(_SILENT)


_silence_libraries()


class UnsupportedImage(Exception):
    """An image that is not grey, BGR or BGRA with 8 bits per channel."""


def image_from_array(array: np.ndarray[Any, Any]) -> Image:
    """``(H, W, 3)`` uint8 BGR from grey ``(H, W)`` or ``(H, W, 1)``, BGR, or BGRA (alpha is dropped).

    A contiguous BGR array is returned as it is, not copied.

    Raises:
        UnsupportedImage: another dtype or number of channels.
    """
    shape = array.shape
    channels = 1 if array.ndim == 2 else shape[2] if array.ndim == 3 else 0
    if array.dtype != np.uint8 or channels not in (1, 3, 4) or 0 in shape:
        raise UnsupportedImage(f"shape {shape}, {array.dtype}")
    if channels == 3:
        return np.ascontiguousarray(array)
    code = cv2.COLOR_GRAY2BGR if channels == 1 else cv2.COLOR_BGRA2BGR
    return cv2.cvtColor(array, code).astype(np.uint8, copy=False)


class Decoder:
    """An open VideoCapture. One thread opens, uses and releases it: releasing during a read crashes the process."""

    def __init__(self, capture: Any) -> None:
        self._capture = capture

    def grab(self) -> bool:
        """Wait for the next frame; False if none came. It is decoded in ``retrieve``."""
        try:
            return bool(self._capture.grab())
        except cv2.error:
            return False

    def retrieve(self) -> Image | None:
        """The grabbed frame, as a new array; None if it cannot be decoded.

        Raises:
            UnsupportedImage: see ``image_from_array``.
        """
        try:
            good, array = self._capture.retrieve()
        except cv2.error:  # for example an empty MJPG buffer, which cameras deliver at times
            return None
        return image_from_array(array) if good and array is not None else None

    def release(self) -> None:
        """Release the library's resources."""
        self._capture.release()

    @property
    def fps(self) -> float | None:
        """The announced frame rate; None if implausible."""
        fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        return fps if 0.0 < fps <= _MAX_FPS else None

    @property
    def fourcc(self) -> str | None:
        """Pixel format that the camera chose, such as MJPG; None if unknown."""
        number = int(self._capture.get(cv2.CAP_PROP_FOURCC))
        return number.to_bytes(4, "little").decode("ascii", "replace").strip() if 0 < number < 2**32 else None

    @property
    def position_ms(self) -> float:
        """Time stamp of the last grabbed frame, by most drivers on the monotonic clock."""
        return float(self._capture.get(cv2.CAP_PROP_POS_MSEC))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels that the camera chose."""
        capture = self._capture
        return int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))


def open_decoder(
    device: str, *, properties: Mapping[int, int], open_capture: OpenCapture = cv2.VideoCapture
) -> Decoder | None:
    """Open a V4L2 device; None if the library cannot."""
    pairs = [number for pair in properties.items() for number in pair]
    try:
        capture = open_capture(device, cv2.CAP_V4L2, pairs)
    except cv2.error:
        return None
    if capture.isOpened():
        return Decoder(capture)
    capture.release()
    return None
