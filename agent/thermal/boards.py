"""The boards that can be simulated: every number with where it comes from.

Marks: [D] published by the maker or read from a board's own files, [M] measured by MLPerf's power runs, [A] an
assumption of ours that gives the behaviour described beside it. Neither board is a copy of one on a desk; they stand
for a module of that family in a housing without a fan (orin) and on its developer kit (thor).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.thermal.sensors.base import TripPoints


@dataclass(frozen=True, slots=True)
class Die:
    """One block of the chip: a small heat capacity over the heat sink that all blocks share."""

    idle_watts: float
    load_watts: float
    """Added at the full rate of inference."""
    kelvin_per_watt: float
    """From the block to the heat sink."""
    joules_per_kelvin: float


@dataclass(frozen=True, slots=True)
class BoardParameters:
    """A board as resistances and capacities, and what its kernel does when it is hot."""

    name: str
    dies: Mapping[str, Die]
    other_idle_watts: float
    """Memory, regulators and the rest: heats the sink, has no zone."""
    other_load_watts: float
    sink_kelvin_per_watt: float
    """From the heat sink to the air."""
    sink_joules_per_kelvin: float
    leakage_watts: float
    """Leakage current of the silicon at 60 degrees; it doubles each ``leakage_doubles_kelvin``."""
    leakage_doubles_kelvin: float
    trip_points: Mapping[str, TripPoints]
    throttle_celsius: float
    """The kernel lowers the clocks by one step a second above it, and raises them by one below it."""
    throttle_release_kelvin: float
    throttle_step_ratio: float
    throttle_steps: int
    critical_celsius: float
    """The board switches off."""
    capacity_ratio: float
    """What the engine could do at full clocks, as a multiple of the full rate."""
    power_total: str
    """Name of the rail that carries the whole input."""
    sensor_noise_kelvin: float
    alerts: tuple[str, ...]


ORIN = BoardParameters(
    name="orin",
    # Full load 15 W over an idle board of about 5 W: the 20 W of a module in its 25 W mode under several camera
    # streams. [M] Orin NX idle 5.2 W, Offline 14.98 W (MLPerf Inference v3.1, power); the split by block is [A].
    dies={
        "cpu": Die(idle_watts=0.8, load_watts=3.0, kelvin_per_watt=0.50, joules_per_kelvin=6.0),
        "gpu": Die(idle_watts=0.4, load_watts=9.0, kelvin_per_watt=0.35, joules_per_kelvin=8.0),
        "soc0": Die(idle_watts=0.9, load_watts=1.0, kelvin_per_watt=0.60, joules_per_kelvin=6.0),
    },
    other_idle_watts=2.4,
    other_load_watts=2.0,
    # [A] A finned housing of some 220 g of aluminium without a fan: 3.1 K/W, 200 J/K, a time constant of ten minutes.
    sink_kelvin_per_watt=3.1,
    sink_joules_per_kelvin=200.0,
    # [A] Leakage of a sub-10 nm chip: about 5 % of full load at 60 degrees, doubling each 40 K.
    leakage_watts=0.7,
    leakage_doubles_kelvin=40.0,
    # [D] NVIDIA's device tree for Orin: cpu, gpu and soc zones passive 99.0 and critical 104.5, tj critical 104.5
    # only.
    trip_points={
        "cpu": TripPoints(passive=99.0, critical=104.5),
        "gpu": TripPoints(passive=99.0, critical=104.5),
        "soc0": TripPoints(passive=99.0, critical=104.5),
        "tj": TripPoints(critical=104.5),
    },
    throttle_celsius=99.0,
    # [D] Polling each second, step-wise cooling (Linux, drivers/thermal/gov_step_wise.c); size of a step [A].
    throttle_release_kelvin=0.0,
    throttle_step_ratio=0.08,
    throttle_steps=10,
    critical_celsius=104.5,
    capacity_ratio=1.1,
    power_total="VDD_IN",  # [D] Orin NX and Nano measure their whole input here
    sensor_noise_kelvin=0.15,  # [A]; readings come in steps of 1/32 degree
    alerts=("cpu-throttle-alert", "gpu-throttle-alert", "soc0-throttle-alert"),
)

THOR = BoardParameters(
    name="thor",
    # [D] Up to 130 W for the module (Jetson Thor series, MAXN); 75 W of load over an idle board of 27 W, split [A].
    dies={
        "cpu": Die(idle_watts=4.0, load_watts=12.0, kelvin_per_watt=0.12, joules_per_kelvin=30.0),
        "gpu": Die(idle_watts=4.0, load_watts=48.0, kelvin_per_watt=0.09, joules_per_kelvin=40.0),
        "soc012": Die(idle_watts=5.0, load_watts=5.0, kelvin_per_watt=0.15, joules_per_kelvin=30.0),
    },
    other_idle_watts=14.0,
    other_load_watts=10.0,
    # [A] The developer kit's sink with its fan at the quiet profile in a warm cabinet: 0.66 K/W, 900 J/K.
    sink_kelvin_per_watt=0.66,
    sink_joules_per_kelvin=900.0,
    leakage_watts=4.0,
    leakage_doubles_kelvin=40.0,
    # [D] Developer kit, R38.4: critical 114.5 on every zone, no passive point; throttling seen at about 109.
    trip_points={
        "cpu": TripPoints(critical=114.5),
        "gpu": TripPoints(critical=114.5),
        "soc012": TripPoints(critical=114.5),
        "tj": TripPoints(critical=114.5),
    },
    throttle_celsius=109.0,
    throttle_release_kelvin=1.0,
    throttle_step_ratio=0.08,
    throttle_steps=10,
    critical_celsius=114.5,
    capacity_ratio=1.1,
    power_total="VIN",  # [D] INA238 of the carrier board
    sensor_noise_kelvin=0.15,
    alerts=("cpu-throttle-alert", "gpu-throttle-alert", "soc012-throttle-alert"),
)

BOARDS: Mapping[str, BoardParameters] = {board.name: board for board in (ORIN, THOR)}
