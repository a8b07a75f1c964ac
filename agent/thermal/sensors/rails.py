"""Power by rail and fans, from the hwmon files below a sysfs root."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.thermal.sensors.base import RAIL_PREFIX, FanSample, PowerSample
from agent.thermal.sensors.files import amount_or_none, folders, number_or_none, text_or_none

TOTAL_RAILS = ("VIN", "VDD_IN", "POM_5V_IN")
"""Rails that carry the whole input: INA238 of Thor's carrier; Orin NX and Nano; Nano and TX1. VIN_SYS_5V0 is not
one."""

_MAX_WATTS = 1000.0
_RAILS_OF_INA3221 = (1, 2, 3)
"""in4 to in6 are shunt voltages and in7 their sum. Source: Linux, Documentation/hwmon/ina3221.rst."""


_RAILS_OF_IIO = (0, 1, 2)


def power_sample(rails: Mapping[str, float]) -> PowerSample:
    """The total of ``rails`` (watts) and what it covers on this board."""
    if not rails:
        return PowerSample()
    total = next((name for name in TOTAL_RAILS if name in rails), None)
    if total is not None:
        return PowerSample(rails=rails, total_watts=rails[total], total_meaning=f"{total}: the whole board")
    meaning = f"sum of {len(rails)} rails: the module without what no rail measures"
    return PowerSample(rails=rails, total_watts=sum(rails.values()), total_meaning=meaning)


def hwmon_folders(root: Path) -> list[Path]:
    """Every hwmon folder once, also where only the I2C device links to it."""
    found = folders(root / "class/hwmon")
    for device in folders(root / "bus/i2c/devices"):
        found += folders(device / "hwmon")
    unique = {path.resolve(): path for path in reversed(found)}
    return [path for path in found if unique[path.resolve()] is path]


def iio_folders(root: Path) -> list[Path]:
    """Every power monitor once, on a 4.9 kernel (Nano, TX2, Xavier with L4T 32), where they are iio devices."""
    found: list[Path] = []
    for parent in (root / "bus/i2c/drivers/ina3221x", root / "bus/i2c/devices"):
        for device in folders(parent):
            found += folders(device, "iio:device*")
    found += folders(root / "bus/iio/devices", "iio:device*")
    unique = {path.resolve(): path for path in reversed(found)}
    return [path for path in found if unique[path.resolve()] is path]


def read_power(hwmons: Sequence[Path], iio: Sequence[Path] = ()) -> tuple[PowerSample, dict[str, str]]:
    """Power of every INA3221 and INA238 in ``hwmons`` and ``iio``, and the unreadable rails with the reason. A rail in
    both counts once."""
    rails: dict[str, float] = {}
    absent: dict[str, str] = {}
    for hwmon in hwmons:
        chip = text_or_none(hwmon / "name") or text_or_none(hwmon / "../../name") or ""
        if chip == "ina238":
            _take(rails, absent, text_or_none(hwmon / "in1_label") or "VIN", _ina238_watts(hwmon))
        elif chip in ("ina3221", "ina3221x"):
            for number in _RAILS_OF_INA3221:
                label = text_or_none(hwmon / f"in{number}_label")
                if label is not None and label != "NC":
                    _take(rails, absent, label, _product_watts(hwmon, number))
    for device in iio:
        for number in _RAILS_OF_IIO:
            label = text_or_none(device / f"rail_name_{number}")
            if label is not None and label != "NC" and label not in rails:
                _take(rails, absent, label, _iio_watts(device, number))
    return power_sample(rails), absent


def read_fans(hwmons: list[Path]) -> dict[str, FanSample]:
    """Fans by the name of their hwmon device."""
    fans: dict[str, FanSample] = {}
    for hwmon in hwmons:
        pwm = number_or_none(hwmon / "pwm1")
        rpm = next((v for f in ("rpm", "fan1_input") if (v := amount_or_none(hwmon / f)) is not None), None)
        if pwm is not None or rpm is not None:
            ratio = None if pwm is None else min(max(pwm / 255.0, 0.0), 1.0)
            fans[text_or_none(hwmon / "name") or hwmon.name] = FanSample(speed_ratio=ratio, rpm=rpm)
    return fans


def _take(rails: dict[str, float], absent: dict[str, str], label: str, watts: float | None) -> None:
    if watts is None:
        absent[f"{RAIL_PREFIX}{label}"] = "cannot be read"
    elif not 0.0 <= watts <= _MAX_WATTS:
        absent[f"{RAIL_PREFIX}{label}"] = f"reads {watts:g} W: outside 0 to {_MAX_WATTS:g}"
    else:
        rails[label] = round(watts, 3)


def _product_watts(hwmon: Path, number: int) -> float | None:
    millivolts = number_or_none(hwmon / f"in{number}_input")
    milliamperes = number_or_none(hwmon / f"curr{number}_input")
    return None if millivolts is None or milliamperes is None else millivolts * milliamperes / 1e6


def _iio_watts(device: Path, number: int) -> float | None:
    """Source: jetson-stats, jtop/core/power.py: rail_name_N, and in_powerN_input in mW. By their
    names we assume in_voltageN_input in mV and in_currentN_input in mA; that file swaps the two."""
    milliwatts = number_or_none(device / f"in_power{number}_input")
    if milliwatts is not None:
        return milliwatts / 1000.0
    millivolts = number_or_none(device / f"in_voltage{number}_input")
    milliamperes = number_or_none(device / f"in_current{number}_input")
    return None if millivolts is None or milliamperes is None else millivolts * milliamperes / 1e6


def _ina238_watts(hwmon: Path) -> float | None:
    microwatts = number_or_none(hwmon / "power1_input")
    return _product_watts(hwmon, 1) if microwatts is None else microwatts / 1e6
