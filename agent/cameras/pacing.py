"""Which frames of a camera are classified: its configured rate, and the share that the thermal governor grants."""

from __future__ import annotations

_MIN_HZ = 1e-9
"""Lower rates give a period that does not fit in nanoseconds."""


class Pacer:
    """Decides when the next frame is due. Used by one camera thread; ``ratio`` and ``rate_hz`` are set from others.

    Due times lie on a grid of one period, so jitter does not change the mean rate; after a gap of more than a period
    the grid starts again.
    """

    def __init__(self, rate_hz: float | None) -> None:
        self._rate_hz = rate_hz
        self._due_ns: int | None = None
        self._credit = 0.0
        self.ratio = 1.0
        """Share of the rate that the thermal governor grants, 0 to 1; 0 pauses."""

    @property
    def rate_hz(self) -> float | None:
        """The configured rate; a new rate applies from the next frame on."""
        return self._rate_hz

    @rate_hz.setter
    def rate_hz(self, rate_hz: float | None) -> None:
        self._rate_hz = rate_hz

    def accepts(self, captured_at_ns: int) -> bool:
        """Whether to classify the live frame captured at monotonic ``captured_at_ns``."""
        ratio = self.ratio
        if ratio <= 0.0:
            return False
        if self._rate_hz is None:
            # Every frame earns `ratio`, a classified frame costs 1; the tolerance absorbs rounding errors of the sum.
            self._credit += ratio
            if self._credit < 1.0 - 1e-9:
                return False
            self._credit -= 1.0
            return True
        period_ns = self._period_ns(self._rate_hz * ratio, captured_at_ns)
        # A quarter of a period of grace: with jitter, a 30 fps camera must still give 15 frames per second at 15 Hz.
        if self._due_ns is not None and captured_at_ns + period_ns // 4 < self._due_ns:
            return False
        self._advance(captured_at_ns, period_ns)
        return True

    def wait_s(self, now_ns: int) -> float:
        """Seconds until the next frame of a file is due. 0 means now, and schedules the frame after it."""
        ratio = self.ratio
        if ratio <= 0.0:
            return 0.5
        if self._rate_hz is None:
            return 0.0
        period_ns = self._period_ns(self._rate_hz * ratio, now_ns)
        if self._due_ns is not None and now_ns < self._due_ns:
            return min((self._due_ns - now_ns) / 1e9, 0.5)
        self._advance(now_ns, period_ns)
        return 0.0

    def _period_ns(self, rate_hz: float, now_ns: int) -> int:
        """The period of ``rate_hz``; pulls in a due time that was set at a slower rate."""
        period_ns = round(1e9 / max(rate_hz, _MIN_HZ))
        if self._due_ns is not None:
            self._due_ns = min(self._due_ns, now_ns + period_ns + period_ns // 4)
        return period_ns

    def _advance(self, now_ns: int, period_ns: int) -> None:
        if self._due_ns is None or now_ns - self._due_ns > period_ns:
            self._due_ns = now_ns
        self._due_ns += period_ns
