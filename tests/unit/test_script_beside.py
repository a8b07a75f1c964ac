"""A step that runs beside the others: its verdict counts, and nothing of it survives the script."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.fixtures.deadlines import wait_until

_ROOT = Path(__file__).parents[2]

_PRELUDE = f"""
set -euo pipefail
root={_ROOT}
source "$root/scripts/lib/system.sh"
source "$root/scripts/lib/steps.sh"
"""

# Leaves a child behind that hears no signal but SIGKILL, which is what a broker does that is stopped.
_BESIDE = """
work=$1/work && mkdir "$work"
tidy_up_at_the_end "$work"
begin_beside soak "$1/soak.log" bash -c "sleep 200 & kill -STOP \\$!; echo \\$\\$ \\$! >$1/beside; wait"
while [ ! -s "$1/beside" ]; do sleep 0.05; done
"""
_FOREGROUND = """
step pytest bash -c "trap '' TERM; echo \\$\\$ >$1/foreground; sleep 200 & wait; sleep 200"
"""


def _bash(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = ["/bin/bash", "-c", _PRELUDE + script, "test", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def _have_ended(folder: Path, *names: str) -> Callable[[], bool]:
    """Whether the processes whose ids stand in these files are gone."""
    pids = [int(pid) for name in names for pid in (folder / name).read_text(encoding="utf-8").split()]

    def is_gone(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return lambda: all(is_gone(pid) for pid in pids)


@pytest.mark.parametrize(("code", "verdict"), [(0, "ok"), (1, "FAILED (1)")])
def test_what_runs_beside_decides_with_the_others(tmp_path: Path, code: int, verdict: str) -> None:
    script = f"""
        begin_beside soak "$1/soak.log" bash -c 'echo started; echo what it found >&2; exit {code}'
        step pytest bash -c 'echo "3 passed in 0.10s" >{tmp_path}/pytest.log'
        join_beside 1
        finish "$1/pytest.log"
    """
    result = _bash(script, tmp_path)
    assert result.returncode == code
    assert f"soak runs beside the next steps; log: {tmp_path}/soak.log" in result.stderr
    assert "what it found" in result.stderr
    assert "started" not in result.stderr
    assert (tmp_path / "soak.log").read_text() == "started\nwhat it found\n"
    assert f"{verdict}, beside the others" in result.stdout
    assert result.stdout.splitlines()[-1] == f"3 passed, {code} failed, 0 skipped"


def test_a_step_that_was_left_out_is_told_at_the_end(tmp_path: Path) -> None:
    result = _bash('left_out+=("soak (--without-soak)"); step check true; finish "$1/log"', tmp_path)
    assert result.returncode == 0
    assert "left out: soak (--without-soak)\n" in result.stdout


def test_a_script_that_fails_ends_what_runs_beside(tmp_path: Path) -> None:
    result = _bash(f"{_BESIDE} exit 3", tmp_path)
    assert result.returncode == 3
    wait_until(_have_ended(tmp_path, "beside"), within_s=30.0)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_script_that_is_interrupted_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    # Where the tests themselves were started so that they ignore a signal (nohup), a shell could not heed it either.
    heeding = ["env", f"--default-signal={number.name.removeprefix('SIG')}"]
    command = [*heeding, "/bin/bash", "-c", _PRELUDE + _BESIDE + _FOREGROUND, "test", str(tmp_path)]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL) as script:
        wait_until((tmp_path / "foreground").exists, within_s=30.0)
        if number == signal.SIGINT:  # Ctrl-C comes to all that runs in the foreground
            os.killpg(script.pid, number)
        else:
            script.send_signal(number)
        assert script.wait(50) != 0
    wait_until(_have_ended(tmp_path, "beside", "foreground"), within_s=30.0)
    assert not (tmp_path / "work").exists()
