"""The sign of life without a service manager, as in a container: a file with the deadline of the next one."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

from agent.runtime.logs import get_logger
from engines import read_regular, write_atomic

log = get_logger(__name__)

VARIABLE = "AGENT_ALIVE_FILE"
"""The environment variable that names the file, for the agent (writes) and for `agent health` (reads)."""

_MAX_BYTES = 64 * 2**10

INTERVAL_S = 30.0
"""Longest time between two signs of life: the unit's WatchdogSec."""


class AliveFile:
    """Written by the main thread. Times are CLOCK_MONOTONIC, which all processes of this boot share."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._has_failed = False

    def write(self, for_s: float, status: str) -> None:
        """The agent makes progress, and will write again within ``for_s`` seconds unless it is stuck."""
        text = json.dumps({"until_ns": time.monotonic_ns() + round(for_s * 1e9), "status": status})
        try:
            # No fsync: it is about this moment. Not private: the health check may run as another user.
            write_atomic(self._path, text.encode(), is_durable=False, is_private=False)
        except OSError as exc:
            if not self._has_failed:
                log.warning("alive.write_failed", file=str(self._path), error=str(exc))
            self._has_failed = True
        else:
            self._has_failed = False

    def remove(self) -> None:
        """The agent has ended."""
        with contextlib.suppress(OSError):  # it was never written, or its folder is gone
            self._path.unlink()


@dataclass(frozen=True, slots=True)
class Health:
    """What the file says now."""

    is_alive: bool
    text: str


def read_health(path: Path) -> Health:
    """Read the file of an agent. Absent, damaged or late means that the agent is not healthy."""
    try:
        value = json.loads(read_regular(path, max_bytes=_MAX_BYTES))
        late_s = (time.monotonic_ns() - int(value["until_ns"])) / 1e9
        status = str(value["status"])
    except OSError as exc:
        return Health(is_alive=False, text=f"no agent writes {path}: {exc.strerror}")
    except (ValueError, TypeError, KeyError, RecursionError):
        return Health(is_alive=False, text=f"{path} was not written by an agent")
    if late_s > 0:
        return Health(is_alive=False, text=f"the agent is {late_s:.0f} s late; it last said: {status}")
    return Health(is_alive=True, text=status)
