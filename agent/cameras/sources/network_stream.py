"""Live frames from the network through FFmpeg."""

from __future__ import annotations

from pathlib import Path

from agent.cameras.sources.base import Capture
from agent.cameras.sources.decoded_frame import DecodedFrame
from agent.cameras.sources.failures import Interrupted, StreamFailed
from agent.cameras.sources.ffmpeg import Video, open_video
from agent.cameras.sources.lifecycle import Lifecycle, SourceBase
from agent.cameras.sources.network_errors import lost_because, not_opened_because, read_access
from agent.cameras.sources.reaching import Opening, is_server_there, unknown_login
from agent.config.sections.sources import RtspSource, StreamSource
from agent.config.source_address import SourceAccess, public_address
from agent.runtime.clock import Clock

_AT_ONCE = {
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
_SOON = {
    # The streams inside MPEG-TS show only with their packets.
    "analyzeduration": "500000",
    # HLS: begin with the newest segment.
    "live_start_index": "-1",
}
_MAX_WAIT_S = 20.0
"""A frame further ahead belongs to another time line: the server began again."""


def ask_camera(config: RtspSource, lifecycle: Lifecycle, access: SourceAccess, *, clock: Clock) -> None:
    """Open the stream and close it again, for another reader whose errors say less.

    Raises:
        SourceUnavailable: why it cannot be opened.
    """
    _open_stream(config, lifecycle, access, base_dir=Path(), clock=clock).close()


class Playback:
    """Times the frames of a stream that comes in segments, whose frames all arrive at once."""

    def __init__(self) -> None:
        self._ahead_s: float | None = None

    def wait_s(self, pts_s: float, now_s: float) -> float:
        """Seconds until the frame with this time stamp is due; the first one is due at once."""
        ahead_s = pts_s - now_s
        if self._ahead_s is None or not 0.0 <= ahead_s - self._ahead_s <= _MAX_WAIT_S:
            # The first frame, one that is late, or another time line: count from this one on.
            self._ahead_s = ahead_s
        return ahead_s - self._ahead_s


class NetworkStream(SourceBase):
    """A live stream; it must be read continuously, because FFmpeg queues frames that are not fetched.

    ``captured_at_ns`` is the arrival of the frame's first bytes; the delays before it (exposure, the camera's encoder,
    network) are unknown. ``capture_ms`` is the time from then until it was decoded; rtp_pieces says when that is. An
    interruption takes effect at once while the stream is opened, and within ``read_timeout_s``, at most four seconds,
    after that.
    """

    is_live = True

    def __init__(self, config: RtspSource | StreamSource, *, base_dir: Path, clock: Clock) -> None:
        super().__init__(public_address(config), clock=clock)
        self._config = config
        self._base_dir = base_dir
        self._access: SourceAccess | None = None
        """Kept, so that no output repeats the address while the library may."""
        self._video: Video | None = None
        self._playback: Playback | None = None

    @property
    def kind(self) -> str:
        """See Source."""
        return self._config.type

    @property
    def fps(self) -> float | None:
        """See Source. The configured rate takes precedence over the stream's."""
        video = self._video
        return None if video is None or video.is_key_frames_only else self._config.fps or video.fps

    def open(self) -> None:
        """See Source. Waits for the first packet."""
        self.check_open()
        if self._video is not None:
            return
        access = self._access = read_access(self._config, self._base_dir, self)
        self._video = _open_stream(self._config, self, access, base_dir=self._base_dir, clock=self._clock)
        self._playback = Playback() if self._config.url.lower().startswith("http") else None

    def read(self) -> Capture | None:
        """See Source."""
        video = self.opened(self._video)
        frame = self._next(video)
        if self._playback is not None and frame.pts_s is not None:
            wait_s = self._playback.wait_s(frame.pts_s, self._clock.monotonic_ns() / 1e9)
            if self._clock.wait(self.interrupted, wait_s):
                self.opened(self._video)
        now_ns, now_utc_ns = self._clock.monotonic_ns(), self._clock.utc_ns()
        arrived_ns = frame.arrived_ns if self._playback is None else now_ns
        return self._delivered(frame, arrived_ns, now_utc_ns - (now_ns - arrived_ns))

    def is_there(self) -> bool | None:
        """See Source."""
        return is_server_there(self._config, self.interrupted)

    def close(self) -> None:
        """See Source."""
        if self._video is not None:
            self._video.close()
            self._video = None

    def _next(self, video: Video) -> DecodedFrame:
        timeout_s, damaged = self._config.read_timeout_s, video.damaged
        try:
            frame = video.read(timeout_s, self.interrupted, self.wanted_hz)
        except Interrupted:
            self.opened(self._video)
            raise
        except StreamFailed as exc:
            failure = exc if self._access is None else exc.cleaned(self._access.cleaned)
            raise lost_because(failure, self, timeout_s) from None
        finally:
            self.count_skipped("damaged_data", video.damaged - damaged)
        if frame is None:
            raise self.lost("ended", f"{self.description} ended the stream, or the connection broke")
        return frame


def _open_stream(
    config: RtspSource | StreamSource, lifecycle: Lifecycle, access: SourceAccess, *, base_dir: Path, clock: Clock
) -> Video:
    def open_it() -> Video:
        try:
            video = open_video(
                access.private.reveal(),
                clock=clock,
                options=_options(config, base_dir),
                is_live=True,
                open_timeout_s=config.open_timeout_s,
                read_timeout_s=config.read_timeout_s,
                threads=config.decode_threads,
                is_in_pieces=_comes_in_pieces(config),
                decode=config.decode,
            )
            return _with_data(video, config.read_timeout_s, lifecycle)
        except StreamFailed as exc:
            if exc.kind == "unauthorized" and isinstance(config, RtspSource) and config.username is not None:
                login = unknown_login(access.request_url.reveal(), config.open_timeout_s)
                if login is not None:
                    raise StreamFailed("login", login, exc.status) from None
            raise

    try:
        return Opening(open_it, Video.close).wait(lifecycle.interrupted)
    except Interrupted:
        lifecycle.check_open()
        raise
    except StreamFailed as exc:
        lifecycle.check_open()
        raise not_opened_because(exc.cleaned(access.cleaned), config, lifecycle) from None


def _with_data(video: Video, timeout_s: float, lifecycle: Lifecycle) -> Video:
    """``video``, once it sends something; closed otherwise."""
    try:
        video.await_data(timeout_s, lifecycle.interrupted)
    except (Interrupted, StreamFailed):
        video.close()
        raise
    return video


def _comes_in_pieces(config: RtspSource | StreamSource) -> bool:
    """Whether the packets of RTP are joined here. Datagrams may be lost, and the pieces do not show it."""
    is_rtp = isinstance(config, RtspSource) and config.transport == "tcp"
    return is_rtp and config.decode == "all" and config.decode_threads == 1


def _options(config: RtspSource | StreamSource, base_dir: Path) -> dict[str, str]:
    if isinstance(config, RtspSource):
        return {**_AT_ONCE, **_TRANSPORTS[config.transport]}
    options = dict(_SOON)
    if config.url.lower().startswith(("https", "rtmps")):
        options["tls_verify"] = "1"
        if config.ca_file is not None:
            options["ca_file"] = str(base_dir / config.ca_file)
    return options
