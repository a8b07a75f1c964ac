"""The last seconds of one quantity: mean, slope, extrapolation."""

from __future__ import annotations

from collections import deque


class Trend:
    """The readings of the last ``window_s`` seconds and the line through them. A gap over ``gap_s`` clears the window.

    The slope is 0 while the readings span less than a quarter of the window. The slope, and any point of the line from
    the newest reading on, grow with the newest reading if all others stay equal.
    """

    def __init__(self, *, window_s: float, gap_s: float) -> None:
        self._window_s = window_s
        self._gap_s = gap_s
        self._readings: deque[tuple[float, float]] = deque()
        self._middle_s = 0.0
        self.mean = 0.0
        """Mean of the window."""
        self.slope = 0.0
        """Change per second, by least squares."""

    @property
    def last_s(self) -> float:
        """When the newest reading was taken; minus infinity before the first."""
        return self._readings[-1][0] if self._readings else float("-inf")

    @property
    def last(self) -> float:
        """The newest reading."""
        return self._readings[-1][1]

    def add(self, taken_s: float, value: float) -> None:
        """Add one reading; the caller passes them in the order of time."""
        readings = self._readings
        if taken_s - self.last_s > self._gap_s:
            readings.clear()
        readings.append((taken_s, value))
        while taken_s - readings[0][0] > self._window_s:
            readings.popleft()
        count = len(readings)
        # Relative to the oldest reading: sums of uptimes would lose their last digits.
        start_s, start = readings[0]
        at = [reading_s - start_s for reading_s, _ in readings]
        values = [reading - start for _, reading in readings]
        sum_at, sum_values = sum(at), sum(values)
        self._middle_s = start_s + sum_at / count
        self.mean = start + sum_values / count
        self.slope = 0.0
        if at[-1] >= self._window_s / 4:
            products = sum(second * above for second, above in zip(at, values, strict=True))
            squares = sum(second * second for second in at)
            self.slope = (products - sum_at * sum_values / count) / (squares - sum_at * sum_at / count)

    def fitted(self, ahead_s: float = 0.0) -> float:
        """The line through the window, ``ahead_s`` after the newest reading; the newest reading if the slope is 0."""
        if self.slope == 0.0:
            return self.last
        return self.mean + self.slope * (self.last_s + ahead_s - self._middle_s)
