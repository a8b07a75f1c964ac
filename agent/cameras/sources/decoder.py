"""The boundary to OpenCV's VideoCapture: FFmpeg for files and streams, V4L2 for local cameras.

FFmpeg and OpenCV write to stderr on their own, up to once per frame, and FFmpeg prints URLs with their passwords. So
both are silenced before their first use: FFmpeg by OPENCV_FFMPEG_LOGLEVEL (-8, quiet) and OpenCV by its log level.
Either variable, set in the environment, takes precedence (for debugging).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import cv2
import numpy as np

from agent.runtime.records import Image

Backend = Literal["ffmpeg", "v4l2"]

OpenCapture = Callable[[str, int, "list[int]"], Any]
"""Makes an object with the methods of ``cv2.VideoCapture`` from a name, a backend and pairs of property and value."""

_BACKENDS: Mapping[Backend, int] = {"ffmpeg": cv2.CAP_FFMPEG, "v4l2": cv2.CAP_V4L2}
_MAX_FPS = 1000.0
_OPTIONS_VARIABLE = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_GATE_POLL_S = 0.1
_SILENT = 0


def _silence_libraries() -> None:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
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
        """Wait for the next frame; False if none came. FFmpeg decodes here, V4L2 in ``retrieve``.

        True does not prove that the stream is alive: after a stall FFmpeg first returns frames left in its decoder.
        """
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
        """The announced frame rate; None if implausible (FFmpeg sometimes reports a time base instead)."""
        fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        return fps if 0.0 < fps <= _MAX_FPS else None

    @property
    def fourcc(self) -> str | None:
        """Pixel format that the camera chose, such as MJPG; None if unknown."""
        number = int(self._capture.get(cv2.CAP_PROP_FOURCC))
        return number.to_bytes(4, "little").decode("ascii", "replace").strip() if 0 < number < 2**32 else None

    @property
    def frame_count(self) -> int | None:
        """Number of frames by the container's index, or by its duration and rate; None if it has neither."""
        count = float(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        return int(count) if 0 < count < 2**53 else None

    @property
    def position_ms(self) -> float:
        """Time stamp of the last grabbed frame: from the start of a file; V4L2: on the monotonic clock."""
        return float(self._capture.get(cv2.CAP_PROP_POS_MSEC))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels that the camera chose."""
        capture = self._capture
        return int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))


def open_decoder(
    name: str, *, backend: Backend, properties: Mapping[int, int], open_capture: OpenCapture = cv2.VideoCapture
) -> Decoder | None:
    """Open ``name``; None if the library cannot. Timeouts must be among ``properties``: set later, they do nothing."""
    pairs = [number for pair in properties.items() for number in pair]
    try:
        capture = open_capture(name, _BACKENDS[backend], pairs)
    except cv2.error:
        return None
    if capture.isOpened():
        return Decoder(capture)
    capture.release()
    return None


class OptionGate:
    """Serializes FFmpeg options while streams are opened.

    OpenCV reads the options from a process-wide environment variable, in the middle of an open call. So calls with
    equal options run together, calls with other options wait, and the variable changes only while no call runs.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._options: str | None = None

    @contextmanager
    def holding(
        self, options: str | None, *, timeout_s: float, interrupted: threading.Event | None = None
    ) -> Iterator[bool]:
        """Set ``options`` for the block (None: the process's own); yields False if they could not be set in time."""
        entered = self._enter(options, timeout_s, interrupted)
        try:
            yield entered
        finally:
            if entered:
                self._leave()

    def _enter(self, options: str | None, timeout_s: float, interrupted: threading.Event | None) -> bool:
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._inside and self._options != options:
                if time.monotonic() >= deadline or (interrupted is not None and interrupted.is_set()):
                    return False
                # Poll: an interruption sets an event and does not notify this condition.
                self._changed.wait(_GATE_POLL_S)
            if not self._inside:
                self._options = options
                if options is not None:
                    self._before = os.environ.get(_OPTIONS_VARIABLE)
                    os.environ[_OPTIONS_VARIABLE] = options
            self._inside += 1
        return True

    def _leave(self) -> None:
        with self._changed:
            self._inside -= 1
            if self._inside:
                return
            if self._options is not None:
                if self._before is None:
                    del os.environ[_OPTIONS_VARIABLE]
                else:
                    os.environ[_OPTIONS_VARIABLE] = self._before
            self._changed.notify_all()


option_gate = OptionGate()
"""Shared by all sources of the process."""
