"""Stops a plan that crashes the process from doing so at every start."""

from __future__ import annotations

import time
from pathlib import Path

from engines.errors import EngineUnavailable
from engines.store.records import JsonRecord, RecordDamaged

STARTS = 3
"""A plan is not loaded again after this many starts that ended in a crash."""
HEALTHY_AFTER_S = 60.0
"""After this time without a crash a plan is trusted."""


class CrashCounter:
    """Counts the starts of a plan until it has run well. The count is written before the plan is loaded.

    An orderly end takes the start back; a crash, a kill or a lost device leaves it counted. The counter cannot know
    who sent a kill: ``kill -9`` by an operator counts like the out-of-memory killer, and the message says so.
    """

    def __init__(self, marker: Path) -> None:
        """Read nothing yet."""
        self._marker = marker
        self._record: JsonRecord[int | None] = JsonRecord(marker, encode=lambda starts: starts, decode=_starts_from)
        self._began_s: float | None = None

    def begin(self, *, engine: str) -> None:
        """Count this start.

        Raises:
            EngineUnavailable: the plan has crashed too often.
        """
        starts = self.starts
        if starts is None:
            return
        if starts >= STARTS:
            ended = (
                f"has ended this program {starts} times within {HEALTHY_AFTER_S:.0f} s of its start (crash, kill, "
                "power cut or lost device)"
            )
            raise EngineUnavailable(
                f"the plan {self._marker.stem} {ended}; {STARTS} times is the limit. It is not loaded any more. "
                "Build it again, also if the program was killed for another reason (kill -9): agent build --force",
                engine=engine,
                reason=f"its plan {ended}",
                remedy="build it again: agent build --force",
                starts=starts,
            )
        if self._write(starts + 1):
            self._began_s = time.monotonic()

    @property
    def starts(self) -> int | None:
        """Starts that ended badly so far; None once the plan has run well."""
        try:
            return self._record.read()
        except FileNotFoundError:
            return 0
        except RecordDamaged:
            # A power cut can damage the record, so there was at least one bad end.
            return 1

    def note_success(self) -> bool:
        """Record a run that worked; return True once there is nothing left to watch."""
        if self._began_s is None:
            return True
        if time.monotonic() - self._began_s < HEALTHY_AFTER_S:
            return False
        self._began_s = None
        self._write(None)
        return True

    def end_well(self) -> None:
        """Take this start back: the engine was closed in order."""
        if self._began_s is not None:
            starts, self._began_s = self.starts, None
            if starts is not None:  # else another process has trusted the plan in the meantime
                self._write(max(0, starts - 1))

    def _write(self, starts: int | None) -> bool:
        """Write the count; return False if that fails, since a full disk must not keep a plan from serving."""
        try:
            self._record.save(starts)
        except OSError:
            return False
        return True


def _starts_from(value: object) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise ValueError(f"{value!r} is no number of starts")
    return value
