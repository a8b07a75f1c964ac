"""Makes the sensor that the configuration names."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from agent.config.sections.thermal import ThermalConfig
from agent.runtime.clock import Clock
from agent.thermal.sensors.auto import JtopOverSysfs
from agent.thermal.sensors.base import NoSensor, Sensor, SensorDescription, ThermalSample
from agent.thermal.sensors.jtop import JtopSensor, jtop_command
from agent.thermal.sensors.simulated import SimulatedSensor
from agent.thermal.sensors.sysfs import SysfsSensor

SYSFS_ROOT = Path("/sys")
_MAX_JTOP_INTERVAL_S = 1.0
"""jtop is read at least this often. At a slower pace, silence could not be recognised in time."""


def make_sensor(
    config: ThermalConfig,
    *,
    clock: Clock,
    rate_hz: Callable[[], float],
    sysfs_root: Path = SYSFS_ROOT,
    jtop_socket: Path | None = None,
) -> Sensor:
    """The sensor that ``config.source`` names, not started.

    ``rate_hz`` gives the simulated board the agent's inferences per second. ``sysfs_root`` replaces /sys,
    ``jtop_socket`` the service's usual socket.
    """
    if config.source == "none":
        return NoSensor()
    if config.source == "simulated":
        return SimulatedSensor(config.simulated, clock=clock, interval_s=config.interval_s, rate_hz=rate_hz)
    sysfs = SysfsSensor(sysfs_root, clock=clock, interval_s=config.interval_s)
    if config.source == "sysfs":
        return sysfs
    interval_s = min(config.interval_s, _MAX_JTOP_INTERVAL_S)
    jtop = JtopSensor(jtop_command(config.jtop_python, interval_s=interval_s, socket=jtop_socket), clock=clock)
    return JtopOverSysfs(jtop, sysfs, falls_back=config.source == "auto")


def read_once(
    config: ThermalConfig, *, clock: Clock, sysfs_root: Path = SYSFS_ROOT, timeout_s: float = 5.0
) -> tuple[ThermalSample | None, SensorDescription]:
    """One sample for a report, and its source; waits at most ``timeout_s``.

    ``auto`` waits for jtop before it uses sysfs, unless jtop has reported an error. A board with over-current counters
    is read twice, because rates need two readings.
    """
    sensor = make_sensor(config, clock=clock, rate_hz=lambda: 0.0, sysfs_root=sysfs_root)
    deadline = time.monotonic() + timeout_s
    sensor.start()
    try:
        while True:
            sample, description = sensor.latest(), sensor.describe()
            is_final = (
                config.source != "auto" or description.source == "jtop" or "jtop is silent" in description.detail
            )
            is_whole = sample is not None and sample.over_current_events.keys() <= sample.over_current_hz.keys()
            if (is_whole and is_final) or config.source == "none" or time.monotonic() >= deadline:
                return sample, description
            time.sleep(0.02)
    finally:
        sensor.stop()
