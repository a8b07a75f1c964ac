"""Which packets of a stream are decoded: all of them, or only key frames where these come often enough."""

from __future__ import annotations

from collections import deque

from agent.config.sections.sources import DecodeMode

_INTERVALS = 3
"""Intervals between key frames that must all be short before the others are skipped."""
_GRACE = 1.25
"""As in Pacer: with jitter, a key frame a second is often enough for one frame a second."""


class KeyFrames:
    """Decides for each packet of one connection. Used by the thread that reads.

    A frame that is no key frame needs all frames since the key frame before it, so the decision changes at key frames.
    """

    def __init__(self, mode: DecodeMode) -> None:
        self._mode = mode
        self._intervals_ns: deque[int] = deque(maxlen=_INTERVALS)
        self._last_ns: int | None = None
        self.is_alone = mode == "keyframes"
        """Only key frames are decoded."""

    def wants(self, *, is_key: bool, now_ns: int, wanted_hz: float | None) -> bool:
        """Whether to decode a packet that came at ``now_ns``; ``wanted_hz`` is the rate to classify, None for all."""
        if self._mode == "all":
            return True
        if is_key:
            if self._last_ns is not None:
                self._intervals_ns.append(now_ns - self._last_ns)
            self._last_ns = now_ns
            if self._mode == "auto":
                self.is_alone = wanted_hz is not None and self._is_often(wanted_hz)
        return is_key or not self.is_alone

    def _is_often(self, wanted_hz: float) -> bool:
        max_ns = _GRACE * 1e9 / wanted_hz
        return len(self._intervals_ns) == _INTERVALS and max(self._intervals_ns) <= max_ns
