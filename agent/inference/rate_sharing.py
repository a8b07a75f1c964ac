"""Shares one ratio among cameras by priority."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

_GUARANTEED_RATIO = 0.25
"""Share of the common ratio that every camera keeps, even at the lowest priority: no camera goes blind."""


def share_ratio(ratio: float, cameras: Mapping[str, tuple[float, int]]) -> dict[str, float]:
    """The ratio (0..1) of each camera, given its (rate in Hz, priority); priority 1 is slowed down last.

    The rates add up to ``ratio`` of what all cameras ask for. Every camera keeps a quarter of the common ratio; the
    rest goes out by priority, equally within one priority, up to the full rate of each camera.
    """
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"a ratio must be in 0..1, got {ratio}")
    shares = dict.fromkeys(cameras, ratio * _GUARANTEED_RATIO)
    left_hz = ratio * (1.0 - _GUARANTEED_RATIO) * sum(rate for rate, _ in cameras.values())
    ranked = sorted(cameras, key=lambda name: cameras[name][1])
    for _, group in groupby(ranked, key=lambda name: cameras[name][1]):
        names = list(group)
        rate = sum(cameras[name][0] for name in names)
        if rate <= 0.0:
            continue
        missing_hz = rate * (1.0 - ratio * _GUARANTEED_RATIO)
        given_hz = min(left_hz, missing_hz)
        left_hz -= given_hz
        for name in names:
            shares[name] = min(1.0, shares[name] + given_hz / rate)
    return shares
