"""Shows the progress of a run: a bar with words and the time left on a terminal, one line per phase elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from agent.tools.benchmark.measure.rounds import Progress


@contextmanager
def shown_progress(console: Console) -> Iterator[Progress]:
    """Show progress on ``console`` inside the ``with`` block."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    with Bars(
        TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=console, transient=True
    ) as bars:
        yield _Bar(bars)


class _Bar(Progress):
    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def phase(self, text: str, expected_s: float) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(text, total=expected_s or None)

    def step(self, text: str) -> None:
        if self._task is not None:
            self._bars.update(self._task, description=text)

    def advance(self, done_s: float) -> None:
        if self._task is not None:
            self._bars.advance(self._task, done_s)


class _Lines(Progress):
    def __init__(self, console: Console) -> None:
        self._console = console

    def phase(self, text: str, expected_s: float) -> None:
        left = f", about {expected_s:.0f} s" if expected_s else ""
        self._console.print(f"{text}{left}", highlight=False, markup=False)
