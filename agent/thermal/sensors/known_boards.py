"""Boards that lower their clocks without a trip point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.thermal.sensors.files import number_or_none, text_or_none
from agent.thermal.sensors.plausible import MAX_CELSIUS
from agent.thermal.sensors.trips import MIN_UNBOUND_CELSIUS

_RASPBERRY_PI_CELSIUS = 80.0
"""Source: raspberrypi/documentation, computers/raspberry-pi/frequency-management.adoc: the firmware slows the cores
from 80 degrees on and the GPU too at 85. The kernel knows no trip point for it: raspberrypi/linux, bcm2712-ds.dtsi,
has only a critical one at 110. A Pi 3B+ is slowed a little from 60 on (same page), which we ignore."""


_PI_THROTTLED = ("devices/platform/soc*/*firmware*/get_throttled", "devices/platform/*firmware*/get_throttled")
_PI_LOWERED = 0b1110
"""Bits of it that mean lower clocks now: capped, throttled, soft limit of the temperature. Bit 0 alone is a weak
supply, and bits 16 to 19 are about the past. Source: raspberrypi/documentation,
computers/os/graphics-utilities.adoc, get_throttled. The file, in hexadecimal: raspberrypi/linux, drivers/firmware/
raspberrypi.c; it calls the file deprecated, once in the kernel's log. We assume the name of its folder."""


def firmware_files(root: Path) -> dict[str, Path]:
    """Files in which firmware reports lowered clocks, by a name of ours: the Raspberry Pi's."""
    found = next((path for pattern in _PI_THROTTLED for path in sorted(root.glob(pattern))), None)
    return {} if found is None else {"raspberrypi-firmware": found}


def firmware_states(files: Mapping[str, Path]) -> dict[str, int]:
    """1 while the firmware lowers clocks, else 0; nothing if it cannot be read."""
    states = {}
    for name, path in files.items():
        try:
            bits = int(text_or_none(path) or "", 16)
        except ValueError:
            continue
        states[name] = int(bits & _PI_LOWERED != 0)
    return states


def assumed_throttling(root: Path, zone_kind: str, hwmons: Sequence[Path]) -> tuple[float, str] | None:
    """Where something that the kernel does not show throttles a zone of this type, degrees Celsius, and how that is
    known; None if unknown. ``root`` replaces /sys.
    """
    if zone_kind == "x86_pkg_temp":
        return _tjmax(hwmons)
    compatible = text_or_none(root / "firmware/devicetree/base/compatible") or ""
    if zone_kind.startswith("cpu") and "raspberrypi," in compatible:
        return _RASPBERRY_PI_CELSIUS, f"the Raspberry Pi's firmware lowers clocks from {_RASPBERRY_PI_CELSIUS:g} °C on"
    return None


def _tjmax(hwmons: Sequence[Path]) -> tuple[float, str] | None:
    """Where an Intel processor throttles in hardware. Source: Linux, Documentation/hwmon/coretemp.rst:
    ``tempN_crit`` is the highest junction temperature (TjMax), at which the processor cools itself down by force."""
    for hwmon in hwmons:
        if text_or_none(hwmon / "name") == "coretemp":
            millicelsius = number_or_none(hwmon / "temp1_crit")
            if millicelsius is not None and MIN_UNBOUND_CELSIUS <= millicelsius / 1000.0 <= MAX_CELSIUS:
                return (
                    millicelsius / 1000.0,
                    f"the processor's own limit (TjMax of coretemp) at {millicelsius / 1000:g} °C",
                )
    return None
