"""Cooling devices: which ones lower clocks, and the trip points that they are bound to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from agent.thermal.sensors.files import amount_or_none, folders, number_or_none, text_or_none

Role = Literal["throttle", "hint", "fan", "unknown"]

# Each name with the file that defines it. "assumed": our guess, not found in a public source.
_THROTTLES = re.compile(
    r"""
    (thermal-)?cpufreq([-_.].*)?            # Linux, drivers/thermal/cpufreq_cooling.c: cpufreq-cpu0, thermal-cpufreq-0
    | (thermal-)?devfreq([-_.].*)?          # Linux, drivers/thermal/devfreq_cooling.c: devfreq-*, thermal-devfreq-0
    | (thermal-)?idle[-_].*                 # Linux, drivers/thermal/cpuidle_cooling.c: idle-cpu0, thermal-idle-0
    | intel_powerclamp                      # Linux, drivers/thermal/intel/intel_powerclamp.c
    | processor                             # Linux, Documentation/driver-api/thermal/sysfs-api.rst: Processor
    | .*[-_]balanced                        # OE4T/linux-tegra-4.9, tegra194-balanced-throttle.dtsi: cpu-balanced
    | heavy|light                           # Linux, drivers/thermal/tegra/soctherm.c: as the throttle nodes are named
    | cpu\d*[-_](hotplug|isolate)\d*        # Qualcomm's kernels: cpu-hotplug0, cpu-isolate0, cores taken away
    | thermal-pause-[0-9a-f]+               # Qualcomm's kernels: cores paused, by their mask
    | .*[-_]throttle|throttle[-_].*         # assumed
    | ([0-9a-f]+\.)?(gpu|ga10b|gv11b|gp10b|gm20b)([-_].*)?  # assumed: a GPU under its own name
    """,
    re.IGNORECASE | re.VERBOSE,
)
_THROTTLE_ALERTS = re.compile(r".*[-_]throttle[-_]alert", re.IGNORECASE)
"""Raised while the firmware lowers clocks. Source: users' readings of an Orin NX (L4T 36.3) and of a Thor developer
kit; the boot log of a Tegra X1 board names one too."""
_HINTS = re.compile(r".*[-_]alert", re.IGNORECASE)
"""Source: hot-surface-alert, alone at 70 degrees on an Orin NX. We assume that others of the kind lower no clock
either."""
_FANS = re.compile(r".*fan.*|pwm.*|pump.*", re.IGNORECASE)


def role_of(kind: str) -> Role:
    """What the cooling device of this type does. ``unknown`` may be a display, a radio or a charger."""
    if _FANS.fullmatch(kind):
        return "fan"
    if _HINTS.fullmatch(kind) and not is_throttle_alert(kind):
        return "hint"
    return "throttle" if is_throttle_alert(kind) or _THROTTLES.fullmatch(kind) else "unknown"


def is_throttle_alert(kind: str) -> bool:
    """Whether the device reports that the firmware lowers clocks, and lowers none itself."""
    return _THROTTLE_ALERTS.fullmatch(kind) is not None


@dataclass(frozen=True, slots=True)
class Binding:
    """One cooling device at one trip point of a zone."""

    device: str
    role: Role
    trip: int


def bindings_of(zone: Path) -> list[Binding]:
    """The cooling devices that ``zone`` (a folder thermal_zoneN) shows; empty on kernels that show none.

    Source: Linux, Documentation/driver-api/thermal/sysfs-api.rst: ``cdevM`` links to the device, ``cdevM_trip_point``
    is the number of the trip point. We assume -1 for a device that is bound to none.
    """
    found = []
    for link in folders(zone, "cdev[0-9]*"):
        kind = text_or_none(link / "type")
        trip = number_or_none(zone / f"{link.name}_trip_point")
        if kind is not None and trip is not None and trip >= 0:
            found.append(Binding(kind, role_of(kind), int(trip)))
    return found


@dataclass(slots=True)
class CoolingDevices:
    """The devices of a board by role and type. Several devices of one type count as one, with their highest state."""

    throttles: Mapping[str, list[Path]] = field(default_factory=dict)
    hints: Mapping[str, list[Path]] = field(default_factory=dict)

    def throttle_states(self) -> dict[str, int]:
        """State of each type that lowers clocks (0: full clocks), without unreadable ones."""
        return _states_of(self.throttles)

    def hint_states(self) -> dict[str, int]:
        """State of each warning that lowers no clock."""
        return _states_of(self.hints)

    def steps_of(self, kind: str) -> int | None:
        """Number of steps of this type; None if it is no cooling device."""
        found = [
            steps
            for folder in self.throttles.get(kind, ())
            if (steps := amount_or_none(folder / "max_state")) is not None
        ]
        return int(max(found)) if found else None


def cooling_devices(thermal: Path) -> CoolingDevices:
    """The devices below ``thermal``, which is class/thermal."""
    throttles: dict[str, list[Path]] = {}
    hints: dict[str, list[Path]] = {}
    for folder in folders(thermal, "cooling_device*"):
        kind = text_or_none(folder / "type") or ""
        role = role_of(kind)
        if role == "throttle":
            throttles.setdefault(kind, []).append(folder)
        elif role == "hint":
            hints.setdefault(kind, []).append(folder)
    return CoolingDevices(throttles, hints)


def _states_of(devices: Mapping[str, list[Path]]) -> dict[str, int]:
    states = {}
    for kind, paths in devices.items():
        known = [state for folder in paths if (state := amount_or_none(folder / "cur_state")) is not None]
        if known:
            states[kind] = int(max(known))
    return states
