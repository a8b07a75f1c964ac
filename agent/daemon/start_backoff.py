"""Delays a start after several failed ones, so that a broken board does not fill its journal."""

from __future__ import annotations

import time
from pathlib import Path

from agent.runtime.boot import BOOT_ID, boot_id
from agent.runtime.logs import get_logger
from engines import JsonRecord

log = get_logger(__name__)

_FILE = "failures.json"
_WITHOUT_WAITING = 2
_FIRST_WAIT_S = 10.0
_MAX_WAIT_S = 300.0
_WELL_AFTER_S = 600.0
"""A run that was ready for this long counts as good, however it ends."""
NEVER_REPEATED = frozenset({2, 78})
"""RestartPreventExitStatus of the unit: after these, a person starts the agent again, and should not have to wait."""


class StartBackoff:
    """Counts in ``state_dir`` the failed runs in a row, of one configuration in one boot. Main thread only.

    SIGKILLed runs neither count as failures nor reset the count.
    """

    def __init__(self, state_dir: Path, config_sha256: str, *, boot: Path = BOOT_ID) -> None:
        self._record = JsonRecord[int](
            state_dir / _FILE,
            encode=int,
            decode=_count,
            facts={"boot": boot_id(boot), "config": config_sha256},
            is_durable=False,
        )
        self._is_well_at_s: float | None = None
        self.count = self._record.load() or 0
        """Failures in a row before this run; a new configuration or a reboot starts at 0."""

    def wait_s(self) -> float:
        """Seconds that the next start waits: 0 after one or two failures, at most five minutes."""
        further = self.count - _WITHOUT_WAITING - 1
        return 0.0 if further < 0 else min(_FIRST_WAIT_S * 2.0 ** min(further, 10), _MAX_WAIT_S)

    def ready(self) -> None:
        """The run is ready; after ten more minutes it counts as good."""
        self._is_well_at_s = time.monotonic() + _WELL_AFTER_S

    def note(self, exit_code: int) -> None:
        """The run ends with ``exit_code``; the last call counts."""
        is_well = self._is_well_at_s is not None and time.monotonic() >= self._is_well_at_s
        try:
            if exit_code == 0 or exit_code in NEVER_REPEATED:
                self._record.path.unlink(missing_ok=True)
            else:
                self._record.save(1 if is_well else self.count + 1)
        except OSError as exc:
            log.warning("start.count_write_failed", path=str(self._record.path), error=exc.strerror)


def _count(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is no count of failures")
    return value
