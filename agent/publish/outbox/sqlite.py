"""The durable outbox: a SQLite file, with the newest packets in memory."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Literal

from agent.mqtt.base import Packet
from agent.publish.outbox.base import EVENT, Durability, OutboxStatistics, Stored
from agent.publish.outbox.file import OutboxFault, OutboxFile, Row, open_or_replace
from agent.publish.outbox.index import ReadAhead, Tail, WaitingTopics
from agent.runtime.boot import boot_id, boot_ns
from agent.runtime.clock import Clock, SystemClock
from agent.runtime.clock_sync import ClockState
from agent.runtime.logs import get_logger
from agent.runtime.threads import StageThread

GROUP_S = 1.0
"""``grouped`` commits at most once in this time."""
GATHER_S = 0.01
"""``each`` waits this long for the broker's confirmation before it writes an event: while the broker answers in time,
nothing is written (measured: 42 kB per event without the wait, none with it)."""
FORGET_ROWS, FORGET_S = 10, 0.25
"""Confirmed packets are deleted from the file once there are this many, or after this time."""
RETRY_S = 5.0
"""Interval for retrying a failed file."""
TRIM_EVERY_S = 30.0
MEMORY_BYTES = 8 << 20
"""Limit of packets in memory: the newest, and those that the file cannot store."""
_PAGE_ROWS = 64
_COMMIT_ROWS = 512
_VICTIMS = 64
_CLOSE_WITHIN_S = 1.0
_FIRST_WITHOUT_FILE = 1 << 40
"""First key if the file cannot be read at the start: above every key that it may contain."""

log = get_logger(__name__)


class SqliteOutbox:
    """See Outbox. Its own thread, ``outbox``, writes, so the publisher never waits for the disk.

    A packet may be sent before it is on disk; if the broker confirms it first, it is never written. ``each`` commits
    new packets at once, ``grouped`` once a second. If the file fails, the outbox continues in memory, reports that in
    its statistics and retries the file; a damaged file is renamed and replaced.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = 256 << 20,
        max_age_s: float = 86400.0,
        durability: Literal["each", "grouped"] = "each",
        clock: Clock | None = None,
        clock_state: Callable[[], ClockState] = lambda: "unsynced",
        retry_s: float = RETRY_S,
        open_file: Callable[[Path], OutboxFile] = OutboxFile,
    ) -> None:
        """``open_file`` raises OutboxFault if it fails."""
        self._path = path
        self._max_bytes = max_bytes
        self._max_age_ns = round(max_age_s * 1e9)
        self._durability: Durability = durability
        self._clock = clock or SystemClock()
        self._clock_state = clock_state
        self._retry_s = retry_s
        self._make_file = open_file
        self._boot = boot_id()
        self._disk = threading.RLock()
        """Held for every use of the file. Lock order: ``_disk`` before ``_changed``."""
        self._file: OutboxFile | None = None
        self._thread: StageThread | None = None
        self._changed = threading.Condition()
        """Guards everything below; notified when the writing thread has work."""
        self._is_closing = False
        self._has_been_open = False
        self._fault: OutboxFault | None = None
        self._retry_at = 0.0
        self._tail = Tail()  # every waiting packet with a key from _tail_from on
        self._tail_from = 1
        self._unwritten: dict[int, Row] = {}  # packets of the tail that are not in the file
        self._low_rank: dict[int, None] = {}  # unwritten packets to drop first
        self._writing_up_to = 0
        self._to_delete: dict[int, int] = {}  # keys and sizes to delete from the file
        self._read = ReadAhead()
        self._last_key = 0
        self._topics = WaitingTopics()
        self._file_bytes = 0
        self._found = 0
        self._put = 0
        self._acknowledged = 0
        self._dropped: Counter[str] = Counter()

    def open(self) -> SqliteOutbox:
        """Read what an earlier session left, and start the thread. Never fails: without a file it uses memory."""
        with self._disk:
            self._open_file()
        if not self._has_been_open:
            self._last_key = _FIRST_WITHOUT_FILE + max(0, self._clock.utc_ns() // 1000)
            self._tail_from = self._last_key + 1
        self._thread = StageThread("outbox", self._write_until_closed, on_failure=self._on_thread_failure)
        self._thread.start()
        return self

    @property
    def last_key(self) -> int:
        """See Outbox."""
        return self._last_key

    def waiting(self) -> Mapping[str, int]:
        """See Outbox."""
        with self._changed:
            return self._topics.counts()

    def put(self, packet: Packet, rank: int = EVENT) -> int:
        """See Outbox."""
        utc_ns = self._clock.utc_ns() if self._clock_state() == "synced" else 0
        with self._changed:
            self._last_key += 1
            row = Row(self._last_key, packet, rank, utc_ns, self._boot, boot_ns())
            self._put += 1
            self._tail.add(row)
            self._unwritten[row.key] = row
            if rank != EVENT:
                self._low_rank[row.key] = None
            self._topics.add(packet.topic)
            self._bound_memory()
            self._changed.notify()
            return row.key

    def first(self, topic: str, after: int) -> Stored | None:
        """See Outbox."""
        with self._changed:
            if after == 0:
                self._read.start_over(topic)
            if after >= self._last_key or not self._stored():
                return None
            row = self._read.first_after(topic, after)
            before = self._tail_from
            is_older = row is None and after + 1 < before and not self._read.has_read(topic, before)
        if is_older:
            row = self._from_file(topic, after, before)
        with self._changed:
            row = row or self._tail.first(topic, after)
            if row is None:
                return None
            self._read.hand_out(row)
        return Stored(row.key, row.packet, row.rank, self._put_ns(row))

    def ack(self, key: int) -> None:
        """See Outbox."""
        with self._changed:
            if key not in self._tail and not self._read.is_in_hand(key):
                return
            self._take_out(key)
            self._acknowledged += 1
            if len(self._to_delete) in {1, FORGET_ROWS}:
                self._changed.notify()

    def statistics(self) -> OutboxStatistics:
        """See Outbox."""
        with self._changed:
            return OutboxStatistics(
                put=self._put,
                acknowledged=self._acknowledged,
                stored=self._stored(),
                dropped=dict(self._dropped),
                durability="memory" if self._fault is not None else self._durability,
                reason=None if self._fault is None else f"{self._path.name}: {self._fault.reason}",
            )

    def close(self) -> None:
        """See Outbox. Unwritten packets are written if the disk answers in time."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_CLOSE_WITHIN_S)
            if self._thread.is_alive:
                log.warning("outbox.close_cut_off", file=str(self._path))
                return  # the thread is still using the file, so it cannot be closed here
        with self._changed:
            for key in list(self._unwritten):
                self._drop(key, "stopped")
        with self._disk:
            self._close_file()

    def _stored(self) -> int:
        return self._found + self._put - self._acknowledged - sum(self._dropped.values())

    # Reading, on the publisher's thread.

    def _from_file(self, topic: str, after: int, before: int) -> Row | None:
        """The first row of ``topic`` in the file with a key between the two; also reads a page ahead."""
        with self._disk:
            while self._file is not None:
                try:
                    rows = self._file.page(topic, after, before, _PAGE_ROWS)
                except OutboxFault as fault:
                    self._fail(fault)
                    return None
                is_last = len(rows) < _PAGE_ROWS
                with self._changed:
                    waiting = [row for row in rows if row.key not in self._to_delete]
                    self._read.fill(topic, waiting, up_to=before if is_last else None)
                    row = self._read.first_after(topic, after)
                if row is not None or is_last:
                    return row
                after = rows[-1].key
        return None

    def _put_ns(self, row: Row) -> int | None:
        if row.boot == self._boot:
            return row.boot_ns
        if not row.utc_ns or self._clock_state() != "synced":
            return None
        return boot_ns() - max(0, self._clock.utc_ns() - row.utc_ns)

    # Removing; with _changed held.

    def _take_out(self, key: int) -> bool:
        """Remove the packet; False if only the file knows it."""
        row = self._tail.pop(key)
        handed = self._read.take_out(key)
        self._low_rank.pop(key, None)
        known = row or handed
        if known is not None:
            self._topics.remove(known.packet.topic)
        is_unwritten = self._unwritten.pop(key, None) is not None
        if known is not None and (not is_unwritten or key <= self._writing_up_to):
            # A row that is being written gets its size after the commit, because that may fail.
            self._to_delete[key] = 0 if is_unwritten else known.size_bytes
        return known is not None

    def _drop(self, key: int, reason: str) -> None:
        self._take_out(key)
        self._dropped[reason] += 1

    def _bound_memory(self) -> None:
        """Release packets that are in the file; drop the oldest of the others."""
        while self._tail.size_bytes > MEMORY_BYTES and len(self._tail) > 1:
            if (oldest := self._tail.oldest) not in self._unwritten:
                self._tail.pop(oldest)
                self._tail_from = oldest + 1
            else:
                low_rank = next((key for key in self._low_rank if key in self._unwritten), None)
                self._drop(oldest if low_rank is None else low_rank, "outbox_full")

    # Writing, on the thread of the outbox.

    def _write_until_closed(self) -> None:
        trim_at = next_commit = 0.0
        while True:
            with self._changed:
                if not self._has_work():
                    self._changed.wait(self._max_wait_s(trim_at))
                is_closing = self._is_closing
            now = time.monotonic()
            if self._fault is not None and not is_closing:
                if now >= self._retry_at:
                    self._recover()
                continue
            if self._unwritten and not is_closing:
                self._pause(GATHER_S if self._durability == "each" else next_commit - now)
            next_commit = time.monotonic() + GROUP_S
            with self._disk:
                self._commit()
                if now >= trim_at:
                    trim_at = now + TRIM_EVERY_S
                    self._trim_age()
                self._trim_size()
            if is_closing and (not self._unwritten or self._fault is not None):
                return

    def _has_work(self) -> bool:
        if self._is_closing or self._fault is not None:
            return self._is_closing
        return bool(self._unwritten) or len(self._to_delete) >= FORGET_ROWS

    def _max_wait_s(self, trim_at: float) -> float:
        if self._fault is not None:
            return max(0.0, self._retry_at - time.monotonic())
        return FORGET_S if self._to_delete else max(0.0, trim_at - time.monotonic())

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closing, max(0.0, seconds))

    def _commit(self, *, is_probe: bool = False, max_rows: int = _COMMIT_ROWS) -> bool:
        """Write new rows and delete confirmed ones; False if the file failed."""
        if self._file is None:
            return False
        with self._changed:
            rows = list(islice(self._unwritten.values(), max_rows))
            deleted = dict(self._to_delete)
            if not (rows or deleted or is_probe):
                return True
            if rows:
                self._writing_up_to = rows[-1].key
        # Without _changed: put() and ack() must not wait for the disk.
        try:
            if is_probe:
                self._file.probe()
            self._file.write(rows, deleted)
        except OutboxFault as fault:
            self._fail(fault)
            return False
        with self._changed:
            for row in rows:
                self._unwritten.pop(row.key, None)
                self._low_rank.pop(row.key, None)
                self._file_bytes += row.size_bytes
                if row.key in self._to_delete:
                    self._to_delete[row.key] = row.size_bytes
            for key, size in deleted.items():
                self._to_delete.pop(key, None)
                self._file_bytes -= size
        return True

    def _trim_size(self) -> None:
        while self._file is not None and self._file_bytes > self._max_bytes and self._fault is None:
            try:
                victims = self._file.first_to_drop(_VICTIMS)
            except OutboxFault as fault:
                self._fail(fault)
                return
            if not victims:
                return
            # Drop 0.5 % more than needed, so that a full outbox is not trimmed for every packet.
            excess = self._file_bytes - self._max_bytes + self._max_bytes // 200
            for key, size, topic in victims:
                if excess <= 0:
                    break
                excess -= size
                self._drop_stored(key, size, topic, "outbox_full")
            self._commit()

    def _trim_age(self) -> None:
        while victims := self._too_old():
            for key, size, topic in victims:
                self._drop_stored(key, size, topic, "outbox_too_old")
            self._commit()

    def _too_old(self) -> list[tuple[int, int, str]]:
        if self._file is None or self._fault is not None:
            return []
        utc_ns = self._clock.utc_ns() if self._clock_state() == "synced" else 0
        try:
            return self._file.older_than(
                self._max_age_ns, boot=self._boot, boot_ns=boot_ns(), utc_ns=utc_ns, limit=_COMMIT_ROWS
            )
        except OutboxFault as fault:
            self._fail(fault)
            return []

    def _drop_stored(self, key: int, size: int, topic: str, reason: str) -> None:
        with self._changed:
            if key not in self._to_delete:  # else it was confirmed since the last commit
                if not self._take_out(key):
                    self._topics.remove(topic)
                self._dropped[reason] += 1
                self._to_delete[key] = size

    # Faults and recovery, with _disk held.

    def _open_file(self) -> None:
        """Open the file; after a fault also test writing, because a file that cannot be written may still open."""
        file: OutboxFile | None = None
        try:
            file = open_or_replace(self._path, self._make_file)
            content = file.content()
            if self._fault is not None:
                file.probe()
        except OutboxFault as fault:
            if file is not None:
                file.close()
            self._fail(fault)
            return
        with self._changed:
            was = self._fault
            self._file, self._fault = file, None
            self._file_bytes = content.size_bytes
            if not self._has_been_open:
                self._has_been_open = True
                self._found = content.rows
                if not self._put:
                    self._last_key = content.last_key
                    self._tail_from = content.last_key + 1
                for topic, count in content.topics.items():
                    self._topics.add(topic, count)
        if was is not None:
            log.info("outbox.recovered", file=str(self._path))
        if content.rows and was is None:
            log.info("outbox.opened", file=str(self._path), waiting=content.rows)

    def _fail(self, fault: OutboxFault) -> None:
        with self._changed:
            is_new = self._fault is None or self._fault.kind != fault.kind
            self._fault = fault
            self._retry_at = time.monotonic() + self._retry_s
            self._changed.notify()
        if fault.kind not in {"full", "read_only"}:  # a full or read-only file can still be read
            self._close_file()
        if fault.kind == "corrupt":
            self._count_lost()
        if is_new:
            log.error("outbox.in_memory", file=str(self._path), reason=fault.reason)

    def _on_thread_failure(self, error: Exception) -> None:
        """A bug ended the thread: nothing is written any more, and the statistics say so."""
        with self._changed:
            self._fault = OutboxFault("bug", f"its thread failed with {type(error).__name__}: {error}")
        log.error("outbox.failed", file=str(self._path), exc_info=error)

    def _count_lost(self) -> None:
        """The file is damaged: packets in memory go to the next file, the others are counted as lost."""
        with self._changed:
            self._read.clear()
            lost = self._stored() - len(self._tail)
            if lost > 0:
                self._dropped["outbox_corrupt"] += lost
            self._to_delete.clear()
            self._unwritten = self._tail.rows()
            self._topics = WaitingTopics()
            for row in self._unwritten.values():
                self._topics.add(row.packet.topic)

    def _recover(self) -> None:
        """Retry the file by writing the packets that wait in memory."""
        with self._disk:
            if self._file is None:
                self._open_file()
                return
            # Confirmed packets are deleted even if nothing new can be written.
            if not (self._commit(max_rows=0) and self._commit(is_probe=True)):
                return
            with self._changed:
                self._fault = None
        log.info("outbox.recovered", file=str(self._path))

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()
