"""The boundary to OpenCV's VideoCapture: FFmpeg for files and streams, V4L2 for cameras of the kernel.

Both libraries write to the error stream of the process by themselves, with addresses that hold passwords among it, and
as often as frames come. So both are silenced before their first use: FFmpeg by OPENCV_FFMPEG_LOGLEVEL (-8, quiet) and
OpenCV by its log level, unless the environment already says otherwise (for finding faults by hand).
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
_HIGHEST_FPS = 1000.0
_OPTIONS_VARIABLE = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_GATE_POLL_S = 0.1
_SILENT = 0


def _silence_libraries() -> None:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    # Seconds that OpenCV's V4L2 waits for a frame before it gives the call back; read once, its default is 10.
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "1")
    if "OPENCV_LOG_LEVEL" not in os.environ:
        # The setter moved between OpenCV 4.8 and 4.14.
        setter: Callable[[int], object] = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
        setter(_SILENT)


_silence_libraries()


class UnsupportedPicture(Exception):
    """A picture that is neither grey nor colour of 8 bits a channel."""


def image_from_array(array: np.ndarray[Any, Any]) -> Image:
    """``(H, W, 3)`` uint8 BGR from grey ``(H, W)`` or ``(H, W, 1)``, BGR, or BGRA whose alpha is left out.

    A picture that already has the right form is returned itself.

    Raises:
        UnsupportedPicture: another type or number of channels.
    """
    shape = array.shape
    channels = 1 if array.ndim == 2 else shape[2] if array.ndim == 3 else 0
    if array.dtype != np.uint8 or channels not in (1, 3, 4) or 0 in shape:
        raise UnsupportedPicture(f"shape {shape}, {array.dtype}")
    if channels == 3:
        return np.ascontiguousarray(array)
    code = cv2.COLOR_GRAY2BGR if channels == 1 else cv2.COLOR_BGRA2BGR
    return cv2.cvtColor(array, code).astype(np.uint8, copy=False)


class Decoder:
    """An opened VideoCapture. One thread opens, uses and releases it: releasing during a read is a crash."""

    def __init__(self, capture: Any) -> None:
        self._capture = capture

    def grab(self) -> bool:
        """Wait for the next picture; False when none came. FFmpeg decodes here, V4L2 in ``retrieve``.

        True is no proof of life: after a stall FFmpeg first hands out pictures that its decoder still held.
        """
        try:
            return bool(self._capture.grab())
        except cv2.error:
            return False

    def retrieve(self) -> Image | None:
        """The picture that was grabbed, as a fresh array; None when it cannot be decoded.

        Raises:
            UnsupportedPicture: see ``image_from_array``.
        """
        try:
            good, array = self._capture.retrieve()
        except cv2.error:  # a buffer of MJPG without a byte, for example, which cameras deliver at times
            return None
        return image_from_array(array) if good and array is not None else None

    def release(self) -> None:
        """Give the library's resources back."""
        self._capture.release()

    @property
    def fps(self) -> float | None:
        """Pictures a second as announced; None for values that no camera has (FFmpeg reports time bases at times)."""
        fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        return fps if 0.0 < fps <= _HIGHEST_FPS else None

    @property
    def fourcc(self) -> str | None:
        """Pixel format that the camera settled on, such as MJPG; None where it does not say."""
        number = int(self._capture.get(cv2.CAP_PROP_FOURCC))
        return number.to_bytes(4, "little").decode("ascii", "replace").strip() if 0 < number < 2**32 else None

    @property
    def frame_count(self) -> int | None:
        """Pictures by the container's index, or by its duration and rate; None where it has neither."""
        count = float(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        return int(count) if 0 < count < 2**53 else None

    @property
    def position_ms(self) -> float:
        """Time stamp of the picture grabbed last: since the start of a file; V4L2: on the monotonic clock."""
        return float(self._capture.get(cv2.CAP_PROP_POS_MSEC))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels that the camera settled on."""
        capture = self._capture
        return int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))


def open_decoder(
    name: str, *, backend: Backend, properties: Mapping[int, int], open_capture: OpenCapture = cv2.VideoCapture
) -> Decoder | None:
    """Open ``name``; None when the library cannot. Timeouts only count as properties of the opening."""
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
    """FFmpeg options of one opening.

    OpenCV takes them only from the environment of the process. So openings with equal options run together, those with
    others wait, and the environment changes only while none runs: another thread must not read it meanwhile.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._options: str | None = None

    @contextmanager
    def holding(
        self, options: str | None, *, timeout_s: float, interrupted: threading.Event | None = None
    ) -> Iterator[bool]:
        """Inside, ``options`` hold (None: those of the process); gives False when others held theirs too long."""
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
"""The one gate of this process."""
