"""The chart: time of a call, throughput, and how the times are spread, for every engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from agent.tools.benchmark.recommend import headline_of
from agent.tools.benchmark.render.surface import PixelSurface, Point, Surface, SvgSurface
from agent.tools.benchmark.report import CaseResult, EngineResult, PipelineResult, Report

_WIDTH = 1600
_MARGIN = 60
_HEAD = 180
_HEAD_ALONE = 90
_LEGEND_ROW = 24
_MOST_TIMES_MEDIAN = 4.0
_PANEL = 430
_GAP = 50
_INK, _FAINT, _GRID, _PAPER = "#1f2933", "#6b7785", "#e3e7eb", "#ffffff"
_YARDSTICK = "#a9b2bb"
_MOST_WORDS = 165
_LEAST_INSIDE = 26
"""A bar lower than this has its figure above it."""
_PALE = 0.55
"""How far the colour of a yardstick is from that of its engine to white."""
_COLOURS = ("#5a9e00", "#0072b2", "#e08a00", "#8e5bb5", "#2aa6a1", "#d1495b", "#7a6b00", "#3f5fbf")
_STAGE_COLOURS = ("#3f5fbf", "#e08a00", "#2aa6a1", "#5a9e00", "#8e5bb5", "#d1495b")
_STAGES_IN_HAND = ("queue", "preprocess", "infer", "decide", "publish")


@dataclass(frozen=True, slots=True)
class _Bar:
    """One bar: its height, the end of its whisker (None: none), and the text above it."""

    label: str
    colour: str
    value: float
    whisker: float | None
    words: str


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where a panel lies, and its vertical scale."""

    x: float
    y: float
    width: float
    height: float
    top: float

    def y_of(self, value: float) -> float:
        return self.y + self.height - min(value / self.top, 1.0) * self.height


def png_of(report: Report) -> bytes:
    """The chart as a picture."""
    surface = PixelSurface(_WIDTH, _height(report))
    _draw(report, surface)
    return surface.finish()


def svg_of(report: Report) -> str:
    """The chart as an element for a page."""
    surface = SvgSurface(_WIDTH, _height(report), title=f"Benchmark of {report.model.name}")
    _draw(report, surface)
    return surface.finish()


def _height(report: Report) -> int:
    panels = (2 if report.engines else 0) + (1 if report.pipelines else 0)
    return _head(report) + panels * (_PANEL + _GAP) + 10


def _head(report: Report) -> int:
    """Without engines there is no legend and nothing that is said of their figures."""
    return _HEAD if report.engines else _HEAD_ALONE


def _draw(report: Report, surface: Surface) -> None:
    _draw_head(report, surface)
    y = float(_head(report))
    if report.engines:
        colours = _colours(report.engines)
        half = (_WIDTH - 3 * _MARGIN) / 2
        _draw_bars(
            surface, _MARGIN + 20, y, half - 20, "Time of one call, batch 1", "ms", _latency_groups(report, colours)
        )
        groups = _throughput_groups(report, colours)
        _draw_bars(surface, 2 * _MARGIN + half + 20, y, half - 20, "Throughput", "img/s", groups)
        y += _PANEL + _GAP
        _draw_distribution(report, surface, _MARGIN + 20, y, _WIDTH - 2 * _MARGIN - 20, colours)
        y += _PANEL + _GAP
    if report.pipelines:
        _draw_pipelines(report.pipelines, surface, y)


def _draw_head(report: Report, surface: Surface) -> None:
    env = report.environment
    gpus = env.get("gpus")
    device = gpus[0]["name"] if isinstance(gpus, list | tuple) and gpus else env.get("cpu")
    title = f"{report.model.name} {report.model.version} on {env.get('board') or device}"
    surface.text(_MARGIN, 46, title, size=28, colour=_INK, bold=True)
    facts = [f"{device}, {env.get('cpu_cores')} cores", f"{report.model.width}×{report.model.height}"]
    facts += [f"{name} {env[name]}" for name in ("onnxruntime", "tensorrt", "torch") if env.get(name)]
    facts.append(report.started_at[:10])
    surface.text(_MARGIN, 74, ", ".join(facts), size=16, colour=_FAINT)
    if report.invalid:
        words = _at_most(f"Not valid, do not quote: {report.invalid[0]}", _MOST_WORDS)
        surface.text(_MARGIN, _HEAD - 22, words, size=15, colour="#c0392b")
    x, y = float(_MARGIN), 93.0
    colours = _colours(report.engines)
    for engine in report.engines:
        needed = 56 + 8.6 * len(engine.label)
        if x + needed > _WIDTH and x > _MARGIN:
            x, y = float(_MARGIN), y + _LEGEND_ROW
        surface.rectangle(x, y, 16, 16, colours[engine.label])
        surface.text(x + 24, y + 14, engine.label, size=16, colour=_INK)
        x += needed


def _at_most(words: str, count: int) -> str:
    """Cut between two words, and say that it is cut."""
    return words if len(words) <= count else f"{words[:count].rpartition(' ')[0]} …"


def _colours(engines: Sequence[EngineResult]) -> dict[str, str]:
    """A colour for each engine; a bare session has a pale one of the engine that it is the yardstick of."""
    shown = [engine for engine in engines if not engine.is_yardstick]
    colours = {engine.label: _COLOURS[place % len(_COLOURS)] for place, engine in enumerate(shown)}
    for engine in engines:
        if engine.is_yardstick:
            measured = next((one for one in shown if one.precision == engine.precision), None)
            colours[engine.label] = _YARDSTICK if measured is None else _pale(colours[measured.label])
    return colours


def _pale(colour: str) -> str:
    parts = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * _PALE):02x}" for part in parts)


def _latency_groups(report: Report, colours: dict[str, str]) -> list[tuple[str, list[_Bar]]]:
    groups: dict[str, list[_Bar]] = {}
    for engine in report.engines:
        for result in engine.cases:
            if result.case.samples == 1:
                spread = result.spread
                bar = _Bar(engine.label, colours[engine.label], spread.p50_ms, spread.p99_ms, _short(spread.p50_ms))
                groups.setdefault(result.case.name, []).append(bar)
    return list(groups.items())


def _throughput_groups(report: Report, colours: dict[str, str]) -> list[tuple[str, list[_Bar]]]:
    groups: dict[str, list[_Bar]] = {}
    for engine in report.engines:
        for result in engine.cases:
            if result.case.mode == "closed":
                rate = result.throughput_hz
                bar = _Bar(engine.label, colours[engine.label], rate, None, _short(rate))
                groups.setdefault(result.case.name, []).append(bar)
    return list(groups.items())


def _draw_bars(
    surface: Surface, x: float, y: float, width: float, title: str, unit: str, groups: list[tuple[str, list[_Bar]]]
) -> None:
    bars = [bar for _, group in groups for bar in group]
    highest = max((bar.value for bar in bars), default=1.0)
    reach = max((bar.whisker or bar.value for bar in bars), default=1.0)
    frame = _Frame(x, y + 40, width, _PANEL - 70, _nice(min(max(highest * 1.12, reach * 1.02), highest * 2.2)))
    whiskers = ", bar p50, whisker to p99" if any(bar.whisker for bar in bars) else ""
    _draw_frame(surface, frame, f"{title} ({unit}{whiskers})")
    slot = width / max(len(groups), 1)
    for number, (name, group) in enumerate(groups):
        left = x + number * slot
        bar_width = min(slot * 0.92 / len(group), 90.0)
        start = left + (slot - bar_width * len(group)) / 2
        # The figures last, so that no neighbour lies over them.
        for draw in (_draw_bar, _draw_figure):
            for place, bar in enumerate(group):
                draw(surface, frame, bar, start + place * bar_width, bar_width)
        surface.text(left + slot / 2, frame.y + frame.height + 26, name, size=16, colour=_INK, anchor="middle")


def _draw_bar(surface: Surface, frame: _Frame, bar: _Bar, x: float, width: float) -> None:
    top, bottom = frame.y_of(bar.value), frame.y + frame.height
    surface.rectangle(x + width * 0.06, top, width * 0.88, bottom - top, bar.colour)
    if bar.whisker is not None:
        _draw_whisker(surface, frame, bar.whisker, x + width / 2, top, width)


def _draw_figure(surface: Surface, frame: _Frame, bar: _Bar, x: float, width: float) -> None:
    top, bottom = frame.y_of(bar.value), frame.y + frame.height
    middle, size = x + width / 2, min(15.0, width * 0.34)
    if bar.whisker is None:
        surface.text(middle, top - 7, bar.words, size=size, colour=_INK, anchor="middle")
        return
    if bottom - top < _LEAST_INSIDE:
        # Above the bar, where the whisker is: it is interrupted.
        half = size * 0.31 * len(bar.words)
        surface.rectangle(middle - half, top - size - 7, 2 * half, size + 4, _PAPER)
        surface.text(middle, top - 6, bar.words, size=size, colour=_INK, anchor="middle")
        return
    ink = _PAPER if bar.colour in _COLOURS else _INK
    surface.text(middle, bottom - 10, bar.words, size=size, colour=ink, anchor="middle", bold=True)


def _draw_whisker(surface: Surface, frame: _Frame, reach: float, middle: float, top: float, width: float) -> None:
    end = frame.y_of(reach)
    surface.line([(middle, top), (middle, end)], _INK, width=1.6)
    if reach <= frame.top:
        surface.line([(middle - 7, end), (middle + 7, end)], _INK, width=1.6)
        return
    surface.line([(middle - 6, end + 8), (middle, end), (middle + 6, end + 8)], _INK, width=1.6)
    surface.text(middle + 8, end + 13, _short(reach), size=min(13.0, width * 0.24), colour=_FAINT)


def _draw_frame(surface: Surface, frame: _Frame, title: str) -> None:
    surface.text(frame.x - 20, frame.y - 22, title, size=18, colour=_INK, bold=True)
    for number in range(6):
        value = frame.top * number / 5
        at = frame.y_of(value)
        surface.line([(frame.x, at), (frame.x + frame.width, at)], _GRID if number else _FAINT)
        surface.text(frame.x - 8, at + 5, _short(value), size=14, colour=_FAINT, anchor="end")


def _draw_distribution(
    report: Report, surface: Surface, x: float, y: float, width: float, colours: dict[str, str]
) -> None:
    """Share of the calls that took at most so long; the axis is logarithmic, so that the tail is seen."""
    results = [(engine, found) for engine in report.engines if (found := headline_of(engine)) is not None]
    if not results:
        return
    frame = _Frame(x, y + 40, width, _PANEL - 70, 100.0)
    name = results[0][1].case.name
    _draw_frame(surface, frame, f"Share of calls answered within … ms, % ({name}, logarithmic)")
    low = min(result.spread.min_ms for _, result in results) * 0.97
    # The very last calls would take half of the width; they stand in the table.
    high = max(max(result.spread.p99_ms * 1.2, result.spread.p50_ms * 1.5) for _, result in results)
    scale = width / math.log(high / low)
    for tick in _log_ticks(low, high):
        at = x + math.log(tick / low) * scale
        surface.line([(at, frame.y), (at, frame.y + frame.height)], _GRID)
        surface.text(at, frame.y + frame.height + 22, _short(tick), size=14, colour=_FAINT, anchor="middle")
    # Yardsticks first, so that the engines lie over them.
    for engine, result in sorted(results, key=lambda one: not one[0].is_yardstick):
        points = _steps(result, frame, low, scale)
        surface.line(points, colours[engine.label], width=1.8 if engine.is_yardstick else 2.6)


def _steps(result: CaseResult, frame: _Frame, low: float, scale: float) -> list[Point]:
    times = sorted(one for block in result.rounds_ms for one in block)
    step = max(1, len(times) // 400)
    inside = [n for n in range(0, len(times), step) if (math.log(times[n] / low)) * scale <= frame.width]
    kept = inside or [0]
    return [(frame.x + math.log(times[n] / low) * scale, frame.y_of((n + 1) / len(times) * 100)) for n in kept]


def _draw_pipelines(pipelines: Sequence[PipelineResult], surface: Surface, y: float) -> None:
    """Where a frame's time goes, stage on stage, up to the subscriber; the bare session beside it."""
    width = _WIDTH - 2 * _MARGIN - 20.0
    heights = [max(one.from_hand.p50_ms, one.bare.p50_ms if one.bare else 0.0) for one in pipelines]
    # One that is overloaded would make all others flat: it is cut off, its figure stands above it.
    highest = min(max(heights), _MOST_TIMES_MEDIAN * median(heights))
    frame = _Frame(_MARGIN + 20, y + 54, width, _PANEL - 124, _nice(highest * 1.15))
    _draw_frame(surface, frame, "Frame in hand to subscriber, p50 by stage (ms)")
    x = frame.x + 560
    names, colours = (*_STAGES_IN_HAND, "network", "bare session"), (*_STAGE_COLOURS, _YARDSTICK)
    for stage, colour in zip(names, colours, strict=True):
        surface.rectangle(x, frame.y - 37, 14, 14, colour)
        surface.text(x + 20, frame.y - 24, stage, size=15, colour=_INK)
        x += 45 + 8.5 * len(stage)
    slot = width / len(pipelines)
    for number, one in enumerate(pipelines):
        _draw_stack(surface, frame, one, frame.x + number * slot, slot)


def _draw_stack(surface: Surface, frame: _Frame, result: PipelineResult, x: float, slot: float) -> None:
    bar = min(slot * 0.3, 110.0)
    left, below = x + slot / 2 - bar, 0.0
    medians = {row.stage: row.p50_ms for row in result.stages}
    parts = [medians.get(stage, 0.0) for stage in _STAGES_IN_HAND]
    parts.append(max(result.from_hand.p50_ms - sum(parts), 0.0))
    for part, colour in zip(parts, _STAGE_COLOURS, strict=True):
        top = frame.y_of(below + part)
        surface.rectangle(left, top, bar * 0.94, frame.y_of(below) - top, colour)
        below += part
    size = max(11.0, min(15.0, bar * 0.32))
    cut = " ↑" if below > frame.top else ""
    surface.text(left + bar / 2, frame.y_of(below) - 7, _short(below) + cut, size=size, colour=_INK, anchor="middle")
    if result.bare is not None:
        top = frame.y_of(result.bare.p50_ms)
        surface.rectangle(left + bar, top, bar * 0.94, frame.y + frame.height - top, _YARDSTICK)
        words = _short(result.bare.p50_ms)
        surface.text(left + bar * 1.5, top - 7, words, size=size, colour=_FAINT, anchor="middle")
    rhythm = "unpaced" if result.fps is None else f"{result.fps:g} fps"
    source, most = f"{result.cameras} × {result.source}", int(slot / 7.2)
    for line, (words, ink) in enumerate(
        (
            (source if len(source) <= most else f"{source[: most - 1]}…", _INK),
            (f"{result.engine} {result.precision}", _INK),
            (f"{rhythm}, {result.throughput_hz:.0f}/s", _FAINT),
        )
    ):
        at = frame.y + frame.height + 22 + 19 * line
        surface.text(x + slot / 2, at, words, size=13, colour=ink, anchor="middle")


def _nice(value: float) -> float:
    """The next value whose fifths are easy to read."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next(unit * step for step in (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 7.5, 10) if unit * step >= value * 0.999)


def _log_ticks(low: float, high: float) -> list[float]:
    ticks = [
        digit * 10.0**power
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for digit in (1, 2, 3, 5, 7)
    ]
    return [tick for tick in ticks if low <= tick <= high]


def _short(value: float) -> str:
    """Three digits, which is what a reader takes in."""
    if value <= 0:
        return "0"
    if value >= 100:
        return f"{value:.0f}"
    text = f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"
    return text.rstrip("0").rstrip(".")
