"""The bad disk and the bad clock of a soak are real to the process that has them."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.soak_harness.machine import Machine

_YEAR_S = 365 * 86400.0

_TRY = """
import sqlite3, sys, time
disk, other = sys.argv[1:]
began = time.monotonic()
try:
    with sqlite3.connect(disk + "/a.sqlite") as database:
        database.execute("pragma synchronous = full")
        database.execute("create table if not exists t (a)")
        database.execute("insert into t values (1)")
    print("kept")
except sqlite3.Error as exc:
    print(exc)
try:
    open(disk + "/new", "w").write("x")
    print("written")
except OSError as exc:
    print(exc.errno)
print(round(time.monotonic() - began, 3), time.time(), time.clock_gettime(time.CLOCK_REALTIME))
open(other + "/new", "w").write("x")
"""


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder


@pytest.fixture
def machine(tmp_path: Path, disk: Path) -> Iterator[Machine]:
    running = Machine(tmp_path, disk)
    yield running
    running.close()


def _told(machine: Machine, disk: Path, tmp_path: Path) -> tuple[str, str, list[float]]:
    """What SQLite said, what a new file said, and seconds: of the work, and the time twice."""
    command = [sys.executable, "-c", _TRY, str(disk), str(tmp_path)]
    result = subprocess.run(
        command, env={**os.environ, **machine.environment}, capture_output=True, text=True, timeout=60, check=True
    )
    database, file, numbers = result.stdout.splitlines()
    return database, file, [float(number) for number in numbers.split()]


def test_a_healthy_machine_changes_nothing(machine: Machine, disk: Path, tmp_path: Path) -> None:
    database, file, (_, *times) = _told(machine, disk, tmp_path)
    assert (database, file) == ("kept", "written")
    now = (tmp_path / "new").stat().st_mtime
    assert all(abs(time - now) < 60.0 for time in times)
    assert machine.shown == 0


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.ENOSPC])
def test_a_disk_that_refuses_is_unwritable_and_the_rest_is_not(
    machine: Machine, disk: Path, tmp_path: Path, number: int
) -> None:
    machine.fail_disk(number)
    database, file, _ = _told(machine, disk, tmp_path)
    assert database != "kept"
    assert file == str(number)
    assert list(disk.iterdir()) == []
    assert (tmp_path / "new").read_text() == "x"
    assert machine.shown >= 2
    machine.heal()
    assert _told(machine, disk, tmp_path)[:2] == ("kept", "written")


def test_a_slow_disk_holds_up_what_is_written_through(machine: Machine, disk: Path, tmp_path: Path) -> None:
    machine.slow_disk(0.3)
    database, _, (took_s, *_) = _told(machine, disk, tmp_path)
    assert database == "kept"
    assert machine.shown >= 1
    assert took_s >= 0.3 * machine.shown


@pytest.mark.parametrize("years", [10, -10])
def test_the_clock_jumps_and_monotonic_time_does_not(machine: Machine, disk: Path, tmp_path: Path, years: int) -> None:
    machine.set_clock(years * _YEAR_S)
    _, _, (took_s, *times) = _told(machine, disk, tmp_path)
    now = (tmp_path / "new").stat().st_mtime
    assert all(abs(time - now - years * _YEAR_S) < 60.0 for time in times)
    assert 0.0 <= took_s < 60.0
