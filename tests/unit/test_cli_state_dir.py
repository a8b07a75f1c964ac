"""Every command that needs the default state directory finds it by one rule, and says what is missing."""

from __future__ import annotations

import logging
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import structlog

from agent.__main__ import main
from agent.cli.build import _warn_of_different_cache
from agent.config.state_dir import default_cache_dir, default_state_dir

CONFIG = """\
version: 1
models:
  parts: {package: demo}
cameras:
  front:
    source: {type: pattern}
    classify: [{model: parts}]
mqtt: {broker: embedded}
"""


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    """Commands configure the log of the process; later tests capture it."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = before
    logging.captureWarnings(capture=False)


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither STATE_DIRECTORY nor HOME is set, and the user has no entry in the password database."""

    def unknown(uid: int) -> NoReturn:
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize(
    "command",
    [
        "run -c CONFIG",
        "config check CONFIG",
        "build -c CONFIG",
        "build --list -c CONFIG",
        "build --list",
        "build --prune",
        "build --package demo",
        "verify --package demo",
        "benchmark --package demo --quick",
        "doctor",
        "doctor -c CONFIG",
        "doctor --thermals",
        "doctor --thermals -c CONFIG",
    ],
)
def test_without_any_home_every_command_says_what_to_set(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text(CONFIG)
    assert main(command.replace("CONFIG", str(file)).split()) == 78
    error = capfd.readouterr().err
    assert "there is no home directory: HOME is not set" in error
    assert "STATE_DIRECTORY" in error
    assert "--cache" in error


@pytest.mark.usefixtures("homeless")
def test_a_named_directory_needs_no_home(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--list", "--cache", str(tmp_path)]) == 0
    assert f"no plans in {tmp_path}" in capsys.readouterr().out


def test_state_directory_comes_before_home_and_home_before_the_password_database(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environ = {"STATE_DIRECTORY": "/var/lib/agent:/var/lib/other", "HOME": "/home/someone"}
    assert default_state_dir(environ) == Path("/var/lib/agent")
    assert default_cache_dir(environ) == Path("/var/lib/agent/cache")
    assert default_state_dir({"HOME": "/home/someone"}) == Path("/home/someone/.local/state/agent")
    entry = pwd.struct_passwd(("agent", "x", 1, 1, "", "/home/agent", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: entry)
    for environ in ({}, {"HOME": ""}, {"STATE_DIRECTORY": "", "HOME": ""}):
        assert default_state_dir(environ) == Path("/home/agent/.local/state/agent")


def _service(root: Path, config: Path) -> None:
    folder = root / "etc/systemd/system"
    folder.mkdir(parents=True)
    (folder / "agent.service").write_text(f"[Service]\nExecStart=agent run -c {config}\nStateDirectory=agent\n")


def test_building_for_the_service_into_another_directory_names_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "agent.yaml"
    _service(tmp_path, config)
    _warn_of_different_cache(config, Path("/home/someone/.local/state/agent/cache"), tmp_path)
    warning = capsys.readouterr().err
    assert "built into /home/someone/.local/state/agent/cache, but the service" in warning
    assert "looks for them in /var/lib/agent/cache" in warning
    assert "STATE_DIRECTORY=/var/lib/agent" in warning


def test_building_where_the_service_looks_or_for_another_configuration_warns_of_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "agent.yaml"
    _service(tmp_path, config)
    _warn_of_different_cache(config, Path("/var/lib/agent/cache"), tmp_path)
    _warn_of_different_cache(tmp_path / "mine.yaml", Path("/home/someone/cache"), tmp_path)
    assert capsys.readouterr().err == ""
