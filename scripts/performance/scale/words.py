"""The measured points as a table, and what they say: how cost grows, and where the limit is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from scripts.performance.page import table
from scripts.performance.scale.axes import Axis
from scripts.performance.scale.point import Point
from scripts.performance.verdict import Load

_LINEAR_RATIO = 1.1
"""Growth of cost over growth of work. Up to here it counts as linear: two runs of the same load differ that much."""


def lines_of(name: str, axis: Axis, points: Sequence[Point], load: Load) -> list[str]:
    """Title, table, verdict, and the picture of one axis. ``load``: that of other programs meanwhile."""
    columns = [axis.unit, "asked for, results/s", "results/s", "p50 / p99 ms", "CPU ms a result", "CPU, cores",
               "resident MiB", "threads", "start s"]  # fmt: skip
    more = [title for title, shown in _MORE if any(shown(point) for point in points)]
    rows = [_row(point, more) for point in points]
    told = verdict(axis, points) if load.problem is None else [f"Not to be judged: {load.problem}."]
    return [f"{axis.title}:", "", *table([*columns, *more], rows), *told, "", *_picture(name, axis), ""]


def _picture(name: str, axis: Axis) -> list[str]:
    """For light and dark pages."""
    return [
        "<picture>",
        f'  <source media="(prefers-color-scheme: dark)" srcset="images/{name}-dark.png">',
        f'  <img alt="{axis.title}: rate, age, CPU and memory" src="images/{name}.png">',
        "</picture>",
    ]


_MORE = (
    ("events at the subscriber/s", lambda point: point.events_hz >= 1.0),
    ("rows sent/s", lambda point: point.drained_hz is not None),
)


def _row(point: Point, more: Sequence[str]) -> list[str]:
    also = {
        "events at the subscriber/s": f"{point.events_hz:.0f}",
        "rows sent/s": "–" if point.drained_hz is None else f"{point.drained_hz:,.0f}",
    }
    return [
        f"{point.work:,.0f}",
        f"{point.offered_hz:.0f}",
        f"{point.results_hz:.1f}",
        f"{point.p50_ms:.1f} / {point.p99_ms:.1f}",
        f"{point.cpu_ms:.2f}",
        f"{_cores(point):.2f}",
        f"{point.resident_mib:.0f}",
        f"{point.threads}",
        f"{point.ready_s:.1f}",
        *(also[title] for title in more),
    ]


def _cores(point: Point) -> float:
    return point.cpu_ms * point.results_hz / 1e3


def verdict(axis: Axis, points: Sequence[Point]) -> Iterator[str]:
    """Whether CPU grows at most as the work does, what memory each unit takes, and the limit if one was reached."""
    kept = [point for point in points if point.keeps_up]
    beyond = next((point for point in points if not point.keeps_up), None)
    if len(kept) > 1:
        yield f"{_growth(axis, kept[0], kept[-1])}{_memory(kept[0], kept[-1])}"
    if beyond is None:
        yield f"No limit up to {points[-1].work:,.0f} {axis.unit}."
    else:
        yield (
            f"Limit: {beyond.work:,.0f} {axis.unit} get {beyond.results_hz:.0f} of {beyond.offered_hz:.0f} results a "
            f"second with {_cores(beyond):.2f} cores. `agent plan` and `agent config check --report` warn of it."
        )


def _growth(axis: Axis, first: Point, last: Point) -> str:
    cost = _cores(last) / _cores(first)
    if first.work <= 0:
        return f"CPU with {last.work:,.0f} {axis.unit} is {cost:.2f} times that without."
    work = last.work / first.work
    words = "linear or better" if cost <= work * _LINEAR_RATIO else "**more than linear**"
    return f"{work:,.0f} times the {axis.unit} take {cost:.1f} times the CPU: {words}."


def _memory(first: Point, last: Point) -> str:
    grown = last.resident_mib - first.resident_mib
    each = grown / (last.work - first.work)
    unit = f"{each:.1f} MiB each" if each >= 0.1 else f"{grown:.0f} MiB in all"
    return f" Memory grows by {unit}."
