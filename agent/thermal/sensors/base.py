"""What every sensor delivers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

SourceName = Literal["jtop", "sysfs", "simulated", "none"]

RAIL_PREFIX = "power "
"""Before the name of a rail among what is absent."""


@dataclass(frozen=True, slots=True)
class TripPoints:
    """Where the kernel acts on one zone, degrees Celsius; None where the board names no such point.

    ``passive`` is the lowest point at which clocks are lowered, ``critical`` the one that switches the board off.
    """

    passive: float | None = None
    hot: float | None = None
    critical: float | None = None


@dataclass(frozen=True, slots=True)
class PowerSample:
    """Electrical power in watts by rail. ``total_meaning`` says what the total covers on this board."""

    rails: Mapping[str, float] = field(default_factory=dict)
    total_watts: float | None = None
    total_meaning: str = "no power sensor"


@dataclass(frozen=True, slots=True)
class GpuSample:
    """The GPU's load (0..1) and clocks; None where the board does not tell."""

    load_ratio: float | None = None
    clock_hz: int | None = None
    max_clock_hz: int | None = None


@dataclass(frozen=True, slots=True)
class MemorySample:
    """Main memory, which the GPU of a Jetson shares."""

    total_bytes: int
    used_bytes: int


@dataclass(frozen=True, slots=True)
class FanSample:
    """One fan: what it is told (0..1) and how fast it turns."""

    speed_ratio: float | None = None
    rpm: float | None = None


@dataclass(frozen=True, slots=True)
class ThermalSample:
    """Everything that was known about heat and power at one moment.

    ``temperatures`` holds only readings to believe, by zone, in degrees Celsius; a zone that is there
    and could not be read stands in ``absent`` with its reason. ``throttle_alerts`` maps each alert of the board to its
    state, 0 meaning that it does not throttle. ``taken_at_ns`` is monotonic.
    """

    source: SourceName
    taken_at_ns: int
    temperatures: Mapping[str, float] = field(default_factory=dict)
    trip_points: Mapping[str, TripPoints] = field(default_factory=dict)
    power: PowerSample = PowerSample()
    gpu: GpuSample = GpuSample()
    memory: MemorySample | None = None
    fans: Mapping[str, FanSample] = field(default_factory=dict)
    power_mode: str | None = None
    throttle_alerts: Mapping[str, int] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)

    @property
    def hottest(self) -> tuple[str, float] | None:
        """Zone and temperature of the hottest reading."""
        if not self.temperatures:
            return None
        return max(self.temperatures.items(), key=lambda item: item[1])

    @property
    def has_zones(self) -> bool:
        """Whether there is any thermal zone at all, readable or not."""
        return bool(self.temperatures) or any(not name.startswith(RAIL_PREFIX) for name in self.absent)

    @property
    def is_throttling(self) -> bool | None:
        """Whether the board says that it throttles; None where it has no alerts."""
        if not self.throttle_alerts:
            return None
        return any(state > 0 for state in self.throttle_alerts.values())

    def age_s(self, now_ns: int) -> float:
        """Seconds since it was taken."""
        return (now_ns - self.taken_at_ns) / 1e9


@dataclass(frozen=True, slots=True)
class SensorDescription:
    """Where readings come from and why not from elsewhere, for people."""

    source: SourceName
    state: Literal["stopped", "starting", "reading", "silent"]
    detail: str = ""
    restarts: int = 0
    """How often a child process had to be started again."""


class Sensor(Protocol):
    """Source of thermal samples. ``latest`` may be called from any thread and never waits for anything."""

    def start(self) -> None:
        """Begin reading; returns at once."""
        ...

    def latest(self) -> ThermalSample | None:
        """The newest sample, or None when there is none that is still worth looking at."""
        ...

    def describe(self) -> SensorDescription:
        """What it reads from and how that goes."""
        ...

    def stop(self) -> None:
        """End reading within 5 s, whatever the hardware does; harmless when called twice or before ``start``."""
        ...


class NoSensor:
    """Nothing is read: for `source: none`."""

    def start(self) -> None:
        """See Sensor."""

    def latest(self) -> ThermalSample | None:
        """See Sensor."""
        return None

    def describe(self) -> SensorDescription:
        """See Sensor."""
        return SensorDescription("none", "stopped", "thermal.source is none")

    def stop(self) -> None:
        """See Sensor."""


def zone_name(kernel_type: str, taken: Mapping[str, object]) -> str:
    """The zone's short name, the same from every source: ``cpu-thermal`` and ``CPU-therm`` are ``cpu``.

    Cut at the first ``-``, else at the first ``_``, as jtop does, then lower case; a number is added where ``taken``
    holds the name already.
    """
    cut = kernel_type.split("-", maxsplit=1)[0] if "-" in kernel_type else kernel_type.split("_", maxsplit=1)[0]
    name = "_".join(cut.lower().split()) or "unnamed"
    unique, count = name, 1
    while unique in taken:
        count += 1
        unique = f"{name}{count}"
    return unique
