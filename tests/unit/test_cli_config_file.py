"""`agent config check` takes its file as an argument, and as the option of the other commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.cli import root
from agent.runtime.errors import ConfigError

_TEXT = "device: {id: -}"


def _check(*arguments: str | Path) -> Result:
    return CliRunner().invoke(root, ["config", "check", *map(str, arguments)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "agent.yaml"
    path.write_text(_TEXT, encoding="utf-8")
    return path


def test_both_ways_check_the_same_file(file: Path) -> None:
    as_argument, as_option = _check(file), _check("-c", file)
    assert isinstance(as_argument.exception, ConfigError)
    assert str(as_argument.exception) == str(as_option.exception)
    assert "agent.yaml:1: device.id" in str(as_option.exception)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(("{file}", "-c", "{file}"), "two files are given"), ((), "no file is given; name the configuration to check")],
)
def test_one_file_is_needed(file: Path, arguments: tuple[str, ...], says: str) -> None:
    found = _check(*(one.format(file=file) for one in arguments))
    assert found.exit_code == 2
    assert says in found.output
