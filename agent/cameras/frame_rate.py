"""Detects a live camera that still sends frames, but far fewer than it should."""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass

WINDOW_S = 10.0
_WINDOW_NS = round(WINDOW_S * 1e9)
_MAX_FPS = 240.0
"""A higher announced rate is an error: FFmpeg reports 90000, the RTP clock rate, for streams without a frame rate."""
_WINDOWS_TO_LEARN = 6
_MAX_MISSES = 2


@dataclass(frozen=True, slots=True)
class LowFrameRate:
    """The measured frame rate and the expected one, which the source announced or held earlier."""

    fps: float
    expected_fps: float
    is_announced: bool


class FrameRateMonitor:
    """Counts the frames of each connection over ten seconds. Used by the camera's thread.

    If the source announces no rate, the expected rate is the highest one that the camera held for a minute (the median
    of six windows), across connections. Each low rate halves it, so a bad connection is replaced, and a permanently
    slower camera stops being reconnected after a few times. An announced rate that is missed on two connections is
    wrong: from then on the rate that the camera held counts.
    """

    def __init__(self, min_ratio: float) -> None:
        self._min_ratio = min_ratio
        self._is_announced = False
        self._misses = 0
        self._expected: float | None = None
        self._learned: float | None = None
        self._watched_since_ns = 0
        self._times: deque[int] = deque(maxlen=1)
        self._window_began_ns = 0
        self._window_frames = 0
        self._windows: deque[int] = deque(maxlen=_WINDOWS_TO_LEARN)

    def open(self, now_ns: int, announced_fps: float | None) -> None:
        """Start a connection; ``announced_fps`` is None if the source announces no rate."""
        is_plausible = announced_fps is not None and 0.0 < announced_fps <= _MAX_FPS
        self._is_announced = is_plausible and self._misses < _MAX_MISSES
        self._window_began_ns, self._window_frames = now_ns, 0
        self._windows.clear()
        self._expect(announced_fps if self._is_announced else self._learned, now_ns)

    def add_frame(self, now_ns: int) -> LowFrameRate | None:
        """Count a frame that came at monotonic ``now_ns``; returns the low rate, or None while the rate is good."""
        if not self._is_announced:
            self._learn(now_ns)
        expected = self._expected
        if expected is None or self._min_ratio <= 0.0:
            return None
        # `_times` holds just as many frames as a window needs: the oldest inside the window means enough of them.
        began_ns = now_ns - _WINDOW_NS
        is_enough = len(self._times) == self._times.maxlen and self._times[0] > began_ns
        self._times.append(now_ns)
        if is_enough or self._watched_since_ns > began_ns:
            return None
        fps = sum(at > began_ns for at in self._times) / WINDOW_S
        if self._is_announced:
            self._misses += 1
            self._learned = fps
        else:
            self._learned = expected / 2.0
        return LowFrameRate(fps, expected, self._is_announced)

    def _expect(self, fps: float | None, now_ns: int) -> None:
        """Expect ``fps``; the first full window from now is the first that can be too slow."""
        self._expected = fps
        self._watched_since_ns = now_ns
        if fps is not None:
            self._times = deque(maxlen=max(math.ceil(fps * self._min_ratio * WINDOW_S), 1))

    def _learn(self, now_ns: int) -> None:
        if now_ns - self._window_began_ns >= _WINDOW_NS:
            seconds = (now_ns - self._window_began_ns) / 1e9
            self._windows.append(round(self._window_frames * WINDOW_S / seconds))
            self._window_began_ns, self._window_frames = now_ns, 0
            # The median: neither a burst after the connection nor one bad window becomes the expected rate.
            held = statistics.median(self._windows) / WINDOW_S
            if len(self._windows) == _WINDOWS_TO_LEARN and held > (self._learned or 0.0):
                self._learned = held
                self._expect(held, now_ns)
        self._window_frames += 1
