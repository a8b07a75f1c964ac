"""Why the clocks are lowered now: heat, over-current, or a cap that no temperature explains."""

from __future__ import annotations

from collections.abc import Mapping

from agent.thermal.limits import throttling_of
from agent.thermal.sensors.base import ThrottleCause, TripPoints
from agent.thermal.sensors.cooling import CoolingDevices, is_throttle_alert
from agent.thermal.sensors.trips import ZoneTrips

_NEAR_KELVIN = 3.0
"""A zone this far below its trip point, or below the end of its hysteresis, still explains a cap."""


class ThrottleWatch:
    """Remembers which caps began with heat: the kernel takes them back step by step, while the zone cools already.

    A power mode (nvpmodel) lowers ``max_freq``, which is no cooling state: it is never seen here.
    """

    def __init__(self) -> None:
        self._devices = CoolingDevices()
        self._trips: Mapping[str, ZoneTrips] = {}
        self._points: Mapping[str, TripPoints] = {}
        self._from_heat: set[str] = set()

    def look(self, devices: CoolingDevices, trips: Mapping[str, ZoneTrips], points: Mapping[str, TripPoints]) -> None:
        """Take over what the board has."""
        self._devices, self._trips, self._points = devices, trips, points

    def causes(
        self, states: Mapping[str, int], temperatures: Mapping[str, float], over_current: Mapping[str, str]
    ) -> dict[ThrottleCause, str]:
        """The causes with a short text each, in this order; empty at full clocks."""
        raised = {kind: state for kind, state in states.items() if state > 0}
        self._from_heat &= raised.keys()
        self._from_heat |= {kind for kind in raised if self._is_heat(kind, temperatures)}
        found: dict[ThrottleCause, str] = {}
        heat = [self._text(kind, state) for kind, state in raised.items() if kind in self._from_heat]
        capped = [self._text(kind, state) for kind, state in raised.items() if kind not in self._from_heat]
        if heat:
            found["heat"] = ", ".join(heat)
        if over_current:
            found["over_current"] = ", ".join(over_current.values())
        if capped:
            found["power_cap"] = ", ".join(capped)
        return found

    def _is_heat(self, kind: str, temperatures: Mapping[str, float]) -> bool:
        if is_throttle_alert(kind):
            return True
        bound = {zone: trips for zone, each in self._trips.items() if (trips := each.at_device(kind))}
        readable = {zone: trips for zone, trips in bound.items() if zone in temperatures}
        if readable:
            return any(
                temperatures[zone] >= trip.celsius - trip.hysteresis - _NEAR_KELVIN
                for zone, trips in readable.items()
                for trip in trips
            )
        expected = {zone: throttling_of(points) for zone, points in self._points.items()}
        return any(
            celsius >= throttle[0] - _NEAR_KELVIN
            for zone, celsius in temperatures.items()
            if (throttle := expected.get(zone)) is not None
        )

    def _text(self, kind: str, state: int) -> str:
        steps = self._devices.steps_of(kind)
        return kind if steps is None else f"{kind} {state} of {steps}"
