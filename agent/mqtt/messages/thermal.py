"""Heat and power as subscribers see them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from agent.mqtt.messages.base import PUBLIC, Count, Duration, Instant, Message, Share
from agent.thermal.governor import GovernorDecision
from agent.thermal.limits import Limits
from agent.thermal.sensors.base import SensorDescription, ThermalSample

Celsius = Annotated[float, Field(ge=-300.0, le=1000.0)]


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class ThermalZone:
    """One thermal zone."""

    celsius: Celsius
    """Temperature."""
    passive_celsius: Celsius | None
    """Where the kernel begins to lower clocks; null where the board names no such point."""
    critical_celsius: Celsius | None
    """Where the kernel switches the board off; null where the board names no such point."""
    soft_celsius: Celsius | None
    """What the governor keeps the zone under; null for a zone that is only watched."""
    hard_celsius: Celsius | None
    """Where the governor pauses inference; null for a zone that is only watched."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Power:
    """Electrical power."""

    rails: dict[str, Duration]
    """Watts by rail, under the board's own names."""
    total_watts: Duration | None
    """Watts in total; null without a power sensor."""
    total_meaning: str
    """What the total covers on this board."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Gpu:
    """The GPU; each value is null where the board does not tell."""

    load_ratio: Share | None
    """Load, 0 to 1."""
    clock_hz: Count | None
    """Clock."""
    max_clock_hz: Count | None
    """Highest clock of the power mode."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Memory:
    """Main memory, which the GPU of a Jetson shares."""

    total_bytes: Count
    """All of it."""
    used_bytes: Count
    """What is not available."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Fan:
    """One fan."""

    speed_ratio: Share | None
    """What it is told, 0 to 1."""
    rpm: Duration | None
    """How fast it turns."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class GovernorReport:
    """What the governor does."""

    state: Literal["off", "free", "reduced", "paused", "blind"]
    """`reduced`: rate cut; `paused`: no inference at the hard limit; `blind`: capped for want of a temperature."""
    rate_ratio: Share
    """Share of the configured rate that may be classified."""
    reason: str
    """Why, in words."""
    since: Instant
    """When state or ratio last changed, UTC."""
    zone: str | None
    """The zone closest to its limit."""
    predicted_celsius: float | None
    """Its temperature two minutes on at its present slope."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Thermal(Message):
    """Temperatures, power and what the governor makes of them. Sent when a zone moved by more than 0.5 degrees or
    anything else changed, and each 30 s at least."""

    schema: Literal["thermal/1"] = "thermal/1"
    at: Instant
    """When it was written, UTC."""
    source: Literal["jtop", "sysfs", "simulated", "none"]
    """Where the readings come from."""
    source_detail: str
    """More about the source, and why not another one."""
    age_s: Duration | None
    """Age of the readings; null where there are none."""
    zones: dict[str, ThermalZone]
    """Zones that can be read, by name."""
    hottest: str | None
    """Name of the hottest zone; null where none can be read."""
    absent: dict[str, str]
    """Sensors that are there and cannot be read or believed, with the reason."""
    power: Power
    gpu: Gpu
    memory: Memory | None
    """Null where the system does not tell."""
    fans: dict[str, Fan]
    """Fans by the name of their device."""
    power_mode: str | None
    """The board's power mode; it is never set by the agent."""
    throttle_alerts: dict[str, Count]
    """The board's own alerts; above 0 it throttles."""
    is_throttling: bool | None
    """Whether any alert is up; null where the board has none."""
    governor: GovernorReport


def thermal_message(
    sample: ThermalSample | None,
    decision: GovernorDecision,
    *,
    limits: dict[str, Limits],
    sensor: SensorDescription,
    device: str,
    session: int,
    at: str,
    since: str,
    now_ns: int,
) -> Thermal:
    """The message of one moment; ``at`` and ``since`` are UTC texts, ``now_ns`` is monotonic."""
    seen = sample if sample is not None else ThermalSample(source=sensor.source, taken_at_ns=now_ns)
    return Thermal(
        device=device,
        session=session,
        at=at,
        source=seen.source,
        source_detail=sensor.detail,
        age_s=None if sample is None else round(max(0.0, sample.age_s(now_ns)), 3),
        zones={zone: _zone(seen, zone, limits.get(zone)) for zone in sorted(seen.temperatures)},
        hottest=None if seen.hottest is None else seen.hottest[0],
        absent=dict(seen.absent),
        power=Power(
            rails={name: round(watts, 3) for name, watts in seen.power.rails.items()},
            total_watts=None if seen.power.total_watts is None else round(seen.power.total_watts, 3),
            total_meaning=seen.power.total_meaning,
        ),
        gpu=Gpu(
            load_ratio=None if seen.gpu.load_ratio is None else round(seen.gpu.load_ratio, 3),
            clock_hz=seen.gpu.clock_hz,
            max_clock_hz=seen.gpu.max_clock_hz,
        ),
        memory=None
        if seen.memory is None
        else Memory(total_bytes=seen.memory.total_bytes, used_bytes=seen.memory.used_bytes),
        fans={name: Fan(speed_ratio=fan.speed_ratio, rpm=fan.rpm) for name, fan in seen.fans.items()},
        power_mode=seen.power_mode,
        throttle_alerts=dict(seen.throttle_alerts),
        is_throttling=seen.is_throttling,
        governor=_governor(decision, since),
    )


def _zone(sample: ThermalSample, zone: str, limits: Limits | None) -> ThermalZone:
    trips = sample.trip_points.get(zone)
    return ThermalZone(
        celsius=round(sample.temperatures[zone], 2),
        passive_celsius=None if trips is None else trips.passive,
        critical_celsius=None if trips is None else trips.critical,
        soft_celsius=None if limits is None else limits.soft_celsius,
        hard_celsius=None if limits is None else limits.hard_celsius,
    )


def _governor(decision: GovernorDecision, since: str) -> GovernorReport:
    predicted = decision.predicted_celsius
    return GovernorReport(
        state=decision.state,
        rate_ratio=round(decision.ratio, 3),
        reason=decision.reason,
        since=since,
        zone=decision.zone,
        predicted_celsius=None if predicted is None else round(predicted, 1),
    )
