"""The file of a container's health check, and the command that reads it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from agent.__main__ import main
from agent.daemon.alive import INTERVAL_S, AliveFile, read_health
from agent.daemon.notify import Notifier


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "alive"


def test_an_agent_that_turns_is_well_and_says_what_it_does(path: Path) -> None:
    AliveFile(path).write(30.0, "2 cameras on 1 model")
    found = read_health(path)
    assert (found.is_alive, found.text) == (True, "2 cameras on 1 model")


def test_an_agent_that_is_late_is_not_well(path: Path) -> None:
    AliveFile(path).write(-5.0, "2 cameras")
    found = read_health(path)
    assert not found.is_alive
    assert found.text.startswith("the agent is 5 s late; it last said: 2 cameras")


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"until_ns": "soon", "status": ""}', '{"until_ns": 1}'])
def test_a_damaged_file_is_no_sign_of_life(text: str, path: Path) -> None:
    path.write_text(text)
    assert read_health(path).text == f"{path} was not written by an agent"


def test_a_file_that_never_ends_or_never_begins_is_no_sign_of_life(path: Path) -> None:
    os.mkfifo(path)
    for odd in (path, Path("/dev/full")):
        found = read_health(odd)
        assert (found.is_alive, found.text) == (False, f"no agent writes {odd}: it is not a regular file")


def test_no_file_is_no_sign_of_life(path: Path) -> None:
    assert not read_health(path).is_alive


def test_a_folder_that_cannot_be_written_to_ends_no_agent(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    AliveFile(tmp_path / "file" / "alive").write(30.0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_notifier_writes_it_while_the_stages_turn_and_removes_it(path: Path) -> None:
    environ = {"AGENT_ALIVE_FILE": str(path)}
    with Notifier.from_environment(environ) as notifier:
        assert environ == {}, "a child process would write in our name"
        assert notifier.watchdog_s == INTERVAL_S
        assert not notifier.is_listened_to, "there is no service manager that starts the agent again"
        assert not path.exists(), "it is alive before it was ready"
        notifier.ready("1 camera")
        assert read_health(path).is_alive
        path.unlink()
        notifier.status("Stuck: camera front is 12 s overdue")
        assert not path.exists(), "a stuck agent says that it is well"
        notifier.alive()
        assert read_health(path).text == "Stuck: camera front is 12 s overdue"
    assert not path.exists()


def test_a_long_start_says_how_long_it_may_take(path: Path) -> None:
    notifier = Notifier(None, alive_file=path)
    notifier.extend_timeout(600.0, "building")
    until_s = json.loads(path.read_text())["until_ns"] / 1e9 - time.monotonic()
    assert 590 < until_s <= 600
    notifier.close()


def test_the_command_s_exit_code_is_the_health(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AGENT_ALIVE_FILE", raising=False)
    assert main(["health"]) == 2
    assert "AGENT_ALIVE_FILE is not set" in capsys.readouterr().err
    monkeypatch.setenv("AGENT_ALIVE_FILE", str(path))
    assert main(["health"]) == 1
    assert "no agent writes" in capsys.readouterr().err
    AliveFile(path).write(30.0, "1 camera")
    assert main(["health"]) == 0
    assert capsys.readouterr().out == "1 camera\n"
