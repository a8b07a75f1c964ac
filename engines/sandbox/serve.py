"""What the child's side of a sandbox does first: die with its parent, end with a known code."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import traceback
from pathlib import Path
from types import TracebackType

_PR_SET_PDEATHSIG = 1
OWN_FAULT = 70
"""A child's exit code for an exception that nobody has foreseen; a library that ends the process chooses its own."""


def bind_to_parent() -> None:
    """In the child: not to outlive who waits for it, to be the first to go where memory runs out, and to be nice.

    Linux keeps the promise even where the parent is killed.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = os.environ.get("AGENT_BUILD_PARENT", "")
    if parent.isdigit() and os.getppid() != int(parent):
        os._exit(1)  # it died before the promise was made
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    with contextlib.suppress(OSError):
        os.nice(10)


def own_up() -> None:
    """In the child: end with ``OWN_FAULT`` and the traceback where an exception is caught by nobody.

    Python's own shortage of memory is no such mistake: the job asked for it.
    """

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        traceback.print_exception(kind, error, trace)
        sys.stderr.flush()
        os._exit(1 if issubclass(kind, MemoryError) else OWN_FAULT)

    sys.excepthook = tell
