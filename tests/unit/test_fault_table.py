"""The table of faults names drills that exist and tells their outcome as it is."""

from __future__ import annotations

from pathlib import Path

from scripts.drills.fault_rows import ROWS, Row
from scripts.drills.fault_table import MARK, chosen, lines_of, replaced

_ROOT = Path(__file__).parents[2]


def test_every_drill_of_the_table_exists() -> None:
    missing = []
    for drill in {drill for row in ROWS for drill in row.drills}:
        file, _, test = drill.partition("::")
        text = (_ROOT / file).read_text(encoding="utf-8") if (_ROOT / file).is_file() else ""
        if not text or (test and f"def {test}(" not in text):
            missing.append(drill)
    assert missing == []


def test_the_rows_are_complete_and_in_order() -> None:
    assert [row.key for row in ROWS] == [f"F{number:02d}" for number in range(1, 57)]
    for row in ROWS:
        assert bool(row.drills) == bool(row.answer), f"{row.key}: a row is drilled and answered, or neither"
        assert row.drills or row.open, f"{row.key}: what is not done has its reason"


def test_every_row_is_in_the_documentation() -> None:
    text = (_ROOT / "docs/faults.md").read_text(encoding="utf-8")
    table = text.split(MARK, 1)[1]
    for row in ROWS:
        assert f"| {row.key} | {row.fault} |" in table


def test_failed_and_missing_drills_are_told() -> None:
    rows = [Row("F01", "a", "b", ("t.py::x", "t.py::y", "t.py::z")), Row("F02", "c", "", (), "no way")]
    outcomes = {"t.py::x": "passed", "t.py::y": "failed"}
    lines = list(lines_of(rows, outcomes, {"t.py::x": {"seen_s": 2.14}, "t.py::y": {"seen_s": 1}}))
    assert lines[2] == "| F01 | a | b | 1 passed, 1 failed, 1 missing | 2.1 s |  |  |\n"
    assert lines[3] == "| F02 | c | not done | none |  |  | no way |\n"


def test_rows_that_were_not_run_stay_as_they_are() -> None:
    rows = [Row("F01", "a", "b", ("t.py::x",)), Row("F02", "c", "d", ("t.py::y",)), Row("F03", "e", "f", ("t.py::z",))]
    old = "".join(lines_of(rows, dict.fromkeys(("t.py::x", "t.py::y", "t.py::z"), "failed"), {}))
    assert chosen(rows, None) == rows
    assert chosen(rows, "F02,F03") == rows[1:]
    new = "".join(replaced(f"\n{old}\n", lines_of(rows[1:2], {"t.py::y": "passed"}, {})))
    assert new == old.replace("| F02 | c | d | 1 failed", "| F02 | c | d | 1 passed")
