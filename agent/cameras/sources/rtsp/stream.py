"""Frames from a network camera over RTSP, decoded by FFmpeg inside OpenCV."""

from __future__ import annotations

import time
from pathlib import Path

import cv2

from agent.cameras.sources.base import Capture
from agent.cameras.sources.decoded import DecodedSource
from agent.cameras.sources.decoder import Decoder, open_decoder, option_gate
from agent.cameras.sources.rtsp.access import ask_camera, not_opened, read_access
from agent.config.source_address import SourceAccess, public_address
from agent.config.sources import RtspSource
from agent.runtime.clock import Clock

_MIN_OPEN_S = 0.5
_STALLED_RATIO = 0.9
_MAX_STALE_FRAMES = 250
_UNKNOWN_FPS = 25.0
_ADVICE = "Set the camera to 8 bit H.264"


class RtspStream(DecodedSource):
    """A live stream; it must be read continuously, because FFmpeg queues frames that are not fetched.

    ``captured_at_ns`` is when the decoded frame came out of FFmpeg; the delays before it (exposure, the camera's
    encoder, network) are unknown. FFmpeg decodes while it waits, so ``capture_ms`` is only the conversion to BGR.
    An interruption takes effect at once during the first request, and within ``open_timeout_s`` or
    ``read_timeout_s`` inside FFmpeg.
    """

    is_live = True
    kind = "rtsp"

    def __init__(self, config: RtspSource, *, base_dir: Path, clock: Clock) -> None:
        super().__init__(public_address(config), clock=clock, advice=_ADVICE)
        self._config = config
        self._base_dir = base_dir
        self._is_grabbed = False
        self._access: SourceAccess | None = None
        """Kept, so that no output repeats the address while the library may."""

    @property
    def fps(self) -> float | None:
        """See Source. The configured rate takes precedence over the stream's."""
        return super().fps if self._config.fps is None or self._decoder is None else self._config.fps

    def read(self) -> Capture | None:
        """See Source."""
        decoder = self._lifecycle.opened(self._decoder)
        if not self._is_grabbed:
            self._grab(decoder)
        self._is_grabbed = False
        captured_at_ns, captured_at_utc_ns = self._clock.monotonic_ns(), self._clock.utc_ns()
        return self._delivered(self._retrieve(decoder), captured_at_ns, captured_at_utc_ns)

    def _open_decoder(self) -> Decoder:
        """Open the stream and drop the frames that FFmpeg queued while it probed it, so the first frame is fresh."""
        started = time.monotonic()
        access = self._access = read_access(self._config, self._base_dir, self._lifecycle)
        answer = ask_camera(self._config, self._lifecycle, access)
        decoder = self._open_stream(access, started)
        if decoder is None:
            self._lifecycle.check_open()
            raise not_opened(self._config, self._lifecycle, answer)
        self._is_grabbed = self._drain(decoder)
        return decoder

    def _open_stream(self, access: SourceAccess, started: float) -> Decoder | None:
        config = self._config
        left_s = max(_MIN_OPEN_S, config.open_timeout_s - (time.monotonic() - started))
        properties = {
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: round(left_s * 1000),
            cv2.CAP_PROP_READ_TIMEOUT_MSEC: round(config.read_timeout_s * 1000),
            # Each further thread delays the output of FFmpeg's decoder by one frame.
            cv2.CAP_PROP_N_THREADS: config.decode_threads,
        }
        # None, not "tcp": OpenCV uses TCP by default, and equal options (as for files) need not wait for each other.
        options = "rtsp_transport;udp" if config.transport == "udp" else None
        gate = option_gate.holding(options, timeout_s=config.open_timeout_s, interrupted=self._lifecycle.interrupted)
        with gate as entered:
            if not entered:
                return None
            return open_decoder(access.private.reveal(), backend="ffmpeg", properties=properties)

    def _drain(self, decoder: Decoder) -> bool:
        """Drop the frames that were queued while the stream was opened; True once a fresh one is grabbed.

        A grab that has to wait gives a fresh frame. False after a loss, which the first read then reports.
        """
        threshold_s = 0.5 / (decoder.fps or _UNKNOWN_FPS)
        deadline = time.monotonic() + self._config.read_timeout_s
        for _ in range(_MAX_STALE_FRAMES):
            before = time.monotonic()
            if before > deadline or not decoder.grab():
                return False
            waited_s = time.monotonic() - before
            if waited_s > threshold_s:
                return waited_s < self._config.read_timeout_s * _STALLED_RATIO
        return False

    def _grab(self, decoder: Decoder) -> None:
        before = time.monotonic()
        is_grabbed = decoder.grab()
        waited_s = time.monotonic() - before
        lifecycle = self._lifecycle
        if lifecycle.interrupted.is_set():
            lifecycle.opened(self._decoder)
        # The first grabs of a stall succeed, but late, with frames left in the decoder. So the time counts.
        if waited_s >= self._config.read_timeout_s * _STALLED_RATIO:
            raise lifecycle.lost(
                "stalled",
                f"{self.description} is connected but sent no frame for {waited_s:.1f} s; `read_timeout_s` is "
                f"{self._config.read_timeout_s:g}. Raise it for cameras slower than that",
            )
        if not is_grabbed:
            raise lifecycle.lost("ended", f"{self.description} ended the stream, or the connection broke")
