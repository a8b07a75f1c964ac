"""Priorities for the systemd journal: lines that reach it begin with ``<3>`` (error) to ``<7>`` (debug).

Source: sd-daemon(3), "prefixed with a log level"; systemd.exec(5), ``JOURNAL_STREAM``. Output of
others on the same descriptor (libraries in C, children, the stacks of ``faulthandler``) has no prefix and gets the
unit's ``SyslogLevel=``. Nothing is added if stderr is a terminal, a pipe or a file.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Mapping
from typing import Final, TextIO

ERROR: Final = 3
INFO: Final = 6
LEVELS: Final[Mapping[str, int]] = {"debug": 7, "info": INFO, "warning": 4, "error": ERROR, "critical": ERROR}
"""Priority of each log level. ``critical`` is an error too; its event names say more."""

_MAX_PENDING = 64 * 1024
"""Characters of a line without an end; the journal itself cuts lines at 48 KiB."""


def is_journal(stream: object, environ: Mapping[str, str] | None = None) -> bool:
    """Whether ``stream`` is the connection to the journal that ``JOURNAL_STREAM`` names.

    The variable alone is not enough: ``agent run 2>file`` inherits it.
    """
    device, _, inode = (os.environ if environ is None else environ).get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(stream.fileno())  # type: ignore[attr-defined]  # any object; AttributeError is caught
    except (AttributeError, OSError, ValueError):
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


def prefixed(text: str, priority: int) -> str:
    """``text`` with the priority before each line, because the journal stores each line as one entry.

    A line that has a priority keeps it.
    """
    return "".join(line if _has_prefix(line) else f"<{priority}>{line}" for line in text.splitlines(keepends=True))


def _has_prefix(line: str) -> bool:
    return line[:1] == "<" and line[1:2] in set("01234567") and line[2:3] == ">"


class JournalText(io.TextIOWrapper):
    """Standard error that goes to the journal. Each line without a priority gets ``plain_priority``: tracebacks, the
    usage text of a command, output of Python libraries.

    Each thread buffers its unfinished line, so that no prefix lands inside another thread's line.
    """

    def __init__(self, stream: TextIO, *, plain_priority: int = INFO) -> None:
        """The caller keeps ``stream``; its buffer is shared."""
        self.plain_priority = plain_priority
        self._begun = threading.local()
        super().__init__(stream.buffer, encoding="utf-8", errors="backslashreplace", write_through=True)

    def write(self, text: str) -> int:
        """Write the lines that ``text`` completes."""
        begun = getattr(self._begun, "text", "") + text
        whole, end, rest = begun.rpartition("\n")
        if len(rest) > _MAX_PENDING:
            whole, end, rest = begun, "\n", ""
        self._begun.text = rest
        if end:
            super().write(prefixed(whole + end, self.plain_priority))
            super().flush()
        return len(text)

    def flush(self) -> None:
        """Write this thread's unfinished line as a line of its own."""
        begun: str = getattr(self._begun, "text", "")
        if begun and not self.closed:
            self.write("\n")
        super().flush()


def add_journal_priorities() -> None:
    """Add priorities to what this process writes to stderr, if that is the journal; harmless when repeated."""
    if not isinstance(sys.stderr, JournalText) and isinstance(sys.stderr, io.TextIOWrapper) and is_journal(sys.stderr):
        sys.stderr = JournalText(sys.stderr)


def log_plain_lines_as_errors() -> None:
    """Give lines without a priority the priority of an error: the daemon, and a command that failed, print no
    other."""
    if isinstance(sys.stderr, JournalText):
        sys.stderr.plain_priority = ERROR
