"""Live frames from the network through FFmpeg."""

from __future__ import annotations

from pathlib import Path

from agent.cameras.sources.base import Capture
from agent.cameras.sources.ffmpeg import DecodedFrame, FfmpegFailed, Interrupted, Video, open_video
from agent.cameras.sources.lifecycle import Lifecycle, SourceBase
from agent.cameras.sources.network_errors import lost_because, not_opened_because, read_access
from agent.config.source_address import SourceAccess, public_address
from agent.config.sources import RtspSource
from agent.runtime.clock import Clock

_OPTIONS = {
    # FFmpeg would watch a stream for up to five seconds to learn its rate; the first packet is enough.
    "analyzeduration": "1",
    "probesize": "32",
    "fpsprobesize": "0",
    "allowed_media_types": "video",
}

_TRANSPORTS = {
    # TCP first, and UDP only if the camera refuses it.
    "tcp": {"rtsp_flags": "prefer_tcp"},
    "udp": {"rtsp_transport": "udp"},
}


def ask_camera(config: RtspSource, lifecycle: Lifecycle, access: SourceAccess, *, clock: Clock) -> None:
    """Open the stream and close it again, for another reader whose errors say less.

    Raises:
        SourceUnavailable: why it cannot be opened.
    """
    _open_stream(config, lifecycle, access, clock=clock).close()


class NetworkStream(SourceBase):
    """A live stream; it must be read continuously, because FFmpeg queues frames that are not fetched.

    ``captured_at_ns`` is the arrival of the frame's first bytes; the delays before it (exposure, the camera's encoder,
    network) are unknown. ``capture_ms`` is the time from then until it was decoded, which for H.264 and H.265 includes
    the wait for the first bytes of the next frame: FFmpeg looks for them. An interruption takes effect within
    ``open_timeout_s`` while the stream is opened, and within ``read_timeout_s``, at most four seconds, after that.
    """

    is_live = True
    kind = "rtsp"

    def __init__(self, config: RtspSource, *, base_dir: Path, clock: Clock) -> None:
        super().__init__(public_address(config), clock=clock)
        self._config = config
        self._base_dir = base_dir
        self._access: SourceAccess | None = None
        """Kept, so that no output repeats the address while the library may."""
        self._video: Video | None = None

    @property
    def fps(self) -> float | None:
        """See Source. The configured rate takes precedence over the stream's."""
        video = self._video
        return None if video is None or video.is_key_frames_only else self._config.fps or video.fps

    def open(self) -> None:
        """See Source. Waits for the first packet."""
        self._lifecycle.check_open()
        if self._video is not None:
            return
        access = self._access = read_access(self._config, self._base_dir, self._lifecycle)
        self._video = _open_stream(self._config, self._lifecycle, access, clock=self._clock)

    def read(self) -> Capture | None:
        """See Source."""
        video = self._lifecycle.opened(self._video)
        damaged = video.damaged
        frame = self._next(video)
        for _ in range(video.damaged - damaged):
            self._lifecycle.count_skipped()
        now_ns, now_utc_ns = self._clock.monotonic_ns(), self._clock.utc_ns()
        return self._delivered(frame, frame.arrived_ns, now_utc_ns - (now_ns - frame.arrived_ns))

    def close(self) -> None:
        """See Source."""
        if self._video is not None:
            self._video.close()
            self._video = None

    def _next(self, video: Video) -> DecodedFrame:
        lifecycle, timeout_s = self._lifecycle, self._config.read_timeout_s
        try:
            frame = video.read(timeout_s, lifecycle.interrupted, self.wanted_hz)
        except Interrupted:
            lifecycle.opened(self._video)
            raise
        except FfmpegFailed as exc:
            failure = exc if self._access is None else exc.cleaned(self._access.cleaned)
            raise lost_because(failure, lifecycle, timeout_s) from None
        if frame is None:
            raise lifecycle.lost("ended", f"{self.description} ended the stream, or the connection broke")
        return frame


def _open_stream(config: RtspSource, lifecycle: Lifecycle, access: SourceAccess, *, clock: Clock) -> Video:
    try:
        return open_video(
            access.private.reveal(),
            clock=clock,
            options={**_OPTIONS, **_TRANSPORTS[config.transport]},
            is_live=True,
            open_timeout_s=config.open_timeout_s,
            read_timeout_s=config.read_timeout_s,
            threads=config.decode_threads,
            decode=config.decode,
        )
    except FfmpegFailed as exc:
        lifecycle.check_open()
        raise not_opened_because(exc.cleaned(access.cleaned), config, lifecycle) from None
