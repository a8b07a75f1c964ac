"""The soft and the hard limit of each zone, from the board's trip points or from the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from agent.config.sections.thermal import GovernorConfig
from agent.thermal.sensors.base import ThermalSample, TripPoints

CRITICAL_TO_THROTTLE_KELVIN = 5.5
"""A zone without a passive trip point is assumed to throttle this far below its critical one. No kernel has this rule:
it is the distance between the two on NVIDIA's own boards, passive and critical:

- Orin 99.0 and 104.5 in all zones but tj: NVIDIA's patch to tegra234-p3701-0000.dtsi (Yi-Wei Wang, linux-tegra
  list, 24 January 2023), and a user's reading of an Orin NX
- AGX Xavier Industrial, CPU 103.0 and 108.5, AUX 100.5 and 106.0, GPU 102.0 and 107.5: OE4T/linux-tegra-4.9,
  tegra194-thermal-p2888-0008.dtsi
- Thor developer kit, critical 114.5, seen to throttle at about 109: developer notes of swsususu/ThorFAN
- Xavier NX 90.5 and 96.0, TX2 95.5 and 101.0, Nano 97.0 and 102.5: dumps of users whose pages are gone (of these,
  a second reading confirms TX2's 101.0, and mainline's tegra210.dtsi Nano's 102.5 for its CPU)

Other makers differ: RK3588 has 85 and 115."""

MIN_DEFAULT_CELSIUS = 80.0
"""A default below this is not used: no silicon of this kind throttles earlier."""

HARD_BELOW_THROTTLE_KELVIN = 0.5
"""Inference pauses this far below the temperature at which the board throttles."""

HARD_ABOVE_SOFT_KELVIN = 1.0
"""Least distance of the two limits: sensor noise must not turn a cut into a pause."""

FALLBACK_THROTTLE_CELSIUS = 95.0
"""For a board without any trip point: silicon of this kind is rated for 95 degrees and more."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one zone, degrees Celsius; ``soft`` is at least 1 below ``hard``.

    The board is expected to lower its clocks at ``throttle_celsius``; ``source`` is one short sentence on how that is
    known.
    """

    soft_celsius: float
    hard_celsius: float
    throttle_celsius: float
    source: str


def limits_of(sample: ThermalSample, config: GovernorConfig) -> dict[str, Limits]:
    """Limits of every governed zone of ``sample``.

    Zones without a trip point of their own (a wireless card, a disk) are watched and not governed, unless no zone of
    the board has one, or the configuration sets both limits.
    """
    expected = {
        zone: found
        for zone in sample.temperatures
        if (found := throttling_of(sample.trip_points.get(zone, TripPoints()))) is not None
    }
    if not expected or (config.soft_celsius != "auto" and config.hard_celsius != "auto"):
        fallback = (FALLBACK_THROTTLE_CELSIUS, f"no trip point that counts: {FALLBACK_THROTTLE_CELSIUS:g} °C assumed")
        expected = {zone: expected.get(zone, fallback) for zone in sample.temperatures}
    return {zone: _limits_below(celsius, source, config) for zone, (celsius, source) in expected.items()}


def throttling_of(points: TripPoints) -> tuple[float, str] | None:
    """Where a zone with these trip points is expected to throttle, degrees Celsius, and how that is known.

    None if it is unknown: a zone without trip points, or one that shuts down so early (a battery, a disk) that the
    rate of inference does not matter to it.
    """
    if points.passive is not None:
        return points.passive, points.source or f"passive trip point at {points.passive:g} °C"
    if points.assumed is not None:
        return points.assumed, points.source
    if points.critical is None:
        return None
    below = points.critical - CRITICAL_TO_THROTTLE_KELVIN
    if points.hot is not None and MIN_DEFAULT_CELSIUS <= points.hot < below:
        return points.hot, f"no trip point lowers clocks: the hot one at {points.hot:g} °C"
    if below < MIN_DEFAULT_CELSIUS:
        return None
    default = f"{CRITICAL_TO_THROTTLE_KELVIN:g} K below the critical one at {points.critical:g} °C"
    return below, f"no trip point lowers clocks: {default}"


def _limits_below(throttle: float, source: str, config: GovernorConfig) -> Limits:
    hard = throttle - HARD_BELOW_THROTTLE_KELVIN if config.hard_celsius == "auto" else config.hard_celsius
    soft = throttle - config.margin_celsius if config.soft_celsius == "auto" else config.soft_celsius
    return Limits(
        soft_celsius=min(soft, hard - HARD_ABOVE_SOFT_KELVIN),
        hard_celsius=hard,
        throttle_celsius=throttle,
        source=source,
    )
