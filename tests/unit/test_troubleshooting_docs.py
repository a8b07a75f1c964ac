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
        str(call.args[0].value)
        for folder in ("agent", "engines")
        for file in (_ROOT / folder).rglob("*.py")
        for call in _calls(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in levels
        and call.args
        and isinstance(call.args[0], ast.Constant)
        and _EVENT.match(str(call.args[0].value))
    }


def _calls(tree: ast.Module) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


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
