"""Frames from a USB camera or another V4L2 device, through OpenCV."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2

from agent.cameras.sources.base import Capture
from agent.cameras.sources.decoder import Decoder, OpenCapture, UnsupportedImage, open_decoder
from agent.cameras.sources.lifecycle import SourceBase
from agent.cameras.sources.v4l2.device import PROC, IsVideo, check_device, holders, is_video_device
from agent.cameras.sources.v4l2.modes import Mode, format_modes, modes_of
from agent.cameras.sources.v4l2.usb_identity import SYS, CameraIdentity
from agent.config.sections.sources import V4l2Source
from agent.runtime.clock import Clock
from agent.runtime.errors import SourceUnavailable
from agent.runtime.logs import get_logger
from agent.runtime.records import Image

log = get_logger(__name__)

_IMMEDIATE_S = 0.3
_MAX_STAMP_AGE_NS = 2_000_000_000
_SLOWER_RATIO = 0.9
_ADVICE = "Set `fourcc` to MJPG or YUYV"


def description_of(config: V4l2Source) -> str:
    """The camera's name in messages."""
    return f"camera {config.device}" if config.serial is None else f"camera with serial {config.serial}"


class V4l2Camera(SourceBase):
    """A V4L2 camera.

    ``captured_at_ns`` is the driver's time stamp if it uses the monotonic clock (USB cameras do, at the arrival of a
    frame's first bytes), else the time of the read; ``capture_ms`` is the time from then on, with MJPG decoding.
    OpenCV waits for a frame in steps of one second, so an interruption takes up to one second.
    """

    is_live = True
    kind = "v4l2"

    def __init__(
        self,
        config: V4l2Source,
        *,
        clock: Clock,
        open_capture: OpenCapture = cv2.VideoCapture,
        is_video: IsVideo = is_video_device,
        list_modes: Callable[[str], Sequence[Mode]] = modes_of,
        sys: Path = SYS,
        proc: Path = PROC,
    ) -> None:
        super().__init__(description_of(config), clock=clock)
        self._config = config
        self._decoder: Decoder | None = None
        self._open_capture = open_capture
        self._is_video = is_video
        self._modes = list_modes
        self._proc = proc
        self._identity = CameraIdentity(config, self, sys=sys)

    @property
    def fps(self) -> float | None:
        """See Source."""
        return None if self._decoder is None else self._decoder.fps

    def open(self) -> None:
        """See Source."""
        self.check_open()
        if self._decoder is None:
            self._decoder = self._open_decoder()

    def is_there(self) -> bool | None:
        """See Source."""
        return self._identity.is_plugged_in()

    def close(self) -> None:
        """See Source."""
        if self._decoder is not None:
            self._decoder.release()
            self._decoder = None

    def read(self) -> Capture | None:
        """See Source."""
        decoder = self.opened(self._decoder)
        self._grab(decoder)
        now_ns, now_utc_ns = self._clock.monotonic_ns(), self._clock.utc_ns()
        age_ns = now_ns - round(decoder.position_ms * 1e6)
        # A stamp in the future or seconds old comes from a different clock: some drivers use the time of day.
        if not 0 <= age_ns <= _MAX_STAMP_AGE_NS:
            age_ns = 0
        return self._delivered(self._retrieve(decoder), now_ns - age_ns, now_utc_ns - age_ns)

    def _open_decoder(self) -> Decoder:
        device = self._check_device()
        decoder = open_decoder(device, properties=self._properties(), open_capture=self._open_capture)
        if decoder is None:
            raise self._not_opened(device)
        self._check_size(decoder, device)
        self._check_settings(decoder, device)
        return decoder

    def _not_opened(self, device: str) -> SourceUnavailable:
        failed = f"{device} exists but cannot be opened for capture with {self._requested()}"
        if found := list(holders(Path(device), proc=self._proc)):
            return self.unavailable(
                "busy", f"{failed}: {', '.join(found)} holds it. Stop that program, or configure another camera"
            )
        modes = self._modes(device)
        listed = format_modes(modes, self._requested_size)
        has = f"it has {listed}" if modes else "it lists no formats, as a metadata device does"
        return self.unavailable(
            "busy",
            f"{failed}: another program holds it (see: sudo fuser -v {device}), it is a camera's metadata device, "
            f"or it does not support these settings; {has}. Stop that program, or correct `device` or `fourcc`",
        )

    def _check_device(self) -> str:
        """The device file, links resolved.

        Raises:
            SourceUnavailable: missing, not a video device, no permission, or a different camera than before.
        """
        device = check_device(Path(self._identity.locate()), self, is_video=self._is_video)
        self._identity.check(device)
        return str(device)

    def _properties(self) -> dict[int, int]:
        config = self._config
        # The order counts: size and rate are negotiated for the pixel format that is set at that moment.
        properties: dict[int, int] = {}
        if config.fourcc is not None:
            properties[cv2.CAP_PROP_FOURCC] = cv2.VideoWriter.fourcc(*config.fourcc)
        if config.width is not None:
            properties[cv2.CAP_PROP_FRAME_WIDTH] = config.width
        if config.height is not None:
            properties[cv2.CAP_PROP_FRAME_HEIGHT] = config.height
        if config.fps is not None:
            properties[cv2.CAP_PROP_FPS] = round(config.fps)
        return properties

    def _requested(self) -> str:
        config = self._config
        parts = [config.fourcc, f"width {config.width}" if config.width else None]
        parts += [f"height {config.height}" if config.height else None, f"{config.fps:g} fps" if config.fps else None]
        return ", ".join(part for part in parts if part) or "its own settings"

    @property
    def _requested_size(self) -> tuple[int | None, int | None]:
        return self._config.width, self._config.height

    def _check_size(self, decoder: Decoder, device: str) -> None:
        """Check the frame size: a driver silently picks the nearest size that it supports.

        Raises:
            SourceUnavailable: the size is not the configured one.
        """
        config, (width, height) = self._config, decoder.size
        if (config.width or width, config.height or height) == (width, height):
            return
        decoder.release()
        listed = format_modes(self._modes(device), (None, None)) or f"see v4l2-ctl --list-formats-ext -d {device}"
        raise self.unavailable(
            "size",
            f"{self.description} gives {width}x{height}, but the configuration asks for {config.width or width}x"
            f"{config.height or height}. Configure a size that it supports: {listed}",
        )

    def _check_settings(self, decoder: Decoder, device: str) -> None:
        """Log a different pixel format or a lower rate, which a driver also picks silently."""
        config, fps, fourcc = self._config, decoder.fps, decoder.fourcc
        is_slower = config.fps is not None and fps is not None and fps < config.fps * _SLOWER_RATIO
        has_other_format = config.fourcc is not None and fourcc is not None and fourcc != config.fourcc.upper()
        if is_slower or has_other_format:
            log.warning(
                "camera.settings_adjusted",
                source=self.description,
                asked=self._requested(),
                gives=f"{fourcc or 'unknown format'} at {0.0 if fps is None else fps:g} fps",
                has=format_modes(self._modes(device), decoder.size),
            )

    def _retrieve(self, decoder: Decoder) -> Image:
        """The grabbed frame, as a new array.

        Raises:
            SourceLost: it cannot be decoded, or its format is not supported.
        """
        lost = self.lost
        try:
            image = decoder.retrieve()
        except UnsupportedImage as exc:
            message = f"{self.description} gives frames of {exc}, but the agent reads 8 bits per channel. {_ADVICE}"
            raise lost("format", message) from exc
        if image is None:
            raise lost("damaged", f"{self.description} gave a frame that cannot be decoded. {_ADVICE}")
        return image

    def _grab(self, decoder: Decoder) -> None:
        """Wait for a frame in the library's steps of one second."""
        timeout_s = self._config.read_timeout_s
        deadline = time.monotonic() + timeout_s
        while True:
            before = time.monotonic()
            if decoder.grab():
                return
            now = time.monotonic()
            if self.interrupted.is_set():
                self.opened(self._decoder)
            # A stalled camera uses up the whole step; only an unplugged one fails at once.
            if now - before < _IMMEDIATE_S:
                raise self.lost("ended", f"{self.description} failed at once instead of waiting: it is unplugged")
            if now >= deadline:
                raise self.lost(
                    "stalled",
                    f"{self.description} is plugged in but gave no frame within {timeout_s:g} s. Unplug it and plug "
                    "it in again; if USB bandwidth is short, use MJPG, a smaller size or another USB port",
                )
