"""The soft and the hard limit of each zone, from the board's own trip points or from the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.config.thermal import GovernorConfig
from agent.thermal.sensors.base import ThermalSample, TripPoints

CRITICAL_TO_THROTTLE_KELVIN = 5.0
"""How far below its critical point a zone without a passive one is taken to throttle. Source: Orin has 99.0 and 104.5,
a Thor developer kit with critical 114.5 was seen to throttle at about 109."""

HARD_BELOW_THROTTLE_KELVIN = 0.5
"""Inference pauses this far below the temperature at which the board throttles."""

HARD_ABOVE_SOFT_KELVIN = 1.0
"""The limits are never closer than this: the noise of a sensor must not make a pause of a cut."""

FALLBACK_THROTTLE_CELSIUS = 95.0
"""For a board that names no trip point at all: silicon of this kind is rated to 95 degrees and more."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the governor holds one zone to, degrees Celsius; ``soft`` is at least 1 below ``hard``."""

    soft_celsius: float
    hard_celsius: float


def limits_of(sample: ThermalSample, config: GovernorConfig) -> dict[str, Limits]:
    """Limits of every zone of ``sample`` that is governed.

    Zones without a trip point of their own (a wireless card, a disk) are watched and not governed, unless no zone of
    the board has one, or the configuration sets both limits.
    """
    throttling = {
        zone: celsius
        for zone in sample.temperatures
        if (celsius := throttle_celsius(sample.trip_points.get(zone, TripPoints()))) is not None
    }
    if not throttling or (config.soft_celsius != "auto" and config.hard_celsius != "auto"):
        throttling = {zone: throttling.get(zone, FALLBACK_THROTTLE_CELSIUS) for zone in sample.temperatures}
    return {zone: _limits_below(celsius, config) for zone, celsius in throttling.items()}


def throttle_celsius(points: TripPoints) -> float | None:
    """Where a zone with these trip points is expected to throttle."""
    if points.passive is not None:
        return points.passive
    if points.critical is not None:
        return points.critical - CRITICAL_TO_THROTTLE_KELVIN
    return None


def lowest_soft(limits: Mapping[str, Limits]) -> Limits | None:
    """The strictest of them, for a message that shows one."""
    return min(limits.values(), key=lambda limit: limit.soft_celsius, default=None)


def _limits_below(throttle: float, config: GovernorConfig) -> Limits:
    hard = throttle - HARD_BELOW_THROTTLE_KELVIN if config.hard_celsius == "auto" else config.hard_celsius
    soft = throttle - config.margin_celsius if config.soft_celsius == "auto" else config.soft_celsius
    return Limits(soft_celsius=min(soft, hard - HARD_ABOVE_SOFT_KELVIN), hard_celsius=hard)
