"""The page on security names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def test_every_test_that_the_page_names_exists() -> None:
    named = _TEST.findall((_ROOT / "docs/security.md").read_text(encoding="utf-8"))
    assert len(named) > 15
    missing = [
        (file, test)
        for file, test in named
        if not (_ROOT / file).is_file() or (test and f"def {test}(" not in (_ROOT / file).read_text(encoding="utf-8"))
    ]
    assert missing == []


def test_every_surface_and_every_attacker_has_a_test() -> None:
    text = (_ROOT / "docs/security.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "there is none" not in line]
    rows = [line for line in rows if not line.startswith(("| --- |", "| | surface", "| who |"))]
    assert len(rows) > 20
    assert [line.split("|")[1:3] for line in rows if not _TEST.search(line)] == []
