"""Why a file or a stream cannot be opened or read, in words that do not depend on the library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

FailureKind = Literal[
    "timeout",  # no answer, or no data, in the time allowed
    "unknown_host",
    "refused",  # nothing listens
    "unreachable",
    "unauthorized",  # 401
    "login",  # 401, and it asks for a login that FFmpeg has not; `detail` names it
    "forbidden",  # 403
    "not_found",  # 404
    "status",  # another status of the server, see `status`
    "transport",  # the camera refuses the transport (461)
    "protocol",  # this FFmpeg does not speak the protocol
    "certificate",  # nobody that is trusted signed it, or it is for another name
    "redirect",  # it sends the agent elsewhere, without end or to what is no HTTP
    "not_understood",  # the answer is not what was asked for
    "no_image",  # an answer over HTTP that is no image
    "no_video",  # there is no video in it
    "codec",  # no decoder for it
    "undecodable",  # data comes, but no frame can be decoded
    "colours",  # FFmpeg does not convert its colours
    "failed",
]


class Interrupted(Exception):
    """Opening or reading was interrupted from another thread."""


class StreamFailed(Exception):
    """Opening or reading failed. ``status`` is the server's, ``detail`` the library's last line, without a secret."""

    def __init__(self, kind: FailureKind, detail: str, status: int | None = None) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.status = status

    def cleaned(self, clean: Callable[[str], str]) -> StreamFailed:
        """The same failure, its text without what ``clean`` takes away: parts of the address."""
        return StreamFailed(self.kind, clean(self.detail), self.status)
