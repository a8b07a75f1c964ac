"""Frames from a USB or other camera of the kernel's video interface, through OpenCV."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2

from agent.cameras.sources.base import Capture
from agent.cameras.sources.decoded import DecodedSource
from agent.cameras.sources.decoder import Decoder, OpenCapture, open_decoder
from agent.cameras.sources.usb_identity import SYS, CameraIdentity
from agent.cameras.sources.v4l2_device import PROC, IsVideo, check_device, holders, is_video_device
from agent.cameras.sources.v4l2_modes import Mode, modes_of, shown
from agent.config.sources import V4l2Source
from agent.runtime.clock import Clock
from agent.runtime.errors import SourceUnavailable
from agent.runtime.logs import get_logger

log = get_logger(__name__)

_AT_ONCE_S = 0.3
_OLDEST_STAMP_NS = 2_000_000_000
_SLOWER_RATIO = 0.9
_ADVICE = "Set `fourcc` to MJPG or YUYV"


def description_of(config: V4l2Source) -> str:
    """What it reads from, for people."""
    return f"camera {config.device}" if config.serial is None else f"camera with serial {config.serial}"


class V4l2Camera(DecodedSource):
    """A camera of the kernel.

    ``captured_at_ns`` is the driver's own stamp where it keeps the monotonic clock (USB cameras do, at the arrival of
    a frame's first bytes), else when the frame was fetched; ``capture_ms`` holds what followed, with the decoding of
    MJPG.
    OpenCV waits for a frame in steps of one second, so an interruption takes at most that long.
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
        super().__init__(description_of(config), clock=clock, advice=_ADVICE)
        self._config = config
        self._open_capture = open_capture
        self._is_video = is_video
        self._modes = list_modes
        self._proc = proc
        self._identity = CameraIdentity(config, self._lifecycle, sys=sys)

    def read(self) -> Capture | None:
        """See Source."""
        decoder = self._lifecycle.opened(self._decoder)
        self._grab(decoder)
        now_ns, now_utc_ns = self._clock.monotonic_ns(), self._clock.utc_ns()
        age_ns = now_ns - round(decoder.position_ms * 1e6)
        if not 0 <= age_ns <= _OLDEST_STAMP_NS:
            age_ns = 0
        return self._delivered(self._retrieve(decoder), now_ns - age_ns, now_utc_ns - age_ns)

    def _open_decoder(self) -> Decoder:
        device = self._check_device()
        decoder = open_decoder(device, backend="v4l2", properties=self._properties(), open_capture=self._open_capture)
        if decoder is None:
            raise self._not_opened(device)
        self._check_size(decoder, device)
        self._check_settings(decoder, device)
        return decoder

    def _not_opened(self, device: str) -> SourceUnavailable:
        failed = f"{device} is there and cannot be opened for capture with {self._wish()}"
        if found := list(holders(Path(device), proc=self._proc)):
            return self._lifecycle.unavailable(
                "busy", f"{failed}: {', '.join(found)} holds it. End that program, or name another camera"
            )
        modes = self._modes(device)
        has = f"it has {shown(modes, self._wanted_size)}" if modes else "it lists no formats, as a second device does"
        return self._lifecycle.unavailable(
            "busy",
            f"{failed}: another program holds it (see: sudo fuser -v {device}), it is a camera's second (metadata) "
            f"device, or it cannot do that; {has}. End that program, or correct `device` or `fourcc`",
        )

    def _check_device(self) -> str:
        """The device file behind links.

        Raises:
            SourceUnavailable: it is missing, no video device, not ours to open, or another camera than before.
        """
        device = check_device(Path(self._identity.locate()), self._lifecycle, is_video=self._is_video)
        self._identity.check(device)
        return str(device)

    def _properties(self) -> dict[int, int]:
        config = self._config
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

    def _wish(self) -> str:
        config = self._config
        wishes = [config.fourcc, f"width {config.width}" if config.width else None]
        wishes += [f"height {config.height}" if config.height else None, f"{config.fps:g} fps" if config.fps else None]
        return ", ".join(wish for wish in wishes if wish) or "its own settings"

    @property
    def _wanted_size(self) -> tuple[int | None, int | None]:
        return self._config.width, self._config.height

    def _check_size(self, decoder: Decoder, device: str) -> None:
        """A driver takes the nearest size it has without a word; what was asked for is what must come.

        Raises:
            SourceUnavailable: another size comes.
        """
        config, (width, height) = self._config, decoder.size
        if (config.width or width, config.height or height) == (width, height):
            return
        decoder.release()
        listed = shown(self._modes(device), (None, None)) or f"see v4l2-ctl --list-formats-ext -d {device}"
        raise self._lifecycle.unavailable(
            "size",
            f"{self.description} gives {width}x{height}, the configuration asks for {config.width or width}x"
            f"{config.height or height}. Take a size that it has: {listed}",
        )

    def _check_settings(self, decoder: Decoder, device: str) -> None:
        """Say when the driver took another pixel format or a lower rate, which it does without a word too."""
        config, fps, fourcc = self._config, decoder.fps, decoder.fourcc
        is_slower = config.fps is not None and fps is not None and fps < config.fps * _SLOWER_RATIO
        is_other = config.fourcc is not None and fourcc is not None and fourcc != config.fourcc.upper()
        if is_slower or is_other:
            log.warning(
                "camera.other_settings",
                source=self.description,
                asked=self._wish(),
                gives=f"{fourcc or 'unknown format'} at {0.0 if fps is None else fps:g} fps",
                has=shown(self._modes(device), decoder.size),
            )

    def _grab(self, decoder: Decoder) -> None:
        """Wait for a frame in the library's steps; a failure that comes at once is a camera that is gone."""
        lifecycle, timeout_s = self._lifecycle, self._config.read_timeout_s
        deadline = time.monotonic() + timeout_s
        while True:
            before = time.monotonic()
            if decoder.grab():
                return
            now = time.monotonic()
            if lifecycle.interrupted.is_set():
                lifecycle.opened(self._decoder)
            if now - before < _AT_ONCE_S:
                raise lifecycle.lost("ended", f"{self.description} gave no frame and an error at once: it is gone")
            if now >= deadline:
                raise lifecycle.lost(
                    "stalled",
                    f"{self.description} is there and gave no frame within {timeout_s:g} s. Plug it out and in; "
                    "where it has too little bandwidth, take MJPG, a smaller size or another USB port",
                )
