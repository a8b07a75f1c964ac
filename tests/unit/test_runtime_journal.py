"""Priorities for the journal: on every line that reaches it, and on none that goes elsewhere."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.runtime import journal

_SAYS = """
import logging, sys, threading, warnings
from agent.runtime import journal, logs

journal.add_journal_priorities()
journal.log_plain_lines_as_errors()
logs.configure(json={json}, level="debug")
log = logs.get_logger("t")
log.debug("a.debug"); log.info("a.info"); log.warning("a.warning"); log.error("a.error"); log.critical("a.critical")
logging.getLogger("paho").warning("from a library")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("a.traceback")
threading.Thread(target=lambda: [][0], name="lost").start()
print("plain\\ntext", file=sys.stderr)
{{}}["uncaught"]
"""


def _lines(*, json_lines: bool, journal_listens: bool, to: Path) -> list[str]:
    """What a process writes to stderr; ``JOURNAL_STREAM`` names that file, or another one."""
    with to.open("wb") as stderr:
        status = os.fstat(stderr.fileno())
        inode = status.st_ino if journal_listens else status.st_ino + 1
        env = {**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{inode}", "PYTHONPATH": str(Path.cwd())}
        command = [sys.executable, "-c", _SAYS.format(json=json_lines)]
        assert subprocess.run(command, stderr=stderr, env=env, check=False, timeout=60).returncode == 1
    return to.read_text().splitlines()


@pytest.mark.parametrize("as_json", [True, False])
def test_every_line_for_the_journal_has_the_priority_of_its_level(tmp_path: Path, as_json: bool) -> None:
    lines = _lines(json_lines=as_json, journal_listens=True, to=tmp_path / "stderr")
    assert all(line[0] == "<" and line[1] in "34567" and line[2] == ">" for line in lines), lines
    for event, priority in (("a.debug", 7), ("a.info", 6), ("a.warning", 4), ("a.error", 3), ("a.critical", 3)):
        (line,) = [line for line in lines if event in line]
        assert line.startswith(f"<{priority}>"), line
    for text, priority in (("from a library", 4), ("ZeroDivisionError", 3), ("IndexError", 3), ("KeyError", 3)):
        assert {line[1] for line in lines if text in line} == {str(priority)}, text
    assert lines.count("<3>plain") == lines.count("<3>text") == 1
    if as_json:
        assert json.loads(next(line for line in lines if "a.error" in line)[3:])["event"] == "a.error"


def test_a_file_or_a_pipe_that_only_inherited_the_variable_gets_no_priority(tmp_path: Path) -> None:
    lines = _lines(json_lines=True, journal_listens=False, to=tmp_path / "stderr")
    assert any("a.error" in line for line in lines)
    assert not [line for line in lines if line.startswith("<")]


@pytest.mark.parametrize("value", [None, "", ":", "x:y", "1", "0:0"])
def test_a_variable_that_names_no_stream_of_ours_is_no_journal(value: str | None, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as stream:
        assert not journal.is_journal(stream, {} if value is None else {"JOURNAL_STREAM": value})
    assert not journal.is_journal(io.StringIO(), {"JOURNAL_STREAM": "0:0"})


def test_a_prefix_that_is_there_stays_and_empty_lines_get_one() -> None:
    assert journal.prefixed("<4>a\nb\n\nc", 3) == "<4>a\n<3>b\n<3>\n<3>c"
    assert journal.prefixed("<9>a\n<>b\n", 6) == "<6><9>a\n<6><>b\n"


@pytest.fixture
def ends() -> Iterator[tuple[journal.JournalText, socket.socket]]:
    """A text stream, and the end on which its lines arrive."""
    writing, reading = socket.socketpair()
    with writing, reading, writing.makefile("w") as file, journal.JournalText(file, plain_priority=3) as text:
        yield text, reading


def test_pieces_of_a_line_arrive_as_one_and_threads_do_not_mix(
    ends: tuple[journal.JournalText, socket.socket],
) -> None:
    text, reading = ends
    text.write("Trace")
    other = threading.Thread(target=text.write, args=("<6>whole\n",))
    other.start()
    other.join()
    text.write("back\n  line")
    text.flush()
    assert reading.recv(1000) == b"<6>whole\n<3>Traceback\n<3>  line\n"


def test_a_line_without_an_end_is_not_kept_for_ever(ends: tuple[journal.JournalText, socket.socket]) -> None:
    text, reading = ends
    text.write("x" * 100_000)
    assert reading.recv(10) == b"<3>xxxxxxx"
