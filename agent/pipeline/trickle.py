"""Sees when a live camera still sends frames, but far fewer than it announces."""

from __future__ import annotations

import math
from collections import deque

WINDOW_S = 10.0
_MOST_FPS = 240.0
"""Above it the announcement is a mistake of the stream: FFmpeg takes 90000, the clock of RTP, for a rate."""


class TrickleWatch:
    """Counts the frames of one connection over ten seconds. Used by the camera's thread."""

    def __init__(self, least_ratio: float) -> None:
        self._least_ratio = least_ratio
        self._announced: float | None = None
        self._opened_ns = 0
        self._times: deque[int] = deque(maxlen=1)

    def open(self, now_ns: int, announced_fps: float | None) -> None:
        """A connection begins whose source announces ``announced_fps``; None is not watched."""
        is_known = announced_fps is not None and 0.0 < announced_fps <= _MOST_FPS and self._least_ratio > 0.0
        self._announced = announced_fps if is_known else None
        self._opened_ns = now_ns
        if self._announced is not None:
            self._times = deque(maxlen=max(math.ceil(self._announced * self._least_ratio * WINDOW_S), 1))

    def frame(self, now_ns: int) -> float | None:
        """Count a frame of monotonic ``now_ns``; frames a second when they are too few, else None."""
        if self._announced is None:
            return None
        began_ns = now_ns - round(WINDOW_S * 1e9)
        is_enough = len(self._times) == self._times.maxlen and self._times[0] > began_ns
        self._times.append(now_ns)
        if is_enough or self._opened_ns > began_ns:
            return None
        return sum(at > began_ns for at in self._times) / WINDOW_S
