"""A board as an RC network: blocks of silicon on one heat sink, and a kernel that throttles and switches off."""

from __future__ import annotations

import math
from collections.abc import Mapping

from agent.thermal.boards import BoardParameters, OperatingPoint

_STEP_S = 0.5
"""Longest step of the integration; the fastest block has a time constant above 2.5 s."""


class SimulatedBoard:
    """Temperatures that follow the rate of inference. Not thread-safe; time passes only in ``advance``.

    ``load`` is the requested rate as a share of the board's full rate. Less is done while the kernel throttles or
    ``clock_cap`` limits the clocks, and nothing once the board has shut down.
    """

    def __init__(
        self, parameters: BoardParameters, *, ambient_celsius: float, start_celsius: float | None = None
    ) -> None:
        start = ambient_celsius if start_celsius is None else start_celsius
        self.parameters = parameters
        self.ambient_celsius = ambient_celsius
        self.extra_watts = 0.0
        """Heat of other programs, in the block that inference heats most."""
        self.sink_celsius = start
        self.elapsed_s = 0.0
        self.throttled_s = 0.0
        self.is_off = False
        self.clock_cap = 1.0
        """Clock limit set by the agent, as a share of the highest; the next operating point at or below it is used."""
        self._dies = dict.fromkeys(parameters.dies, start)
        self._hottest_block = max(parameters.dies, key=lambda name: parameters.dies[name].load_watts)
        self._throttle_level = 0
        self._until_poll_s = 1.0
        self._watts = 0.0
        self._load_done = 0.0

    @property
    def temperatures(self) -> dict[str, float]:
        """True temperature by zone, degrees Celsius; ``tj`` is the hottest."""
        return {**self._dies, "tj": max(self._dies.values())}

    @property
    def hottest_celsius(self) -> float:
        """The hottest block."""
        return max(self._dies.values())

    @property
    def watts(self) -> float:
        """Power of the whole board."""
        return self._watts

    @property
    def load_done(self) -> float:
        """Work done in the last step, as a share of the full rate."""
        return self._load_done

    @property
    def operating_point(self) -> OperatingPoint:
        """The operating point of GPU and CPU: the lower of the kernel's and the agent's limit."""
        points = self.parameters.operating_points
        capped = next((n for n, p in enumerate(points) if p.clock_ratio <= self.clock_cap + 1e-9), len(points) - 1)
        return points[max(self._throttle_level, capped)]

    @property
    def clock_ratio(self) -> float:
        """Clocks of the engine as a share of the highest."""
        return self.operating_point.clock_ratio

    def advance(self, seconds: float, load: float) -> float:
        """Simulate ``seconds`` at ``load`` (share of the full rate); return the work done, in seconds of full rate."""
        done = 0.0
        while seconds > 1e-9:
            step = min(_STEP_S, seconds)
            done += self._advance_step(step, load) * step
            seconds -= step
        return done

    def _leakage_watts(self, celsius: float) -> float:
        p = self.parameters
        return p.leakage_watts * math.pow(2.0, (min(celsius, 130.0) - 60.0) / p.leakage_doubles_kelvin)

    def _advance_step(self, seconds: float, load: float) -> float:
        p = self.parameters
        self.elapsed_s += seconds
        point = self.operating_point
        done = 0.0 if self.is_off else min(max(load, 0.0), p.capacity_ratio * point.clock_ratio)
        watts = 0.0
        into_sink = 0.0
        for name, die in p.dies.items():
            celsius = self._dies[name]
            heat = 0.0
            if not self.is_off:
                energy = point.energy_ratio if die.is_clocked else 1.0
                leakage = self._leakage_watts(celsius) / len(p.dies) * energy
                heat = die.idle_watts + die.load_watts * done * energy + leakage
                heat += self.extra_watts if name == self._hottest_block else 0.0
            flow = (celsius - self.sink_celsius) / die.kelvin_per_watt
            self._dies[name] = celsius + (heat - flow) * seconds / die.joules_per_kelvin
            into_sink += flow
            watts += heat
        other = 0.0 if self.is_off else p.other_idle_watts + p.other_load_watts * done
        out = (self.sink_celsius - self.ambient_celsius) / p.sink_kelvin_per_watt
        self.sink_celsius += (into_sink + other - out) * seconds / p.sink_joules_per_kelvin
        self._watts = watts + other
        self._load_done = done
        self._run_kernel(seconds)
        return done

    def _run_kernel(self, seconds: float) -> None:
        """What the kernel's thermal framework does once a second: step-wise throttling, and the critical trip."""
        p = self.parameters
        if self._throttle_level > 0:
            self.throttled_s += seconds
        self._until_poll_s -= seconds
        if self._until_poll_s > 1e-9:
            return
        self._until_poll_s = 1.0
        hottest = self.hottest_celsius
        if hottest >= p.critical_celsius:
            self.is_off = True
        elif hottest >= p.throttle_celsius:
            self._throttle_level = min(self._throttle_level + 1, len(p.operating_points) - 1)
        elif hottest < p.throttle_celsius - p.throttle_release_kelvin:
            self._throttle_level = max(self._throttle_level - 1, 0)

    def alerts(self) -> Mapping[str, int]:
        """State of each throttle alert; only the hottest block's alert is raised."""
        hottest = max(self._dies, key=lambda name: self._dies[name])
        return {
            alert: int(self._throttle_level > 0 and alert.startswith(f"{hottest}-"))
            for alert in self.parameters.alerts
        }
