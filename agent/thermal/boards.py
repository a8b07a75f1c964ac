"""The boards that can be simulated: every number with its source.

Marks: [D] published by the maker or read from a board's own files, [M] measured by MLPerf's power runs, [A] our
assumption, which gives the behaviour described beside it. Neither is a copy of one real board; they represent a module
of that family in a housing without a fan (orin) and on its developer kit (thor).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from agent.thermal.sensors.base import TripPoints


@dataclass(frozen=True, slots=True)
class Die:
    """One block of the chip: a small heat capacity on the heat sink that all blocks share."""

    idle_watts: float
    load_watts: float
    """Added at the full rate of inference and the highest clock."""
    kelvin_per_watt: float
    """From the block to the heat sink."""
    joules_per_kelvin: float
    is_clocked: bool = False
    """Its clock and voltage follow the operating point; the others keep theirs."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A clock of GPU and CPU, and the voltage that it needs, as shares of the highest."""

    clock_ratio: float
    voltage_ratio: float

    @property
    def energy_ratio(self) -> float:
        """Energy of one inference in a clocked block, proportional to V²: the charge moved is the same."""
        return self.voltage_ratio * self.voltage_ratio


@dataclass(frozen=True, slots=True)
class BoardParameters:
    """A board as thermal resistances and capacities, and what its kernel does when it is hot."""

    name: str
    dies: Mapping[str, Die]
    other_idle_watts: float
    """Memory, regulators and the rest: heat the sink and have no zone."""
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
    operating_points: tuple[OperatingPoint, ...]
    """Highest clock first. The kernel throttles through them; an agent that may set clocks chooses among them."""
    max_clock_hz: int
    """GPU clock of the first point."""
    critical_celsius: float
    """The board switches off."""
    capacity_ratio: float
    """What the engine could do at full clocks, as a multiple of the full rate; proportional to the clock."""
    power_total: str
    """Name of the rail that carries the whole input."""
    sensor_noise_kelvin: float
    alerts: tuple[str, ...]


_TEGRA_X1_MILLIVOLTS = (
    (76.8, 727),
    (153.6, 749),
    (230.4, 775),
    (307.2, 804),
    (384.0, 838),
    (460.8, 874),
    (537.6, 914),
    (614.4, 959),
    (691.2, 1006),
    (768.0, 1058),
    (844.8, 1113),
    (921.6, 1171),
)
"""(MHz, mV) of the Tegra X1's GPU. [D] Linux, drivers/gpu/drm/nouveau/nvkm/subdev/volt/gm20b.c: the coefficients of
`gm20b_cvb_coef`, in the formula of gk20a.c at a speedo of 2000. The newest Tegra whose table is public."""
_TEGRA_X1_FLOOR_MILLIVOLTS = 840
"""[D] `speedo_to_vmin` in the same file: 810 to 950 depending on the chip, 840 for two of the five kinds."""


def operating_points(megahertz: tuple[float, ...]) -> tuple[OperatingPoint, ...]:
    """Points at these clocks, the highest first.

    [A] The voltage falls with the clock as on the Tegra X1, at the same share of the highest clock, down to its floor:
    neither Orin's nor Thor's table is public.
    """
    highest_mhz, highest_mv = _TEGRA_X1_MILLIVOLTS[-1]

    def voltage_ratio(clock_ratio: float) -> float:
        at = clock_ratio * highest_mhz
        pairs = pairwise(_TEGRA_X1_MILLIVOLTS)
        (low, low_mv), (high, high_mv) = next((p for p in pairs if at <= p[1][0]), _TEGRA_X1_MILLIVOLTS[-2:])
        millivolts = low_mv + (high_mv - low_mv) * (at - low) / (high - low)
        return max(millivolts, _TEGRA_X1_FLOOR_MILLIVOLTS) / highest_mv

    ratios = tuple(clock / megahertz[0] for clock in megahertz)
    return tuple(OperatingPoint(ratio, voltage_ratio(ratio)) for ratio in ratios)


ORIN = BoardParameters(
    name="orin",
    # Full load 15 W over an idle board of about 5 W: the 20 W of a module in its 25 W mode under several camera
    # streams. [M] Orin NX idle 5.2 W, Offline 14.98 W (MLPerf Inference v3.1, power); the split by block is [A].
    dies={
        "cpu": Die(idle_watts=0.8, load_watts=3.0, kelvin_per_watt=0.50, joules_per_kelvin=6.0, is_clocked=True),
        "gpu": Die(idle_watts=0.4, load_watts=9.0, kelvin_per_watt=0.35, joules_per_kelvin=8.0, is_clocked=True),
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
    # [D] Polling each second, step-wise cooling (Linux, drivers/thermal/gov_step_wise.c).
    throttle_release_kelvin=0.0,
    # [D] `available_frequencies` of the GPU of an Orin NX, as several public scripts for it list them.
    operating_points=operating_points((918.0, 816.0, 714.0, 612.0, 510.0, 408.0, 306.0)),
    max_clock_hz=918_000_000,
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
        "cpu": Die(idle_watts=4.0, load_watts=12.0, kelvin_per_watt=0.12, joules_per_kelvin=30.0, is_clocked=True),
        "gpu": Die(idle_watts=4.0, load_watts=48.0, kelvin_per_watt=0.09, joules_per_kelvin=40.0, is_clocked=True),
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
    # [D] highest clock 1575 MHz (a developer kit's max_freq); [A] steps of 105 MHz, the half of Orin's share.
    operating_points=operating_points(tuple(1575.0 - 105.0 * step for step in range(12))),
    max_clock_hz=1_575_000_000,
    critical_celsius=114.5,
    capacity_ratio=1.1,
    power_total="VIN",  # [D] INA238 of the carrier board
    sensor_noise_kelvin=0.15,
    alerts=("cpu-throttle-alert", "gpu-throttle-alert", "soc012-throttle-alert"),
)

BOARDS: Mapping[str, BoardParameters] = {board.name: board for board in (ORIN, THOR)}
