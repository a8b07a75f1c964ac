"""Every outbox fulfils the contract in ``agent.publish.outbox.base``; file faults are tested too."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from agent.config.sections.subscribers import OutboxConfig
from agent.mqtt.base import Packet
from agent.publish.outbox.base import EVENT, REPLY, MemoryOutbox, Outbox, Stored
from agent.publish.outbox.choose import open_outbox
from agent.publish.outbox.file import SCHEMA_VERSION, OutboxFault, OutboxFile, Row, kept_free_bytes, lack_of_room
from agent.publish.outbox.sqlite import SqliteOutbox
from agent.runtime.boot import boot_ns
from agent.runtime.clock import SystemClock
from tests.fixtures.deadlines import wait_until
from tests.fixtures.own_logs import logs_of

ROOT = Path(__file__).parents[2]


def _packet(number: int, topic: str = "t/0", size: int = 0) -> Packet:
    return Packet(topic, b'{"n":%d,"x":"%s","historical":false}' % (number, b"x" * size), qos=1)


def _is_written(outbox: SqliteOutbox) -> bool:
    return not outbox._unwritten and not outbox._to_delete


def _numbers(outbox: Outbox) -> list[int]:
    """The waiting packets in order."""
    found = sorted((stored for topic in outbox.waiting() for stored in _of(outbox, topic)), key=lambda one: one.key)
    return [int(stored.packet.payload.split(b",")[0].split(b":")[1]) for stored in found]


def _of(outbox: Outbox, topic: str) -> Iterator[Stored]:
    """The waiting packets of one topic, in the order in which they are returned."""
    after = 0
    while (stored := outbox.first(topic, after)) is not None:
        assert stored.key > after
        assert stored.packet.topic == topic
        after = stored.key
        yield stored


@pytest.fixture(params=["memory", "each", "grouped"])
def outbox(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Outbox]:
    opened: Outbox = (
        MemoryOutbox() if request.param == "memory" else _open(tmp_path / "outbox.sqlite", durability=request.param)
    )
    yield opened
    opened.close()


def _open(path: Path, **options: object) -> SqliteOutbox:
    return SqliteOutbox(path, **options).open()  # type: ignore[arg-type]  # options by name


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., SqliteOutbox]]:
    outboxes: list[SqliteOutbox] = []

    def open_one(**options: object) -> SqliteOutbox:
        outboxes.append(_open(tmp_path / "outbox.sqlite", **options))
        return outboxes[-1]

    yield open_one
    for one in outboxes:
        one.close()


def test_packets_are_returned_in_order_with_increasing_keys(outbox: Outbox) -> None:
    keys = [outbox.put(_packet(number)) for number in range(30)]
    assert keys == sorted(set(keys))
    assert outbox.last_key == keys[-1]
    assert _numbers(outbox) == list(range(30))
    assert outbox.first("t/0", keys[-1]) is None
    assert outbox.first("another", 0) is None


def test_only_acknowledged_packets_are_removed(outbox: Outbox) -> None:
    keys = [outbox.put(_packet(number)) for number in range(10)]
    for key in keys[1::2]:
        outbox.ack(key)
        outbox.ack(key)
    assert _numbers(outbox) == [0, 2, 4, 6, 8]
    assert outbox.statistics().acknowledged == 5
    assert outbox.statistics().stored == 5


def test_waiting_packets_are_counted_and_returned_by_topic(outbox: Outbox) -> None:
    first, second, third = (outbox.put(_packet(0, topic)) for topic in ("a", "b", "a"))
    assert outbox.waiting() == {"a": 2, "b": 1}
    assert [stored.key for stored in _of(outbox, "a")] == [first, third]
    outbox.ack(second)
    assert outbox.waiting() == {"a": 2}
    outbox.ack(first)
    assert [stored.key for stored in _of(outbox, "a")] == [third]
    assert outbox.first("b", 0) is None


def test_a_topic_is_read_again_from_its_oldest_packet(outbox: Outbox) -> None:
    keys = [outbox.put(_packet(number)) for number in range(5)]
    assert [stored.key for stored in _of(outbox, "t/0")] == keys
    outbox.ack(keys[2])
    assert [stored.key for stored in _of(outbox, "t/0")] == [*keys[:2], *keys[3:]]


def test_the_time_of_put_is_known_for_each_packet(outbox: Outbox) -> None:
    before = boot_ns()
    outbox.put(_packet(0), REPLY)
    stored = outbox.first("t/0", 0)
    assert stored is not None
    assert stored.put_ns is not None
    assert before <= stored.put_ns <= boot_ns()
    assert stored.rank == REPLY


def test_a_packet_is_stored_unchanged(outbox: Outbox) -> None:
    packets = [Packet("ü/x", b"\x00\xff", 1, retain=True, expiry_s=30), Packet("y", b"", 0)]
    for packet in packets:
        outbox.put(packet)
    found = [outbox.first("ü/x", 0), outbox.first("y", 0)]
    assert [stored.packet for stored in found if stored is not None] == packets


def test_the_next_session_finds_waiting_packets_and_continues_the_keys(opened: Callable[..., SqliteOutbox]) -> None:
    first = opened()
    for number in range(600):  # more than one page
        first.put(_packet(number, f"t/{number % 3}"))
    first.ack(1)
    wait_until(lambda: _is_written(first))
    first.close()
    second = opened()
    assert second.statistics().stored == 599
    assert second.put(_packet(600)) == 601
    assert _numbers(second) == list(range(1, 601))
    assert second.waiting() == dict.fromkeys(("t/0", "t/1", "t/2"), 200)
    for topic in second.waiting():
        for stored in _of(second, topic):
            second.ack(stored.key)
    second.close()
    third = opened()
    assert third.statistics().stored == 0
    assert third.put(_packet(0)) > 0


def test_a_packet_acknowledged_before_writing_is_never_written(opened: Callable[..., SqliteOutbox]) -> None:
    outbox = opened(durability="grouped")
    outbox.put(_packet(0))
    wait_until(lambda: _is_written(outbox))
    for number in range(1, 50):  # within the second after that commit
        outbox.ack(outbox.put(_packet(number)))
    assert outbox._to_delete == {}
    outbox.close()
    assert opened().statistics().stored == 1


def test_a_commit_survives_sigkill(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from agent.mqtt.base import Packet\n"
        "from agent.publish.outbox.sqlite import SqliteOutbox\n"
        "outbox = SqliteOutbox(Path(sys.argv[1])).open()\n"
        "for n in range(100000):\n"
        "    outbox.put(Packet('t', b'{\"n\":%d,}' % n, 1))\n"
        "    while outbox._unwritten: time.sleep(0)\n"
        "    print(n, flush=True)\n"
    )
    path = tmp_path / "outbox.sqlite"
    child = subprocess.Popen([sys.executable, "-c", program, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        committed = [int(child.stdout.readline()) for _ in range(50)]
        child.kill()
        child.wait(10)
        committed += [int(line) for line in child.stdout.read().split("\n") if line.strip()]
    outbox = _open(path)
    found = _numbers(outbox)
    outbox.close()
    assert found[: len(committed)] == committed
    assert len(found) <= len(committed) + 1


def test_a_full_file_drops_replies_first_then_the_oldest(opened: Callable[..., SqliteOutbox]) -> None:
    outbox = opened(max_bytes=100 * 300)
    for number in range(150):
        outbox.put(_packet(number, size=200), REPLY if number % 3 == 0 else EVENT)
        if number % 40 == 0:
            wait_until(lambda: _is_written(outbox))
    wait_until(lambda: _is_written(outbox))
    left = _numbers(outbox)
    statistics = outbox.statistics()
    assert statistics.dropped == {"outbox_full": 150 - len(left)}
    assert statistics.stored == len(left)
    assert not any(number % 3 == 0 for number in left), "every reply went before the first event"
    assert left == [number for number in range(150) if number % 3][-len(left) :]


def test_full_memory_drops_replies_first_then_the_oldest() -> None:
    outbox = MemoryOutbox(10)
    for number in range(20):
        outbox.put(_packet(number), REPLY if number in {3, 5, 7, 9} else EVENT)
    assert _numbers(outbox) == list(range(10, 20))
    assert outbox.statistics().dropped == {"outbox_full": 10}


def test_expired_packets_are_dropped_and_counted(opened: Callable[..., SqliteOutbox], tmp_path: Path) -> None:
    first = opened()
    first.put(_packet(0))
    wait_until(lambda: _is_written(first))
    first.close()
    second = opened(max_age_s=1e-6)
    wait_until(lambda: second.statistics().dropped.get("outbox_too_old", 0) >= 1)
    assert _numbers(second) == []


def test_changing_the_clock_expires_nothing(opened: Callable[..., SqliteOutbox]) -> None:
    class LeapingClock(SystemClock):
        leap_ns = 0

        def utc_ns(self) -> int:
            return super().utc_ns() + self.leap_ns

    clock = LeapingClock()
    first = opened(clock=clock)
    first.put(_packet(0))
    wait_until(lambda: _is_written(first))
    first.close()
    clock.leap_ns = 50 * 365 * 86400 * 10**9
    second = opened(clock=clock, clock_state=lambda: "synced", max_age_s=3600.0)
    second.put(_packet(1))
    wait_until(lambda: _is_written(second))
    assert _numbers(second) == [0, 1]
    assert second.statistics().dropped == {}


def test_the_file_is_private(opened: Callable[..., SqliteOutbox], tmp_path: Path) -> None:
    outbox = opened()
    outbox.put(_packet(0))
    wait_until(lambda: _is_written(outbox))
    files = list(tmp_path.glob("outbox.sqlite*"))
    assert len(files) >= 2
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


@pytest.mark.parametrize("where", ["header", "middle", "text"])
def test_a_damaged_file_is_renamed_and_logged(opened: Callable[..., SqliteOutbox], tmp_path: Path, where: str) -> None:
    path = tmp_path / "outbox.sqlite"
    first = opened()
    for number in range(200):
        first.put(_packet(number, size=400))
    wait_until(lambda: _is_written(first))
    first.close()
    if where == "text":
        path.write_bytes(b"this is no database\n" * 500)
    else:
        with path.open("r+b") as stream:
            stream.seek(0 if where == "header" else path.stat().st_size // 2 // 4096 * 4096)
            stream.write(b"\xa5" * 4096)
    (tmp_path / "outbox.sqlite.corrupt-1").touch()
    with logs_of("agent.publish.outbox") as lines:
        second = opened()
    line = next(line for line in lines if line["event"] == "outbox.corrupt")
    assert line["set_aside"] == str(tmp_path / "outbox.sqlite.corrupt-2")
    assert (tmp_path / "outbox.sqlite.corrupt-2").exists()
    second.put(_packet(1))
    wait_until(lambda: _is_written(second))
    assert second.statistics().durability == "each"
    second.close()
    assert _numbers(opened()) == [1]


_VERSION_1 = """
CREATE TABLE waiting (key INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload BLOB NOT NULL,
    qos INTEGER NOT NULL, retain INTEGER NOT NULL, expiry_s INTEGER, utc_ns INTEGER NOT NULL);
INSERT INTO waiting VALUES (7, 't', x'7b226e223a302c7d', 1, 0, NULL, 5), (9, 't', x'7b226e223a312c7d', 1, 0, NULL, 6);
PRAGMA user_version = 1;
"""


def test_the_file_of_an_earlier_version_is_migrated(opened: Callable[..., SqliteOutbox], tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "outbox.sqlite")
    database.executescript(_VERSION_1)
    database.close()
    outbox = opened()
    assert _numbers(outbox) == [0, 1]
    assert outbox.put(_packet(2)) == 10
    wait_until(lambda: _is_written(outbox))
    outbox.close()
    assert _numbers(opened()) == [0, 1, 2]


def test_a_file_without_the_index_of_topics_is_migrated(opened: Callable[..., SqliteOutbox], tmp_path: Path) -> None:
    first = opened()
    first.put(_packet(0))
    wait_until(lambda: _is_written(first))
    first.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "outbox.sqlite")) as database:
        database.executescript("DROP INDEX by_topic; PRAGMA user_version = 2;")
    assert _numbers(opened()) == [0]
    with contextlib.closing(sqlite3.connect(tmp_path / "outbox.sqlite")) as database:
        plan = database.execute("EXPLAIN QUERY PLAN SELECT key FROM waiting WHERE topic = 't' AND key > 5").fetchall()
        assert "by_topic" in str(plan)
        assert database.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def test_the_file_of_a_newer_version_is_left_unchanged(opened: Callable[..., SqliteOutbox], tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    database = sqlite3.connect(path)
    database.executescript(f"CREATE TABLE future (x); PRAGMA user_version = {SCHEMA_VERSION + 1};")
    database.close()
    before = path.read_bytes()
    outbox = opened(retry_s=0.05)
    outbox.put(_packet(0))
    statistics = outbox.statistics()
    assert statistics.durability == "memory"
    assert "newer version" in (statistics.reason or "")
    assert _numbers(outbox) == [0]
    outbox.close()
    assert path.read_bytes() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system can only be mounted by root")
def test_a_full_disk_is_reported_and_recovered_from_without_a_loss(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(small)], check=False).returncode:
        pytest.skip(reason="this system does not let us mount a tmpfs")
    try:
        outbox = _open(small / "outbox.sqlite", retry_s=0.05)
        outbox.put(_packet(0))
        wait_until(lambda: _is_written(outbox))
        ballast = small / "ballast"
        _fill(ballast)
        for number in range(1, 300):
            outbox.put(_packet(number, size=1000))
        wait_until(lambda: outbox.statistics().durability == "memory")
        assert "disk is full" in (outbox.statistics().reason or "")
        assert _numbers(outbox) == list(range(300)), "what is in the file can still be read"
        for key in range(1, 201):
            outbox.ack(key)
        ballast.unlink()
        wait_until(lambda: outbox.statistics().durability == "each")
        assert outbox.statistics().reason is None
        wait_until(lambda: _is_written(outbox))
        outbox.close()
        again = _open(small / "outbox.sqlite")
        assert _numbers(again) == list(range(200, 300))
        again.close()
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system can only be mounted by root")
def test_five_percent_stay_free_and_acknowledged_packets_still_leave_the_file(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(small)], check=False).returncode:
        pytest.skip(reason="this system does not let us mount a tmpfs")
    try:
        outbox = _open(small / "outbox.sqlite", retry_s=0.05)
        put = 0
        while outbox.statistics().durability == "each":
            wait_until(lambda: len(outbox._unwritten) < 1000 or outbox.statistics().durability == "memory")
            for _ in range(100):
                outbox.put(_packet(put, size=250))
                put += 1
        assert "are free and the outbox keeps 0.6 MiB free" in (outbox.statistics().reason or "")
        in_file = put - len(outbox._unwritten)
        assert in_file > 10_000
        for _ in range(10):  # it tries again and again
            assert _free_share(small) >= 0.05
            time.sleep(0.05)
        assert _numbers(outbox) == list(range(put)), "what is in the file and in memory can be read"
        for key in range(1, 1001):
            outbox.ack(key)
        wait_until(lambda: _rows_up_to(1000, small / "outbox.sqlite") == 0)
        assert _free_share(small) >= 0.05, "the file does not shrink, and its room is used again"
        subprocess.run(["mount", "-o", "remount,size=32m", str(small)], check=True)
        wait_until(lambda: outbox.statistics().durability == "each" and _is_written(outbox))
        outbox.close()
        again = _open(small / "outbox.sqlite")
        assert _numbers(again) == list(range(1000, put))
        again.close()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_five_percent_or_one_gibibyte_stay_free(tmp_path: Path) -> None:
    assert kept_free_bytes(1 << 30) == round((1 << 30) / 20)
    assert kept_free_bytes(1 << 40) == 1 << 30
    assert lack_of_room(tmp_path, 0) is None
    assert "the outbox keeps 1024.0 MiB free" in (lack_of_room(tmp_path, 1 << 60) or "")


def _free_share(directory: Path) -> float:
    found = os.statvfs(directory)
    return found.f_bavail / found.f_blocks


def _rows_up_to(key: int, path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return int(database.execute("SELECT count(*) FROM waiting WHERE key <= ?", (key,)).fetchone()[0])


def test_an_unwritable_file_is_reported_once_and_never_as_recovered(tmp_path: Path) -> None:
    class FailingFile(OutboxFile):
        """Opens, but fails at every commit, like a disk with errors."""

        def write(self, rows: Sequence[Row], deleted: Iterable[int] = ()) -> None:
            raise OutboxFault("io", "disk I/O error")

        def probe(self) -> None:
            raise OutboxFault("io", "disk I/O error")

    makers: Iterator[type[OutboxFile]] = itertools.chain([FailingFile] * 5, itertools.repeat(OutboxFile))

    def open_next(path: Path) -> OutboxFile:
        return next(makers)(path)

    with logs_of("agent.publish.outbox") as logs:
        outbox = _open(tmp_path / "outbox.sqlite", retry_s=0.02, open_file=open_next)
        outbox.put(_packet(0))
        wait_until(lambda: outbox.statistics().durability == "each" and _is_written(outbox))
        outbox.close()
    assert [entry["event"] for entry in logs] == ["outbox.in_memory", "outbox.recovered"]


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"x" * 1024)
        except OSError:
            return


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system can only be made read-only by root")
def test_a_file_system_that_becomes_read_only_is_reported_and_recovered_from(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(small)], check=False).returncode:
        pytest.skip(reason="this system does not let us mount a tmpfs")
    try:
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
        outbox = _open(small / "outbox.sqlite", retry_s=0.05)
        for number in range(10):
            outbox.put(_packet(number))
        assert outbox.statistics().durability == "memory"
        assert "cannot be written" in (outbox.statistics().reason or "")
        assert _numbers(outbox) == list(range(10))
        subprocess.run(["mount", "-o", "remount,rw", str(small)], check=True)
        wait_until(lambda: outbox.statistics().durability == "each")
        wait_until(lambda: _is_written(outbox))
        outbox.close()
        again = _open(small / "outbox.sqlite")
        assert _numbers(again) == list(range(10))
        again.close()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_file_damaged_in_use_loses_only_packets_outside_memory_and_counts_them(
    opened: Callable[..., SqliteOutbox], tmp_path: Path
) -> None:
    path = tmp_path / "outbox.sqlite"
    first = opened()
    for number in range(4000):  # more than the library keeps in memory
        first.put(_packet(number, size=1000))
    wait_until(lambda: _is_written(first))
    first.close()
    outbox = opened(retry_s=0.05)
    for number in range(4000, 4010):
        outbox.put(_packet(number))
    wait_until(lambda: _is_written(outbox))
    with path.open("r+b") as stream:
        stream.write(b"\xa5" * path.stat().st_size)
    _numbers(outbox)
    wait_until(lambda: outbox.statistics().durability == "each" and _is_written(outbox))
    assert outbox.statistics().dropped == {"outbox_corrupt": 4000}
    outbox.put(_packet(4010))
    assert _numbers(outbox) == list(range(4000, 4011))
    assert list(tmp_path.glob("*.corrupt-1"))


def test_two_commits_in_one_second_are_one_when_grouped(opened: Callable[..., SqliteOutbox]) -> None:
    outbox = opened(durability="grouped")
    outbox.put(_packet(0))
    wait_until(lambda: _is_written(outbox))
    began = time.monotonic()
    outbox.put(_packet(1))
    outbox.put(_packet(2))
    wait_until(lambda: _is_written(outbox))
    assert time.monotonic() - began > 0.5


def test_closing_a_file_twice_is_harmless(tmp_path: Path) -> None:
    file = OutboxFile(tmp_path / "x")
    file.close()
    file.close()


def test_the_configured_outbox_is_opened(tmp_path: Path) -> None:
    for durability in ("each", "grouped", "memory"):
        config = OutboxConfig(durability=durability)
        outbox = open_outbox(config, tmp_path / durability, clock=SystemClock(), clock_state=lambda: "synced")
        assert outbox.statistics().durability == "memory", "the directory does not exist, so there can be no file"
        outbox.close()
        (tmp_path / durability).mkdir()
        outbox = open_outbox(config, tmp_path / durability, clock=SystemClock(), clock_state=lambda: "synced")
        assert outbox.statistics().durability == durability
        outbox.close()
        assert (tmp_path / durability / "outbox.sqlite").exists() == (durability != "memory")


def test_a_bug_in_the_writing_thread_is_reported_and_nothing_stops(tmp_path: Path) -> None:
    class Mistaken(OutboxFile):
        def write(self, rows: Sequence[Row], deleted: Iterable[int] = ()) -> None:
            raise RuntimeError("a mistake")

    outbox = _open(tmp_path / "outbox.sqlite", open_file=Mistaken)
    outbox.put(Packet("t", b"0", 1))
    wait_until(lambda: outbox.statistics().durability == "memory")
    assert "RuntimeError: a mistake" in (outbox.statistics().reason or "")
    outbox.ack(outbox.put(Packet("t", b"1", 1)))
    assert outbox.statistics().stored == 1
    outbox.close()
    assert outbox.statistics().dropped == {"stopped": 1}
