"""A moving test pattern: a live camera without hardware."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from agent.cameras.sources.base import Capture
from agent.cameras.sources.lifecycle import SourceBase
from agent.config.sections.sources import PatternSource
from agent.runtime.clock import Clock
from agent.runtime.records import Image

COUNTER_BITS = 16


class Pattern(SourceBase):
    """A scrolling gradient, a moving disc, and the frame's number as a row of black and white cells.

    Frame ``n`` of a seed always looks the same. Frames come at the configured rate; a slow reader misses frames, as
    with a camera. ``captured_at_ns`` is when the drawing of the frame began.
    """

    is_live = True
    kind = "pattern"

    def __init__(self, config: PatternSource, *, clock: Clock) -> None:
        super().__init__(f"pattern {config.width}x{config.height} at {config.fps:g} fps", clock=clock)
        self._config = config
        self._painter: PatternPainter | None = None
        self._started_ns = 0
        self._next = 0

    @property
    def fps(self) -> float | None:
        """See Source."""
        return self._config.fps

    def open(self) -> None:
        """See Source."""
        self.check_open()
        if self._painter is None:
            self._painter = PatternPainter(self._config.width, self._config.height, self._config.seed)
            self._started_ns, self._next = self._clock.monotonic_ns(), 0

    def read(self) -> Capture | None:
        """See Source."""
        painter = self.opened(self._painter)
        elapsed_ns = self._clock.monotonic_ns() - self._started_ns
        number = max(self._next, int(elapsed_ns * self._config.fps / 1e9))
        wait_s = number / self._config.fps - elapsed_ns / 1e9
        if wait_s > 0 and self._clock.wait(self.interrupted, wait_s):
            painter = self.opened(self._painter)
        captured_at_ns, captured_at_utc_ns = self._clock.monotonic_ns(), self._clock.utc_ns()
        self._next = number + 1
        return self._delivered(painter.draw(number), captured_at_ns, captured_at_utc_ns)

    def close(self) -> None:
        """See Source."""
        self._painter = None


class PatternPainter:
    """Draws frame ``n`` of one seed."""

    def __init__(self, width: int, height: int, seed: int) -> None:
        self._width, self._height = width, height
        chance = np.random.default_rng(seed)
        self._speed_px = int(chance.integers(1, 4))
        self._phase = chance.uniform(0.0, 2.0 * math.pi, size=2)
        self._turns = chance.uniform(0.015, 0.04, size=2)
        self._gradient = _gradient(width, height, hue=float(chance.uniform(0.0, 180.0)))

    def draw(self, number: int) -> Image:
        """``(height, width, 3)`` uint8 BGR, a new array."""
        width, height = self._width, self._height
        shift = (number * self._speed_px) % width
        image: Image = self._gradient[:, shift : shift + width].copy()
        radius = max(3, min(width, height) // 8)
        x = int(width / 2 + (width / 2 - radius) * math.sin(number * self._turns[0] + self._phase[0]))
        y = int(height / 2 + (height / 2 - radius) * math.sin(number * self._turns[1] + self._phase[1]))
        cv2.circle(image, (x, y), radius, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(image, (x, y), max(1, radius * 3 // 4), (40, 40, 40), -1, cv2.LINE_AA)
        self._draw_counter(image, number)
        return image

    def _draw_counter(self, image: Image, number: int) -> None:
        """The lowest 16 bits of the number along the lower edge, the highest bit on the left."""
        top = self._height - max(2, self._height // 16)
        edges = np.linspace(0, self._width, COUNTER_BITS + 1).astype(int)
        for place in range(COUNTER_BITS):
            is_set = number >> (COUNTER_BITS - 1 - place) & 1
            image[top:, edges[place] : edges[place + 1]] = 255 if is_set else 0


def _gradient(width: int, height: int, *, hue: float) -> npt.NDArray[np.uint8]:
    """``(height, 2 * width, 3)`` BGR; the right half repeats the left, so every slice of ``width`` is seamless."""
    across = np.linspace(0.0, 2.0 * np.pi, width, endpoint=False)
    hsv = np.empty((height, width, 3), np.uint8)
    hsv[..., 0] = (hue + 25.0 * np.sin(across)) % 180.0
    hsv[..., 1] = 170
    hsv[..., 2] = np.linspace(230.0, 90.0, height)[:, np.newaxis]
    return np.tile(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR), (1, 2, 1)).astype(np.uint8, copy=False)
