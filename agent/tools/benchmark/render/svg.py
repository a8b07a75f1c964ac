"""The charts of the HTML page, as inline SVG: nothing to install, nothing to load.

Each chart is an element of its own with a narrow view box: a phone shows it at a size that can be read, a wide window
shows two beside each other. Ink and grid have CSS classes, which the page colours for light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from agent.tools.benchmark.render.series import (
    Bar,
    BarPanel,
    CurvePanel,
    bar_panels,
    colours_of,
    curve_panel,
    log_ticks,
    short,
    ticks,
)
from agent.tools.benchmark.report import Report

_WIDTH = 640
_LEFT, _RIGHT = 168, 132
_PLOT = _WIDTH - _LEFT - _RIGHT
_HEAD = 34
_HEADING, _ROW, _BAR = 30, 26, 18
_FOOT = 30
_TEXT = 16
_SMALL = 15
_CURVE_LEFT, _CURVE_RIGHT, _CURVE_HEIGHT = 52, 12, 300
_TICK_GAP = 46.0


def charts_of(report: Report) -> str:
    """Every chart of the report, with the legend of the engines, as HTML; empty where nothing was measured."""
    parts = [_bars_svg(panel) for panel in bar_panels(report)]
    curves = curve_panel(report)
    if curves is not None:
        parts.append(f"<figure>{_legend(list(colours_of(report.engines).items()))}{_curves_svg(curves)}</figure>")
    return f'<div class="charts">{"".join(parts)}</div>' if parts else ""


def _bars_svg(panel: BarPanel) -> str:
    height = _HEAD + sum(_HEADING + _ROW * len(bars) for _, bars in panel.groups) + _FOOT
    parts = list(_axis(panel, height))
    y = _HEAD
    for heading, bars in panel.groups:
        parts.append(_text(0, y + 21, heading, kind="faint"))
        y += _HEADING
        for bar in bars:
            parts += _bar(panel, bar, y)
            y += _ROW
    return f"<figure>{_legend(panel.legend)}{_svg(panel.title, height, parts)}</figure>"


def _axis(panel: BarPanel, height: int) -> Iterator[str]:
    bottom = height - _FOOT
    for value in ticks(panel.top):
        x = _x_of(panel, value)
        yield _line([(x, _HEAD), (x, bottom)], "grid")
        yield _text(x, bottom + 21, short(value), kind="faint", size=_SMALL, anchor="middle")


def _bar(panel: BarPanel, bar: Bar, y: float) -> Iterator[str]:
    top, middle, begin = y + (_ROW - _BAR) / 2, y + _ROW / 2, 0.0
    yield _text(_LEFT - 8, middle + 5, bar.label, anchor="end", fit=_LEFT - 8)
    for value, colour in bar.parts:
        left, right = _x_of(panel, begin), _x_of(panel, begin + value)
        if right > left:
            yield f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{_BAR}" fill="{colour}"/>'
        begin += value
    if bar.reach is not None:
        start, end = _x_of(panel, bar.length), _x_of(panel, bar.reach)
        yield _line([(start, middle), (end, middle)], "whisker")
        if bar.reach <= panel.top:
            yield _line([(end, middle - 5), (end, middle + 5)], "whisker")
    if panel.is_cut(bar):
        end = _LEFT + _PLOT
        yield _line([(end - 7, middle - 6), (end, middle), (end - 7, middle + 6)], "whisker")
    yield _text(_LEFT + _PLOT + 8, middle + 5, bar.words, fit=_RIGHT - 8)


def _curves_svg(panel: CurvePanel) -> str:
    width, bottom = _WIDTH - _CURVE_LEFT - _CURVE_RIGHT, _HEAD + _CURVE_HEIGHT
    scale = width / math.log(panel.high_ms / panel.low_ms)
    parts = []
    for percent in (0, 20, 40, 60, 80, 100):
        y = bottom - percent / 100 * _CURVE_HEIGHT
        parts.append(_line([(_CURVE_LEFT, y), (_CURVE_LEFT + width, y)], "grid"))
        parts.append(_text(_CURVE_LEFT - 8, y + 5, str(percent), kind="faint", size=_SMALL, anchor="end"))
    last = -math.inf
    for tick in log_ticks(panel.low_ms, panel.high_ms):
        x = _CURVE_LEFT + math.log(tick / panel.low_ms) * scale
        parts.append(_line([(x, _HEAD), (x, bottom)], "grid"))
        if x - last >= _TICK_GAP:
            parts.append(_text(x, bottom + 21, short(tick), kind="faint", size=_SMALL, anchor="middle"))
            last = x
    for curve in panel.curves:
        points = [
            (_CURVE_LEFT + math.log(ms / panel.low_ms) * scale, bottom - percent / 100 * _CURVE_HEIGHT)
            for ms, percent in curve.points
        ]
        stroke = f'stroke="{curve.colour}" stroke-width="{1.8 if curve.is_bare else 2.6}" stroke-linejoin="round"'
        parts.append(f'<polyline points="{_path(points)}" fill="none" {stroke}/>')
    return _svg(panel.title, bottom + _FOOT, parts)


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<figcaption>{escape(title)}</figcaption><svg xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="0 {_HEAD - 12} {_WIDTH} {height - _HEAD + 12}" role="img">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    if not entries:
        return ""
    items = "".join(f'<li><i style="background:{colour}"></i>{escape(name)}</li>' for name, colour in entries)
    return f'<ul class="legend">{items}</ul>'


def _x_of(panel: BarPanel, value: float) -> float:
    return _LEFT + min(value / panel.top, 1.0) * _PLOT


def _line(points: Sequence[tuple[float, float]], kind: str) -> str:
    return f'<polyline points="{_path(points)}" class="{kind}"/>'


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _text(
    x: float, y: float, words: str, *, kind: str = "ink", size: int = _TEXT, anchor: str = "start", fit: float = 0.0
) -> str:
    """``fit`` squeezes words that would be wider, by a usual width of letters: no browser is here to measure them."""
    squeezed = (
        f' textLength="{fit:g}" lengthAdjust="spacingAndGlyphs"' if fit and len(words) * size * 0.55 > fit else ""
    )
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" class="{kind}" text-anchor="{anchor}"{squeezed}>'
        f"{escape(words)}</text>"
    )
