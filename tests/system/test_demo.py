"""`agent demo` as a process: it works alone, keeps nothing, and says what it saw."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def demo(cwd: Path, *args: str, first: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """``first`` is looked into for modules before all other folders."""
    return subprocess.run(
        [sys.executable, "-m", "agent", "demo", *args],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": f"{first}:{ROOT}", "TMPDIR": str(cwd), "HOME": str(cwd)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_the_demo_ends_by_itself_with_a_summary_and_keeps_nothing(tmp_path: Path) -> None:
    result = demo(tmp_path, "--for", "3s")
    assert result.returncode == 0, result.stderr
    *_, frames, latency, labels = result.stdout.splitlines()
    found = re.fullmatch(r"[0-9.]+ s on \S+ fp32: (\d+) frames, (\d+) classified, (\d+) dropped, [0-9.]+ fps", frames)
    assert found is not None, frames
    captured, classified, dropped = map(int, found.groups())
    assert classified > 0
    assert captured == classified + dropped
    assert re.fullmatch(r"belt/inspect: p50 [0-9.]+ ms, p99 [0-9.]+ ms from capture to decision", latency)
    assert labels.startswith("labels seen: ok ")
    assert "demo online belt/inspect: " in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_library_of_the_page_costs_the_page_alone(tmp_path: Path) -> None:
    damaged, cwd = tmp_path / "damaged", tmp_path / "cwd"
    damaged.mkdir()
    cwd.mkdir()
    (damaged / "uvicorn.py").write_text("raise ImportError('built for another Python')\n")
    result = demo(cwd, "--for", "1s", "--json", first=damaged)
    assert result.returncode == 0, result.stderr
    assert "Without a page: " in result.stderr
    assert "cannot be imported: built for another Python. Install them: " in result.stderr
    assert "In a browser" not in result.stderr
    assert json.loads(result.stdout)["classified"] > 0


def test_json_gives_the_figures_alone_on_standard_output(tmp_path: Path) -> None:
    result = demo(tmp_path, "--for", "3s", "--json")
    figures = json.loads(result.stdout)
    assert result.returncode == 0, result.stderr
    assert figures["classified"] > 0
    assert figures["captured"] >= figures["classified"] + figures["dropped"]
    (classifier,) = figures["classifiers"]
    assert (classifier["camera"], classifier["model"]) == ("belt", "inspect")
    assert 0 < classifier["p50_ms"] <= classifier["p99_ms"]
    assert sum(classifier["labels"].values()) > 0


def test_json_and_messages_do_not_share_standard_output(tmp_path: Path) -> None:
    result = demo(tmp_path, "--print", "--json")
    assert result.returncode == 2
    assert "give one of them" in result.stderr


def test_print_gives_messages_as_json_lines_and_the_summary_beside_them(tmp_path: Path) -> None:
    result = demo(tmp_path, "--for", "1s", "--print")
    assert result.returncode == 0, result.stderr
    topics = {json.loads(line)["topic"] for line in result.stdout.splitlines()}
    assert {"edge/demo/status", "edge/demo/camera/belt/inspect/result"} <= topics
    assert "labels seen:" not in result.stdout
    assert "frames" in result.stderr


@pytest.mark.parametrize("width", [80, 120])
def test_on_a_terminal_a_picture_is_drawn_and_ctrl_c_ends_it_cleanly(tmp_path: Path, width: int) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "agent", "demo"]
    with subprocess.Popen(command, cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        seen, is_asked = b"", False
        while chunk := _read(ours):
            seen += chunk
            # A confidence is drawn with the first result; ended before one, the demonstration would show nothing.
            if not is_asked and re.search(rb"\b[01]\.[0-9]{2}\b", seen):
                process.send_signal(signal.SIGINT)
                is_asked = True
        os.close(ours)
        assert process.wait(timeout=30) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    assert "labels seen:" in text
    assert "Traceback" not in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_hung_up", [True, False], ids=["hangup", "reader-gone"])
def test_the_demo_ends_when_its_terminal_is_closed_or_its_reader_goes_away(tmp_path: Path, is_hung_up: bool) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "agent", "demo"]
    output, unseen = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=output, stderr=unseen) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"demo online")
        if is_hung_up:
            while b"belt" not in process.stdout.readline():  # the first label
                assert process.poll() is None
            process.send_signal(signal.SIGHUP)
            assert b"labels seen:" in process.stdout.read()
        process.stdout.close()
        try:
            assert process.wait(timeout=30) == (0 if is_hung_up else 141)
        finally:
            process.kill()
    assert list(tmp_path.iterdir()) == []


def _read(terminal: int) -> bytes:
    readable, _, _ = select.select([terminal], [], [], 60)
    assert readable, "nothing was drawn for a minute"
    try:
        return os.read(terminal, 65536)
    except OSError:  # how a terminal tells that the other side is closed
        return b""
