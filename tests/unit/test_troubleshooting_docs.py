"""docs/troubleshooting.md has every warning and error that the agent logs, and none that it does not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_PAGE = (_ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
_SERIOUS = frozenset({"warning", "error", "critical"})
_EVENT = re.compile(r"[a-z_]+\.[a-z_]+\Z")


def logged(levels: frozenset[str]) -> set[str]:
    """The events that the source logs at these levels."""
    return {
        event
        for folder in ("agent", "engines")
        for file in (_ROOT / folder).rglob("*.py")
        for event in events_of(file.read_text(encoding="utf-8"), levels)
    }


def events_of(source: str, levels: frozenset[str]) -> Iterator[str]:
    """The events of one file, also where a level was chosen before: `record = log.warning if ... else log.info`."""
    tree = ast.parse(source)
    chosen = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and any(_is_level(part, levels) for part in ast.walk(node.value))
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not call.args:
            continue
        is_logged = isinstance(call.func, ast.Attribute) and call.func.attr in levels
        if is_logged or (isinstance(call.func, ast.Name) and call.func.id in chosen):
            for part in ast.walk(call.args[0]):  # both events of a conditional expression
                if isinstance(part, ast.Constant) and _EVENT.match(str(part.value)):
                    yield str(part.value)


def _is_level(node: ast.AST, levels: frozenset[str]) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in levels and getattr(node.value, "id", "") == "log"


def test_an_event_whose_level_was_chosen_before_is_found() -> None:
    source = 'record = log.warning if hot else log.info\nrecord("a.b")\nother("c.d")\nlog.info("e.f")'
    assert [*events_of(source, _SERIOUS)] == ["a.b"]
    assert sorted(events_of(source, frozenset({"info"}))) == ["a.b", "e.f"]


def _rows(heading: str) -> list[str]:
    section = _PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return [line for line in section.splitlines() if line.startswith("| ")][2:]


def test_every_warning_and_error_has_a_row() -> None:
    named = {event for row in _rows("By log event") for event in re.findall(r"`([^`]+)`", row.split(" | ")[0])}
    assert named == logged(_SERIOUS)


def test_every_event_that_a_symptom_names_exists() -> None:
    events = logged(_SERIOUS | {"info"})
    areas = {event.split(".")[0] for event in events}
    for row in _rows("By symptom"):
        for name in re.findall(r"`([a-z_]+\.[a-z_]+)`", row.split(" | ")[1]):
            assert name in events or name.split(".")[0] not in areas, f"{name} in: {row}"


def test_there_are_thirty_symptoms_each_with_a_remedy() -> None:
    rows = _rows("By symptom")
    assert len(rows) >= 30
    assert all(len(row.strip("| ").split(" | ")) == 4 for row in rows)
