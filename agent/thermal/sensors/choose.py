"""Choosing a sensor by the configuration. Each source has a file of its own beside ``base``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from agent.config.thermal import ThermalConfig
from agent.runtime.clock import Clock
from agent.thermal.sensors.auto import JtopOverSysfs
from agent.thermal.sensors.base import NoSensor, Sensor, SensorDescription, ThermalSample
from agent.thermal.sensors.jtop import JtopSensor, jtop_command
from agent.thermal.sensors.simulated import SimulatedSensor
from agent.thermal.sensors.sysfs import SysfsSensor

SYSFS_ROOT = Path("/sys")
_LONGEST_JTOP_INTERVAL_S = 1.0
"""jtop is read at least this often, or its silence could not be told from its rhythm."""


def make_sensor(
    config: ThermalConfig,
    *,
    clock: Clock,
    rate_hz: Callable[[], float],
    sysfs_root: Path = SYSFS_ROOT,
    jtop_socket: Path | None = None,
) -> Sensor:
    """The sensor that ``config.source`` names, not started.

    ``rate_hz`` tells the simulated board how many inferences a second the agent does. ``sysfs_root`` and
    ``jtop_socket`` stand for /sys and for the service's usual socket.
    """
    if config.source == "none":
        return NoSensor()
    if config.source == "simulated":
        return SimulatedSensor(config.simulated, clock=clock, interval_s=config.interval_s, rate_hz=rate_hz)
    sysfs = SysfsSensor(sysfs_root, clock=clock, interval_s=config.interval_s)
    if config.source == "sysfs":
        return sysfs
    interval_s = min(config.interval_s, _LONGEST_JTOP_INTERVAL_S)
    jtop = JtopSensor(jtop_command(config.jtop_python, interval_s=interval_s, socket=jtop_socket), clock=clock)
    return JtopOverSysfs(jtop, sysfs, falls_back=config.source == "auto")


def read_once(
    config: ThermalConfig, *, clock: Clock, sysfs_root: Path = SYSFS_ROOT, timeout_s: float = 5.0
) -> tuple[ThermalSample | None, SensorDescription]:
    """One sample for a report, and where it comes from; waits at most ``timeout_s`` for it.

    With ``auto`` the time is given to jtop before sysfs is taken, unless jtop has said that it cannot.
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
            if (sample is not None and is_final) or config.source == "none" or time.monotonic() >= deadline:
                return sample, description
            time.sleep(0.02)
    finally:
        sensor.stop()
