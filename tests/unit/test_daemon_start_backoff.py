"""Starts that fail one after the other wait longer and longer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.daemon.start_backoff import NEVER_REPEATED, StartBackoff

SHA = "ab" * 32


@pytest.fixture
def boot(tmp_path: Path) -> Path:
    file = tmp_path / "boot_id"
    file.write_text("one\n")
    return file


def _fail(directory: Path, boot: Path, sha: str = SHA) -> float:
    run = StartBackoff(directory, sha, boot=boot)
    wait_s = run.wait_s()
    run.note(70)
    return wait_s


def test_the_third_failure_in_a_row_makes_the_next_start_wait_and_each_one_twice_as_long(
    tmp_path: Path, boot: Path
) -> None:
    assert [_fail(tmp_path, boot) for _ in range(10)] == [0, 0, 0, 10, 20, 40, 80, 160, 300, 300]


@pytest.mark.parametrize("what", ["a good end", "a refused configuration", "another configuration", "another boot"])
def test_the_count_starts_again(tmp_path: Path, boot: Path, what: str) -> None:
    for _ in range(5):
        _fail(tmp_path, boot)
    sha = SHA
    if what == "a good end":
        StartBackoff(tmp_path, SHA, boot=boot).note(0)
    elif what == "a refused configuration":
        StartBackoff(tmp_path, SHA, boot=boot).note(78)
    elif what == "another boot":
        boot.write_text("two\n")
    else:
        sha = "cd" * 32
    assert StartBackoff(tmp_path, sha, boot=boot).wait_s() == 0


def test_the_codes_that_never_count_are_those_that_the_unit_never_repeats() -> None:
    unit = Path(__file__).parents[2] / "systemd" / "agent.service"
    lines = dict(line.split("=", 1) for line in unit.read_text(encoding="utf-8").splitlines() if "=" in line)
    assert {int(code) for code in lines["RestartPreventExitStatus"].split()} == NEVER_REPEATED


def test_a_failure_that_is_noted_twice_counts_once(tmp_path: Path, boot: Path) -> None:
    run = StartBackoff(tmp_path, SHA, boot=boot)
    run.note(70)
    run.note(70)
    assert StartBackoff(tmp_path, SHA, boot=boot).count == 1


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{", b"[]", b"-3 one"])
def test_a_torn_file_counts_as_none(tmp_path: Path, boot: Path, content: bytes) -> None:
    _fail(tmp_path, boot)
    (tmp_path / "failures.json").write_bytes(content)
    assert StartBackoff(tmp_path, SHA, boot=boot).count == 0


@pytest.mark.parametrize("value", [-3, "many", None, 1.5])
def test_a_count_that_is_none_counts_as_none(tmp_path: Path, boot: Path, value: object) -> None:
    _fail(tmp_path, boot)
    file = tmp_path / "failures.json"
    record = json.loads(file.read_text())
    assert record["value"] == 1
    file.write_text(json.dumps({**record, "value": value}))
    assert StartBackoff(tmp_path, SHA, boot=boot).count == 0


def test_a_directory_that_cannot_be_written_costs_the_count_and_nothing_else(tmp_path: Path, boot: Path) -> None:
    (tmp_path / "file").write_text("")
    run = StartBackoff(tmp_path / "file", SHA, boot=boot)
    run.note(70)
    assert run.wait_s() == 0
    assert (tmp_path / "file").read_text() == ""
