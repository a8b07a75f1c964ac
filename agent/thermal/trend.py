"""The last seconds of one quantity: where it is, how fast it moves, where it will be."""

from __future__ import annotations

from collections import deque


class Trend:
    """Readings of the last ``window_s`` seconds; a hole of more than ``gap_s`` starts anew."""

    def __init__(self, *, window_s: float, gap_s: float) -> None:
        self._window_s = window_s
        self._gap_s = gap_s
        self._readings: deque[tuple[float, float]] = deque()

    @property
    def last_s(self) -> float:
        """When the newest reading was taken; minus infinity before the first."""
        return self._readings[-1][0] if self._readings else float("-inf")

    @property
    def last(self) -> float:
        """The newest reading."""
        return self._readings[-1][1]

    def add(self, taken_s: float, value: float) -> None:
        """Take one reading; the caller passes them in the order of time."""
        if taken_s - self.last_s > self._gap_s:
            self._readings.clear()
        self._readings.append((taken_s, value))
        while taken_s - self._readings[0][0] > self._window_s:
            self._readings.popleft()

    def mean(self) -> float:
        """Mean of the window."""
        return sum(value for _, value in self._readings) / len(self._readings)

    def slope(self) -> float:
        """Change per second by least squares; 0 while the window holds less than a quarter of its time.

        It grows with the newest reading, all others being equal.
        """
        readings = self._readings
        if readings[-1][0] - readings[0][0] < self._window_s / 4:
            return 0.0
        middle_s = sum(taken_s for taken_s, _ in readings) / len(readings)
        middle = self.mean()
        above = sum((taken_s - middle_s) * (value - middle) for taken_s, value in readings)
        below = sum((taken_s - middle_s) ** 2 for taken_s, _ in readings)
        return above / below

    def fitted(self, ahead_s: float = 0.0) -> float:
        """The line through the window, ``ahead_s`` after the newest reading; without a slope the newest reading."""
        slope = self.slope()
        if slope == 0.0:
            return self.last
        middle_s = sum(taken_s for taken_s, _ in self._readings) / len(self._readings)
        return self.mean() + slope * (self.last_s + ahead_s - middle_s)
