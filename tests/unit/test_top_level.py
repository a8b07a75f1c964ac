"""The top level of the checkout holds what README.md names, and nothing else."""

from __future__ import annotations

from pathlib import Path

from scripts.dev.house_rules import files_of

_ROOT = Path(__file__).parents[2]
_REQUIRED = {"pyproject.toml", "agent", "engines", "configs", "systemd", "tests", "scripts", "README.md"}
_ALLOWED = {*_REQUIRED, "LICENSE", "CHANGELOG.md", "docs"}


def test_only_agreed_entries_stand_at_the_top_level() -> None:
    found = {file.relative_to(_ROOT).parts[0] for file in files_of(_ROOT)}
    visible = {name for name in found if not name.startswith(".")}
    assert visible - _ALLOWED == set(), "move these below one of the agreed folders"
    assert _REQUIRED - visible == set()
