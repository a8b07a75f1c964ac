"""Writes measured tables into a page, each between two markers, with a header on where it was measured."""

from __future__ import annotations

import itertools
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import agent
from scripts.performance.verdict import Load, Row, verdict_of

_LIBRARIES = ("onnxruntime", "numpy", "opencv-python-headless", "paho-mqtt", "orjson")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where and when the figures of one part were measured."""

    command: str
    machine: str
    versions: str
    began: str
    wall_s: float
    load: Load
    is_quick: bool


def machine() -> str:
    """Processor, cores and memory."""
    cpu = _field("/proc/cpuinfo", "model name") or platform.machine()
    kib = _field("/proc/meminfo", "MemTotal").split(" ")[0]
    memory = f", {int(kib) / 2**20:.1f} GiB" if kib.isdigit() else ""
    return f"{cpu}, {os.cpu_count()} cores{memory}"


def versions() -> str:
    """Versions of this program, the interpreter and the measured libraries."""
    own = [f"agent {agent.__version__}", f"Python {platform.python_version()}"]
    return ", ".join([*own, *(f"{name} {_version(name)}" for name in _LIBRARIES)])


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def head(origin: Origin) -> list[str]:
    """The lines above a table."""
    where = f"`{origin.command}` on {origin.machine}; {origin.versions}; {origin.began}, {origin.wall_s:.0f} s."
    lines = [where, "", f"Load found: {origin.load.words}.", ""]
    reasons = [origin.load.problem] if origin.load.problem else []
    reasons += ["a quick run, to try the command out"] if origin.is_quick else []
    return [*lines, f"> **Not valid, do not use:** {'; '.join(reasons)}.", ""] if reasons else lines


def write_block(page: Path, name: str, lines: Iterable[str]) -> None:
    """Replace the text between the markers of ``name``.

    Raises:
        ValueError: the page has no such marks.
    """
    text = page.read_text(encoding="utf-8")
    begin, end = marks(name)
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{page} has no place for {name}: the lines {begin.strip()} and {end.strip()} are missing")
    body = "\n".join(lines).strip("\n")
    page.write_text(f"{before}{begin}\n{body}\n\n{end}{after}", encoding="utf-8")


def replace_tables(page: Path, name: str, lines: Iterable[str]) -> None:
    """Replace the tables of the block of ``name``; its head, which says where it was measured, stays.

    Raises:
        ValueError: the page has no such marks.
    """
    begin, end = marks(name)
    body = page.read_text(encoding="utf-8").partition(begin)[2].partition(end)[0].splitlines()
    kept = itertools.takewhile(lambda line: not line.startswith("| "), body)
    write_block(page, name, [*kept, *lines])


def marks(name: str) -> tuple[str, str]:
    """The two lines that enclose a block."""
    return f"<!-- {name}: written by scripts/measure -->\n", f"<!-- end of {name} -->\n"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> list[str]:
    """A Markdown table, the first ``words`` columns aligned left and the others right, with a blank line after it."""
    rule = [":--" if place < words else "--:" for place in range(len(columns))]
    return [_line(columns), _line(rule), *(_line([_cell(one) for one in row]) for row in rows), ""]


def bar_lines(rows: Iterable[Row], load: Load) -> list[str]:
    """The table of single bars with its verdicts."""
    return table(
        ("row", "measured", "floor in the same run", "bar", "verdict"),
        [(row.name, row.figure, row.floor, row.wanted, verdict_of(row, load)) for row in rows],
        words=5,
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
