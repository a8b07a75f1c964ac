"""The outbox's file stays below its limit, even after disk faults."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from agent.mqtt.base import Packet
from agent.publish.outbox.file import ROW_BYTES, OutboxFault, OutboxFile, Row
from agent.publish.outbox.sqlite import SqliteOutbox
from tests.fixtures.deadlines import wait_until


def _is_written(outbox: SqliteOutbox) -> bool:
    return not outbox._unwritten and not outbox._to_delete


def test_events_confirmed_while_the_disk_was_full_do_not_raise_the_limit(tmp_path: Path) -> None:
    is_full, packet = True, Packet("t", b"x" * (285 - 1 - ROW_BYTES), 1)

    class Filled(OutboxFile):
        def write(self, rows: Sequence[Row], gone: Iterable[int] = ()) -> None:
            if is_full and rows:
                raise OutboxFault("full", "planted")
            super().write(rows, gone)

    outbox = SqliteOutbox(tmp_path / "outbox.sqlite", max_bytes=100 * 300, retry_s=0.05, open_file=Filled).open()
    keys = [outbox.put(packet) for _ in range(200)]
    wait_until(lambda: outbox.statistics().durability == "memory")
    for key in keys:
        outbox.ack(key)
    is_full = False
    wait_until(lambda: outbox.statistics().durability == "each" and _is_written(outbox))
    for _ in range(200):
        outbox.put(packet)
    wait_until(lambda: outbox.statistics().stored * 285 <= 100 * 300)
    outbox.close()
