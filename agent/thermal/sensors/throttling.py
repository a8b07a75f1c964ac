"""Why the clocks are lowered now: heat, over-current, or a cap that no temperature explains."""

from __future__ import annotations

from collections.abc import Mapping

from agent.thermal.limits import throttling_of
from agent.thermal.sensors.base import ThrottleCause, TripPoints
from agent.thermal.sensors.cooling import CoolingDevices, is_throttle_alert
from agent.thermal.sensors.trips import ZoneTrips

_NEAR_KELVIN = 3.0
"""A zone up to this far below its trip point, or below the end of its hysteresis, still explains a cap. Our choice."""

_STANDS_AFTER_S = 60.0
"""A cap from the start that has not moved for this long no longer counts. Our choice: the kernel reduces its own caps
by a step at each poll while the zone cools (Linux, drivers/thermal/gov_step_wise.c), and the device
trees of AGX Orin, Raspberry Pi 5 and RK3588 poll each second or faster then."""


class ThrottleWatch:
    """Remembers which caps began with heat, because the kernel reduces them step by step while the zone already cools.

    What does not count as throttling:

    - A power mode (nvpmodel) lowers ``max_freq``, which is no cooling state, so it never shows here.
    - A cap of a cooling device that stood at the first reading, never moved since, and has had no hot zone for a
      minute: somebody set it, and less load does not lift it. It stays in the states, but is no cause. Once it
      has moved it counts for good; while one of its zones is hot it counts as heat.

    Reports of the firmware (``*-throttle-alert``, a Raspberry Pi's flags) mean lower clocks now, and count as long as
    they are raised. So does a cap that appears while the agent runs.
    """

    def __init__(self) -> None:
        self._first: dict[str, int] = {}
        self._moved: set[str] = set()
        self._still_since_s: dict[str, float] = {}
        self._devices = CoolingDevices()
        self._trips: Mapping[str, ZoneTrips] = {}
        self._points: Mapping[str, TripPoints] = {}
        self._from_heat: set[str] = set()

    def look(self, devices: CoolingDevices, trips: Mapping[str, ZoneTrips], points: Mapping[str, TripPoints]) -> None:
        """Use these devices and trip points from now on."""
        self._devices, self._trips, self._points = devices, trips, points

    def causes(
        self,
        states: Mapping[str, int],
        temperatures: Mapping[str, float],
        over_current: Mapping[str, str],
        now_s: float,
    ) -> dict[ThrottleCause, str]:
        """The causes at ``now_s`` (monotonic seconds) with a short text each; empty at full clocks."""
        hot = {kind for kind, state in states.items() if state > 0 and self._is_heat(kind, temperatures)}
        self._follow(states, hot, now_s)
        raised = {kind: state for kind, state in states.items() if state > 0 and not self._stands(kind, now_s)}
        self._from_heat = (self._from_heat | hot) & raised.keys()
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

    def _follow(self, states: Mapping[str, int], hot: set[str], now_s: float) -> None:
        for kind, state in states.items():
            if state != self._first.setdefault(kind, state):
                self._moved.add(kind)
            if kind in hot or kind not in self._still_since_s:
                self._still_since_s[kind] = now_s

    def _stands(self, kind: str, now_s: float) -> bool:
        """Whether this cap has been there, unmoved and without heat, since the agent started."""
        if kind in self._moved or kind not in self._devices.throttles:
            return False
        return now_s - self._still_since_s[kind] >= _STANDS_AFTER_S

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
