"""A video file as an endless row of RTP packets. FFmpeg makes them, through PyAV."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.runtime.errors import Unavailable, UsageError

PAYLOAD_TYPE = 96
_MAX_PACKET_BYTES = 1400
_CODECS = {"h264": ("H264", "h264_mp4toannexb"), "hevc": ("H265", "hevc_mp4toannexb")}
"""FFmpeg's name, the name in RTP (RFC 6184, RFC 7798), and the filter that puts parameter sets before key frames."""
_RTCP = range(200, 205)


@dataclass(frozen=True, slots=True)
class Clip:
    """What is known of a file that can be served."""

    path: Path
    codec: str
    """H264 or H265."""
    width: int
    height: int
    fps: float

    def __str__(self) -> str:
        return f"{self.path.name} ({self.codec}, {self.width}x{self.height}, {self.fps:g} fps)"


@dataclass(frozen=True, slots=True)
class Moment:
    """The packets of one frame.

    Attributes:
        due_s: when to send them, in seconds since the first one
        packets: each with whether it is RTCP (RFC 3550)
    """

    due_s: float
    packets: tuple[tuple[bytes, bool], ...]


def clip_from_file(path: Path) -> Clip:
    """Look into a video file.

    Raises:
        UsageError: it cannot be read, has no video, or a video that RTSP cameras do not send.
    """
    import av

    try:
        with av.open(str(path)) as container:
            stream = next(iter(container.streams.video), None)
            if stream is None:
                raise UsageError(f"{path} holds no video; give a video file")
            codec, width, height = stream.codec_context.name, stream.width, stream.height
            fps = float(stream.average_rate or 0)
    except (av.FFmpegError, OSError) as exc:
        raise UsageError(f"{path} cannot be read as a video: {exc.strerror}; give a video file") from exc
    if codec not in _CODECS:
        raise UsageError(
            f"{path} holds {codec} video, but the camera sends H.264 and H.265 without converting. "
            f"Convert it once: ffmpeg -i {path.name} -an -c:v libx264 -pix_fmt yuv420p clip.mp4"
        )
    return Clip(path, _CODECS[codec][0], width, height, fps)


def moments_of(clip: Clip) -> Generator[Moment, None, None]:
    """The packets of the clip, again and again, with times that only grow. Closing the iterator closes the file.

    Raises:
        Unavailable: the file cannot be read any further.
    """
    import av

    try:
        yield from _moments_of(clip)
    except av.FFmpegError as exc:
        raise Unavailable(f"{clip.path} cannot be read to its end: {exc.strerror}; check it, or give another") from exc


def _moments_of(clip: Clip) -> Iterator[Moment]:
    import av
    from av.bitstream import BitStreamFilterContext

    written = _Written()
    with (
        av.open(str(clip.path)) as source,
        av.open(written, "w", format="rtp", options={"packetsize": str(_MAX_PACKET_BYTES)}) as packer,
    ):
        stream = source.streams.video[0]
        target = packer.add_stream_from_template(stream)
        to_annexb = BitStreamFilterContext(_filter_of(clip), stream, target)
        for packet in _endless(source, stream):
            for filtered in to_annexb.filter(packet):
                filtered.stream = target
                due_s = float((filtered.dts or 0) * filtered.time_base)
                packer.mux(filtered)
                yield Moment(due_s, written.take())


def _filter_of(clip: Clip) -> str:
    return next(name for codec, name in _CODECS.values() if codec == clip.codec)


def _endless(source: Any, stream: Any) -> Iterator[Any]:
    """The packets of ``stream``; from the second round on their times go on behind those of the round before."""
    offset = end = 0
    first: int | None = None
    while True:
        for packet in source.demux(stream):
            if packet.dts is None:
                continue  # the end
            first = packet.dts if first is None else first
            packet.dts += offset - first
            packet.pts = packet.dts if packet.pts is None else packet.pts + offset - first
            end = max(end, packet.dts + (packet.duration or 1))
            yield packet
        if end == offset:
            return  # nothing in it
        offset = end
        source.seek(0)


class _Written:
    """A file for FFmpeg, which writes one packet at a time."""

    def __init__(self) -> None:
        self._packets: list[tuple[bytes, bool]] = []

    def write(self, data: bytes) -> int:
        """Keep a packet."""
        packet = bytes(data)
        self._packets.append((packet, packet[1] in _RTCP))
        return len(packet)

    def take(self) -> tuple[tuple[bytes, bool], ...]:
        """The packets since the last call."""
        packets, self._packets = tuple(self._packets), []
        return packets
