"""The last 24 hours in a file: what survives kills, torn writes, a full disk and a clock that jumps."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.thermal.minutes import FILE_NAME, SLOTS, Minute, MinuteFile, MinuteSum, read_minutes
from tests.fixtures.thermal_samples import sample

START = 1_800_000_000


def minute(number: int, *, celsius: float | None = 61.5, utc_s: int | None = None) -> Minute:
    return Minute(
        utc_s=START + 60 * number if utc_s is None else utc_s,
        max_celsius=celsius,
        rate_ratio=0.5,
        clock_ratio=0.75,
        watts=12.25,
        throttled_s={"heat": number % 60, "over_current": 1, "power_cap": 0},
        seen_s=60,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / FILE_NAME


def filled(path: Path, count: int) -> MinuteFile:
    file = MinuteFile(path)
    for number in range(count):
        assert file.append(minute(number))
    return file


def test_what_is_written_is_read_oldest_first(path: Path) -> None:
    filled(path, 3)
    assert read_minutes(path).minutes == (minute(0), minute(1), minute(2))


def test_value_that_is_not_known_is_none_and_not_a_number(path: Path) -> None:
    unknown = replace(minute(0, celsius=None), watts=None, seen_s=0)
    MinuteFile(path).append(unknown)
    assert read_minutes(path).minutes == (unknown,)


def test_file_holds_a_day_and_never_grows(path: Path) -> None:
    filled(path, 1)
    size = path.stat().st_size
    filled(path, SLOTS + 100)
    assert path.stat().st_size == size
    assert size < 100_000
    day = read_minutes(path)
    assert len(day.minutes) == SLOTS
    assert day.minutes[-1] == minute(SLOTS + 99)


def test_next_start_goes_on_where_the_last_one_ended(path: Path) -> None:
    filled(path, 5)
    again = MinuteFile(path)
    again.append(minute(50))
    assert [one.utc_s for one in read_minutes(path).minutes] == [minute(n).utc_s for n in (0, 1, 2, 3, 4, 50)]


def test_killed_process_leaves_every_minute_that_it_wrote(path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from tests.unit.test_thermal_minutes import filled\n"
        "filled(Path(sys.argv[1]), 7); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=60)
    assert ended.returncode == -9
    assert len(read_minutes(path).minutes) == 7


@pytest.mark.parametrize("cut", [1, 20, 43])
def test_torn_record_is_left_out_and_the_others_stay(path: Path, cut: int) -> None:
    filled(path, 5)
    slot_bytes = (path.stat().st_size - 16) // SLOTS
    with path.open("r+b") as stream:
        stream.seek(16 + 2 * slot_bytes + cut)
        stream.write(b"\x5a")
    day = read_minutes(path)
    assert [one.utc_s for one in day.minutes] == [minute(n).utc_s for n in (0, 1, 3, 4)]
    assert day.left_out == 1
    again = MinuteFile(path)
    again.append(minute(5))
    assert read_minutes(path).minutes[-1] == minute(5)


def test_truncated_file_keeps_what_is_left_and_grows_back(path: Path) -> None:
    filled(path, 10)
    slot_bytes = (path.stat().st_size - 16) // SLOTS
    os.truncate(path, 16 + 4 * slot_bytes + 7)
    assert len(read_minutes(path).minutes) == 4
    MinuteFile(path).append(minute(4))
    assert [one.utc_s for one in read_minutes(path).minutes] == [minute(n).utc_s for n in range(5)]


@pytest.mark.parametrize("head", [b"", b"AGTHERM\0\x63\0", b"something else"])
def test_file_of_another_version_or_none_of_ours_is_reset(path: Path, head: bytes) -> None:
    path.write_bytes(head + b"\xff" * 5000 if head else b"")
    assert read_minutes(path).minutes == ()
    with capture_logs() as logs:
        MinuteFile(path).append(minute(3))
    assert read_minutes(path).minutes == (minute(3),)
    assert ("thermal.minutes_reset" in [entry["event"] for entry in logs]) is bool(head)


def test_file_that_is_damaged_as_a_whole_is_left_out_and_counted(path: Path) -> None:
    path.write_bytes(b"\xa5" * 63_000)
    assert read_minutes(path).minutes == ()
    assert 1000 < read_minutes(path).left_out <= SLOTS
    path.write_bytes(b"short")
    assert read_minutes(path).left_out == 1
    path.write_bytes(b"")
    assert read_minutes(path).left_out == 0


def test_absent_file_is_an_empty_day(path: Path) -> None:
    assert read_minutes(path).minutes == ()


def test_clock_that_jumps_forward_leaves_out_what_was_before(path: Path) -> None:
    """A board without a battery begins in 1970 and is set an hour later."""
    file = MinuteFile(path)
    for number in range(60):
        file.append(minute(number, utc_s=60 * number))
    for number in range(5):
        file.append(minute(number))
    day = read_minutes(path)
    assert day.minutes == tuple(minute(number) for number in range(5))
    assert day.left_out == 60


def test_clock_that_jumps_back_does_not_hide_what_comes_after(path: Path) -> None:
    file = filled(path, 5)
    file.append(minute(0, utc_s=START - 7 * 3600))
    file.append(minute(0, utc_s=START - 7 * 3600 + 60))
    day = read_minutes(path)
    assert [one.utc_s for one in day.minutes] == [START - 7 * 3600, START - 7 * 3600 + 60]
    assert day.left_out == 5


def test_full_disk_is_said_once_and_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = MinuteFile(path)
    with capture_logs() as logs:
        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", full)
            assert not file.append(minute(0))
            assert not file.append(minute(1))
        assert file.append(minute(2))
    assert [entry["event"] for entry in logs] == ["thermal.minutes_write_failed", "thermal.minutes_write_recovered"]
    assert read_minutes(path).minutes == (minute(2),)


@pytest.mark.parametrize("what", ["folder", "link", "no folder"])
def test_path_that_cannot_be_a_file_never_raises(tmp_path: Path, what: str) -> None:
    path = tmp_path / FILE_NAME
    if what == "folder":
        path.mkdir()
    elif what == "link":
        (tmp_path / "target").write_bytes(b"precious")
        path.symlink_to(tmp_path / "target")
    else:
        path = tmp_path / "absent" / FILE_NAME
    assert not MinuteFile(path).append(minute(0))
    if what == "link":
        assert (tmp_path / "target").read_bytes() == b"precious"


def test_minute_holds_the_highest_temperature_the_lowest_ratios_and_the_mean_power() -> None:
    total = MinuteSum()
    for second in range(60):
        hot = 90.0 if second == 30 else 60.0
        seen = sample(second, watts=10.0 if second < 30 else 20.0, gpu=hot)
        seen = replace(seen, throttle_causes={"heat": "x"}) if 10 <= second < 15 else seen
        assert not total.add(seen, rate_ratio=0.4 if second == 5 else 1.0, clock_ratio=0.9, now_s=100.0 + second)
    assert total.add(sample(60, watts=20.0, gpu=60.0), rate_ratio=1.0, clock_ratio=0.9, now_s=160.0)
    whole = total.take(START)
    assert (whole.max_celsius, whole.rate_ratio, whole.clock_ratio, whole.seen_s) == (90.0, 0.4, 0.9, 60)
    assert whole.watts == pytest.approx(15.1, abs=0.2)
    assert whole.throttled_s == {"heat": 5, "over_current": 0, "power_cap": 0}
    assert not total.add(None, rate_ratio=1.0, clock_ratio=1.0, now_s=161.0)


def test_minute_without_a_sensor_knows_nothing() -> None:
    total = MinuteSum()
    for second in range(61):
        is_full = total.add(None, rate_ratio=1.0, clock_ratio=1.0, now_s=float(second))
    assert is_full
    empty = total.take(START)
    assert (empty.max_celsius, empty.watts, empty.seen_s) == (None, None, 0)


def test_pause_of_the_process_is_not_counted_as_seen() -> None:
    total = MinuteSum()
    total.add(sample(0, gpu=50.0), rate_ratio=1.0, clock_ratio=1.0, now_s=0.0)
    assert total.add(sample(1, gpu=50.0), rate_ratio=1.0, clock_ratio=1.0, now_s=3600.0)
    assert total.take(START).seen_s == 10
