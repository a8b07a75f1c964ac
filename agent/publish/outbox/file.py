"""The file that events wait in: one SQLite database, and every statement that touches it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agent.mqtt.base import Packet
from agent.publish.outbox.disk_space import lack_of_room
from agent.runtime.logs import get_logger

SCHEMA_VERSION = 2
ROW_BYTES = 64
"""What a row takes beside its topic and payload, about (measured: 40 to 60 in a full file)."""

FaultKind = Literal["full", "read_only", "io", "corrupt", "newer", "mistake"]

_BUSY_S = 2.0
_PAGE_BYTES = 2048
"""A commit writes whole pages: one event of 800 bytes costs 2.1 KiB with these, 4.1 KiB with the usual ones."""
_PAGES_BETWEEN_CHECKPOINTS = 1000
_WAL_KEPT_BYTES = 4 << 20

_CREATE = """
CREATE TABLE waiting (
    key INTEGER PRIMARY KEY,                -- rises with every packet while any waits
    topic TEXT NOT NULL,
    payload BLOB NOT NULL,
    qos INTEGER NOT NULL,
    retain INTEGER NOT NULL,
    expiry_s INTEGER,
    correlation BLOB,
    utc_ns INTEGER NOT NULL,
    rank INTEGER NOT NULL DEFAULT 0,        -- 0 outlives 1
    boot TEXT NOT NULL DEFAULT '',          -- the machine's boot and its age then: a clock that no one sets
    boot_ns INTEGER NOT NULL DEFAULT 0
)"""
_INDEX = "CREATE INDEX goes_first ON waiting (key) WHERE rank > 0"

_MIGRATIONS: dict[int, tuple[str, ...]] = {
    1: (
        "ALTER TABLE waiting ADD COLUMN correlation BLOB",
        "ALTER TABLE waiting ADD COLUMN rank INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE waiting ADD COLUMN boot TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE waiting ADD COLUMN boot_ns INTEGER NOT NULL DEFAULT 0",
        _INDEX,
    ),
}
"""The statements that lead from each earlier version to the next one."""

_COLUMNS = "key, topic, payload, qos, retain, expiry_s, correlation, utc_ns, rank, boot, boot_ns"
_SIZE = f"length(CAST(topic AS BLOB)) + length(payload) + {ROW_BYTES}"

# Source: SQLite, Result and Error Codes; the primary code is the low byte of the extended one.
_KINDS: dict[int, FaultKind] = {
    13: "full",
    8: "read_only",
    14: "read_only",
    3: "read_only",
    11: "corrupt",
    26: "corrupt",
}
_TEXTS: dict[str, FaultKind] = {
    "is full": "full",
    "readonly": "read_only",
    "unable to open": "read_only",
    "malformed": "corrupt",
    "not a database": "corrupt",
}
_WORDS: dict[FaultKind, str] = {
    "full": "the disk is full or nearly so: free some space",
    "read_only": "it cannot be written: make the state directory writable",
    "io": "the disk reports an error",
    "corrupt": "its content is damaged",
    "newer": "it was written by a newer version of the agent",
    "mistake": "a mistake of the agent, which writes nothing until it is started again",
}


log = get_logger(__name__)


class OutboxFault(Exception):
    """The file cannot be used, at least for now; ``kind`` says why."""

    def __init__(self, kind: FaultKind, detail: str) -> None:
        super().__init__(detail)
        self.kind: FaultKind = kind
        self.detail = detail

    @property
    def reason(self) -> str:
        """One line for people."""
        return f"{_WORDS[self.kind]} ({self.detail})"


@dataclass(frozen=True, slots=True)
class Row:
    """One packet as it is kept. ``utc_ns`` is when it was put, 0 where the clock was not to be trusted."""

    key: int
    packet: Packet
    rank: int
    utc_ns: int
    boot: str
    boot_ns: int

    @property
    def size_bytes(self) -> int:
        """What it counts for against the bound."""
        return len(self.packet.topic.encode("utf-8")) + len(self.packet.payload) + ROW_BYTES


@dataclass(frozen=True, slots=True)
class Content:
    """What a file holds; ``topics`` are the newest key and the number of rows of each topic."""

    last_key: int
    rows: int
    size_bytes: int
    topics: dict[str, tuple[int, int]]


class OutboxFile:
    """One open database. Every method raises OutboxFault where the file fails; used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it with mode 600; one of an earlier version is brought up to date."""
        with _translated():
            _claim(path)
            self._path = path
            self._database = database = sqlite3.connect(
                path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
            )
            try:
                _set_up(database)
            except (sqlite3.Error, OutboxFault):
                database.close()
                raise

    def content(self) -> Content:
        """Count what is there."""
        with _translated():
            rows, size, last = self._database.execute(
                f"SELECT count(*), total({_SIZE}), ifnull(max(key), 0) FROM waiting"  # noqa: S608 (our own text)
            ).fetchone()
            topics = self._database.execute("SELECT topic, max(key), count(*) FROM waiting GROUP BY topic").fetchall()
        return Content(int(last), int(rows), int(size), {topic: (key, count) for topic, key, count in topics})

    def write(self, rows: Sequence[Row], gone: Iterable[int] = ()) -> None:
        """Add ``rows`` and delete the keys ``gone`` in one commit.

        A commit that adds rows is on the disk when this returns. One that only deletes is with the system: a power
        cut can undo it, which makes duplicates and loses nothing. Rows for which the file system has no room beside
        what is left to others are refused as on a full disk.
        """
        if rows:
            self._refuse_to_fill(sum(row.size_bytes for row in rows))
        with _translated():
            self._database.execute(f"PRAGMA synchronous = {'FULL' if rows else 'NORMAL'}")
            self._database.execute("BEGIN IMMEDIATE")
            try:
                self._database.executemany(
                    f"INSERT OR REPLACE INTO waiting ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 (our own text)
                    [_values(row) for row in rows],
                )
                self._database.executemany("DELETE FROM waiting WHERE key = ?", [(key,) for key in gone])
                self._database.execute("COMMIT")
            except sqlite3.Error:
                with contextlib.suppress(sqlite3.Error):
                    self._database.execute("ROLLBACK")
                raise

    def probe(self) -> None:
        """Write and commit something that changes nothing, where there is room for more."""
        self._refuse_to_fill(0)
        with _translated():
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _refuse_to_fill(self, more_bytes: int) -> None:
        with _translated():
            pages, unused = (
                int(self._database.execute(f"PRAGMA {name}_count").fetchone()[0]) for name in ("page", "freelist")
            )
        # A row of just above half a page takes a whole one. What comes now stands in the log and in the file for a
        # while, and what stands in the log alone still has to be copied.
        more_bytes = 2 * (more_bytes + _PAGE_BYTES)
        try:
            to_copy = max(0, pages * _PAGE_BYTES - self._path.stat().st_size)
            grows = max(0, more_bytes - unused * _PAGE_BYTES)
            lack = lack_of_room(self._path.parent, to_copy + more_bytes + grows)
        except OSError as exc:
            raise OutboxFault("io", exc.strerror or str(exc)) from exc
        if lack is not None:
            raise OutboxFault("full", lack)

    def page(self, after: int, before: int, limit: int) -> list[Row]:
        """The first ``limit`` rows with keys between the two, both left out, by rising key."""
        with _translated():
            found = self._database.execute(
                f"SELECT {_COLUMNS} FROM waiting WHERE key > ? AND key < ? ORDER BY key LIMIT ?",  # noqa: S608 (our own text)
                (after, before, limit),
            ).fetchall()
        return [_row(values) for values in found]

    def first_to_give_up(self, limit: int) -> list[tuple[int, int]]:
        """Keys and sizes of the rows that go first: the higher rank, then the older."""
        found: list[tuple[int, int]] = []
        with _translated():
            for which in ("WHERE rank > 0", "WHERE rank = 0"):
                found += self._database.execute(
                    f"SELECT key, {_SIZE} FROM waiting {which} ORDER BY key LIMIT ?",  # noqa: S608 (our own text)
                    (limit - len(found),),
                ).fetchall()
        return found

    def older_than(self, age_ns: int, *, boot: str, boot_ns: int, utc_ns: int, limit: int) -> list[tuple[int, int]]:
        """Keys and sizes of rows above that age. Of another boot are only those of which both clocks were right;
        ``utc_ns`` 0 says that it is not right now."""
        with _translated():
            found = self._database.execute(
                f"SELECT key, {_SIZE} FROM waiting WHERE (boot = ? AND boot_ns < ?) "  # noqa: S608 (our own text)
                "OR (boot != ? AND utc_ns > 0 AND utc_ns < ?) ORDER BY key LIMIT ?",
                (boot, boot_ns - age_ns, boot, utc_ns - age_ns, limit),
            ).fetchall()
        return [(int(key), int(size)) for key, size in found]

    def close(self) -> None:
        """Give the file back; harmless when repeated."""
        with contextlib.suppress(sqlite3.Error):
            self._database.close()


def open_or_replace(path: Path, open_file: Callable[[Path], OutboxFile] = OutboxFile) -> OutboxFile:
    """The file, or a new one where it is damaged, which is set aside and told.

    Raises:
        OutboxFault: neither can be used.
    """
    try:
        return open_file(path)
    except OutboxFault as fault:
        if fault.kind != "corrupt":
            raise
        target, reason = set_aside(path), fault.reason
    log.error("outbox.corrupt", file=str(path), set_aside=str(target), reason=reason)
    return open_file(path)


def set_aside(path: Path) -> Path:
    """Rename a damaged file to the next free ``*.corrupt-<n>``; its companions are deleted with it.

    Raises:
        OutboxFault: it cannot be renamed.
    """
    number = 1
    while (target := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    try:
        path.rename(target)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    except OSError as exc:
        raise OutboxFault("io", exc.strerror or str(exc)) from exc
    return target


def _claim(path: Path) -> None:
    """Make the file private before the library makes it public; nothing but a file of our own is taken."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as exc:
        raise OutboxFault("read_only", exc.strerror or str(exc)) from exc
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OutboxFault("read_only", "it is not a regular file")
    finally:
        os.close(descriptor)


def _set_up(database: sqlite3.Connection) -> None:
    version = int(database.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise OutboxFault("newer", f"its form is {version}, this version knows {SCHEMA_VERSION}")
    if version == 0:
        database.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    database.execute("PRAGMA journal_mode = WAL").fetchone()
    database.execute(f"PRAGMA wal_autocheckpoint = {_PAGES_BETWEEN_CHECKPOINTS}").fetchone()
    database.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT_BYTES}").fetchone()
    verdict = database.execute("PRAGMA quick_check(1)").fetchone()
    if verdict is None or verdict[0] != "ok":
        raise OutboxFault("corrupt", "quick_check: " + ("no answer" if verdict is None else str(verdict[0])[:200]))
    if version == SCHEMA_VERSION:
        return
    database.execute("BEGIN IMMEDIATE")
    try:
        if version == 0:
            database.execute(_CREATE)
            database.execute(_INDEX)
        for step in range(max(version, 1), SCHEMA_VERSION) if version else ():
            for statement in _MIGRATIONS[step]:
                database.execute(statement)
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        database.execute("COMMIT")
    except sqlite3.Error:
        with contextlib.suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as exc:
        # The extended code is told from Python 3.11 on; before that the text has to do.
        code = getattr(exc, "sqlite_errorcode", None)
        kind = _kind_of(str(exc)) if code is None else _KINDS.get(code & 0xFF, "io")
        raise OutboxFault(kind, str(exc)) from exc


def _kind_of(text: str) -> FaultKind:
    for words, kind in _TEXTS.items():
        if words in text:
            return kind
    return "io"


def _values(row: Row) -> tuple[object, ...]:
    packet = row.packet
    return (
        *(row.key, packet.topic, packet.payload, packet.qos, int(packet.retain), packet.expiry_s, packet.correlation),
        *(row.utc_ns, row.rank, row.boot, row.boot_ns),
    )


def _row(values: tuple[Any, ...]) -> Row:
    key, topic, payload, qos, retain, expiry_s, correlation, utc_ns, rank, boot, boot_ns = values
    packet = Packet(topic, bytes(payload), 1 if qos else 0, bool(retain), expiry_s, correlation=correlation)
    return Row(key, packet, rank, utc_ns, boot, boot_ns)
