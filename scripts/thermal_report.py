"""Compares the governor with its alternatives on the simulated boards: a table in Markdown, and a picture.

Everything is simulated and seeded: two runs give the same figures. Called by scripts/thermal-report.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from agent.config.thermal import ThermalConfig
from agent.runtime.records import Image
from agent.thermal.boards import BOARDS
from agent.thermal.evaluation import (
    ConstantPolicy,
    GovernedPolicy,
    OnOffPolicy,
    Outcome,
    Policy,
    Scenario,
    best_constant,
    run,
)
from agent.thermal.limits import limits_of
from agent.thermal.sensors.base import ThermalSample

CONFIG = ThermalConfig(source="simulated")
AMBIENTS = (35.0, 55.0)
DURATION_S = 2 * 3600
FULL_RATE_HZ = 240.0
SETTLED_S = 3600
ORACLE = "oracle: best constant rate"
OURS = "the agent's governor"

COLOURS = {  # BGR
    "without governor": (60, 60, 220),
    "on/off": (40, 160, 240),
    OURS: (170, 90, 20),
    ORACLE: (110, 150, 60),
}
SCALE = 2
"""Drawn larger and reduced, which smooths letters and lines."""


def compare(board: str, ambient: float) -> tuple[dict[str, Outcome], float]:
    """Outcome by policy, and the oracle's ratio."""
    scenario = Scenario(BOARDS[board], ambient, DURATION_S, FULL_RATE_HZ)
    best = best_constant(scenario, CONFIG, lambda outcome: outcome.over_soft_s == 0.0)
    policies: dict[str, Policy] = {
        "without governor": ConstantPolicy(1.0),
        "on/off": OnOffPolicy(CONFIG),
        OURS: GovernedPolicy(CONFIG),
        ORACLE: ConstantPolicy(best),
    }
    return {name: run(scenario, policy, CONFIG) for name, policy in policies.items()}, best


def rows(board: str, ambient: float, outcomes: Mapping[str, Outcome]) -> list[str]:
    """Lines of the table."""
    oracle = outcomes[ORACLE]
    lines = []
    for name, outcome in outcomes.items():
        settled, best = work_after(outcome, SETTLED_S), work_after(oracle, SETTLED_S)
        lines.append(
            f"| {board} | {ambient:g} °C | {name} | {outcome.over_soft_s:,.0f} | {outcome.overshoot_kelvin:.1f} | "
            f"{outcome.throttled_s:,.0f} | {outcome.frames:,.0f} | {outcome.frames / oracle.frames:.1%} | "
            f"{settled / best:.1%} | {outcome.worst_swings_per_minute} | {longest_stop_s(outcome)} |"
        )
    return lines


def work_after(outcome: Outcome, second: int) -> float:
    """Work done after the warm-up, in seconds of full rate."""
    return sum(done for at, _, done in outcome.track if at > second)


def longest_stop_s(outcome: Outcome) -> int:
    """Longest time in a row without a single frame."""
    longest = now = 0
    for _, _, done in outcome.track:
        now = now + 1 if done == 0.0 else 0
        longest = max(longest, now)
    return longest


TABLE_HEAD = (
    "| board | air | policy | s over soft limit | worst overshoot, K | s throttled by the SoC | frames in 2 h | "
    "of the oracle's | of it in the 2nd hour | swings in the worst minute | longest stop, s |\n"
    "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)


class Panel:
    """One diagram: hours to the right, a quantity upwards."""

    def __init__(self, canvas: Image, box: tuple[int, int, int, int], low: float, high: float) -> None:
        self.canvas = canvas
        self.left, self.top, self.right, self.bottom = (value * SCALE for value in box)
        self.low, self.high = low, high

    def point(self, second: float, value: float) -> tuple[int, int]:
        x = self.left + (self.right - self.left) * second / DURATION_S
        y = self.bottom - (self.bottom - self.top) * (min(max(value, self.low), self.high) - self.low) / (
            self.high - self.low
        )
        return round(x), round(y)

    def line(self, points: list[tuple[float, float]], colour: tuple[int, int, int], width: int = 2) -> None:
        drawn = np.array([self.point(second, value) for second, value in points], dtype=np.int32)
        cv2.polylines(
            self.canvas, [drawn], isClosed=False, color=colour, thickness=width * SCALE, lineType=cv2.LINE_AA
        )

    def axes(self, title: str, unit: str, step: float) -> None:
        value = self.low
        while value <= self.high + 1e-9:
            start, end = self.point(0, value), self.point(DURATION_S, value)
            cv2.line(self.canvas, start, end, (225, 225, 225), SCALE)
            write(self.canvas, f"{value:g}{unit}", (start[0] - 62 * SCALE, start[1] + 5 * SCALE))
            value += step
        for minutes in range(0, 121, 30):
            x, y = self.point(minutes * 60, self.low)
            cv2.line(self.canvas, (x, y), (x, y + 5 * SCALE), (120, 120, 120), SCALE)
            write(self.canvas, f"{minutes} min", (x - 20 * SCALE, y + 22 * SCALE))
        write(self.canvas, title, (self.left, self.top - 12 * SCALE), size=0.6)

    def limit(self, value: float, text: str, colour: tuple[int, int, int], *, above: bool) -> None:
        start, end = self.point(0, value), self.point(DURATION_S, value)
        for x in range(start[0], end[0], 14 * SCALE):
            cv2.line(self.canvas, (x, start[1]), (min(x + 8 * SCALE, end[0]), start[1]), colour, SCALE)
        offset = -6 if above else 17
        write(self.canvas, text, (end[0] - 220 * SCALE, start[1] + offset * SCALE), colour=colour)


def write(
    canvas: Image,
    text: str,
    at: tuple[int, int],
    *,
    size: float = 0.45,
    colour: tuple[int, int, int] = (60, 60, 60),
) -> None:
    cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, size * SCALE, colour, SCALE, cv2.LINE_AA)


def averaged(outcome: Outcome, window_s: int = 60) -> list[tuple[float, float]]:
    """Percent of the full rate, as means over a minute."""
    done = [done for _, _, done in outcome.track]
    return [
        (start + window_s / 2, 100.0 * sum(done[start : start + window_s]) / window_s)
        for start in range(0, len(done) - window_s + 1, window_s)
    ]


def draw(results: Mapping[float, Mapping[str, Outcome]], soft: float, throttle: float) -> Image:
    """The picture of one board: temperature above, rate below, one column for each ambient."""
    canvas = np.full((760 * SCALE, 1360 * SCALE, 3), 255, np.uint8)
    title = "Orin-like board without a fan, full load asked for, 2 hours simulated"
    write(canvas, title, (80 * SCALE, 34 * SCALE), size=0.75)
    for column, (ambient, outcomes) in enumerate(results.items()):
        left = 80 + column * 660
        heat = Panel(canvas, (left, 120, left + 570, 410), 40.0, 110.0)
        heat.axes(f"Hottest zone, air at {ambient:g} C", " C", 10.0)
        rate = Panel(canvas, (left, 480, left + 570, 700), 0.0, 100.0)
        rate.axes("Frames classified, share of what is asked for, mean of a minute", " %", 25.0)
        for name in ("on/off", "without governor", ORACLE, OURS):
            heat.line([(second, celsius) for second, celsius, _ in outcomes[name].track[::10]], COLOURS[name])
            rate.line(averaged(outcomes[name]), COLOURS[name])
        heat.limit(throttle, f"the SoC throttles, {throttle:g} C", (60, 60, 220), above=True)
        heat.limit(soft, f"soft limit, {soft:g} C", (90, 90, 90), above=True)
    x = 80
    for name, colour in COLOURS.items():
        cv2.line(canvas, (x * SCALE, 66 * SCALE), ((x + 36) * SCALE, 66 * SCALE), colour, 4 * SCALE)
        write(canvas, name, ((x + 46) * SCALE, 71 * SCALE), size=0.55)
        x += 260
    reduced = cv2.resize(canvas, None, fx=1 / SCALE, fy=1 / SCALE, interpolation=cv2.INTER_AREA)
    return np.asarray(reduced, np.uint8)


def limits_of_board(board: str) -> tuple[float, float]:
    """Soft limit and throttling temperature of a board."""
    parameters = BOARDS[board]
    still = ThermalSample("simulated", 0, dict.fromkeys(parameters.trip_points, 40.0), parameters.trip_points)
    soft = min(limit.soft_celsius for limit in limits_of(still, CONFIG.governor).values())
    return soft, parameters.throttle_celsius


def changes_in(outcome: Outcome, after: int) -> int:
    """How often the rate was changed after ``after`` seconds."""
    done = [done for second, _, done in outcome.track if second > after]
    return sum(1 for before, now in pairwise(done) if before != now)


def main() -> None:
    """Print the table; write the picture where asked."""
    parser = argparse.ArgumentParser(prog="scripts/thermal-report", description=__doc__.splitlines()[0])
    parser.add_argument("--picture", type=Path, help="write the picture of the Orin-like board to this PNG file")
    arguments = parser.parse_args()
    print(TABLE_HEAD)
    pictured: dict[float, dict[str, Outcome]] = {}
    for board in sorted(BOARDS):
        for ambient in AMBIENTS:
            outcomes, _ = compare(board, ambient)
            print("\n".join(rows(board, ambient, outcomes)), flush=True)
            if board == "orin":
                pictured[ambient] = outcomes
    print(f"\nChanges of the rate by the governor in the second hour, Orin, {AMBIENTS[-1]:g} °C: ", end="")
    print(changes_in(pictured[AMBIENTS[-1]][OURS], SETTLED_S))
    if arguments.picture is not None:
        arguments.picture.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(
            str(arguments.picture), draw(pictured, *limits_of_board("orin")), [cv2.IMWRITE_PNG_COMPRESSION, 9]
        ):
            parser.error(f"{arguments.picture} cannot be written: choose a folder that can, and a name ending in .png")


if __name__ == "__main__":
    main()
