"""The test pattern: the same for the same seed, moving, and paced."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest

from agent.cameras.sources.pattern import COUNTER_BITS, Pattern, PatternPainter
from agent.config.sections.sources import PatternSource
from agent.runtime.records import Image


class SteppedClock:
    """A clock that advances only by waits."""

    def __init__(self) -> None:
        self.now_ns = 10**12
        self.waits: list[float] = []

    def monotonic_ns(self) -> int:
        return self.now_ns

    def utc_ns(self) -> int:
        return self.now_ns + 10**18

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now_ns += round(seconds * 1e9)
        return stop.is_set()


def _number(image: Image) -> int:
    """The frame's number, from the cells along its lower edge."""
    width = image.shape[1]
    starts = [place * width // COUNTER_BITS for place in range(COUNTER_BITS)]
    return sum(int(image[-1, x, 0] > 127) << (COUNTER_BITS - 1 - place) for place, x in enumerate(starts))


def _pattern(clock: SteppedClock, *, fps: float = 10.0, seed: int = 0) -> Pattern:
    pattern = Pattern(PatternSource(type="pattern", width=160, height=120, fps=fps, seed=seed), clock=clock)
    pattern.open()
    return pattern


def _numbers(pattern: Pattern, count: int) -> list[int]:
    captures = [pattern.read() for _ in range(count)]
    return [_number(capture.image) for capture in captures if capture is not None]


@pytest.mark.parametrize(("width", "height"), [(16, 16), (17, 33), (640, 480), (1920, 1080)])
def test_every_size_shows_its_number(width: int, height: int) -> None:
    painter = PatternPainter(width, height, 0)
    for number in (0, 1, 255, 40_000):
        image = painter.draw(number)
        assert image.shape == (height, width, 3)
        assert _number(image) == number


def test_same_seed_draws_the_same_and_another_seed_does_not() -> None:
    first, again, other = PatternPainter(64, 48, 5), PatternPainter(64, 48, 5), PatternPainter(64, 48, 6)
    assert np.array_equal(first.draw(7), again.draw(7))
    assert not np.array_equal(first.draw(7), other.draw(7))


def test_no_two_frames_in_a_row_are_alike() -> None:
    painter = PatternPainter(64, 48, 0)
    frames = [painter.draw(number) for number in range(200)]
    assert not any(np.array_equal(one, other) for one, other in itertools.pairwise(frames))


def test_frames_come_one_period_apart() -> None:
    clock = SteppedClock()
    pattern = _pattern(clock, fps=10.0)
    assert _numbers(pattern, 4) == [0, 1, 2, 3]
    assert clock.waits == pytest.approx([0.1, 0.1, 0.1])


def test_slow_reader_misses_frames_as_with_a_camera() -> None:
    clock = SteppedClock()
    pattern = _pattern(clock, fps=10.0)
    assert _numbers(pattern, 1) == [0]
    clock.now_ns += 550_000_000
    assert _numbers(pattern, 3) == [5, 6, 7]
