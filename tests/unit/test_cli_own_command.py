"""What the demo tells to type can be typed in the same terminal."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agent.cli.io.options import own_command


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "a folder" / "agent"
    path.parent.mkdir()
    path.touch(mode=0o755)
    return path


def test_it_is_the_name_where_path_leads_to_this_program(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(program), "demo"])
    monkeypatch.setenv("PATH", str(program.parent))
    assert own_command() == "agent"


def test_it_is_the_path_where_path_has_none_or_another_agent(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(program), "demo"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert own_command() == f"'{program}'"
    (tmp_path / "agent").touch(mode=0o755)
    assert own_command() == f"'{program}'"


def test_it_is_the_module_where_that_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/checkout/agent/__main__.py", "demo"])
    assert own_command().endswith(" -m agent")
