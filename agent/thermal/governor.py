"""The governor: from temperatures and power to one effort, and from that to the levers of this device.

It acts on the temperature that a zone will have: the slope of the last seconds, extrapolated by two minutes. In the
band below the soft limit it changes nothing. Above the band it cuts the effort at once and in proportion. Below the
band the effort recovers slowly, and no earlier than a minute after the last cut, so that it cannot swing more often
than once a minute. At the hard limit inference pauses. It never touches the board's power mode.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from agent.config.sections.thermal import GovernorConfig, ThermalConfig
from agent.thermal.decision import Cause, GovernorDecision, GovernorState
from agent.thermal.levers import MIN_CLOCK_RATIO, Ladder, LeverLevels, LeverName
from agent.thermal.limits import Limits, limits_of
from agent.thermal.prediction import HORIZON_S, ZoneForecast, ZoneView, closer
from agent.thermal.sensors.base import ThermalSample
from agent.thermal.trend import Trend

_CUT_PER_KELVIN = 0.01
"""Share of the full effort cut for each kelvin of predicted excess."""
_RECOVER_PER_KELVIN = 0.005
"""Share of the full effort given back in ten seconds for each kelvin of room."""
_MAX_CUT = 0.3
_MAX_RECOVERY = 0.03
_STEP = 0.01
"""Smallest change of the effort."""
_CUT_EVERY_S = 10.0
"""Between two cuts, so that the first shows in the slope."""
_CUT_HOT_EVERY_S = 3.0
"""The same while a zone is above its soft limit and rises."""
_RECOVER_EVERY_S = 10.0
_START_JUMP_KELVIN = 4.0
"""Silicon gets this much hotter within seconds when full work begins: a start closer to the limit begins low."""
_HARD_READINGS = 2
"""Readings in a row at the hard limit that pause inference: a single one may be a glitch."""
_BLIND_PAUSE_S = 300.0
"""A pause ends after this time if no temperature can be read that would end it."""
_VANISHED_BELOW_SOFT_KELVIN = 15.0
"""A zone that was seen closer than this to its limit and then vanished counts as silence."""
_POWER_WINDOW_S = 5.0
_POWER_GAP_S = 10.0
_POWER_AIM_RATIO = 0.97
_POWER_BAND_RATIO = 0.05
"""Height of the band below the power budget."""
_ALERT_CUT = 0.15
_CEILING_RATIO = 0.97
"""After the board has throttled, effort recovers to at most this share of the effort at which it throttled ..."""
_CEILING_HELD_S = 1800.0
"""... for this time; then the ceiling rises ..."""
_CEILING_RISES = 0.05
"""... by this much every ten minutes: a weak supply stays weak, a peak at the start passes."""
_CEILING_RISES_EVERY_S = 600.0
_MAX_GAP_S = 10.0


_UNCHANGED: Mapping[GovernorState, str] = {
    "off": "the governor is switched off",
    "free": "nothing has called for a cut",
    "reduced": "temperatures are known again; the rate comes back slowly",
    "paused": "inference is paused",
    "blind": "no temperature is known",
}
"""Reason of a state that was entered without a change of the ratio."""


@dataclass(frozen=True, slots=True)
class _Pressure:
    """What one zone, the power or an alert demands: the effort to cut now, or the effort to return within ten
    seconds."""

    cut: float
    room: float
    text: str
    cause: Cause = "heat"
    is_urgent: bool = False


class Governor:
    """Pure: no threads, no clock, no I/O. Call ``step`` with each reading and the time.

    ``levers`` are the levers that this device has beside the rate.
    """

    def __init__(self, config: ThermalConfig, *, levers: Collection[LeverName] = ()) -> None:
        self._config: GovernorConfig = config.governor
        self._is_on = config.governor.enabled and config.source != "none"
        self._levers = frozenset(levers)
        self._ladder = Ladder()
        self._levels = LeverLevels()
        self._zones: dict[str, ZoneForecast] = {}
        self._views: dict[str, ZoneView] = {}
        self._power = Trend(window_s=_POWER_WINDOW_S, gap_s=_POWER_GAP_S)
        self._effort = 1.0
        self._ceiling = 1.0
        self._ceiling_rises_s = 0.0
        self._cause: Cause | None = None
        self._paused = False
        self._blind = False
        self._hard_readings = 0
        self._credit = 0.0
        self._last_sample_s = float("-inf")
        self._silent_since_s: float | None = None
        self._last_cut_s = float("-inf")
        self._last_blind_s = float("-inf")
        self._last_recovery_s = float("-inf")
        self._last: GovernorDecision | None = None

    @property
    def limits(self) -> dict[str, Limits]:
        """The limits in force by zone, with the current margin."""
        return {zone: view.limits for zone, view in self._views.items()}

    def use_levers(self, names: Collection[LeverName]) -> None:
        """Use these levers from now on; they take over the share of one that is gone."""
        had_clocks = "clocks" in self._levers
        self._levers = frozenset(names)
        if had_clocks and "clocks" not in self._levers and not self._paused:
            # The smallest effort is lower with clocks, because part of it is a lower clock at the same rate.
            self._effort = max(self._effort, self._min_effort)

    @property
    def _min_effort(self) -> float:
        smallest = self._config.min_rate_ratio
        return smallest * MIN_CLOCK_RATIO if "clocks" in self._levers else smallest

    def step(self, sample: ThermalSample | None, now_ns: int) -> GovernorDecision:
        """Decide with the newest ``sample`` at ``now_ns`` (monotonic). The same sample twice counts once."""
        now_s = now_ns / 1e9
        if not self._is_on:
            return self._decided(now_ns, None)
        if self._silent_since_s is None:
            self._silent_since_s = now_s
        is_new = sample is not None and sample.taken_at_ns / 1e9 > self._last_sample_s
        reason = None
        if sample is not None and is_new:
            reason = self._read(sample, now_s)
        silent = self._why_blind(sample, now_s)
        if silent is not None:
            reason = self._cap(silent, now_s) or reason
        else:
            self._blind = False
        return self._decided(now_ns, reason)

    def _read(self, sample: ThermalSample, now_s: float) -> str | None:
        """Act on a new sample; return the reason if the effort or the pause changed."""
        taken_s = sample.taken_at_ns / 1e9
        passed_s = min(taken_s - self._last_sample_s, _MAX_GAP_S)
        self._last_sample_s = taken_s
        self._lift_ceiling(now_s)
        alerts = self._alert_pressure(sample, now_s)
        if not sample.temperatures:
            return None if self._paused else self._cut(alerts, now_s)
        is_first = not self._zones
        views = self._look_at_zones(sample, taken_s)
        self._hard_readings = self._hard_readings + 1 if any(v.celsius >= v.limits.hard_celsius for v in views) else 0
        if self._paused:
            return self._resume(now_s)
        if self._hard_readings >= _HARD_READINGS:
            return self._pause(max(views, key=lambda view: view.celsius - view.limits.hard_celsius), now_s)
        if is_first and any(view.excess > -_START_JUMP_KELVIN for view in views):
            return self._start_low(max(views, key=lambda view: view.excess), now_s)
        pressures = [self._zone_pressure(view) for view in views]
        pressures += alerts + self._power_pressure(sample, taken_s)
        return self._cut(pressures, now_s) or self._recover(pressures, now_s, passed_s)

    def _look_at_zones(self, sample: ThermalSample, taken_s: float) -> list[ZoneView]:
        """The governed zones that ``sample`` has; forget those that are only watched again."""
        governed = limits_of(sample, self._config)
        for zone in (sample.temperatures.keys() & self._zones.keys()) - governed.keys():
            # It was governed instead of zones that could not be read, or had unknown trip points.
            del self._zones[zone], self._views[zone]
        self._silent_since_s = taken_s
        for zone, limits in governed.items():
            if zone not in self._zones:
                self._zones[zone] = ZoneForecast(zone, max_margin_kelvin=self._config.margin_celsius)
            forecast = self._zones[zone]
            forecast.add(taken_s, sample.temperatures[zone])
            if "heat" in sample.throttle_causes:
                forecast.distrust()
            self._views[zone] = forecast.view(closer(limits, self._config, margin_kelvin=forecast.margin_kelvin))
        return [view for zone, view in self._views.items() if self._zones[zone].last_s == taken_s]

    def _zone_pressure(self, view: ZoneView) -> _Pressure:
        band = self._config.hysteresis_celsius
        soft = view.limits.soft_celsius
        cut = room = 0.0
        if view.predicted > soft - band / 4:
            cut = (view.predicted - (soft - band / 2)) * _CUT_PER_KELVIN
        elif view.excess < -band:
            room = (-band - view.excess) * _RECOVER_PER_KELVIN
        text = (
            f"{view.zone} at {view.celsius:.1f} °C, {view.predicted:.1f} °C expected in {HORIZON_S:g} s, "
            f"soft limit {soft:.1f} °C"
        )
        return _Pressure(cut, room, text, is_urgent=view.celsius > soft and view.predicted > view.celsius)

    def _alert_pressure(self, sample: ThermalSample, now_s: float) -> list[_Pressure]:
        if not sample.throttle_causes:
            return []
        self._ceiling = min(self._ceiling, max(self._effort * _CEILING_RATIO, self._min_effort))
        self._ceiling_rises_s = now_s + _CEILING_HELD_S
        return [
            _Pressure(_ALERT_CUT, 0.0, f"the board already throttles ({text})", cause)
            for cause, text in sample.throttle_causes.items()
        ]

    def _lift_ceiling(self, now_s: float) -> None:
        if self._ceiling < 1.0 and now_s >= self._ceiling_rises_s:
            self._ceiling = min(1.0, self._ceiling + _CEILING_RISES)
            self._ceiling_rises_s = now_s + _CEILING_RISES_EVERY_S

    def _power_pressure(self, sample: ThermalSample, taken_s: float) -> list[_Pressure]:
        budget, watts = self._config.power_budget_watts, sample.power.total_watts
        if budget is None or watts is None:
            return []
        self._power.add(taken_s, watts)
        mean = self._power.mean
        cut = room = 0.0
        if mean > budget:
            cut = self._effort * (mean - _POWER_AIM_RATIO * budget) / mean
        elif mean < (1.0 - _POWER_BAND_RATIO) * budget:
            room = self._effort * (_POWER_AIM_RATIO * budget - mean) / budget / 2
        text = f"{mean:.1f} W ({sample.power.total_meaning}), budget {budget:.1f} W"
        return [_Pressure(cut, room, text, "power_budget")]

    def _start_low(self, view: ZoneView, now_s: float) -> str:
        self._effort = self._min_effort
        self._last_cut_s = now_s
        self._cause = "heat"
        return (
            f"{view.zone} at {view.celsius:.1f} °C at the start, soft limit {view.limits.soft_celsius:.1f} °C: "
            f"inference begins at {self._config.min_rate_ratio:.0%}"
        )

    def _cut(self, pressures: list[_Pressure], now_s: float) -> str | None:
        worst = max(pressures, key=lambda pressure: pressure.cut, default=None)
        if worst is None or worst.cut <= 0.0:
            return None
        self._credit = 0.0
        wait_s = _CUT_HOT_EVERY_S if any(pressure.is_urgent for pressure in pressures) else _CUT_EVERY_S
        if now_s - self._last_cut_s < wait_s or self._effort <= self._min_effort:
            return None
        before = self._effort
        cut = min(max(worst.cut, _STEP), _MAX_CUT)
        self._effort = max(self._min_effort, before - cut)
        self._last_cut_s = now_s
        self._cause = worst.cause
        return f"{worst.text}: {self._noun} cut from {before:.0%} to {self._effort:.0%}"

    def _recover(self, pressures: list[_Pressure], now_s: float, passed_s: float) -> str | None:
        tightest = min(pressures, key=lambda pressure: pressure.room, default=None)
        if tightest is None or tightest.room <= 0.0 or self._effort >= self._ceiling:
            self._credit = 0.0
            return None
        self._credit = min(
            self._credit + min(tightest.room, _MAX_RECOVERY) * passed_s / _RECOVER_EVERY_S, _MAX_RECOVERY
        )
        waits = now_s - max(self._last_cut_s, self._last_blind_s) < self._config.recover_after_s
        if waits or now_s - self._last_recovery_s < _RECOVER_EVERY_S or self._credit < _STEP:
            return None
        before = self._effort
        self._effort = min(self._ceiling, before + self._credit)
        self._credit = 0.0
        self._last_recovery_s = now_s
        if self._effort >= 1.0:
            self._cause = None
        return f"{tightest.text}: {self._noun} back from {before:.0%} to {self._effort:.0%}"

    @property
    def _noun(self) -> str:
        """What the percentages of a reason are shares of."""
        return "effort of clocks and rate" if "clocks" in self._levers else "rate"

    def _pause(self, view: ZoneView, now_s: float) -> str:
        self._paused = True
        self._effort = 0.0
        self._credit = 0.0
        self._last_cut_s = now_s
        self._cause = "heat"
        return (
            f"{view.zone} at {view.celsius:.1f} °C, hard limit {view.limits.hard_celsius:.1f} °C: inference pauses, "
            f"cameras and broker stay"
        )

    def _resume(self, now_s: float) -> str | None:
        """End the pause if every zone is cool enough; a zone without a new reading counts with its last one."""
        band = self._config.hysteresis_celsius
        if now_s - self._last_cut_s < self._config.recover_after_s:
            return None
        if any(view.celsius > view.limits.soft_celsius - band for view in self._views.values()):
            return None
        return self._end_pause("every zone is below its soft limit again", now_s)

    def _end_pause(self, why: str, now_s: float) -> str:
        self._paused = False
        self._effort = self._min_effort
        self._last_recovery_s = now_s
        return f"{why}: inference resumes at {self._config.min_rate_ratio:.0%}"

    def _why_blind(self, sample: ThermalSample | None, now_s: float) -> str | None:
        """Why the temperature counts as unknown; None while it is known, or if the machine has no sensor."""
        silence_s = self._config.silence_s
        since = self._silent_since_s
        if since is not None and now_s - since >= silence_s:
            if not self._zones and sample is not None and not sample.has_zones:
                return None
            return f"no temperature for {now_s - since:.0f} s"
        for zone, forecast in self._zones.items():
            limit = self._views[zone].limits.soft_celsius
            if now_s - forecast.last_s >= silence_s and forecast.last > limit - _VANISHED_BELOW_SOFT_KELVIN:
                silent_s = now_s - forecast.last_s
                return f"{zone} gives no temperature for {silent_s:.0f} s and was at {forecast.last:.1f} °C"
        return None

    def _cap(self, why: str, now_s: float) -> str | None:
        if self._paused:
            if now_s - self._last_cut_s < _BLIND_PAUSE_S:
                return None
            self._blind = True
            return self._end_pause(f"{why} and paused for {_BLIND_PAUSE_S:.0f} s", now_s)
        self._credit = 0.0
        cap = max(self._config.silent_rate_ratio, self._config.min_rate_ratio)
        is_first, self._blind = not self._blind, True
        # Not recorded as a cut, which would delay cuts for the zones that are still read.
        self._last_blind_s = now_s
        # With clocks: the lowest clock at that rate, because the heat of a higher one could not be seen.
        largest = cap * MIN_CLOCK_RATIO if "clocks" in self._levers else cap
        if is_first or self._effort > largest:
            self._effort = min(self._effort, largest)
            self._cause = "no_temperature"
            return f"{why}: rate held to at most {cap:.0%}"
        return None

    def _decided(self, now_ns: int, reason: str | None) -> GovernorDecision:
        last = self._last
        state = self._state()
        levels = self._ladder.step(self._effort, now_ns / 1e9, self._levers) if self._is_on else LeverLevels()
        before = LeverLevels() if last is None else last.levels
        view = max(self._views.values(), key=lambda view: view.excess, default=None)
        text = reason
        if text is None:
            text = last.reason if last is not None and last.state == state else _UNCHANGED[state]
        self._last = GovernorDecision(
            ratio=levels.rate_ratio,
            paused=self._paused,
            state=state,
            reason=text,
            changed=levels != before or (last is not None and state != last.state),
            previous_ratio=before.rate_ratio,
            decided_at_ns=now_ns,
            zone=None if view is None else view.zone,
            celsius=None if view is None else view.celsius,
            predicted_celsius=None if view is None else view.predicted,
            soft_celsius=None if view is None else view.limits.soft_celsius,
            hard_celsius=None if view is None else view.limits.hard_celsius,
            margin_kelvin=None if view is None else view.limits.throttle_celsius - view.limits.soft_celsius,
            levels=levels,
            previous_levels=before,
            cause=None if state in ("off", "free") else self._cause,
        )
        return self._last

    def _state(self) -> GovernorState:
        if not self._is_on:
            return "off"
        if self._paused:
            return "paused"
        if self._blind:
            return "blind"
        return "reduced" if self._effort < 1.0 else "free"
