"""From one line of the jtop child to a sample. The keys are those of jetson-stats 4.2, 4.3 and 7.2."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from agent.thermal.sensors.base import (
    FanSample,
    GpuSample,
    MemorySample,
    PowerSample,
    ThermalSample,
    zone_name,
)
from agent.thermal.sensors.plausible import ZoneCheck
from agent.thermal.sensors.rails import TOTAL_RAILS

_PORT_PREFIX = "ucsi-source-psy"


def uptime_of(line: Mapping[str, Any]) -> float | None:
    """The board's uptime in seconds at the measurement; the only value that tells a new answer from a repeated one."""
    return _number(line.get("uptime_s"))


def sample_from_line(line: Mapping[str, Any], taken_at_ns: int, check: ZoneCheck) -> ThermalSample:
    """The plausible values of ``line``. jtop has no trip points and no throttling, and clocks of unknown unit."""
    readings: dict[str, float] = {}
    absent: dict[str, str] = {}
    for name, entry in _entries(line.get("temperature")):
        zone = zone_name(name, {**readings, **absent})
        celsius = _number(entry.get("temp"))
        if celsius is None or entry.get("online") is False:
            absent[zone] = "jtop says offline"
        else:
            readings[zone] = celsius
    temperatures, lies = check.check(readings, taken_at_ns / 1e9)
    mode = line.get("power_mode")
    return ThermalSample(
        source="jtop",
        taken_at_ns=taken_at_ns,
        temperatures=temperatures,
        power=_power(line.get("power")),
        gpu=_gpu(line.get("gpu")),
        memory=_memory(line.get("memory")),
        fans={name: _fan(entry) for name, entry in _entries(line.get("fan"))},
        power_mode=mode if isinstance(mode, str) else None,
        absent={**absent, **lies},
    )


def _entries(value: object) -> list[tuple[str, Mapping[str, Any]]]:
    """The pairs of ``value`` whose value is a mapping; empty if it is no mapping itself."""
    if not isinstance(value, Mapping):
        return []
    return [(str(name), entry) for name, entry in value.items() if isinstance(entry, Mapping)]


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _amount(value: object) -> float | None:
    """A number of 0 or more; monitors without a load may report slightly negative values."""
    number = _number(value)
    return None if number is None or number < 0.0 else number


def _power(value: object) -> PowerSample:
    """Milliwatts of jtop as watts. Its total is one rail of the board, which it names, or the sum of all."""
    if not isinstance(value, Mapping):
        return PowerSample()
    rails = {
        name: milliwatts / 1000.0
        for name, entry in _entries(value.get("rail"))
        if entry.get("online") is not False and (milliwatts := _amount(entry.get("power"))) is not None
    }
    total = value.get("tot")
    if not isinstance(total, Mapping) or (milliwatts := _amount(total.get("power"))) is None:
        return PowerSample(rails=rails)
    name = total.get("name")
    watts = milliwatts / 1000.0
    if isinstance(name, str):
        whole = "the whole board" if name in TOTAL_RAILS else "as jtop counts it"
        return PowerSample(rails={**rails, name: watts}, total_watts=watts, total_meaning=f"{name}: {whole}")
    # jetson-stats 4.2 and 4.3 count a USB-C port's supply as one more rail, and so the same power twice.
    ports = {rail: rails.pop(rail) for rail in list(rails) if rail.startswith(_PORT_PREFIX)}
    watts = max(watts - sum(ports.values()), 0.0)
    if not rails:
        return PowerSample()
    meaning = f"sum of {len(rails)} rails: the module without what no rail measures"
    return PowerSample(rails=rails, total_watts=watts, total_meaning=meaning)


def _gpu(value: object) -> GpuSample:
    """The load of the first GPU. Its clocks come from sysfs, because jtop gives kHz or MHz without the unit."""
    for _, entry in _entries(value):
        status = entry.get("status")
        percent = _number(status.get("load")) if isinstance(status, Mapping) else None
        if percent is not None and 0.0 <= percent <= 100.0:
            return GpuSample(load_ratio=percent / 100.0)
    return GpuSample()


def _memory(value: object) -> MemorySample | None:
    """Kilobytes of jtop as bytes."""
    if not isinstance(value, Mapping):
        return None
    total, used = _amount(value.get("tot")), _amount(value.get("used"))
    if total is None or used is None:
        return None
    return MemorySample(total_bytes=int(total) * 1024, used_bytes=int(used) * 1024)


def _fan(entry: Mapping[str, Any]) -> FanSample:
    speed, rpm = _number(_first(entry.get("speed"))), _amount(_first(entry.get("rpm")))
    return FanSample(speed_ratio=None if speed is None else min(max(speed / 100.0, 0.0), 1.0), rpm=rpm)


def _first(value: object) -> object:
    return value[0] if isinstance(value, list) and value else value
