"""The child's side of a sandbox: bound to its parent, one job on standard input, JSON lines as answers."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from engines.errors import EngineError

_PR_SET_PDEATHSIG = 1
_PARENT = "AGENT_BUILD_PARENT"
_PROGRAM = Path(__file__).parents[1]
_INSTALLED = frozenset({"site-packages", "dist-packages"})
UNEXPECTED_ERROR = 70
"""Exit code for an exception that nobody expected; a library that ends the process has exit codes of its own."""


@dataclass(frozen=True, slots=True)
class Parent:
    """The process that waits for this one: what it asks for, and the way to answer. Any thread may answer."""

    job: dict[str, Any]
    _output: TextIO
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def say(self, message: Mapping[str, object]) -> None:
        """Send one message, whole: ``{"phase": ..., "ratio": ...}`` or, last, ``{"result": {...}}``."""
        text = json.dumps(dict(message))
        with self._lock:
            print(text, file=self._output, flush=True)


def serve_parent() -> Parent:
    """Make this process the child of a ``JsonChild`` and read its job. Call it first in the child's ``main``.

    From now on it ends with its parent, is the first that the kernel kills when memory runs out, runs at low
    priority, and exits with ``UNEXPECTED_ERROR`` on an unexpected exception. Standard output is the parent's alone:
    what a library prints goes to standard error.
    """
    bind_to_parent()
    exit_on_unexpected_error()
    # By descriptor, because C libraries print past sys.stdout.
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    job = json.loads(sys.stdin.readline())
    return Parent(job, output)


def stated(error: EngineError) -> dict[str, object]:
    """An error as an answer, from which the parent makes it again."""
    fields = {key: one if isinstance(one, str | int | float | bool) else str(one) for key, one in error.fields.items()}
    return {"kind": type(error).__name__, "message": error.message, "fields": fields}


def child_environ() -> dict[str, str]:
    """What a parent adds to its child's environment so that ``bind_to_parent`` knows it."""
    return {_PARENT: str(os.getpid())}


def bind_to_parent() -> None:
    """End with the parent, however it ends; be killed before others when memory runs out; run at low priority."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = os.environ.get(_PARENT, "")
    if parent.isdigit() and os.getppid() != int(parent):
        os._exit(1)  # the parent died before prctl, so no signal will come
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    with contextlib.suppress(OSError):
        os.nice(10)


def _is_of_library(trace: TracebackType | None) -> bool:
    """Whether the innermost frame of ``trace`` is in a file of another installed package than this program's."""
    innermost = None
    while trace is not None:
        innermost, trace = trace, trace.tb_next
    if innermost is None:
        return False
    file = Path(innermost.tb_frame.f_code.co_filename)
    return not _INSTALLED.isdisjoint(file.parts) and not file.is_relative_to(_PROGRAM)


def exit_on_unexpected_error() -> None:
    """End with ``UNEXPECTED_ERROR`` and a traceback on an exception that nobody catches.

    MemoryError is no bug of this program: the job needs the memory. Nor is an exception raised inside a library, which
    the model made fail: that ends with 1.
    """

    def end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        traceback.print_exception(kind, error, trace)
        sys.stderr.flush()
        is_theirs = issubclass(kind, MemoryError) or _is_of_library(trace)
        os._exit(1 if is_theirs else UNEXPECTED_ERROR)

    sys.excepthook = end
