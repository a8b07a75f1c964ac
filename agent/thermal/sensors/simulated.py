"""The simulated board as a sensor; the agent's real rate of classification heats it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from agent.config.sections.thermal import SimulatedBoardConfig
from agent.runtime.clock import Clock
from agent.thermal.boards import BOARDS, BoardParameters
from agent.thermal.levers import Dither, LeverName, around
from agent.thermal.model import SimulatedBoard
from agent.thermal.sensors.base import (
    FanSample,
    GpuSample,
    MemorySample,
    PowerSample,
    SensorDescription,
    ThermalSample,
)

_RESOLUTION_CELSIUS = 1.0 / 32.0
_MEMORY_BYTES = 16 * 1024**3
_MAX_STEP_S = 60.0
"""Longest simulated time per reading, after a pause of the caller."""


class SimulatedSensor:
    """Needs no thread: each ``latest`` simulates the time since the last one.

    ``rate_hz`` returns the running agent's inferences per second; it is called on the caller's thread.
    """

    def __init__(
        self, config: SimulatedBoardConfig, *, clock: Clock, interval_s: float, rate_hz: Callable[[], float]
    ) -> None:
        self._config = config
        self._clock = clock
        self._interval_s = interval_s
        self._rate_hz = rate_hz
        self._noise = random.Random(config.seed)  # noqa: S311 - noise of a simulated sensor
        self._lock = threading.Lock()
        self._board = SimulatedBoard(
            BOARDS[config.board], ambient_celsius=config.ambient_celsius, start_celsius=config.start_celsius
        )
        self._simulated_until_ns: int | None = None
        self._sample: ThermalSample | None = None

    def start(self) -> None:
        """See Sensor."""
        with self._lock:
            self._simulated_until_ns = self._clock.monotonic_ns()

    def latest(self) -> ThermalSample | None:
        """See Sensor."""
        with self._lock:
            if self._simulated_until_ns is None:
                return None
            now_ns = self._clock.monotonic_ns()
            passed_s = (now_ns - self._simulated_until_ns) / 1e9
            if self._sample is None or passed_s >= self._interval_s:
                load = self._rate_hz() / self._config.full_rate_hz
                self._board.advance(min(passed_s * self._config.speed, _MAX_STEP_S), load)
                self._simulated_until_ns = now_ns
                self._sample = sample_of(self._board, self._noise, taken_at_ns=now_ns)
            return self._sample

    def describe(self) -> SensorDescription:
        """See Sensor."""
        running = self._simulated_until_ns is not None
        detail = (
            f"simulated {self._config.board} board, ambient {self._config.ambient_celsius:g} °C, "
            f"{self._config.speed:g} times real time"
        )
        return SensorDescription("simulated", "reading" if running else "stopped", detail)

    def stop(self) -> None:
        """See Sensor."""
        with self._lock:
            self._simulated_until_ns = self._sample = None

    @property
    def parameters(self) -> BoardParameters:
        """The simulated board's parameters."""
        return self._board.parameters

    def cap_clocks(self, ratio: float) -> None:
        """Limit GPU and CPU of the simulated board to this share of their highest clock; 1 is no limit."""
        with self._lock:
            self._board.clock_cap = ratio


class SimulatedClocks:
    """The lever ``clocks`` of the simulated board; touches no file of this machine. See Lever."""

    name: LeverName = "clocks"
    is_available = True

    def __init__(self, sensor: SimulatedSensor) -> None:
        self._sensor = sensor
        self._steps = [point.clock_ratio for point in sensor.parameters.operating_points]
        self._dither = Dither()

    def engage(self, level: float) -> None:
        """See Lever."""
        self._sensor.cap_clocks(self._dither.step(level, *around(level, self._steps)))

    def release(self) -> None:
        """See Lever."""
        self._sensor.cap_clocks(1.0)


def sample_of(board: SimulatedBoard, noise: random.Random, *, taken_at_ns: int) -> ThermalSample:
    """What sensors of ``board`` would read: noisy, in steps of 1/32 degree; power without noise."""
    parameters = board.parameters

    def reading(celsius: float) -> float:
        noisy = celsius + noise.gauss(0.0, parameters.sensor_noise_kelvin)
        return round(noisy / _RESOLUTION_CELSIUS) * _RESOLUTION_CELSIUS

    temperatures = {zone: reading(celsius) for zone, celsius in board.temperatures.items() if zone != "tj"}
    temperatures["tj"] = max(temperatures.values())
    alerts = board.alerts()
    raised = [name for name, state in alerts.items() if state > 0]
    return ThermalSample(
        source="simulated",
        taken_at_ns=taken_at_ns,
        temperatures=temperatures,
        trip_points=parameters.trip_points,
        power=PowerSample(
            rails={parameters.power_total: board.watts},
            total_watts=board.watts,
            total_meaning=f"{parameters.power_total}: the whole board",
        ),
        gpu=GpuSample(
            load_ratio=min(1.0, board.load_done / (parameters.capacity_ratio * board.clock_ratio)),
            clock_hz=round(parameters.max_clock_hz * board.clock_ratio),
            max_clock_hz=parameters.max_clock_hz,
        ),
        memory=MemorySample(total_bytes=_MEMORY_BYTES, used_bytes=_MEMORY_BYTES // 4),
        fans={} if parameters.name == "orin" else {"fan": FanSample(speed_ratio=0.4, rpm=None)},
        power_mode="simulated",
        throttle_causes={"heat": ", ".join(raised)} if raised else {},
        throttle_states=alerts,
    )
