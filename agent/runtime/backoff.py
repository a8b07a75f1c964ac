"""Waits between attempts to connect, and the detection of two clients with one id."""

from __future__ import annotations

import random

STABLE_S = 30.0
"""After a connection that lasted this long, the next failure starts the waits from the beginning."""


class Backoff:
    """Capped exponential backoff with full jitter: evenly between 0 and ``min(cap_s, base_s * 2 ** failures)``.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    def __init__(self, *, base_s: float = 1.0, rng: random.Random | None = None) -> None:
        self._base_s = base_s
        self._rng = rng or random.Random()  # noqa: S311 (spreads attempts, guards nothing)
        self._failures = 0

    def next_s(self, cap_s: float) -> float:
        """Seconds to wait after one more failure, at most ``cap_s``."""
        ceiling = min(cap_s, self._base_s * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return self._rng.uniform(0.0, ceiling)

    def between_s(self, low_s: float, high_s: float) -> float:
        """Random seconds between the two, for a wait that must not be short."""
        return self._rng.uniform(low_s, high_s)

    def reset(self) -> None:
        """Start from the beginning at the next failure: the last connection was stable."""
        self._failures = 0
