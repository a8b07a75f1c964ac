"""Runs a policy on a simulated board, faster than real time, and counts what it cost and what it kept."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

from agent.config.sections.thermal import ThermalConfig
from agent.thermal.boards import BoardParameters
from agent.thermal.governor import Governor
from agent.thermal.levers import Dither, LeverLevels, around
from agent.thermal.limits import Limits, limits_of
from agent.thermal.model import SimulatedBoard
from agent.thermal.prediction import MIN_MARGIN_KELVIN, closer
from agent.thermal.sensors.base import ThermalSample
from agent.thermal.sensors.simulated import sample_of

Curve = Callable[[float], float]
"""A quantity over simulated seconds."""


class Policy(Protocol):
    """Chooses the share of the full rate (0..1) and of the highest clock, once a second."""

    def step(self, sample: ThermalSample, now_ns: int) -> LeverLevels:
        """The levels from now on."""
        ...


class ConstantPolicy:
    """The same rate all the time; 1 is an agent without a governor."""

    def __init__(self, ratio: float) -> None:
        self._levels = LeverLevels(rate_ratio=ratio)

    def step(self, sample: ThermalSample, now_ns: int) -> LeverLevels:  # noqa: ARG002 - it does not look
        """See Policy."""
        return self._levels


class OnOffPolicy:
    """What is written first: off above the soft limit, on again some degrees below it."""

    def __init__(self, config: ThermalConfig, *, hysteresis_celsius: float = 5.0) -> None:
        self._config = config
        self._hysteresis = hysteresis_celsius
        self._ratio = 1.0

    def step(self, sample: ThermalSample, now_ns: int) -> LeverLevels:  # noqa: ARG002 - it knows no time
        """See Policy."""
        over = max(
            sample.temperatures[zone] - limits.soft_celsius
            for zone, limits in closest_limits(sample, self._config).items()
        )
        if over > 0.0:
            self._ratio = 0.0
        elif over < -self._hysteresis:
            self._ratio = 1.0
        return LeverLevels(rate_ratio=self._ratio)


class GovernedPolicy:
    """The governor of the agent, with the rate alone or with the clocks of GPU and CPU as well."""

    def __init__(self, config: ThermalConfig) -> None:
        self.governor = Governor(config, levers=["clocks"] if config.governor.clocks else [])

    def step(self, sample: ThermalSample, now_ns: int) -> LeverLevels:
        """See Policy."""
        return self.governor.step(sample, now_ns).levels


@dataclass(frozen=True, slots=True)
class Scenario:
    """A board and what happens around it. ``full_rate_hz`` inferences a second are asked for all the time."""

    board: BoardParameters
    ambient_celsius: float
    duration_s: int
    full_rate_hz: float
    start_celsius: float | None = None
    ambient: Curve | None = None
    """Ambient over time where it is not constant."""
    extra_watts: Curve | None = None
    """Heat of other programs over time."""
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run came to. Seconds are simulated; temperatures are the true ones, not the noisy readings."""

    frames: float
    over_soft_s: float
    """Seconds in which a zone was above its soft limit, with the smallest margin that the governor ever takes."""
    throttled_s: float
    overshoot_kelvin: float
    """The most by which any zone was above its soft limit, 0 when none was."""
    hottest_celsius: float
    worst_swings_per_minute: int
    """Most times in any minute that the rate turned from falling to rising."""
    switched_off_after_s: float | None
    track: tuple[tuple[float, float, float], ...] = field(repr=False)
    """(second, hottest degrees Celsius, share of the full rate done) each second."""


def run(scenario: Scenario, policy: Policy, config: ThermalConfig) -> Outcome:
    """Let ``policy`` drive the board of ``scenario``, one reading and one decision a second."""
    board = SimulatedBoard(
        scenario.board, ambient_celsius=scenario.ambient_celsius, start_celsius=scenario.start_celsius
    )
    clocks = [point.clock_ratio for point in scenario.board.operating_points]
    dither = Dither()
    noise = random.Random(scenario.seed)
    frames = over_s = overshoot = 0.0
    hottest = board.hottest_celsius
    off_after: float | None = None
    ratios: list[float] = []
    track: list[tuple[float, float, float]] = []
    for second in range(1, scenario.duration_s + 1):
        if scenario.ambient is not None:
            board.ambient_celsius = scenario.ambient(second)
        if scenario.extra_watts is not None:
            board.extra_watts = scenario.extra_watts(second)
        sample = sample_of(board, noise, taken_at_ns=second * 1_000_000_000)
        levels = policy.step(sample, second * 1_000_000_000)
        ratio = levels.rate_ratio
        board.clock_cap = dither.step(levels.clock_ratio, *around(levels.clock_ratio, clocks))
        done = board.advance(1.0, ratio)
        frames += done * scenario.full_rate_hz
        limits = closest_limits(sample, config)
        over = max(board.temperatures[zone] - limit.soft_celsius for zone, limit in limits.items())
        over_s += 1.0 if over > 0.0 else 0.0
        overshoot = max(overshoot, over)
        hottest = max(hottest, board.hottest_celsius)
        off_after = board.elapsed_s if board.is_off and off_after is None else off_after
        ratios.append(ratio)
        track.append((float(second), board.hottest_celsius, done))
    return Outcome(
        frames=frames,
        over_soft_s=over_s,
        throttled_s=board.throttled_s,
        overshoot_kelvin=overshoot,
        hottest_celsius=hottest,
        worst_swings_per_minute=max_swings_in_a_minute(ratios),
        switched_off_after_s=off_after,
        track=tuple(track),
    )


def closest_limits(sample: ThermalSample, config: ThermalConfig) -> dict[str, Limits]:
    """The limits of each governed zone where the governor's predictions are right, so that no margin is added."""
    return {
        zone: closer(limits, config.governor, margin_kelvin=MIN_MARGIN_KELVIN)
        for zone, limits in limits_of(sample, config.governor).items()
    }


def best_constant(scenario: Scenario, config: ThermalConfig, is_allowed: Callable[[Outcome], bool]) -> float:
    """The highest constant ratio whose outcome ``is_allowed``, to a thousandth: what an oracle would set."""
    if is_allowed(run(scenario, ConstantPolicy(1.0), config)):
        return 1.0
    low, high = 0.0, 1.0
    while high - low > 0.001:
        middle = (low + high) / 2
        if is_allowed(run(scenario, ConstantPolicy(middle), config)):
            low = middle
        else:
            high = middle
    return low


def max_swings_in_a_minute(ratios: list[float]) -> int:
    """Most turns from falling to rising in any 60 readings, one reading a second."""
    turns: list[int] = []
    falling = False
    for second, (before, after) in enumerate(pairwise(ratios), start=1):
        if after < before:
            falling = True
        elif after > before:
            if falling:
                turns.append(second)
            falling = False
    return max((sum(1 for turn in turns if first <= turn < first + 60) for first in turns), default=0)
