"""Cuts the parts out of a `multipart/x-mixed-replace` answer, which is how cameras send MJPEG over HTTP.

Source: RFC 2046, 5.1.1. Cameras differ: some send no Content-Length, some write the boundary in the header with its
leading dashes, some without.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_PART_BYTES = 32 << 20
"""No camera's image is larger; more than this without a boundary is no MJPEG stream."""
_MAX_HEAD_BYTES = 16384
_LENGTH = re.compile(rb"(?im)^content-length:[ \t]*(\d{1,9})[ \t]*\r?$")
_HEAD_END = re.compile(rb"\r?\n\r?\n")


class NotMultipart(Exception):
    """The answer breaks the form; the text says how."""


def boundary_of(content_type: str) -> bytes:
    """The boundary that the header `Content-Type` names, without leading dashes.

    Raises:
        NotMultipart: it names none.
    """
    found = re.search(r'(?i)boundary\s*=\s*"?([^";]+)', content_type)
    boundary = found[1].strip().lstrip("-") if found else ""
    if not boundary:
        raise NotMultipart("its header Content-Type names no boundary")
    return boundary.encode("latin-1", "replace")


class Parts:
    """Collects bytes and gives the parts that are whole."""

    def __init__(self, boundary: bytes, *, max_part_bytes: int = MAX_PART_BYTES) -> None:
        self._max_part_bytes = max_part_bytes
        self._mark = b"--" + boundary
        self._received = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bodies that are complete with ``data``.

        Raises:
            NotMultipart: a part without an end, or a head without one.
        """
        self._received += data
        while (body := self._next()) is not None:
            yield body

    def _next(self) -> bytes | None:
        received = self._received
        start = received.find(self._mark)
        if start < 0:
            self._check_size(_MAX_HEAD_BYTES, "no boundary in the first")
            return None
        head = _HEAD_END.search(received, start)
        if head is None:
            self._check_size(start + _MAX_HEAD_BYTES, "no end of a part's head within")
            return None
        length = _LENGTH.search(received, start, head.end())
        if length is not None and len(received) >= head.end() + int(length[1]):
            end = head.end() + int(length[1])
        else:
            end = -1 if length is not None else received.find(self._mark, head.end())
        if end < 0:
            self._check_size(start + self._max_part_bytes, "no end of a part within")
            return None
        body = bytes(received[head.end() : end])
        if length is None:
            body = body.removesuffix(b"\n").removesuffix(b"\r")
        del received[:end]
        return body

    def _check_size(self, limit: int, what: str) -> None:
        if len(self._received) > limit:
            raise NotMultipart(f"{what} {limit} bytes")
