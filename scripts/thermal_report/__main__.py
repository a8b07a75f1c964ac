"""Compares the governor with its alternatives on the simulated boards: a table in Markdown, and a chart.

Everything is simulated and seeded: two runs give the same figures. Called by scripts/thermal-report.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from agent.config.sections.thermal import GovernorConfig, ThermalConfig
from agent.thermal.boards import BOARDS
from agent.thermal.sensors.base import ThermalSample
from scripts.thermal_report.evaluation import (
    ConstantPolicy,
    GovernedPolicy,
    OnOffPolicy,
    Outcome,
    Policy,
    Scenario,
    best_constant,
    closest_limits,
    run,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFIG = ThermalConfig(source="simulated")
WITH_CLOCKS = ThermalConfig(source="simulated", governor=GovernorConfig(clocks=True))
AMBIENTS = (35.0, 55.0)
DURATION_S = 2 * 3600
FULL_RATE_HZ = 240.0
SETTLED_S = 3600
ORACLE = "oracle: best constant rate"
SILICON = "without governor"
OURS = "governor, rate alone"
CLOCKS = "governor, clocks allowed"


@dataclass(frozen=True, slots=True)
class Look:
    """Colours of a chart for a light or dark page; ``dark`` has those that replace lines a dark page would hide."""

    paper: str
    ink: str
    grid: str
    dark: Mapping[str, str] = field(default_factory=dict)

    def of(self, policy: str) -> str:
        """The colour of a policy's line."""
        return self.dark.get(policy, COLOURS[policy])


COLOURS = {
    SILICON: "#dc3c3c",
    "on/off": "#f0a028",
    OURS: "#145aaa",
    CLOCKS: "#961eaa",
    ORACLE: "#3c966e",
}
LIGHT = Look("#ffffff", "#1f2933", "#e1e1e1")
DARK = Look("#0d1117", "#e4e9ee", "#333d47", {OURS: "#58a6ff", CLOCKS: "#d48ae6"})
"""The paper is that of a code host's dark page."""


def compare(board: str, ambient: float) -> tuple[dict[str, Outcome], float]:
    """Outcome by policy, and the oracle's ratio."""
    scenario = Scenario(BOARDS[board], ambient, DURATION_S, FULL_RATE_HZ)
    best = best_constant(scenario, CONFIG, lambda outcome: outcome.over_soft_s == 0.0)
    policies: dict[str, Policy] = {
        SILICON: ConstantPolicy(1.0),
        "on/off": OnOffPolicy(CONFIG),
        OURS: GovernedPolicy(CONFIG),
        CLOCKS: GovernedPolicy(WITH_CLOCKS),
        ORACLE: ConstantPolicy(best),
    }
    return {name: run(scenario, policy, CONFIG) for name, policy in policies.items()}, best


def rows(board: str, ambient: float, outcomes: Mapping[str, Outcome]) -> list[str]:
    """Lines of the table."""
    oracle, silicon = outcomes[ORACLE], outcomes[SILICON]
    lines = []
    for name, outcome in outcomes.items():
        settled, best = work_after(outcome, SETTLED_S), work_after(oracle, SETTLED_S)
        lines.append(
            f"| {board} | {ambient:g} °C | {name} | {outcome.over_soft_s:,.0f} | {outcome.overshoot_kelvin:.1f} | "
            f"{outcome.throttled_s:,.0f} | {outcome.frames:,.0f} | {outcome.frames / oracle.frames:.1%} | "
            f"{settled / best:.1%} | {outcome.frames / silicon.frames:.1%} | {outcome.worst_swings_per_minute} | "
            f"{max_stop_s(outcome)} |"
        )
    return lines


def work_after(outcome: Outcome, second: int) -> float:
    """Work done after the warm-up, in seconds of full rate."""
    return sum(done for at, _, done in outcome.track if at > second)


def max_stop_s(outcome: Outcome) -> int:
    """Longest time in a row without a single frame."""
    longest = now = 0
    for _, _, done in outcome.track:
        now = now + 1 if done == 0.0 else 0
        longest = max(longest, now)
    return longest


_WIDTH_INCHES, _LETTERS_POINTS = 7.0, 14
TABLE_HEAD = (
    "| board | air | policy | s over soft limit | worst overshoot, K | s throttled by the SoC | frames in 2 h | "
    "of the oracle's | of it in the 2nd hour | of those without governor | swings in the worst minute | "
    "longest stop, s |\n"
    "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def averaged(outcome: Outcome, window_s: int = 60) -> list[tuple[float, float]]:
    """Percent of the full rate, as means over a minute."""
    done = [done for _, _, done in outcome.track]
    return [
        (start + window_s / 2, 100.0 * sum(done[start : start + window_s]) / window_s)
        for start in range(0, len(done) - window_s + 1, window_s)
    ]


def chart_of(results: Mapping[float, Mapping[str, Outcome]], soft: float, throttle: float, look: Look) -> Figure:
    """One board, for each ambient the temperature and below it the rate. Needs matplotlib.

    One column with letters of a thirty-sixth of its width, so that a phone shows them at 11 pixels.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # A reader's style file could make it transparent, with dark letters on a dark page.
    mpl.rcdefaults()
    mpl.rcParams["font.size"] = _LETTERS_POINTS
    mpl.rc("text", color=look.ink)
    mpl.rc("axes", labelcolor=look.ink, edgecolor=look.ink, facecolor=look.paper)
    mpl.rc("xtick", color=look.ink)
    mpl.rc("ytick", color=look.ink)
    mpl.rc("savefig", facecolor=look.paper)
    mpl.rc("legend", facecolor=look.paper)
    figure = Figure(figsize=(_WIDTH_INCHES, 6.4 * len(results)), dpi=110, layout="constrained", facecolor=look.paper)
    figure.suptitle("Orin-like board without a fan, full load, 2 hours simulated")
    for place, (ambient, outcomes) in enumerate(results.items()):
        heat = figure.add_subplot(2 * len(results), 1, 2 * place + 1)
        rate = figure.add_subplot(2 * len(results), 1, 2 * place + 2)
        for name in ("on/off", SILICON, ORACLE, CLOCKS, OURS):
            seconds, celsius = zip(*((at, hottest) for at, hottest, _ in outcomes[name].track[::10]), strict=True)
            heat.plot([at / 60 for at in seconds], celsius, color=look.of(name), label=name)
            seconds, percents = zip(*averaged(outcomes[name]), strict=True)
            rate.plot([at / 60 for at in seconds], percents, color=look.of(name))
        # Above and below both lines and the curves at them.
        for limit, words, away in ((throttle, "the SoC throttles", 14), (soft, "closest soft limit", -24)):
            heat.axhline(limit, color=look.ink, linestyle="--", linewidth=1)
            text = f"{words}, {limit:g} °C"
            heat.annotate(text, (118, limit), (0, away), textcoords="offset points", ha="right", va="center")
        heat.set(title=f"Hottest zone, air at {ambient:g} °C", ylabel="°C", ylim=(40, 110), xlim=(0, 120))
        rate.set(title=f"Frames classified, of those requested, air at {ambient:g} °C", ylabel="%", ylim=(0, 100))
        rate.set(xlim=(0, 120), xlabel="minutes")
        for axes in (heat, rate):
            axes.grid(visible=True, color=look.grid)
        if place == 0:
            figure.legend(loc="outside lower center", ncols=2)
    return figure


def limits_of_board(board: str) -> tuple[float, float]:
    """Closest soft limit and throttling temperature of a board."""
    parameters = BOARDS[board]
    still = ThermalSample("simulated", 0, dict.fromkeys(parameters.trip_points, 40.0), parameters.trip_points)
    soft = min(limit.soft_celsius for limit in closest_limits(still, CONFIG).values())
    return soft, parameters.throttle_celsius


def changes_in(outcome: Outcome, after: int) -> int:
    """How often the rate was changed after ``after`` seconds."""
    done = [done for second, _, done in outcome.track if second > after]
    return sum(1 for before, now in pairwise(done) if before != now)


def main() -> None:
    """Print the table; write the chart where asked."""
    parser = argparse.ArgumentParser(prog="scripts/thermal-report", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE.png",
        help="also write the chart of the Orin-like board, and FILE-dark.png for dark pages",
    )
    arguments = parser.parse_args()
    _check_output(parser, arguments.output)
    print(TABLE_HEAD)
    charted: dict[float, dict[str, Outcome]] = {}
    for board in sorted(BOARDS):
        for ambient in AMBIENTS:
            outcomes, _ = compare(board, ambient)
            print("\n".join(rows(board, ambient, outcomes)), flush=True)
            if board == "orin":
                charted[ambient] = outcomes
    print(f"\nChanges of the rate by the governor in the second hour, Orin, {AMBIENTS[-1]:g} °C: ", end="")
    print(changes_in(charted[AMBIENTS[-1]][OURS], SETTLED_S))
    if arguments.output is not None:
        dark = arguments.output.with_stem(f"{arguments.output.stem}-dark")
        for path, look in ((arguments.output, LIGHT), (dark, DARK)):
            chart_of(charted, *limits_of_board("orin"), look).savefig(path)


def _check_output(parser: argparse.ArgumentParser, path: Path | None) -> None:
    """Refuse, before minutes of simulation, what could not be written."""
    if path is None:
        return
    if path.suffix != ".png" or not path.absolute().parent.is_dir():
        parser.error(f"--output {path}: name a .png file in a folder that exists")
    if importlib.util.find_spec("matplotlib") is None:
        parser.error("--output needs matplotlib: pip install matplotlib")


if __name__ == "__main__":
    main()
