"""The points of one axis as four small charts, by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.tools.benchmark.render.chart import check_can_draw
from scripts.performance.scale.axes import Axis
from scripts.performance.scale.point import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INCHES, _DPI = (9.6, 5.6), 170
_PAPER, _INK, _FAINT, _GRID = "#ffffff", "#1f2933", "#5b6773", "#e3e7eb"
_FIRST, _SECOND = "#1b6ca8", "#d1662a"
_THOUSAND, _MILLION = 1_000, 1_000_000


def draw(path: Path, axis: Axis, points: Sequence[Point]) -> None:
    """Write the picture as PNG.

    Raises:
        Unavailable: matplotlib is not installed.
    """
    check_can_draw()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, dpi=_DPI, facecolor=_PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(axis.title, fontsize=13, fontweight="bold", color=_INK, x=0.01, ha="left")
    rate, age, cpu, memory = figure.subplots(2, 2).flat
    _panel(rate, axis, points, "results a second", {"came": [one.results_hz for one in points],
                                                    "asked for": [one.offered_hz for one in points]})  # fmt: skip
    _panel(age, axis, points, "frame in hand to subscriber, ms", {"p50": [one.p50_ms for one in points],
                                                                 "p99": [one.p99_ms for one in points]})  # fmt: skip
    _panel(cpu, axis, points, "CPU, ms a result", {"": [one.cpu_ms for one in points]})
    _panel(memory, axis, points, "resident MiB", {"": [one.resident_mib for one in points]})
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=_DPI, facecolor=_PAPER, pil_kwargs={"optimize": True})


def _panel(axes: Axes, axis: Axis, points: Sequence[Point], title: str, curves: dict[str, Sequence[float]]) -> None:
    places = range(len(points))
    style: tuple[dict[str, Any], ...] = (
        {"color": _FIRST, "marker": "o", "linewidth": 2.0},
        {"color": _SECOND, "marker": "o", "linewidth": 1.4, "linestyle": "--", "markersize": 4},
    )
    for (name, values), look in zip(curves.items(), style, strict=False):
        axes.plot(places, values, label=name, **look)
    axes.set_title(title, fontsize=11, color=_INK, loc="left")
    axes.set_xticks([*places], [_short(point.work) for point in points])
    axes.set_xlabel(axis.unit, fontsize=10, color=_FAINT)
    axes.set_ylim(0, max(max(values) for values in curves.values()) * 1.12 or 1.0)
    axes.tick_params(length=0, labelcolor=_FAINT, labelsize=10)
    axes.grid(visible=True, axis="y", color=_GRID, linewidth=0.8)
    axes.set_facecolor(_PAPER)
    for side in axes.spines.values():
        side.set_visible(False)
    if len(curves) > 1:
        axes.legend(fontsize=9, labelcolor=_INK, frameon=False, loc="upper left")


def _short(value: float) -> str:
    if value >= _MILLION:
        return f"{value / _MILLION:g} M"
    return f"{value / _THOUSAND:g} k" if value >= 10 * _THOUSAND else f"{value:g}"
