"""The keeper of a command: nothing that the command has started outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.fixtures.deadlines import wait_until

_ROOT = Path(__file__).parents[2]
_KEEPER = [sys.executable, str(_ROOT / "scripts/keeper.py")]

# Starts processes without end, slowly: each heeds no polite signal, has a session of its own, and its parent is gone.
_SLOW_STARTER = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    if os.fork() == 0:
        time.sleep(0.1)
        os.setsid()
        if os.fork() == 0:
            time.sleep(0.1)
            open(sys.argv[1], "a").write(f"{os.getpid()}\\n")
            time.sleep(600)
        os._exit(0)
    time.sleep(0.05)
"""


def _pids(listing: Path) -> list[int]:
    return [int(line) for line in listing.read_text().splitlines()] if listing.exists() else []


def _is_left(mark: str) -> list[int]:
    """Processes with ``mark`` in their command line."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess):
            if mark in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def _kept(code: str, *arguments: str) -> list[str]:
    return [*_KEEPER, sys.executable, "-c", code, *arguments]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_slow_starter_that_heeds_no_signal_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    listing = tmp_path / "started"
    code = f"""
import signal, subprocess, sys
for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(one, signal.SIG_DFL)
subprocess.Popen([sys.executable, "-c", {_SLOW_STARTER!r}, sys.argv[1]]).wait()
"""
    with subprocess.Popen(_kept(code, str(listing))) as process:
        wait_until(lambda: len(_pids(listing)) >= 3, within_s=60)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    assert _is_left(str(listing)) == []
    before = _pids(listing)
    time.sleep(0.5)  # longer than a start takes
    assert _pids(listing) == before


def test_what_the_command_has_left_is_ended_when_it_ends_by_itself(tmp_path: Path) -> None:
    listing = tmp_path / "started"
    code = f"""
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {_SLOW_STARTER!r}, sys.argv[1]], start_new_session=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
sys.exit(3)
"""
    assert subprocess.run(_kept(code, str(listing)), timeout=60, check=False).returncode == 3
    assert _is_left(str(listing)) == []


def test_a_command_that_heeds_no_signal_is_killed_after_its_time(tmp_path: Path) -> None:
    listing = tmp_path / "started"
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(_ROOT)!r})
from scripts.keeper import stay_behind
stay_behind(Path(sys.argv[2]), ends_within_s=0.5)
exec({_SLOW_STARTER!r})
"""
    folder = tmp_path / "folder"
    folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", code, str(listing), str(folder)]) as process:
        wait_until(lambda: bool(_pids(listing)), within_s=60)
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGKILL
    assert _is_left(str(listing)) == []
    assert not folder.exists()


def test_temporary_files_of_what_is_killed_go_too(tmp_path: Path) -> None:
    """A compiler that is killed leaves its own."""
    code = f"""
import subprocess, sys
sys.path.insert(0, {str(_ROOT)!r})
from scripts.keeper import kept_directory
with kept_directory("kept-"):
    subprocess.run(["sh", "-c", "mktemp; sleep 600"])
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        made = Path(process.stdout.readline().strip())
        assert made.is_file()
        process.terminate()
        process.wait(60)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_keeper_tells_the_command_to_end() -> None:
    code = "import signal, time; print('here', flush=True); time.sleep(600)"
    with subprocess.Popen(_kept(code), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        (command,) = psutil.Process(process.pid).children()
        process.kill()
        process.wait(30)
        gone, _ = psutil.wait_procs([command], timeout=30)
    assert gone == [command]


@pytest.mark.parametrize(("command", "code"), [(["no-such-program"], 127), ([str(_ROOT)], 126), ([], 2)])
def test_a_command_that_cannot_be_started_is_named(command: list[str], code: int) -> None:
    result = subprocess.run([*_KEEPER, *command], capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == code
    assert (command[0] if command else "usage") in result.stderr


def test_the_command_gets_its_arguments_and_a_usual_signal_mask() -> None:
    code = "import os, signal, sys; print(sys.argv[1:], signal.pthread_sigmask(0, []), os.environ['KEPT_BY'])"
    with subprocess.Popen(_kept(code, "a b", ""), stdout=subprocess.PIPE, text=True) as process:
        told, _ = process.communicate(timeout=30)
    assert told == f"['a b', ''] set() {process.pid}\n"
    assert os.environ.get("KEPT_BY") != str(process.pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, None])
def test_a_script_that_is_kept_leaves_nothing_behind(tmp_path: Path, number: signal.Signals | None) -> None:
    """As scripts/test: also where the shell is killed, and what was started beside it in another session."""
    listing = tmp_path / "started"
    script = tmp_path / "script"
    script.write_text(
        f"""#!/bin/bash
        set -euo pipefail
        root={_ROOT}
        source "$root/scripts/lib/system.sh"
        source "$root/scripts/lib/steps.sh"
        keep_everything {sys.executable} "$@"
        begin_beside soak {tmp_path}/log {sys.executable} -c '{_SLOW_STARTER}' "$1"
        echo $$
        [ "$2" = ends ] || sleep 600
        while [ ! -e "$1" ]; do sleep 0.01; done
        """,
        encoding="utf-8",
    )
    script.chmod(0o755)
    command = [str(script), str(listing), "ends" if number is None else "stays"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        shell = int(process.stdout.readline())
        assert shell != process.pid, "the script runs below its keeper"
        wait_until(lambda: bool(_pids(listing)), within_s=60)
        if number is not None:
            os.kill(shell, number)
        assert process.wait(60) == (0 if number is None else 128 + number)
    assert _is_left(str(listing)) == []
