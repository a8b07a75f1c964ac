"""The boundary to FFmpeg, through PyAV: files, network cameras and streams.

FFmpeg's own lines are captured in the calling thread and never reach the output: the last one becomes part of the
error, and all of them are logged at level debug. They may hold addresses with passwords, so they are redacted here,
and PyAV's exceptions, which hold the address as well, never leave this module.
"""

from __future__ import annotations

import errno
import logging
import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import av
import av.error
import av.logging
from av.codec.context import Flags2

from agent.cameras.sources.decoded_frame import Converter, DecodedFrame
from agent.cameras.sources.failures import FailureKind, Interrupted, StreamFailed
from agent.cameras.sources.key_frames import KeyFrames
from agent.cameras.sources.rtp_pieces import WHOLE_CODECS, NalPieces, ParsedPieces, Unit
from agent.config.sections.sources import DecodeMode
from agent.runtime.clock import Clock
from agent.runtime.logs import get_logger
from agent.runtime.secrets import redact

log = get_logger(__name__)

# Text that is no UTF-8 in a file's metadata must not end the opening; from 19 on PyAV escapes it.
_METADATA: Mapping[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}
_MAX_FPS = 1000.0
_READ_SLICE_S = 4.0
"""FFmpeg's reading cannot be interrupted, so a longer wait is cut: a stop takes effect within this time."""
_UNDECODABLE_S = 30.0
"""Longest time without a frame while data comes: longer than the interval between two key frames of most cameras."""
_REMEMBERED_PACKETS = 64
_PARSED_CODECS = ("h264", "hevc", "mpeg4", "mpeg2video", "vc1")
_NO_PARSER = {"fflags": "noparse"}
_STATUS = re.compile(r"failed: (\d{3}) \(|HTTP error (\d{3})|[Ss]erver returned (\d{3})")

# Errors only: the lines below are about damaged frames and are written once or more for each of them.
av.logging.set_level(av.logging.ERROR)
av.logging.set_skip_repeated(False)
# What a thread of a decoder writes cannot be captured; the reading thread reports the frame that failed.
logging.getLogger("libav").setLevel(logging.CRITICAL)


class Video:
    """An open file or stream, and its best video stream. One thread opens, reads and closes it.

    ``codec`` is the name of the codec, ``frame_count`` the number of frames by the container's index, or by its
    duration and rate, ``fps`` the announced rate (each None if unknown or implausible), and ``damaged`` the number of
    packets that could not be decoded.
    """

    def __init__(
        self, container: Any, *, clock: Clock, threads: int, is_live: bool, is_in_pieces: bool, decode: DecodeMode
    ) -> None:
        self._container, self._clock = container, clock
        self._stream = _video_stream(container)
        self._stream.codec_context.thread_count = threads
        self._stream.codec_context.thread_type = "AUTO"
        self.codec = str(self._stream.codec_context.name)
        self.fps = _rate_of(self._stream, is_live=is_live)
        self.frame_count = _frame_count(container, self._stream, self.fps)
        self.damaged = 0
        self._keys = KeyFrames(decode)
        self._is_live = is_live
        self._start_s = float((self._stream.start_time or 0) * self._stream.time_base)
        self._pieces = self._pieces_of(self.codec) if is_in_pieces else None
        # FFmpeg cuts the packets of these codecs into frames by looking for the start of the next one. So a frame is
        # returned when the next one begins, and its own first bytes came when the one before was returned.
        self._is_held = is_live and not is_in_pieces and self.codec in _PARSED_CODECS
        self._packets: Iterator[Any] = self._demux()
        self._ready: deque[Any] = deque()
        self._came: OrderedDict[int, int] = OrderedDict()
        self._last_packet_ns = clock.monotonic_ns()
        self._converter = Converter()
        self._last_line = ""

    @property
    def is_key_frames_only(self) -> bool:
        """Only key frames are decoded now: then the frames come at another rate than the announced one."""
        return self._keys.is_alone

    def read(
        self, timeout_s: float, interrupted: threading.Event, wanted_hz: float | None = None
    ) -> DecodedFrame | None:
        """The next frame; None at the end. Waits at most ``timeout_s`` for a packet, and 30 s for a frame.

        ``wanted_hz`` is how many frames per second will be classified, None if all.

        Raises:
            Interrupted: ``interrupted`` was set; noticed within four seconds.
            StreamFailed: see its kinds.
        """
        deadline = time.monotonic() + max(_UNDECODABLE_S, timeout_s)
        while not self._ready:
            packet = self._next_packet(timeout_s, interrupted)
            if packet is None:
                return None
            self._take(packet, wanted_hz)
            if not self._ready and time.monotonic() > deadline:
                raise StreamFailed("undecodable", self._last_line or "no key frame came")
        frame = self._ready.popleft()
        return DecodedFrame(frame, self._converter, self._came.pop(frame.pts, self._last_packet_ns))

    def await_data(self, timeout_s: float, interrupted: threading.Event) -> None:
        """Wait for the first packet of a stream, which ``read`` then begins with: an opening alone sees none.

        Raises:
            Interrupted: see ``read``.
            StreamFailed: see its kinds; ``silent`` if nothing came within ``timeout_s``.
        """
        try:
            first = self._next_packet(timeout_s, interrupted)
        except StreamFailed as exc:
            raise StreamFailed("silent" if exc.kind == "timeout" else exc.kind, exc.detail, exc.status) from None
        self._packets = chain(() if first is None else (first,), self._packets)

    def position_s(self, frame: DecodedFrame) -> float:
        """Time of ``frame`` from the start of the file."""
        return 0.0 if frame.pts_s is None else frame.pts_s - self._start_s

    def close(self) -> None:
        """Release everything."""
        self._ready.clear()
        # PyAV frees the decoder while it holds Python's lock, and waits for threads of the decoder. One that writes a
        # line needs that lock, so they are brought to rest first: this call does not hold it.
        self._stream.codec_context.flush_buffers()
        self._container.close()

    def _demux(self) -> Iterator[Any]:
        packets: Iterator[Any] = self._container.demux()
        return packets

    def _next_packet(self, timeout_s: float, interrupted: threading.Event) -> Any | None:
        """The next packet of the video, the empty one at the end included; None after it."""
        began = time.monotonic()
        while True:
            if interrupted.is_set():
                raise Interrupted
            asked = time.monotonic()
            try:
                with _LinesOfFFmpeg() as lines:
                    packet = next(self._packets, None)
            except av.error.FFmpegError as exc:
                # A wait that ends in the middle of a packet is an error of input and output to FFmpeg.
                is_cut = exc.errno == errno.EIO and time.monotonic() - asked >= min(timeout_s, _READ_SLICE_S)
                if not is_cut and not isinstance(exc, av.error.ExitError):
                    raise _failure(exc, lines, is_late=False) from None
                packet = None
                self._packets = self._demux()
                if time.monotonic() - began < timeout_s:
                    continue
                raise StreamFailed("timeout", f"no data within {timeout_s:g} s") from None
            is_late = time.monotonic() - began >= timeout_s
            if packet is None or packet.stream_index == self._stream.index:
                if packet is not None and packet.size and is_late and self._is_live:
                    # MPEG-TS gives what it held back instead of the time-out: the wait would begin again.
                    raise StreamFailed("timeout", f"no data within {timeout_s:g} s")
                return packet
            if is_late:
                raise StreamFailed("timeout", f"other data, but no video within {timeout_s:g} s")

    def _pieces_of(self, codec: str) -> ParsedPieces | NalPieces | None:
        if codec == "h264":
            # Its decoder returns a frame with the last of its NAL units, instead of taking each packet for a frame. It
            # would also conceal, after each of them, the rows that are still to come: three times the work.
            self._stream.codec_context.flags2 |= Flags2.chunks
            self._stream.codec_context.options = {**self._stream.codec_context.options, "ec": "0"}
            return NalPieces()
        return None if codec in WHOLE_CODECS else ParsedPieces(self._stream.codec_context.parse)

    def _take(self, packet: Any, wanted_hz: float | None) -> None:
        """Decode ``packet``, or what is whole by it."""
        now_ns = self._clock.monotonic_ns()
        if packet.pts is not None:
            arrived_ns = self._last_packet_ns if self._is_held else now_ns
            if self._pieces is None:
                self._came[packet.pts] = arrived_ns
            else:
                self._came.setdefault(packet.pts, arrived_ns)  # the first piece counts
            if len(self._came) > _REMEMBERED_PACKETS:
                self._came.popitem(last=False)
        self._last_packet_ns = now_ns
        if self._pieces is None:
            self._decode(packet, now_ns, wanted_hz)
            return
        for unit in self._pieces.add(bytes(packet), packet.pts) if packet.size else self._pieces.flush():
            if unit.is_broken:
                self.damaged += 1
                self._stream.codec_context.flush_buffers()
            else:
                self._decode(self._packet_of(unit), now_ns, wanted_hz)
        if not packet.size:
            self._decode(packet, now_ns, wanted_hz)

    def _packet_of(self, unit: Unit) -> Any:
        packet: Any = av.Packet(unit.data)
        packet.stream, packet.pts, packet.time_base = self._stream, unit.pts, self._stream.time_base
        return packet

    def _decode(self, packet: Any, now_ns: int, wanted_hz: float | None) -> None:
        is_end = not packet.size and packet.pts is None
        if not packet.size and not is_end:
            return  # Theora: the frame before stays; a decoder would take the empty packet for the end
        if not is_end and not self._keys.wants(is_key=packet.is_keyframe, now_ns=now_ns, wanted_hz=wanted_hz):
            return
        try:
            with _LinesOfFFmpeg() as lines:
                self._ready.extend(packet.decode())
                if self._keys.is_alone and not is_end:
                    # The decoder would hold a key frame until it knows that no later frame is shown before it.
                    self._ready.extend(self._stream.codec_context.decode(None))
                    self._stream.codec_context.flush_buffers()
        except av.error.FFmpegError:
            # Damaged data: the decoder goes on with the next packet.
            self.damaged += 1
        if lines:
            self._last_line = _last(lines)


def open_video(
    address: str,
    *,
    clock: Clock,
    options: Mapping[str, str],
    is_live: bool,
    open_timeout_s: float | None = None,
    read_timeout_s: float = _READ_SLICE_S,
    threads: int = 1,
    is_in_pieces: bool = False,
    decode: DecodeMode = "all",
) -> Video:
    """Open ``address``, a URL of FFmpeg that may hold a password.

    ``threads`` 0 lets FFmpeg choose. ``is_in_pieces`` is for RTP over TCP, whose packets are then joined here and not
    by FFmpeg's parser: sooner, but with one thread, and without knowing the key frames. FFmpeg waits for at most
    ``open_timeout_s`` (None: for ever), and cannot be interrupted meanwhile; openings of several threads run side by
    side.

    Raises:
        StreamFailed: it cannot be opened, or holds no video that can be decoded.
    """
    began = time.monotonic()
    timeout = None if open_timeout_s is None else (open_timeout_s, min(read_timeout_s, _READ_SLICE_S))
    container = None
    with _LinesOfFFmpeg() as lines:
        try:
            its_options = {**options, **(_NO_PARSER if is_in_pieces else {})}
            container = av.open(address, options=its_options, timeout=timeout, **_METADATA)
            return Video(
                container,
                clock=clock,
                threads=threads,
                is_live=is_live,
                is_in_pieces=is_in_pieces,
                decode=decode,
            )
        except av.error.FFmpegError as exc:
            is_late = open_timeout_s is not None and time.monotonic() - began >= open_timeout_s
            raise _failure(exc, lines, is_late=is_late) from None
        except StreamFailed:
            if container is not None:
                container.close()
            raise


class _LinesOfFFmpeg:
    """The lines that FFmpeg writes in this thread during the block; logged at level debug after it."""

    def __enter__(self) -> list[tuple[int, str, str]]:
        self._capture = av.logging.Capture()
        self._lines: list[tuple[int, str, str]] = self._capture.__enter__()
        return self._lines

    def __exit__(self, *error: object) -> None:
        self._capture.__exit__(None, None, None)
        for _, part, text in self._lines:
            log.debug("ffmpeg.line", part=part, text=redact(text.strip()))


def _last(lines: list[tuple[int, str, str]]) -> str:
    return redact(lines[-1][2].strip().rstrip(".")) if lines else ""


_KINDS: Mapping[type[Exception], FailureKind] = {
    av.error.HTTPUnauthorizedError: "unauthorized",
    av.error.HTTPForbiddenError: "forbidden",
    av.error.HTTPNotFoundError: "not_found",
    av.error.HTTPError: "status",
    av.error.HTTPClientError: "status",
    av.error.ProtocolNotFoundError: "protocol",
    av.error.InvalidDataError: "not_understood",
    av.error.EOFError: "not_understood",
}
_NUMBERS: Mapping[int, FailureKind] = {
    errno.ECONNREFUSED: "refused",
    errno.EPROTONOSUPPORT: "transport",
    errno.ETIMEDOUT: "timeout",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTDOWN: "unreachable",
    errno.ENETDOWN: "unreachable",
}


def _failure(error: Any, lines: list[tuple[int, str, str]], *, is_late: bool) -> StreamFailed:
    """The failure for an error of PyAV, whose text holds the address; FFmpeg reports a time-out in several ways."""
    detail = _last(lines) or str(error.strerror or type(error).__name__)
    found = _STATUS.search(detail)
    status = int(next(filter(None, found.groups()))) if found else None
    if is_late or isinstance(error, av.error.ExitError):
        return StreamFailed("timeout", detail)
    if "resolve hostname" in detail:  # the error number is that of any input or output
        return StreamFailed("unknown_host", detail)
    kind = _kind_of(error)
    return StreamFailed(kind, detail, status or _STATUS_OF.get(kind))


def _kind_of(error: Any) -> FailureKind:
    for number, kind in _NUMBERS.items():
        if error.errno == number:
            return kind
    for known, kind in _KINDS.items():
        if isinstance(error, known):
            return kind
    return "failed"


_STATUS_OF: Mapping[FailureKind, int] = {"unauthorized": 401, "forbidden": 403, "not_found": 404}


def _video_stream(container: Any) -> Any:
    stream = container.streams.best("video")
    if stream is None:
        raise StreamFailed("no_video", "it holds no video")
    if stream.codec_context is None:
        raise StreamFailed("codec", "FFmpeg has no decoder for its codec")
    return stream


def _rate_of(stream: Any, *, is_live: bool) -> float | None:
    """The announced rate. FFmpeg's guess needs more of a live stream than was read: it would be twice the rate."""
    guess = None if is_live else stream.guessed_rate
    for rate in (stream.average_rate, stream.codec_context.framerate, guess):
        if rate is not None and 0.0 < float(rate) <= _MAX_FPS:
            return float(rate)
    return None


def _frame_count(container: Any, stream: Any, fps: float | None) -> int | None:
    if stream.frames:
        return int(stream.frames)
    if container.duration is None or fps is None:
        return None
    return int(container.duration / av.time_base * fps + 0.5) or None
