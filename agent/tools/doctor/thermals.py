"""`agent doctor --thermals`: the last 24 hours of heat, as the agent kept them, drawn or as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agent.runtime.errors import Unavailable
from agent.thermal.minutes import CAUSES, FILE_NAME, DayOfHeat, Minute, read_minutes
from agent.thermal.sensors.base import ThrottleCause
from agent.tools.watch.history import curve

_LABEL_CELLS = 36
"""Room for names and figures beside a curve."""
_MAX_CELLS = 96
"""A quarter of an hour for each cell of 24 hours."""


def day_of_heat(state_dir: Path) -> DayOfHeat:
    """What the agent of ``state_dir`` kept.

    Raises:
        Unavailable: the file is there and cannot be read.
    """
    path = state_dir / FILE_NAME
    try:
        return read_minutes(path)
    except OSError as exc:
        raise Unavailable(
            f"{path} cannot be read: {exc.strerror or exc}. Run this as the user of the agent, or as root"
        ) from exc


def as_json(day: DayOfHeat) -> str:
    """Every minute, oldest first."""
    minutes = [
        {
            "at": _utc(minute).isoformat().replace("+00:00", "Z"),
            "max_celsius": None if minute.max_celsius is None else round(minute.max_celsius, 2),
            "min_rate_ratio": round(minute.rate_ratio, 3),
            "min_clock_ratio": round(minute.clock_ratio, 3),
            "mean_watts": None if minute.watts is None else round(minute.watts, 3),
            "throttled_s": dict(minute.throttled_s),
            "seen_s": minute.seen_s,
        }
        for minute in day.minutes
    ]
    return json.dumps({"minutes": minutes, "left_out": day.left_out}, indent=2)


def render(day: DayOfHeat, *, width: int) -> RenderableType:
    """Temperature, rate, clocks, throttling and power over the time that is known, ``width`` cells wide."""
    if not day.minutes and day.left_out:
        text = (
            f"No minute can be read: {day.left_out} are damaged, or of another version of the agent. The agent begins "
        )
        return Text(text + "the file again with its next minute", style="yellow")
    if not day.minutes:
        return Text("No minute has been kept yet: the agent keeps one each minute while it runs", style="dim")
    first, last = day.minutes[0].utc_s - 60, day.minutes[-1].utc_s
    # No cell is shorter than a minute, or every other one would be empty.
    cells = max(min(width - _LABEL_CELLS, _MAX_CELLS, (last - first) // 60), 1)
    columns = _columns(day.minutes, first, last, cells)
    table = Table.grid(padding=(0, 1))
    for _ in range(3):
        table.add_column(no_wrap=True)
    _add(table, "temperature", columns, lambda m: m.max_celsius, max, "°C", style="yellow")
    _add(table, "rate", columns, lambda m: m.rate_ratio * 100, min, "%", style="cyan", scale=(0.0, 100.0))
    _add(table, "clocks", columns, lambda m: m.clock_ratio * 100, min, "%", style="cyan", scale=(0.0, 100.0))
    for cause in CAUSES:
        if any(minute.throttled_s.get(cause) for minute in day.minutes):
            name = f"throttled, {cause.replace('_', ' ')}"
            _add(table, name, columns, _seconds_of(cause), max, "s/min", style="red", scale=(0.0, 60.0))
    _add(table, "power", columns, lambda m: m.watts, _mean, "W", style="green")
    table.add_row("", _axis(first, last, cells), "")
    throttled = sum(sum(minute.throttled_s.values()) for minute in day.minutes)
    summary = Text(f"{len(day.minutes)} minutes, the board throttled for {throttled} s of them")
    if day.left_out:
        summary.append(f"; {day.left_out} more are damaged or of another day's clock", style="yellow")
    return Group(table, summary)


def _seconds_of(cause: ThrottleCause) -> Callable[[Minute], float | None]:
    return lambda minute: float(minute.throttled_s.get(cause, 0))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _columns(minutes: Sequence[Minute], first: int, last: int, cells: int) -> list[list[Minute]]:
    """The minutes of each cell of the time axis; empty where the agent did not run."""
    columns: list[list[Minute]] = [[] for _ in range(cells)]
    span = max(last - first, 1)
    for minute in minutes:
        columns[min(max((minute.utc_s - 60 - first) * cells // span, 0), cells - 1)].append(minute)
    return columns


def _add(
    table: Table,
    name: str,
    columns: Sequence[Sequence[Minute]],
    value: Callable[[Minute], float | None],
    joined: Callable[[Sequence[float]], float],
    unit: str,
    *,
    style: str,
    scale: tuple[float, float] | None = None,
) -> None:
    """One curve; nothing where no minute has the value."""
    cells: list[float | None] = []
    for column in columns:
        known = [one for minute in column if (one := value(minute)) is not None]
        cells.append(joined(known) if known else None)
    found = [cell for cell in cells if cell is not None]
    if not found:
        return
    low, high = scale or (min(found), max(*found, min(found) + 10.0))
    table.add_row(name, Text(curve(cells, low, high), style=style), f"{min(found):.0f} to {max(found):.0f} {unit}")


def _axis(first: int, last: int, cells: int) -> Text:
    begin, end = (datetime.fromtimestamp(at, timezone.utc).strftime("%H:%M") for at in (first, last))
    return Text(f"{begin} UTC".ljust(max(cells - 5, 10)) + end, style="dim")


def _utc(minute: Minute) -> datetime:
    return datetime.fromtimestamp(minute.utc_s, timezone.utc)
