"""The points of one axis as four small charts, by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.tools.benchmark.render.chart import check_can_draw
from scripts.performance.scale.axes import Axis
from scripts.performance.scale.point import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INCHES, _DPI = (9.6, 5.6), 120
_THOUSAND, _MILLION = 1_000, 1_000_000


@dataclass(frozen=True, slots=True)
class _Look:
    """Colours: all are stated, because matplotlib reads the user's style file."""

    paper: str
    ink: str
    faint: str
    grid: str
    first: str
    second: str


_LIGHT = _Look("#ffffff", "#1f2933", "#5b6773", "#e3e7eb", "#1b6ca8", "#d1662a")
_DARK = _Look("#0d1117", "#e6edf3", "#9aa4af", "#2b323b", "#58a6ff", "#f0883e")
"""The paper is that of a code host's dark page."""


def draw(path: Path, axis: Axis, points: Sequence[Point]) -> None:
    """Write the picture as PNG, and beside it the one for dark pages.

    Raises:
        Unavailable: matplotlib is not installed.
    """
    check_can_draw()
    path.parent.mkdir(parents=True, exist_ok=True)
    for file, look in ((path, _LIGHT), (path.with_stem(f"{path.stem}-dark"), _DARK)):
        _draw(file, axis, points, look)


def _draw(path: Path, axis: Axis, points: Sequence[Point], look: _Look) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, dpi=_DPI, facecolor=look.paper, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(axis.title, fontsize=13, fontweight="bold", color=look.ink, x=0.01, ha="left")
    rate, age, cpu, memory = figure.subplots(2, 2).flat
    for axes, title, curves in (
        (rate, "results a second", {"came": [one.results_hz for one in points],
                                    "asked for": [one.offered_hz for one in points]}),
        (age, "frame in hand to subscriber, ms", {"p50": [one.p50_ms for one in points],
                                                  "p99": [one.p99_ms for one in points]}),
        (cpu, "CPU, ms a result", {"": [one.cpu_ms for one in points]}),
        (memory, "resident MiB", {"": [one.resident_mib for one in points]}),
    ):  # fmt: skip
        _style(axes, axis, points, title, look)
        _plot(axes, curves, look)
    figure.savefig(path, format="png", dpi=_DPI, facecolor=look.paper, pil_kwargs={"optimize": True})


def _style(axes: Axes, axis: Axis, points: Sequence[Point], title: str, look: _Look) -> None:
    axes.set_title(title, fontsize=11, color=look.ink, loc="left")
    axes.set_xticks([*range(len(points))], [_short(point.work) for point in points])
    axes.set_xlabel(axis.unit, fontsize=10, color=look.faint)
    axes.tick_params(length=0, labelcolor=look.faint, labelsize=10)
    axes.grid(visible=True, axis="y", color=look.grid, linewidth=0.8)
    axes.set_facecolor(look.paper)
    for side in axes.spines.values():
        side.set_visible(False)


def _plot(axes: Axes, curves: dict[str, list[float]], look: _Look) -> None:
    style: tuple[dict[str, Any], ...] = (
        {"color": look.first, "marker": "o", "linewidth": 2.0},
        {"color": look.second, "marker": "o", "linewidth": 1.4, "linestyle": "--", "markersize": 4},
    )
    for (name, values), line in zip(curves.items(), style, strict=False):
        axes.plot(range(len(values)), values, label=name, **line)
    axes.set_ylim(0, max(max(values) for values in curves.values()) * 1.12 or 1.0)
    if len(curves) > 1:
        axes.legend(
            fontsize=9,
            labelcolor=look.ink,
            frameon=False,
            loc="lower right",
            bbox_to_anchor=(1.0, 1.0),
            ncols=2,
            borderpad=0,
        )


def _short(value: float) -> str:
    if value >= _MILLION:
        return f"{value / _MILLION:g} M"
    return f"{value / _THOUSAND:g} k" if value >= 10 * _THOUSAND else f"{value:g}"
