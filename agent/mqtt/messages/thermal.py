"""Temperatures, power and the governor."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from agent.mqtt.messages.base import PUBLIC, BuiltOnce, Count, Duration, Instant, Message, Share

Celsius = Annotated[float, Field(ge=-300.0, le=1000.0)]


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class ThermalZone(BuiltOnce):
    """One thermal zone."""

    celsius: Celsius
    """Temperature in degrees Celsius."""
    passive_celsius: Celsius | None
    """Lowest trip point at which the kernel lowers clocks; null if the zone has none."""
    critical_celsius: Celsius | None
    """Trip point at which the kernel switches the board off; null if the zone has none."""
    soft_celsius: Celsius | None
    """The governor keeps the zone below this; null for a zone that it only observes."""
    hard_celsius: Celsius | None
    """The governor pauses inference here; null for a zone that it only observes."""
    throttle_celsius: Celsius | None
    """The board is expected to lower clocks here; null for a zone that the governor only observes."""
    limit_source: str | None
    """Where the limit comes from; null for a zone that the governor only observes."""
    hints: dict[str, Celsius]
    """Trip points that lower no clock, by cooling device."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Power(BuiltOnce):
    """Electrical power."""

    rails: dict[str, Duration]
    """Watts by rail, with the board's names."""
    total_watts: Duration | None
    """Total watts; null without a power sensor."""
    total_meaning: str
    """What the total covers on this board."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Gpu(BuiltOnce):
    """The GPU; a value is null if the board does not report it."""

    load_ratio: Share | None
    """Load, 0 to 1."""
    clock_hz: Count | None
    """Current clock."""
    max_clock_hz: Count | None
    """Maximum clock of the power mode."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Memory(BuiltOnce):
    """Main memory, which the GPU of a Jetson shares."""

    total_bytes: Count
    """Total bytes."""
    used_bytes: Count
    """Bytes in use."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Fan(BuiltOnce):
    """One fan."""

    speed_ratio: Share | None
    """Requested speed, 0 to 1."""
    rpm: Duration | None
    """Measured speed; null if it is not measured."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class OverCurrent(BuiltOnce):
    """One over-current counter of the board."""

    events: Count
    """Events since the counter started."""
    rate_hz: Duration
    """Events a second over the last seconds."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class GovernorReport(BuiltOnce):
    """State of the governor."""

    state: Literal["off", "free", "reduced", "paused", "blind"]
    """`reduced`: rate cut; `paused`: hard limit reached, no inference; `blind`: no temperature, rate capped."""
    rate_ratio: Share
    """Share of the configured rate that the governor permits."""
    clock_ratio: Share
    """Share of the maximum clock that the governor permits for GPU and CPU; 1 if it does not limit clocks."""
    levers: list[Literal["batches", "engine", "clocks", "rate"]]
    """Levers in use, the one that costs least first."""
    cause: Literal["heat", "over_current", "power_cap", "power_budget", "no_temperature"] | None
    """Why levers are in use; null if none is."""
    reason: str
    """The same as a text for people."""
    since: Instant
    """When state or ratio last changed, UTC."""
    zone: str | None
    """The zone closest to its limit."""
    predicted_celsius: float | None
    """Temperature of that zone in two minutes at its present slope."""
    margin_kelvin: float | None
    """How far the soft limit of that zone is below its expected throttling temperature."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Thermal(Message):
    """Temperatures, power and the governor. Sent when a zone changes by more than 0.5 degrees, when anything
    else changes, and at least every 30 s."""

    schema: Literal["thermal/1"] = "thermal/1"
    at: Instant
    """When the message was written, UTC."""
    source: Literal["jtop", "sysfs", "simulated", "none"]
    """Source of the readings."""
    source_detail: str
    """Details of the source, and why others were not used."""
    age_s: Duration | None
    """Age of the readings in seconds; null if there are none."""
    zones: dict[str, ThermalZone]
    """Readable thermal zones by name."""
    hottest: str | None
    """Name of the hottest zone; null if none can be read."""
    unusable_sensors: dict[str, str]
    """Sensors that exist but are unreadable or implausible, with the reason."""
    power: Power
    gpu: Gpu
    memory: Memory | None
    """Main memory; null if the system does not report it."""
    fans: dict[str, Fan]
    """Fans by the name of their device."""
    power_mode: str | None
    """The board's power mode; the agent never changes it."""
    throttled: bool | None
    """Whether the board lowers its clocks now; null if it does not report it."""
    throttle_causes: dict[Literal["heat", "over_current", "power_cap"], str]
    """Why the clocks are lowered: each cause with the reading that shows it; empty if they are not."""
    throttle_states: dict[str, Count]
    """State of the cooling devices that lower clocks; 0 is full clocks."""
    over_current: dict[str, OverCurrent]
    """Over-current counters by name."""
    hints: dict[str, Count]
    """State of warnings that lower no clock, such as `hot-surface-alert`."""
    governor: GovernorReport
