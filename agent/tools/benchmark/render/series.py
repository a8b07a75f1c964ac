"""What the charts show, in the units of their axes: bars with whiskers, curves, colours.

``svg`` and ``chart`` draw it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from agent.tools.benchmark.recommend import headline_of
from agent.tools.benchmark.report import CaseResult, EngineResult, PipelineResult, Report

COLOURS = ("#5a9e00", "#0072b2", "#e08a00", "#8e5bb5", "#2aa6a1", "#d1495b", "#7a6b00", "#3f5fbf")
BARE_COLOUR = "#a9b2bb"
_STAGE_COLOURS = ("#3f5fbf", "#e08a00", "#2aa6a1", "#5a9e00", "#8e5bb5", "#d1495b")
_STAGES_IN_HAND = ("queue", "preprocess", "infer", "decide", "publish")
_PALE_RATIO = 0.55
"""How much white is mixed into an engine's colour for its bare session."""
_MAX_TIMES_MAX = 2.2
_MAX_TIMES_MEDIAN = 4.0
_CURVE_POINTS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One horizontal bar. ``parts`` are stacked lengths with their colours; ``reach`` is the end of the whisker."""

    label: str
    parts: tuple[tuple[float, str], ...]
    words: str
    """The figures, in words."""
    reach: float | None = None

    @property
    def length(self) -> float:
        """All parts together."""
        return sum(value for value, _ in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class BarPanel:
    """Bars in groups, each with a heading. What is longer than ``top`` is cut off and gets an arrow."""

    title: str
    groups: tuple[tuple[str, tuple[Bar, ...]], ...]
    top: float
    legend: tuple[tuple[str, str], ...] = ()

    def is_cut(self, bar: Bar) -> bool:
        """Whether the bar or its whisker ends beyond the axis."""
        return max(bar.length, bar.reach or 0.0) > self.top


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Share of the calls (percent) that took at most so long (ms), in steps of equal share."""

    label: str
    colour: str
    points: tuple[tuple[float, float], ...]
    is_bare: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePanel:
    """The distributions of all engines in the case that they are judged by; the axis of times is logarithmic."""

    title: str
    curves: tuple[Curve, ...]
    low_ms: float
    high_ms: float


def headline(report: Report) -> tuple[str, str]:
    """Model and device, and the facts below them."""
    env = report.environment
    gpus = env.get("gpus")
    device = gpus[0]["name"] if isinstance(gpus, list | tuple) and gpus else env.get("cpu")
    facts = [f"{device}, {env.get('cpu_cores')} cores", f"{report.model.width}×{report.model.height}"]
    facts += [f"{name} {env[name]}" for name in ("onnxruntime", "tensorrt", "torch") if env.get(name)]
    facts.append(report.started_at[:10])
    return f"{report.model.name} {report.model.version} on {env.get('board') or device}", ", ".join(facts)


def bar_panels(report: Report) -> list[BarPanel]:
    """Time of a call, throughput, and the agent's own path; only those that were measured."""
    colours = colours_of(report.engines)
    results = [(engine, result) for engine in report.engines for result in engine.cases]
    calls = _grouped(
        (result.case.name, _call_bar(engine, result, colours))
        for engine, result in results
        if result.case.samples == 1
    )
    rates = _grouped(
        (result.case.name, _rate_bar(engine, result, colours))
        for engine, result in results
        if result.case.mode == "closed"
    )
    panels = []
    if calls:
        panels.append(BarPanel(title="Time of one call, ms: bar to p50, line to p99", groups=calls, top=_top(calls)))
    if rates:
        panels.append(BarPanel(title="Throughput, images/s", groups=rates, top=_top(rates)))
    if report.pipelines:
        panels.append(_pipeline_panel(report.pipelines))
    return panels


def curve_panel(report: Report) -> CurvePanel | None:
    """The distribution of every engine; None where nothing was measured."""
    results = [(engine, found) for engine in report.engines if (found := headline_of(engine)) is not None]
    if not results:
        return None
    colours = colours_of(report.engines)
    low_ms = min(result.spread.min_ms for _, result in results) * 0.97
    # The slowest calls would take half of the width; the table has them.
    high_ms = max(max(result.spread.p99_ms * 1.2, result.spread.p50_ms * 1.5) for _, result in results)
    curves = [
        Curve(
            label=engine.label,
            colour=colours[engine.label],
            points=_steps(result, high_ms),
            is_bare=engine.is_bare,
        )
        for engine, result in results
    ]
    # Bare sessions first, so that the engines are drawn over them.
    curves.sort(key=lambda one: not one.is_bare)
    title = f"Calls answered within … ms, % ({results[0][1].case.name}, logarithmic)"
    return CurvePanel(title=title, curves=tuple(curves), low_ms=low_ms, high_ms=high_ms)


def colours_of(engines: Sequence[EngineResult]) -> dict[str, str]:
    """A colour per engine; a bare session has a pale one of the engine that it is compared with."""
    shown = [engine for engine in engines if not engine.is_bare]
    colours = {engine.label: COLOURS[place % len(COLOURS)] for place, engine in enumerate(shown)}
    for engine in engines:
        if engine.is_bare:
            measured = next((one for one in shown if one.precision == engine.precision), None)
            colours[engine.label] = BARE_COLOUR if measured is None else _pale(colours[measured.label])
    return colours


def ticks(top: float) -> list[float]:
    """Six values from 0 to ``top``."""
    return [top * number / 5 for number in range(6)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round values between ``low`` and ``high`` for a logarithmic axis."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [digit * 10.0**power for power in powers for digit in (1, 2, 3, 5, 7)]
    return [tick for tick in found if low <= tick <= high]


def short(value: float) -> str:
    """Three digits, which is what a reader takes in."""
    if value <= 0:
        return "0"
    if value >= 100:
        return f"{value:.0f}"
    text = f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"
    return text.rstrip("0").rstrip(".")


def _call_bar(engine: EngineResult, result: CaseResult, colours: Mapping[str, str]) -> Bar:
    p50, p99 = result.spread.p50_ms, result.spread.p99_ms
    words = f"{short(p50)}, p99 {short(p99)}"
    return Bar(label=engine.label, parts=((p50, colours[engine.label]),), words=words, reach=p99)


def _rate_bar(engine: EngineResult, result: CaseResult, colours: Mapping[str, str]) -> Bar:
    rate = result.throughput_hz
    return Bar(label=engine.label, parts=((rate, colours[engine.label]),), words=short(rate))


def _grouped(bars: Iterator[tuple[str, Bar]]) -> tuple[tuple[str, tuple[Bar, ...]], ...]:
    groups: dict[str, list[Bar]] = {}
    for name, bar in bars:
        groups.setdefault(name, []).append(bar)
    return tuple((name, tuple(group)) for name, group in groups.items())


def _top(groups: Sequence[tuple[str, Sequence[Bar]]]) -> float:
    """The end of the axis: the longest bar always fits, a whisker that would make all bars short does not."""
    bars = [bar for _, group in groups for bar in group]
    highest = max(bar.length for bar in bars)
    reach = max(bar.reach or bar.length for bar in bars)
    return _nice(min(max(highest * 1.05, reach * 1.02), highest * _MAX_TIMES_MAX))


def _pipeline_panel(pipelines: Sequence[PipelineResult]) -> BarPanel:
    """Where a frame's time goes, stage after stage, up to the subscriber; the bare session below it."""
    lengths = [max(one.from_hand.p50_ms, one.bare.p50_ms if one.bare else 0.0) for one in pipelines]
    # An overloaded setup would make all other bars short. Its bar is cut off and its figure gives the length.
    top = _nice(min(max(lengths), _MAX_TIMES_MEDIAN * median(lengths)) * 1.05)
    names, colours = (*_STAGES_IN_HAND, "network", "bare session"), (*_STAGE_COLOURS, BARE_COLOUR)
    return BarPanel(
        title="Frame in hand to subscriber, p50 by stage, ms",
        groups=tuple((_setup_words(one), tuple(_stage_bars(one))) for one in pipelines),
        top=top,
        legend=tuple(zip(names, colours, strict=True)),
    )


def _setup_words(result: PipelineResult) -> str:
    pace = "unpaced" if result.fps is None else f"{result.fps:g} fps"
    return f"{result.cameras} × {result.source}, {pace}: {result.throughput_hz:.0f} results/s"


def _stage_bars(result: PipelineResult) -> Iterator[Bar]:
    medians = {row.stage: row.p50_ms for row in result.stages}
    parts = [medians.get(stage, 0.0) for stage in _STAGES_IN_HAND]
    parts.append(max(result.from_hand.p50_ms - sum(parts), 0.0))
    stacked = tuple(zip(parts, _STAGE_COLOURS, strict=True))
    yield Bar(label=f"{result.engine} {result.precision}", parts=stacked, words=short(sum(parts)))
    if result.bare is not None:
        yield Bar(label="bare session", parts=((result.bare.p50_ms, BARE_COLOUR),), words=short(result.bare.p50_ms))


def _steps(result: CaseResult, high_ms: float) -> tuple[tuple[float, float], ...]:
    times = sorted(one for block in result.rounds_ms for one in block)
    step = max(1, len(times) // _CURVE_POINTS)
    kept = [n for n in range(0, len(times), step) if times[n] <= high_ms] or [0]
    return tuple((times[n], (n + 1) / len(times) * 100) for n in kept)


def _pale(colour: str) -> str:
    parts = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * _PALE_RATIO):02x}" for part in parts)


def _nice(value: float) -> float:
    """The next value whose fifths are easy to read."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next(unit * step for step in (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 7.5, 10) if unit * step >= value * 0.999)
