"""Sees when a live camera still sends frames, but far fewer than it should."""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass

WINDOW_S = 10.0
_WINDOW_NS = round(WINDOW_S * 1e9)
_MOST_FPS = 240.0
"""Above it the announcement is a mistake of the stream: FFmpeg takes 90000, the clock of RTP, for a rate."""
_WINDOWS_TO_LEARN = 6


@dataclass(frozen=True, slots=True)
class Trickle:
    """Too few frames came: how many a second, and how many were expected by the source's word or by experience."""

    fps: float
    expected_fps: float
    is_announced: bool


class TrickleWatch:
    """Counts the frames of each connection over ten seconds. Used by the camera's thread.

    Where the source announces no rate, the highest one that the camera held for a minute (the median of six windows)
    is expected, across connections. Each time that too few came it is halved: a bad connection is opened anew, and a
    camera that has become slower for good is left alone after a few times.
    """

    def __init__(self, least_ratio: float) -> None:
        self._least_ratio = least_ratio
        self._is_announced = False
        self._expected: float | None = None
        self._learned: float | None = None
        self._watched_since_ns = 0
        self._times: deque[int] = deque(maxlen=1)
        self._window_began_ns = 0
        self._window_frames = 0
        self._windows: deque[int] = deque(maxlen=_WINDOWS_TO_LEARN)

    def open(self, now_ns: int, announced_fps: float | None) -> None:
        """A connection begins whose source announces ``announced_fps``, or None."""
        self._is_announced = announced_fps is not None and 0.0 < announced_fps <= _MOST_FPS
        self._window_began_ns, self._window_frames = now_ns, 0
        self._windows.clear()
        self._expect(announced_fps if self._is_announced else self._learned, now_ns)

    def frame(self, now_ns: int) -> Trickle | None:
        """Count a frame of monotonic ``now_ns``; what is wrong when too few came, else None."""
        if not self._is_announced:
            self._learn(now_ns)
        expected = self._expected
        if expected is None or self._least_ratio <= 0.0:
            return None
        began_ns = now_ns - _WINDOW_NS
        is_enough = len(self._times) == self._times.maxlen and self._times[0] > began_ns
        self._times.append(now_ns)
        if is_enough or self._watched_since_ns > began_ns:
            return None
        if not self._is_announced:
            self._learned = expected / 2.0
        return Trickle(sum(at > began_ns for at in self._times) / WINDOW_S, expected, self._is_announced)

    def _expect(self, fps: float | None, now_ns: int) -> None:
        """From now on; what is expected has a window's time to come."""
        self._expected = fps
        self._watched_since_ns = now_ns
        if fps is not None:
            self._times = deque(maxlen=max(math.ceil(fps * self._least_ratio * WINDOW_S), 1))

    def _learn(self, now_ns: int) -> None:
        if now_ns - self._window_began_ns >= _WINDOW_NS:
            seconds = (now_ns - self._window_began_ns) / 1e9
            self._windows.append(round(self._window_frames * WINDOW_S / seconds))
            self._window_began_ns, self._window_frames = now_ns, 0
            held = statistics.median(self._windows) / WINDOW_S
            if len(self._windows) == _WINDOWS_TO_LEARN and held > (self._learned or 0.0):
                self._learned = held
                self._expect(held, now_ns)
        self._window_frames += 1
