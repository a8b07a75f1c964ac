"""Puts the pieces of RTP together, so that a decoder gets them as soon as they are whole.

FFmpeg returns the payload of each packet without the mark that ends a frame. Its own parser waits for the start of the
next frame instead, which makes each frame older by a frame's interval.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_START = b"\x00\x00\x00\x01"
_HEAD = len(_START) + 1
"""What FFmpeg puts before the first piece of a unit: the start code, and the unit's header."""
_LEARNED = 50
"""Units that must have come before the sizes of pieces are believed."""
_MORE, _MAX_LEARNED = 10, 50_000
"""So many times as many after they were wrong, up to half an hour of frames."""
_SLICES, _BEFORE_FRAME = (1, 5), (7, 9)
"""Types of NAL units: slices; parameter sets of a sequence and delimiters. Source: ITU-T H.264, table 7-1."""
MAX_UNIT_BYTES = 32 << 20
"""More than a frame of 8K; a unit that goes on for ever would take all memory."""
WHOLE_CODECS = frozenset({"bitpacked", "jpegxs", "mjpeg", "rawvideo", "theora", "vp8", "vp9"})
"""Codecs whose pieces FFmpeg joins itself, by the mark. Source: libavformat/rtpdec_*.c, need_parsing."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What a decoder takes at once: one NAL unit or more of H.264, a whole frame of another codec.

    ``is_broken``: the unit before was decoded though a piece of it was missing, or never ended; ``data`` is empty, and
    the decoder has to begin with a key frame.
    """

    data: bytes
    pts: int | None
    is_broken: bool = False


class ParsedPieces:
    """The frames that FFmpeg's parser of a codec finds. ``parse`` takes bytes, None at the end, and returns frames."""

    def __init__(self, parse: Callable[[bytes | None], Sequence[Any]]) -> None:
        self._parse = parse
        self._came, self._returned = 0, 0
        self._stamps: deque[tuple[int, int | None]] = deque()
        """Of each piece whose bytes are not returned yet: its first byte's number, and its time stamp."""

    def add(self, data: bytes, pts: int | None) -> list[Unit]:
        """Take the payload of one packet; the units that are whole by it, oldest first."""
        self._stamps.append((self._came, pts))
        self._came += len(data)
        return [self._unit(bytes(frame)) for frame in self._parse(data)]

    def flush(self) -> list[Unit]:
        """What has come of the last unit."""
        return [self._unit(bytes(frame)) for frame in self._parse(None)]

    def _unit(self, data: bytes) -> Unit:
        """A frame has the time stamp of the piece in which it begins."""
        while len(self._stamps) > 1 and self._stamps[1][0] <= self._returned:
            self._stamps.popleft()
        self._returned += len(data)
        return Unit(data, self._stamps[0][1] if self._stamps else None)


class NalPieces:
    """H.264, whose decoder takes single NAL units and knows the last one of a frame.

    A sender cuts a unit into pieces of one size, and the last piece is what remains. So a piece that is smaller than
    every piece that was continued is the last one; the others show only when another unit begins. If one that was
    taken for the last one is continued after all, the decoder has returned no frame for it: rows are missing.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._pts: int | None = None
        self._size = 0
        self._units, self._learned = 0, _LEARNED
        self._largest = 0
        """Bytes of the largest piece; it counts until one was continued."""
        self._continued: int | None = None
        """Bytes of the smallest piece that was continued."""
        self._broken_pts: int | None = None
        """The frame that is left out: of its other slices alone the decoder would make a damaged one."""

    def add(self, data: bytes, pts: int | None) -> list[Unit]:
        """See ParsedPieces."""
        is_start = data.startswith(_START)
        if pts is not None and pts == self._broken_pts and not (is_start and _begins_frame(data)):
            return []
        self._broken_pts = None
        if is_start or not self._units or (pts is not None and pts != self._pts):
            ended = self.flush()
            if not is_start:
                return ended  # its start was lost on the way
            self._pts = self._pts if pts is None else pts
            self._units += 1
            return ended + self._taken(data, len(data) - _HEAD)
        self._continued = self._size if self._continued is None else min(self._size, self._continued)
        if self._data and len(self._data) < MAX_UNIT_BYTES:
            return self._taken(data, len(data))
        self._data = bytearray()
        self._broken_pts, self._units, self._learned = pts, 0, min(self._learned * _MORE, _MAX_LEARNED)
        return [Unit(b"", pts, is_broken=True)]

    def flush(self) -> list[Unit]:
        """See ParsedPieces."""
        data, self._data = bytes(self._data), bytearray()
        return [Unit(data, self._pts)] if data else []

    def _taken(self, data: bytes, size: int) -> list[Unit]:
        is_last = size <= self._largest if self._continued is None else size < self._continued
        self._data += data
        self._size, self._largest = size, max(self._largest, size)
        return self.flush() if is_last and self._units > self._learned else []


def _begins_frame(data: bytes) -> bool:
    """Whether a unit is the first of a frame: a slice that begins with macroblock 0 has a first bit of 1."""
    kind = data[_HEAD - 1] & 31 if len(data) > _HEAD else 0
    return kind in _BEFORE_FRAME or (kind in _SLICES and data[_HEAD] >= 128)
