"""Runs the drills of scripts/drills/fault_rows.py and writes what came of them into docs/faults.md."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from scripts.drills.fault_rows import ROWS, Row

MARK = "<!-- table: written by scripts/drills/fault-table -->\n"
_END = "<!-- end of the table -->\n"


def main(arguments: list[str] | None = None) -> int:
    """Run; 1 when a drill failed."""
    parser = argparse.ArgumentParser(prog="scripts/drills/fault-table", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/faults.md"))
    parser.add_argument("--only", metavar="F22,F27", help="run the drills of these rows; the others stay as they are")
    options = parser.parse_args(arguments)
    rows = chosen(ROWS, options.only)
    if not rows:
        parser.error(f"--only {options.only} names no row; there are {', '.join(row.key for row in ROWS)}")
    with tempfile.TemporaryDirectory() as directory:
        outcomes, figures = run_drills(Path(directory), rows)
    text = options.output.read_text(encoding="utf-8")
    before, rest = text.split(MARK, 1)
    old, after = rest.split(_END, 1)
    table = "".join(
        replaced(old, lines_of(rows, outcomes, figures)) if options.only else lines_of(rows, outcomes, figures)
    )
    options.output.write_text(f"{before}{MARK}\n{table}\n{_END}{after}", encoding="utf-8")
    return 1 if "failed" in outcomes.values() else 0


def chosen(rows: Sequence[Row], only: str | None) -> Sequence[Row]:
    """The rows that ``only`` names, separated by commas; all where it is None."""
    return rows if only is None else [row for row in rows if row.key in only.split(",")]


def replaced(old: str, lines: Iterable[str]) -> Iterator[str]:
    """The lines of the table ``old``, those of ``lines`` in the place of the ones of the same row."""
    fresh = {line.split("|")[1]: line for line in lines}
    for line in old.strip().splitlines(keepends=True):
        yield fresh.get(line.split("|")[1], line if line.endswith("\n") else f"{line}\n")


def run_drills(directory: Path, rows: Sequence[Row] = ROWS) -> tuple[dict[str, str], dict[str, dict[str, object]]]:
    """Every drill of ``rows`` once: ``passed``, ``failed`` or ``skipped`` by test, and what the tests noted."""
    report, notes = directory / "report.xml", directory / "notes"
    notes.touch()
    drills = sorted({drill for row in rows for drill in row.drills})
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", f"--junitxml={report}", *drills]
    subprocess.run(command, env={**os.environ, "FAULT_DRILLS": str(notes)}, check=False)
    figures: defaultdict[str, dict[str, object]] = defaultdict(dict)
    for line in notes.read_text(encoding="utf-8").splitlines():
        noted = json.loads(line)
        figures[_plain(noted.pop("test"))].update(noted)
    return dict(_outcomes(report)), figures


def _outcomes(report: Path) -> Iterator[tuple[str, str]]:
    worst: dict[str, str] = {}
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - see above
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name', '')}"
        found = {child.tag for child in case}
        outcome = "failed" if found & {"failure", "error"} else "skipped" if "skipped" in found else "passed"
        for key in (_plain(name), _plain(name).split("::")[0]):
            worst[key] = min(outcome, worst.get(key, "skipped"), key=("failed", "passed", "skipped").index)
    yield from worst.items()


def _plain(test: str) -> str:
    """A test's name without its parameters."""
    return test.split("[", 1)[0]


def lines_of(
    rows: Iterable[Row], outcomes: Mapping[str, str], figures: Mapping[str, Mapping[str, object]]
) -> Iterator[str]:
    """The table in Markdown."""
    yield "| | fault | what the agent does | drills | seen after | recovered after | not covered |\n"
    yield "| --- | --- | --- | --- | --- | --- | --- |\n"
    for row in rows:
        noted = [figures.get(drill, {}) for drill in row.drills]
        seen, again = (_worst(noted, key) for key in ("seen_s", "recovery_s"))
        yield (
            f"| {row.key} | {row.fault} | {row.answer or 'not done'} | {_drills(row.drills, outcomes)} | {seen} | "
            f"{again} | {row.open} |\n"
        )


def _worst(noted: Sequence[Mapping[str, object]], key: str) -> str:
    values = [value for figures in noted if isinstance(value := figures.get(key), int | float)]
    return f"{max(values):.1f} s" if values else ""


def _drills(drills: Sequence[str], outcomes: Mapping[str, str]) -> str:
    if not drills:
        return "none"
    found = [outcomes.get(drill, "missing") for drill in drills]
    counts = [f"{found.count(outcome)} {outcome}" for outcome in ("passed", "failed", "skipped", "missing")]
    return ", ".join(count for count in counts if not count.startswith("0 "))


if __name__ == "__main__":
    sys.exit(main())
