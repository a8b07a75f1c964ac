"""The trip point of a zone at which the board lowers its clocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.thermal.sensors.base import TripPoints
from agent.thermal.sensors.cooling import Binding, bindings_of
from agent.thermal.sensors.files import number_or_none, text_or_none
from agent.thermal.sensors.plausible import MAX_CELSIUS

MIN_TRIP_CELSIUS = 50.0
"""Trip points below are placeholders (0, -274, -40) or for the fan."""

MIN_UNBOUND_CELSIUS = 80.0
"""A passive trip point without visible bindings counts from here on. Our choice between two facts:
an Orin NX with L4T 36.3 has one at 70 degrees to which only ``hot-surface-alert`` is bound (public reading), and no
NVIDIA board of ``docs/thermals.md`` lowers its clocks below 90."""

_MAX_TRIPS = 32


@dataclass(frozen=True, slots=True)
class Trip:
    """One plausible trip point, degrees Celsius."""

    number: int
    kind: str
    celsius: float
    hysteresis: float


@dataclass(frozen=True, slots=True)
class ZoneTrips:
    """The trip points of one zone and what is bound to them."""

    trips: Sequence[Trip]
    bindings: Sequence[Binding]

    def at_device(self, device: str) -> list[Trip]:
        """The trip points that devices of this type are bound to."""
        numbers = {binding.trip for binding in self.bindings if binding.device == device}
        return [trip for trip in self.trips if trip.number in numbers]


def zone_trips(folder: Path) -> ZoneTrips:
    """Read the folder of a zone, without values that cannot be trip points."""
    found = []
    for number in range(_MAX_TRIPS):
        kind = text_or_none(folder / f"trip_point_{number}_type")
        millicelsius = number_or_none(folder / f"trip_point_{number}_temp")
        if kind is None or millicelsius is None or not 0.0 < millicelsius / 1000.0 <= MAX_CELSIUS:
            continue
        hysteresis = number_or_none(folder / f"trip_point_{number}_hyst") or 0.0
        found.append(Trip(number, kind, millicelsius / 1000.0, max(hysteresis, 0.0) / 1000.0))
    return ZoneTrips(found, bindings_of(folder))


def trip_points(zone: ZoneTrips, assumed: tuple[float, str] | None = None) -> TripPoints:
    """The valid points of ``zone``. ``assumed`` is used if no trip point is valid: where this board is known to lower
    its clocks, and how that is known.
    """
    usable = [trip for trip in zone.trips if trip.celsius >= MIN_TRIP_CELSIUS]
    critical = _lowest([trip for trip in usable if trip.kind == "critical"])
    top = MAX_CELSIUS if critical is None else critical.celsius
    hot = _lowest([trip for trip in usable if trip.kind == "hot"])
    passive, source = _throttling_trip([trip for trip in usable if trip.celsius < top], zone.bindings)
    if passive is None and assumed is not None:
        source = assumed[1]
    return TripPoints(
        passive=None if passive is None else passive.celsius,
        hot=None if hot is None else hot.celsius,
        critical=None if critical is None else critical.celsius,
        assumed=None if passive is not None or assumed is None else assumed[0],
        source=source,
        hints=_hints(zone),
    )


def _throttling_trip(usable: Sequence[Trip], bindings: Sequence[Binding]) -> tuple[Trip | None, str]:
    """The lowest trip point that lowers clocks, and why it is this one."""
    throttles: dict[int, str] = {}
    for binding in bindings:
        if binding.role == "throttle":
            throttles.setdefault(binding.trip, binding.device)
    bound = _lowest([trip for trip in usable if trip.number in throttles and trip.kind != "critical"])
    if bound is not None:
        return bound, f"trip {bound.number} at {bound.celsius:g} °C, the lowest bound to {throttles[bound.number]}"
    others = {binding.trip for binding in bindings if binding.role in ("hint", "fan")}
    passive = _lowest(
        [
            trip
            for trip in usable
            if trip.kind == "passive" and trip.number not in others and trip.celsius >= MIN_UNBOUND_CELSIUS
        ]
    )
    if passive is None:
        return None, ""
    why = f"the lowest passive one of {MIN_UNBOUND_CELSIUS:g} °C or more; no device that lowers clocks is shown"
    return passive, f"trip {passive.number} at {passive.celsius:g} °C, {why}"


def _hints(zone: ZoneTrips) -> dict[str, float]:
    """The lowest trip point of each device that lowers no clock."""
    by_number = {trip.number: trip.celsius for trip in zone.trips}
    hints: dict[str, float] = {}
    for binding in zone.bindings:
        if binding.role != "throttle" and binding.trip in by_number:
            celsius = by_number[binding.trip]
            hints[binding.device] = min(celsius, hints.get(binding.device, celsius))
    return hints


def _lowest(trips: Sequence[Trip]) -> Trip | None:
    return min(trips, key=lambda trip: trip.celsius, default=None)
