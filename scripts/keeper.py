"""Runs a command so that no process it has started outlives it, however it ends.

    python scripts/keeper.py COMMAND [ARGUMENT]...

The keeper runs the command in a child and is its subreaper (prctl(2)): a process whose parent ends becomes a child of
the keeper, even with a session of its own, so all descendants stay below the keeper. When the command has ended, the
keeper kills them until none is left. Needs only Linux and Python's standard library.

If the keeper itself is killed by SIGKILL it cannot act; the command then gets SIGTERM.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

KEPT_BY = "KEPT_BY"
"""Variable of the command's environment: the process id of its keeper."""

ENDS_WITHIN_S = 30.0
"""Time to clean up after SIGTERM, SIGINT or SIGHUP; then the command is killed."""
_KILLED_WITHIN_S = 20.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Source: prctl(2), constants of linux/prctl.h.
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def stay_behind(remove: Path | None = None, *, ends_within_s: float = ENDS_WITHIN_S) -> None:
    """Fork. Returns in the child; the parent becomes its keeper and exits with the child's exit code.

    ``remove`` is a folder that is removed when no process is left. Call it before starting any thread.
    """
    keeper = os.getpid()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    waited_for = {*_SIGNALS, signal.SIGCHLD}
    usual = signal.pthread_sigmask(signal.SIG_BLOCK, waited_for)
    command = os.fork()
    if command == 0:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != keeper:
            os._exit(1)
        os.environ[KEPT_BY] = str(keeper)
        signal.pthread_sigmask(signal.SIG_SETMASK, usual)
        return
    code = _wait_for(command, waited_for, ends_within_s)
    left = _kill_all()
    if remove is not None:
        shutil.rmtree(remove, ignore_errors=True)
    if left:
        os.write(2, f"keeper: process {', '.join(map(str, left))} could not be killed\n".encode())
        code = code or 70
    os._exit(code)


@contextmanager
def kept_directory(prefix: str) -> Iterator[Path]:
    """A new folder for this program, which gets a keeper (see ``stay_behind``); removed when it has ended.

    It holds the temporary files of all descendants too: a killed compiler cannot remove its own.
    """
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    stay_behind(remove=directory)
    temporary = directory / "tmp"
    temporary.mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    yield directory


def _wait_for(command: int, waited_for: set[signal.Signals], ends_within_s: float) -> int:
    """Forward signals until the command has ended; its exit code as in a shell."""
    kill_at = float("inf")
    while True:
        code = _reap(command)
        if code is not None:
            return code
        if time.monotonic() >= kill_at:
            os.kill(command, signal.SIGKILL)
        seen = signal.sigtimedwait(waited_for, 1.0)
        if seen is None or seen.si_signo == signal.SIGCHLD:
            continue
        kill_at = min(kill_at, time.monotonic() + ends_within_s)
        # The terminal's signals (si_code above 0: from the kernel) reach the command anyway: it is in the same group.
        if seen.si_code <= 0:
            os.kill(command, seen.si_signo)


def _reap(command: int) -> int | None:
    """Reap all ended children; the exit code of ``command`` if it is one of them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == command:
            ended = os.waitstatus_to_exitcode(status)
            code = ended if ended >= 0 else 128 - ended


def _kill_all() -> list[int]:
    """Kill all descendants until none is left; the ids of those that could not be killed in time."""
    deadline = time.monotonic() + _KILLED_WITHIN_S
    while True:
        # A process that forks meanwhile leaves a child here, which the next round finds.
        for pid in _below(os.getpid()):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        _reap(0)
        left = _below(os.getpid())
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(0.01)


def _below(pid: int) -> list[int]:
    """Ids of all descendants of ``pid``."""
    found = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(word) for word in listing.read_text(encoding="ascii").split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in children:
            found += [child, *_below(child)]
    return found


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), f"prctl {option}")


def main(command: list[str]) -> None:
    """Keep ``command``; does not return."""
    if not command:
        print("usage: keeper.py COMMAND [ARGUMENT]...", file=sys.stderr)
        sys.exit(2)
    stay_behind()
    try:
        os.execvp(command[0], command)  # noqa: S606 - the command of the caller, without a shell
    except OSError as exc:
        print(f"keeper: {command[0]} cannot be started: {exc.strerror}", file=sys.stderr)
        sys.exit(127 if isinstance(exc, FileNotFoundError) else 126)


if __name__ == "__main__":
    main(sys.argv[1:])
