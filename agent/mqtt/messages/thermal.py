"""Heat and power as subscribers see them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from agent.mqtt.messages.base import PUBLIC, Count, Duration, Instant, Message, Share

Celsius = Annotated[float, Field(ge=-300.0, le=1000.0)]


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class ThermalZone:
    """One thermal zone."""

    celsius: Celsius
    """Temperature."""
    passive_celsius: Celsius | None
    """Lowest trip point at which the kernel lowers clocks; null where the board names no such point."""
    critical_celsius: Celsius | None
    """Where the kernel switches the board off; null where the board names no such point."""
    soft_celsius: Celsius | None
    """What the governor keeps the zone under; null for a zone that is only watched."""
    hard_celsius: Celsius | None
    """Where the governor pauses inference; null for a zone that is only watched."""
    throttle_celsius: Celsius | None
    """Where the board is expected to lower clocks; null for a zone that is only watched."""
    limit_source: str | None
    """Where that comes from; null for a zone that is only watched."""
    hints: dict[str, Celsius]
    """Trip points that lower no clock, by cooling device."""


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
class OverCurrent:
    """One over-current counter of the board."""

    events: Count
    """Events since the counter began."""
    rate_hz: Duration
    """Events a second over the last seconds."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class GovernorReport:
    """What the governor does."""

    state: Literal["off", "free", "reduced", "paused", "blind"]
    """`reduced`: rate cut; `paused`: no inference at the hard limit; `blind`: capped for want of a temperature."""
    rate_ratio: Share
    """Share of the configured rate that may be classified."""
    clock_ratio: Share
    """Share of the highest clock that GPU and CPU may run at; 1 where the clocks are left alone."""
    levers: list[Literal["batches", "engine", "clocks", "rate"]]
    """What gives way now, what costs least first."""
    cause: Literal["heat", "over_current", "power_cap", "power_budget", "no_temperature"] | None
    """What for; null where nothing is cut."""
    reason: str
    """Why, in words."""
    since: Instant
    """When state or ratio last changed, UTC."""
    zone: str | None
    """The zone closest to its limit."""
    predicted_celsius: float | None
    """Its temperature two minutes on at its present slope."""
    margin_kelvin: float | None
    """How far its soft limit lies below the temperature at which the board is expected to throttle."""


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
    is_throttling: bool | None
    """Whether the board lowers its clocks now; null where it has nothing that could tell."""
    throttle_causes: dict[Literal["heat", "over_current", "power_cap"], str]
    """Why it lowers them, each with what shows it; empty while it does not."""
    throttle_states: dict[str, Count]
    """Cooling devices that lower clocks, and their state; 0 is full clocks."""
    over_current: dict[str, OverCurrent]
    """Over-current counters by name."""
    hints: dict[str, Count]
    """Warnings that lower no clock, `hot-surface-alert` for one, and their state."""
    governor: GovernorReport
