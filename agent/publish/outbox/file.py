"""The database file of the outbox, and every SQL statement for it."""

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
from agent.runtime.logs import get_logger

SCHEMA_VERSION = 3
ROW_BYTES = 72
"""Approximate size of a row and its entry in the index, without topic and payload."""

KEPT_FREE_RATIO = 0.05
KEPT_FREE_BYTES = 1 << 30
"""Upper limit of the free space: 5 % of a large disk is more than other programs need."""

FaultKind = Literal["full", "read_only", "io", "corrupt", "newer", "bug"]

_BUSY_S = 2.0
_PAGE_BYTES = 2048
"""A commit writes whole pages: an event of 800 bytes costs 2.1 KiB with this size, 4.1 KiB with the default."""
_PAGES_BETWEEN_CHECKPOINTS = 1000
_WAL_KEPT_BYTES = 4 << 20

_CREATE = """
CREATE TABLE waiting (
    key INTEGER PRIMARY KEY,                -- increases with every packet
    topic TEXT NOT NULL,
    payload BLOB NOT NULL,
    qos INTEGER NOT NULL,
    retain INTEGER NOT NULL,
    expiry_s INTEGER,
    correlation BLOB,
    utc_ns INTEGER NOT NULL,
    rank INTEGER NOT NULL DEFAULT 0,        -- when full, 1 is dropped before 0
    boot TEXT NOT NULL DEFAULT '',          -- boot id and monotonic time, which no clock change affects
    boot_ns INTEGER NOT NULL DEFAULT 0
)"""
_INDEX = "CREATE INDEX goes_first ON waiting (key) WHERE rank > 0"
_BY_TOPIC = "CREATE INDEX by_topic ON waiting (topic)"

_MIGRATIONS: dict[int, tuple[str, ...]] = {
    1: (
        "ALTER TABLE waiting ADD COLUMN correlation BLOB",
        "ALTER TABLE waiting ADD COLUMN rank INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE waiting ADD COLUMN boot TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE waiting ADD COLUMN boot_ns INTEGER NOT NULL DEFAULT 0",
        _INDEX,
    ),
    2: (_BY_TOPIC,),
}
"""The statements that migrate each earlier version to the next."""

_COLUMNS = "key, topic, payload, qos, retain, expiry_s, correlation, utc_ns, rank, boot, boot_ns"
_SIZE = f"2 * length(CAST(topic AS BLOB)) + length(payload) + {ROW_BYTES}"

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
_REASONS: dict[FaultKind, str] = {
    "full": "the disk is full or nearly full: free some space",
    "read_only": "it cannot be written: make the state directory writable",
    "io": "the disk reports an error",
    "corrupt": "its content is damaged",
    "newer": "it was written by a newer version of the agent",
    "bug": "a bug in the agent; events are not written until it is restarted",
}


log = get_logger(__name__)


class OutboxFault(Exception):
    """The file cannot be used now; ``kind`` says why."""

    def __init__(self, kind: FaultKind, detail: str) -> None:
        super().__init__(detail)
        self.kind: FaultKind = kind
        self.detail = detail

    @property
    def reason(self) -> str:
        """The reason as one line for people."""
        return f"{_REASONS[self.kind]} ({self.detail})"


@dataclass(frozen=True, slots=True)
class Row:
    """A stored packet. ``utc_ns`` is the time of ``put``, 0 if the clock was not synchronised."""

    key: int
    packet: Packet
    rank: int
    utc_ns: int
    boot: str
    boot_ns: int

    @property
    def size_bytes(self) -> int:
        """Its size for the limit of the outbox; the topic is in the index too."""
        return 2 * len(self.packet.topic.encode("utf-8")) + len(self.packet.payload) + ROW_BYTES


@dataclass(frozen=True, slots=True)
class Content:
    """Content of a file; ``topics`` has the number of rows of each topic."""

    last_key: int
    rows: int
    size_bytes: int
    topics: dict[str, int]


class OutboxFile:
    """An open database. Every method raises OutboxFault if the file fails. Used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Open the file, or create it with mode 600; a file of an earlier version is migrated."""
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
        """Count the rows."""
        with _translated():
            rows, size, last = self._database.execute(
                f"SELECT count(*), total({_SIZE}), ifnull(max(key), 0) FROM waiting"  # noqa: S608 (our own text)
            ).fetchone()
            topics = self._database.execute("SELECT topic, count(*) FROM waiting GROUP BY topic").fetchall()
        return Content(int(last), int(rows), int(size), dict(topics))

    def write(self, rows: Sequence[Row], deleted: Iterable[int] = ()) -> None:
        """Add ``rows`` and delete the keys ``deleted`` in one commit.

        A commit that adds rows is on disk when this returns. One that only deletes is not synced: a power cut can
        undo it, which causes duplicates but no loss. If adding rows would use the space that is kept free, they are
        refused as on a full disk.
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
                self._database.executemany("DELETE FROM waiting WHERE key = ?", [(key,) for key in deleted])
                self._database.execute("COMMIT")
            except sqlite3.Error:
                with contextlib.suppress(sqlite3.Error):
                    self._database.execute("ROLLBACK")
                raise

    def probe(self) -> None:
        """Check that the file can be written, with a commit that changes nothing."""
        self._refuse_to_fill(0)
        with _translated():
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _refuse_to_fill(self, more_bytes: int) -> None:
        with _translated():
            pages, unused = (
                int(self._database.execute(f"PRAGMA {name}_count").fetchone()[0]) for name in ("page", "freelist")
            )
        # A row just above half a page takes a whole page. New rows are in the write-ahead log and in the file for a
        # while, and rows that are only in the log still have to be copied to the file.
        more_bytes = 2 * (more_bytes + _PAGE_BYTES)
        try:
            to_copy = max(0, pages * _PAGE_BYTES - self._path.stat().st_size)
            grows = max(0, more_bytes - unused * _PAGE_BYTES)
            lack = lack_of_room(self._path.parent, to_copy + more_bytes + grows)
        except OSError as exc:
            raise OutboxFault("io", exc.strerror or str(exc)) from exc
        if lack is not None:
            raise OutboxFault("full", lack)

    def page(self, topic: str, after: int, before: int, limit: int) -> list[Row]:
        """The first ``limit`` rows of ``topic`` with keys between ``after`` and ``before`` (both excluded), by key."""
        with _translated():
            found = self._database.execute(
                f"SELECT {_COLUMNS} FROM waiting WHERE topic = ? AND key > ? AND key < ? "  # noqa: S608 (our own text)
                "ORDER BY key LIMIT ?",
                (topic, after, before, limit),
            ).fetchall()
        return [_row(values) for values in found]

    def first_to_drop(self, limit: int) -> list[tuple[int, int, str]]:
        """Keys, sizes and topics of the rows to drop first: the higher rank, then the older."""
        found: list[tuple[int, int, str]] = []
        with _translated():
            for which in ("WHERE rank > 0", "WHERE rank = 0"):
                found += self._database.execute(
                    f"SELECT key, {_SIZE}, topic FROM waiting {which} ORDER BY key LIMIT ?",  # noqa: S608 (our own text)
                    (limit - len(found),),
                ).fetchall()
        return found

    def older_than(
        self, age_ns: int, *, boot: str, boot_ns: int, utc_ns: int, limit: int
    ) -> list[tuple[int, int, str]]:
        """Keys, sizes and topics of rows older than ``age_ns``.

        Rows of another boot count only if the clock was synchronised then and is now; ``utc_ns`` is 0 if it is not.
        """
        with _translated():
            found = self._database.execute(
                f"SELECT key, {_SIZE}, topic FROM waiting WHERE (boot = ? AND boot_ns < ?) "  # noqa: S608 (our own text)
                "OR (boot != ? AND utc_ns > 0 AND utc_ns < ?) ORDER BY key LIMIT ?",
                (boot, boot_ns - age_ns, boot, utc_ns - age_ns, limit),
            ).fetchall()
        return [(int(key), int(size), str(topic)) for key, size, topic in found]

    def close(self) -> None:
        """Close the file. Idempotent."""
        with contextlib.suppress(sqlite3.Error):
            self._database.close()


def open_or_replace(path: Path, open_file: Callable[[Path], OutboxFile] = OutboxFile) -> OutboxFile:
    """Open the file; a damaged one is renamed, logged and replaced by a new one.

    Raises:
        OutboxFault: no file can be used.
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
    """Rename a damaged file to the next free ``*.corrupt-<n>`` and delete its log files.

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
    """Create the file with mode 600 before SQLite creates it with a wider one; refuse links and special files."""
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
        raise OutboxFault("newer", f"it has schema version {version}, but this agent knows {SCHEMA_VERSION}")
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
            database.execute(_BY_TOPIC)
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
        # Python 3.10 has no sqlite_errorcode, so there the text must do.
        code = getattr(exc, "sqlite_errorcode", None)
        kind = _kind_of(str(exc)) if code is None else _KINDS.get(code & 0xFF, "io")
        raise OutboxFault(kind, str(exc)) from exc


def _kind_of(text: str) -> FaultKind:
    for part, kind in _TEXTS.items():
        if part in text:
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


def kept_free_bytes(size_bytes: int) -> int:
    """Bytes to keep free on a file system of ``size_bytes``."""
    return min(round(size_bytes * KEPT_FREE_RATIO), KEPT_FREE_BYTES)


def lack_of_room(directory: Path, needed_bytes: int) -> str | None:
    """Why the file system of ``directory`` has no room for ``needed_bytes`` more; None if it has.

    Raises:
        OSError: the free space cannot be read.
    """
    found = os.statvfs(directory)
    free, kept = found.f_bavail * found.f_frsize, kept_free_bytes(found.f_blocks * found.f_frsize)
    if free - needed_bytes >= kept:
        return None
    return f"{free / 2**20:.1f} MiB are free and the outbox keeps {kept / 2**20:.1f} MiB free"
