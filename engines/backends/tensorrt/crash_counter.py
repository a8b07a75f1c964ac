"""A new plan is on crashes: one that takes the process with it must not do so at every start."""

from __future__ import annotations

import time
from pathlib import Path

from engines.errors import EngineUnavailable
from engines.store.records import JsonRecord, RecordDamaged

STARTS = 3
"""So many starts that ended by a crash condemn a plan."""
HEALTHY_AFTER_S = 60.0
"""A plan that has worked for so long is proven."""


class CrashCounter:
    """Counts the starts of one plan until it is proven. The count is written before the plan is loaded.

    A start that ends in order is taken back; a crash, a kill or a lost device leaves its count behind. Who killed
    cannot be known: an operator's ``kill -9`` counts as the out-of-memory killer's does, and the message says so.
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
                f"has ended this program {starts} times within {HEALTHY_AFTER_S:.0f} s of its start, by a crash, a "
                "kill, a power cut or a lost device"
            )
            raise EngineUnavailable(
                f"the plan {self._marker.stem} {ended}; {STARTS} such ends condemn a plan, whoever caused them. It is "
                "not loaded any more. Build it again, also where somebody else ended the program (kill -9): "
                "agent build --force",
                engine=engine,
                reason=f"its plan {ended}",
                remedy="build it again: agent build --force",
                starts=starts,
            )
        if self._write(starts + 1):
            self._began_s = time.monotonic()

    @property
    def starts(self) -> int | None:
        """Starts that did not end well so far; None for a proven plan."""
        try:
            return self._record.read()
        except FileNotFoundError:
            return 0
        except RecordDamaged:
            # A marker that a power cut has damaged speaks of at least one bad end.
            return 1

    def note_success(self) -> bool:
        """After a run that worked: true from the moment on when nothing is left to watch."""
        if self._began_s is None:
            return True
        if time.monotonic() - self._began_s < HEALTHY_AFTER_S:
            return False
        self._began_s = None
        self._write(None)
        return True

    def end_well(self) -> None:
        """The engine was closed in order: this start is no sign against the plan."""
        if self._began_s is not None:
            starts, self._began_s = self.starts, None
            if starts is not None:  # else another process has proven the plan meanwhile
                self._write(max(0, starts - 1))

    def _write(self, starts: int | None) -> bool:
        """A full disk must not keep a plan from serving: then nothing is counted, and False is given."""
        try:
            self._record.save(starts)
        except OSError:
            return False
        return True


def _starts_from(value: object) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise ValueError(f"{value!r} is no number of starts")
    return value
