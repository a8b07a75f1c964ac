"""The charts as one PNG, by matplotlib, which the extra ``report`` installs.

Imported only when a PNG is asked for. Figures are made without pyplot: no global state, no window system.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agent.runtime.errors import Unavailable
from agent.tools.benchmark.render.series import (
    Bar,
    BarPanel,
    CurvePanel,
    bar_panels,
    curve_panel,
    headline,
    log_ticks,
    short,
    ticks,
)
from agent.tools.benchmark.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_INCHES, _DPI = 6.4, 250
"""1,600 pixels wide. Panels are stacked, so that letters are 10 pixels high where it is shown 420 pixels wide."""
LETTERS_POINTS = 11
_ROW_INCHES, _CURVES_INCHES = 0.27, 2.4
_HEADLINE_INCHES, _LINE_INCHES = 0.55, 0.22
_TITLE_INCHES, _TICKS_INCHES, _LEGEND_ROW_INCHES = 0.4, 0.45, 0.22
_LEFT, _PLOT = 0.27, 0.49
"""Where the bars begin, and how wide they are, as shares of the width. Names stand left, figures right of them."""
_LEGEND_LETTERS = 66
_MARK_LETTERS = 5
_PAPER, _INK, _FAINT, _GRID, _RED = "#ffffff", "#1f2933", "#5b6773", "#e3e7eb", "#c0392b"
"""Every colour is stated, the background too: pages may be dark, and matplotlib reads the user's style file."""
_BAR_HEIGHT = 0.72
_LINE_LETTERS, _MAX_LINES = 72, 2


def check_can_draw() -> None:
    """Whether ``png_of`` can work, to be asked before minutes are spent on measuring.

    Raises:
        Unavailable: matplotlib is not installed, or does not load.
    """
    try:
        import matplotlib.figure  # noqa: F401 - whether it loads is the question
    except ImportError as exc:
        raise Unavailable(
            f"a PNG chart needs matplotlib, which cannot be imported ({exc}). Install it: "
            "pip install matplotlib, or write a page instead: --output report.html"
        ) from exc


def png_of(report: Report) -> bytes:
    """All charts of the report, one below the other, 1,600 pixels wide.

    Raises:
        Unavailable: matplotlib is not installed.
    """
    check_can_draw()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: list[BarPanel | CurvePanel] = [*bar_panels(report)]
    if (curves := curve_panel(report)) is not None:
        panels.append(curves)
    legends = [_legend_rows(_entries(panel)) for panel in panels]
    head = _head_lines(report)
    head_inches = _HEADLINE_INCHES + _LINE_INCHES * len(head)
    total = head_inches + sum(
        _TITLE_INCHES + _LEGEND_ROW_INCHES * len(legend) + _plot_inches(panel) + _TICKS_INCHES
        for panel, legend in zip(panels, legends, strict=True)
    )
    figure = Figure(figsize=(WIDTH_INCHES, total), dpi=_DPI, facecolor=_PAPER)
    FigureCanvasAgg(figure)
    figure.text(0.03, 1 - 0.32 / total, headline(report)[0], fontsize=15, fontweight="bold", color=_INK)
    for place, (words, colour) in enumerate(head, 1):
        at = 1 - (0.32 + _LINE_INCHES * place) / total
        figure.text(0.03, at, words, fontsize=LETTERS_POINTS, color=colour)
    y = total - head_inches
    for panel, legend in zip(panels, legends, strict=True):
        figure.text(0.03, (y - _TITLE_INCHES / 2) / total, panel.title, fontsize=12, fontweight="bold", color=_INK)
        y -= _TITLE_INCHES
        for entries in legend:
            y -= _LEGEND_ROW_INCHES
            _draw_legend(figure, entries, y / total)
        y -= _plot_inches(panel)
        left, width = (0.08, 0.89) if isinstance(panel, CurvePanel) else (_LEFT, _PLOT)
        axes = figure.add_axes((left, y / total, width, _plot_inches(panel) / total), facecolor=_PAPER)
        _draw_panel(axes, panel)
        y -= _TICKS_INCHES
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=_DPI, facecolor=_PAPER, transparent=False, pil_kwargs={"optimize": True})
    return image.getvalue()


def _plot_inches(panel: BarPanel | CurvePanel) -> float:
    if isinstance(panel, CurvePanel):
        return _CURVES_INCHES
    return _ROW_INCHES * sum(1 + len(bars) for _, bars in panel.groups)


def _entries(panel: BarPanel | CurvePanel) -> Sequence[tuple[str, str]]:
    return [(one.label, one.colour) for one in panel.curves] if isinstance(panel, CurvePanel) else panel.legend


def _legend_rows(entries: Sequence[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """As many in a row as fit."""
    rows: list[list[tuple[str, str]]] = []
    used = _LEGEND_LETTERS
    for name, colour in entries:
        needed = len(name) + _MARK_LETTERS
        if used + needed > _LEGEND_LETTERS:
            rows.append([])
            used = 0
        rows[-1].append((name, colour))
        used += needed
    return rows


def _head_lines(report: Report) -> list[tuple[str, str]]:
    """What stands below the headline, and its colours; no paragraph is longer than its lines allow."""
    paragraphs = [(headline(report)[1], _FAINT)]
    if report.invalid:
        paragraphs.append((f"Not valid, do not use: {report.invalid[0]}", _RED))
    return [
        (line, colour)
        for words, colour in paragraphs
        for line in textwrap.wrap(words, _LINE_LETTERS, max_lines=_MAX_LINES, placeholder=" …")
    ]


def _draw_panel(axes: Axes, panel: BarPanel | CurvePanel) -> None:
    axes.tick_params(axis="both", length=0, labelcolor=_FAINT, labelsize=LETTERS_POINTS)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    if isinstance(panel, CurvePanel):
        _draw_curves(axes, panel)
    else:
        _draw_bars(axes, panel)


def _draw_bars(axes: Axes, panel: BarPanel) -> None:
    row = 0
    names: list[tuple[int, str]] = []
    # Across in shares of the axes, so that words stand beside them; up and down in rows.
    beside = axes.get_yaxis_transform()
    for heading, bars in panel.groups:
        axes.text(
            (0.03 - _LEFT) / _PLOT, row, heading, transform=beside, fontsize=LETTERS_POINTS, color=_FAINT, va="center"
        )
        row += 1
        for bar in bars:
            _draw_bar(axes, panel, bar, row)
            axes.text(
                1.015, row, bar.words, transform=beside, fontsize=LETTERS_POINTS, color=_INK, va="center_baseline"
            )
            names.append((row, bar.label))
            row += 1
    axes.set_yticks([at for at, _ in names], [name for _, name in names])
    axes.tick_params(axis="y", labelcolor=_INK)
    axes.set_ylim(row - 0.4, -0.6)
    axes.set_xlim(0, panel.top)
    axes.set_xticks(ticks(panel.top), [short(tick) for tick in ticks(panel.top)])
    axes.grid(visible=True, axis="x", color=_GRID, linewidth=0.8)


def _draw_bar(axes: Axes, panel: BarPanel, bar: Bar, row: int) -> None:
    begin = 0.0
    for value, colour in bar.parts:
        axes.barh(row, value, left=begin, height=_BAR_HEIGHT, color=colour)
        begin += value
    if bar.reach is not None:
        axes.plot([bar.length, bar.reach], [row, row], color=_INK, linewidth=1.2)
        # Outside of the axes, and so not drawn, where the whisker is cut off.
        axes.plot([bar.reach], [row], marker="|", markersize=8, color=_INK)
    if panel.is_cut(bar):
        axes.plot([panel.top * 0.985], [row], marker=">", markersize=6, color=_INK)


def _draw_curves(axes: Axes, panel: CurvePanel) -> None:
    for curve in panel.curves:
        times, percents = zip(*curve.points, strict=True)
        axes.plot(times, percents, color=curve.colour, linewidth=1.2 if curve.is_bare else 1.8)
    axes.set_xscale("log")
    axes.set_xlim(panel.low_ms, panel.high_ms)
    axes.set_ylim(0, 101)
    shown = log_ticks(panel.low_ms, panel.high_ms)
    axes.set_xticks(shown, [short(tick) for tick in shown])
    axes.set_xticks([], minor=True)
    axes.grid(visible=True, axis="both", color=_GRID, linewidth=0.8)


def _draw_legend(figure: Figure, entries: Sequence[tuple[str, str]], y: float) -> None:
    from matplotlib.patches import Patch

    figure.legend(
        handles=[Patch(color=colour, label=name) for name, colour in entries],
        loc="lower left",
        bbox_to_anchor=(0.023, y),
        ncols=len(entries),
        fontsize=10,
        labelcolor=_INK,
        frameon=False,
        borderpad=0,
        handlelength=0.9,
        columnspacing=1.1,
        handletextpad=0.4,
    )
