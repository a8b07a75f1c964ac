"""Opens the configured outbox."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agent.config.sections.subscribers import OutboxConfig
from agent.publish.outbox.base import MemoryOutbox, Outbox
from agent.publish.outbox.sqlite import SqliteOutbox
from agent.runtime.clock import Clock
from agent.runtime.clock_sync import ClockState

FILE_NAME = "outbox.sqlite"
_MAX_IN_MEMORY = 100_000


def open_outbox(
    config: OutboxConfig, state_dir: Path, *, clock: Clock, clock_state: Callable[[], ClockState]
) -> Outbox:
    """The outbox for ``config``, with its file in ``state_dir``. The caller closes it."""
    max_bytes = config.max_mib << 20
    if config.durability == "memory":
        return MemoryOutbox(_MAX_IN_MEMORY, max_bytes=max_bytes)
    return SqliteOutbox(
        state_dir / FILE_NAME,
        max_bytes=max_bytes,
        max_age_s=config.max_age_h * 3600.0,
        durability=config.durability,
        clock=clock,
        clock_state=clock_state,
    ).open()
