"""jtop over sysfs: values of jtop where it has them, the kernel's files for the rest."""

from __future__ import annotations

from dataclasses import replace

from agent.thermal.sensors.base import GpuSample, Sensor, SensorDescription, ThermalSample
from agent.thermal.sensors.plausible import CONSTANT


class JtopOverSysfs:
    """Both sources run all the time, so that losing jtop costs no sample.

    jtop has neither trip points nor throttling, and never shows a zone that was off when its service started: these
    always come from sysfs. While jtop is silent, ``falls_back`` gives samples of sysfs alone; otherwise none.
    """

    def __init__(self, jtop: Sensor, sysfs: Sensor, *, falls_back: bool) -> None:
        self._jtop = jtop
        self._sysfs = sysfs
        self._falls_back = falls_back

    def start(self) -> None:
        """See Sensor."""
        self._sysfs.start()
        self._jtop.start()

    def latest(self) -> ThermalSample | None:
        """See Sensor."""
        upper, lower = self._jtop.latest(), self._sysfs.latest()
        if upper is None:
            return lower if self._falls_back else None
        return upper if lower is None else overlaid(upper, lower)

    def describe(self) -> SensorDescription:
        """See Sensor."""
        jtop, sysfs = self._jtop.describe(), self._sysfs.describe()
        if jtop.state == "reading" or not self._falls_back:
            return jtop
        return replace(
            sysfs,
            detail=f"{sysfs.detail}; jtop is {jtop.state}: {jtop.detail or 'no sample yet'}",
            restarts=jtop.restarts,
        )

    def stop(self) -> None:
        """See Sensor."""
        self._jtop.stop()
        self._sysfs.stop()


def overlaid(upper: ThermalSample, lower: ThermalSample) -> ThermalSample:
    """``upper`` (jtop) completed by ``lower`` (sysfs); a zone that either can read is not absent.

    Only sysfs knows which zones have no trip point, and so which ones give a constant. jtop's readings of these are
    dropped.
    """
    constants = {zone for zone, why in lower.absent.items() if why.endswith(CONSTANT)}
    shown = {zone: celsius for zone, celsius in upper.temperatures.items() if zone not in constants}
    temperatures = {**lower.temperatures, **shown}
    absent = {name: why for name, why in {**lower.absent, **upper.absent}.items() if name not in temperatures}
    load = lower.gpu.load_ratio if lower.gpu.load_ratio is not None else upper.gpu.load_ratio
    return replace(
        upper,
        temperatures=temperatures,
        trip_points=lower.trip_points,
        power=upper.power if upper.power.total_watts is not None else lower.power,
        gpu=GpuSample(load_ratio=load, clock_hz=lower.gpu.clock_hz, max_clock_hz=lower.gpu.max_clock_hz),
        memory=upper.memory if upper.memory is not None else lower.memory,
        fans=upper.fans or lower.fans,
        power_mode=upper.power_mode if upper.power_mode is not None else lower.power_mode,
        throttle_causes=lower.throttle_causes,
        throttle_states=lower.throttle_states,
        over_current_hz=lower.over_current_hz,
        over_current_events=lower.over_current_events,
        hints=lower.hints,
        absent=absent,
    )
