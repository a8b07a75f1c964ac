"""The contract of a sensor, and the sample that it delivers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

SourceName = Literal["jtop", "sysfs", "simulated", "none"]

ThrottleCause = Literal["heat", "over_current", "power_cap"]
"""Why the board lowers its clocks: a trip point, an over-current event, or a cap that no temperature explains."""

RAIL_PREFIX = "power "
"""Prefix of a rail's name in ``absent``."""


@dataclass(frozen=True, slots=True)
class TripPoints:
    """Where the kernel acts on one zone, degrees Celsius; None if the board has no such point.

    ``passive`` is the lowest valid trip point that lowers clocks, ``critical`` the one that shuts the board down.
    ``source`` is one short sentence: which trip was chosen, and why. ``hints`` has the trip points that lower no
    clock, by cooling device (``{"hot-surface-alert": 70.0}``), for information only. ``assumed`` is where this kind of
    board is known to lower clocks without a trip point.
    """

    passive: float | None = None
    hot: float | None = None
    critical: float | None = None
    assumed: float | None = None
    source: str = ""
    hints: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PowerSample:
    """Electrical power in watts by rail. ``total_meaning`` says what the total covers on this board."""

    rails: Mapping[str, float] = field(default_factory=dict)
    total_watts: float | None = None
    total_meaning: str = "no power sensor"


@dataclass(frozen=True, slots=True)
class GpuSample:
    """The GPU's load (0..1) and clocks; None if the board does not report it."""

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
    """One fan: its setting (0..1) and its speed."""

    speed_ratio: float | None = None
    rpm: float | None = None


@dataclass(frozen=True, slots=True)
class ThermalSample:
    """Everything known about heat and power at one moment.

    ``temperatures`` has only plausible readings, by zone, in degrees Celsius. A zone that exists and could not be read
    is in ``absent`` with the reason. ``taken_at_ns`` is monotonic.

    ``throttle_causes`` says why clocks are lowered now, with a short text each ("oc3 +41 events/s"); empty at full
    clocks. ``throttle_states`` maps each cooling device that lowers clocks to its state, 0 being full clocks.
    ``over_current_hz`` is the rate of each over-current counter over the last seconds, ``over_current_events`` the
    counter itself. ``hints`` maps warnings that lower no clock, such as ``hot-surface-alert``, to their state.
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
    throttle_causes: Mapping[ThrottleCause, str] = field(default_factory=dict)
    throttle_states: Mapping[str, int] = field(default_factory=dict)
    over_current_hz: Mapping[str, float] = field(default_factory=dict)
    over_current_events: Mapping[str, int] = field(default_factory=dict)
    hints: Mapping[str, int] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)

    @property
    def hottest(self) -> tuple[str, float] | None:
        """Zone and temperature of the hottest reading."""
        if not self.temperatures:
            return None
        return max(self.temperatures.items(), key=lambda item: item[1])

    @property
    def has_zones(self) -> bool:
        """Whether there is any thermal zone, readable or not."""
        return bool(self.temperatures) or any(not name.startswith(RAIL_PREFIX) for name in self.absent)

    @property
    def is_throttling(self) -> bool | None:
        """Whether the board throttles, for any cause; None if it reports nothing about that."""
        if self.throttle_causes:
            return True
        return False if self.throttle_states or self.over_current_hz else None

    def age_s(self, now_ns: int) -> float:
        """Seconds since it was taken."""
        return (now_ns - self.taken_at_ns) / 1e9


@dataclass(frozen=True, slots=True)
class SensorDescription:
    """Where readings come from and why, for people."""

    source: SourceName
    state: Literal["stopped", "starting", "reading", "silent"]
    detail: str = ""
    restarts: int = 0
    """How often a child process was started again."""


class Sensor(Protocol):
    """Source of thermal samples. ``latest`` may be called from any thread and never blocks."""

    def start(self) -> None:
        """Begin reading; returns at once."""
        ...

    def latest(self) -> ThermalSample | None:
        """The newest sample; None if there is no fresh one."""
        ...

    def describe(self) -> SensorDescription:
        """What it reads from, and its state."""
        ...

    def stop(self) -> None:
        """End reading within 5 s, even if the hardware hangs; harmless when called twice or before ``start``."""
        ...


class NoSensor:
    """Reads nothing, for `source: none`."""

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

    Cut at the first ``-``, else at the first ``_``, as jtop does, then lower case; a number is added if ``taken``
    already has the name.
    """
    cut = kernel_type.split("-", maxsplit=1)[0] if "-" in kernel_type else kernel_type.split("_", maxsplit=1)[0]
    name = "_".join(cut.lower().split()) or "unnamed"
    unique, count = name, 1
    while unique in taken:
        count += 1
        unique = f"{name}{count}"
    return unique
