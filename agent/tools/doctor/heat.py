"""Temperatures, power, throttling, and the limits that follow from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from agent.config.sections.thermal import GovernorConfig, ThermalConfig
from agent.runtime.clock import SystemClock
from agent.thermal.limits import Limits, limits_of
from agent.thermal.sensors.base import ThermalSample, ThrottleCause
from agent.thermal.sensors.choose import SYSFS_ROOT, read_once
from agent.tools.doctor.findings import Finding

_HEAT_S = 4.0
_HOT_CELSIUS = 85.0
_REMEDIES: Mapping[ThrottleCause, str] = {
    "heat": "cool it better",
    "over_current": "use a stronger power supply or a lower power mode",
    "power_cap": "find what holds the clocks down: no zone is near its limit",
}


def heat_findings(config: ThermalConfig, *, sysfs_root: Path = SYSFS_ROOT) -> list[Finding]:
    """How hot the board is, as the agent would read it, and one limit for each governed zone.

    ``sysfs_root`` stands for /sys.
    """
    sample, description = read_once(config, clock=SystemClock(), sysfs_root=sysfs_root, timeout_s=_HEAT_S)
    where = f"{description.source}{f', {description.detail}' if description.detail else ''}"
    if sample is None or sample.hottest is None:
        absent = ", ".join(f"{zone}: {why}" for zone, why in sample.absent.items()) if sample else ""
        return [Finding("temperatures", "absent", f"none can be read ({absent or where})")]
    limits = limits_of(sample, config.governor)
    return [
        _temperatures(sample, where),
        *(_limit(zone, sample, limit, config.governor) for zone, limit in limits.items()),
    ]


def _temperatures(sample: ThermalSample, where: str) -> Finding:
    facts: dict[str, object] = {
        "source": sample.source,
        "celsius": {zone: round(celsius, 1) for zone, celsius in sample.temperatures.items()},
        "watts": sample.power.total_watts,
        "throttle_causes": dict(sample.throttle_causes),
        "over_current_events": dict(sample.over_current_events),
        "hints": dict(sample.hints),
    }
    zone, celsius = max(sample.temperatures.items(), key=lambda item: item[1])
    watts = "" if sample.power.total_watts is None else f", {sample.power.total_watts:.1f} W"
    detail = f"{zone} {celsius:.1f} °C is the hottest of {len(sample.temperatures)}{watts} ({where})"
    counted = {name: events for name, events in sample.over_current_events.items() if events}
    if counted:
        detail += f", over-current events so far: {', '.join(f'{name} {count}' for name, count in counted.items())}"
    if raised := [name for name, state in sample.hints.items() if state]:
        detail += f", {', '.join(raised)} is up (lowers no clock)"
    if sample.throttle_causes:
        causes = "; ".join(f"{cause.replace('_', ' ')}: {text}" for cause, text in sample.throttle_causes.items())
        remedy = "; ".join(_REMEDIES[cause] for cause in sample.throttle_causes)
        return Finding("temperatures", "warning", f"{detail}; the board throttles ({causes})", remedy, facts=facts)
    if celsius >= _HOT_CELSIUS:
        return Finding("temperatures", "warning", detail, _REMEDIES["heat"], facts=facts)
    return Finding("temperatures", "ok", detail, facts=facts)


def _limit(zone: str, sample: ThermalSample, limit: Limits, config: GovernorConfig) -> Finding:
    points = sample.trip_points.get(zone)
    hints = {} if points is None else points.hints
    facts = {
        "throttle_celsius": limit.throttle_celsius,
        "soft_celsius": limit.soft_celsius,
        "hard_celsius": limit.hard_celsius,
        "source": limit.source,
        "hints": dict(hints),
    }
    detail = (
        f"clocks fall at {limit.throttle_celsius:g} °C ({limit.source}); soft limit {limit.soft_celsius:g}, "
        f"hard limit {limit.hard_celsius:g}"
    )
    if hints:
        shown = ", ".join(f"{device} at {celsius:g}" for device, celsius in hints.items())
        detail += f"; information only: {shown}"
    if faults := [*_faults_of(sample.temperatures[zone], limit, config)]:
        what, remedies = zip(*faults, strict=True)
        return Finding(f"limit of {zone}", "warning", "; ".join([detail, *what]), "; ".join(remedies), facts=facts)
    return Finding(f"limit of {zone}", "ok", detail, facts=facts)


def _faults_of(celsius: float, limit: Limits, config: GovernorConfig) -> Iterator[tuple[str, str]]:
    """What is wrong with a zone's limits, each with its remedy."""
    if config.soft_celsius != "auto" and limit.soft_celsius < config.soft_celsius:
        hard, soft = limit.hard_celsius, limit.soft_celsius
        yield (
            f"soft_celsius {config.soft_celsius:g} is not below the hard limit {hard:g}, so {soft:g} is used",
            f"set thermal.governor.soft_celsius to {limit.soft_celsius:g} or less, or set hard_celsius too",
        )
    if celsius >= limit.hard_celsius:
        yield (
            f"it has {celsius:.1f} °C now, which is not below the hard limit {limit.hard_celsius:g}: inference pauses",
            "cool the board, or raise thermal.governor.hard_celsius",
        )
    elif celsius >= limit.soft_celsius:
        yield (
            f"it has {celsius:.1f} °C now, which is not below the soft limit {limit.soft_celsius:g}: the rate is cut",
            "cool the board, or raise thermal.governor.soft_celsius",
        )
