"""Runs a command so that nothing it has started outlives it, at any load and however it ends.

    python scripts/keeper.py COMMAND [ARGUMENT]...

The process that is started stays behind as the keeper and runs the command in a child. It is the subreaper of all that
comes of it: a process whose parent ends becomes a child of the keeper, also one with a session of its own, so whatever
the command has started is below the keeper at every moment. When the command has ended, all of it is killed until
nothing is left. Needs Linux and Python's standard library alone.

What no keeper can do: act when it is itself killed by SIGKILL. The command gets SIGTERM then.
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
"""Time to tidy up after a polite signal; then the command is killed."""
_KILLED_WITHIN_S = 20.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Source: prctl(2), constants of linux/prctl.h.
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def stay_behind(remove: Path | None = None, *, ends_within_s: float = ENDS_WITHIN_S) -> None:
    """Fork: returns in the child, which goes on; the parent keeps it, and exits as the child has ended.

    ``remove`` is a folder that is removed once nothing runs any more. To be called before any thread is started.
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
    """A new folder for a program that is kept from here on (see ``stay_behind``), removed when that has ended.

    Temporary files of all that it starts lie in it too: what is killed, such as a compiler, cannot remove its own.
    """
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    stay_behind(remove=directory)
    temporary = directory / "tmp"
    temporary.mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    yield directory


def _wait_for(command: int, waited_for: set[signal.Signals], ends_within_s: float) -> int:
    """Hand signals on until the command has ended; its exit code as a shell would give it."""
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
        # What comes from the terminal (a code above 0, of the kernel) has reached the command too: it is in its group.
        if seen.si_code <= 0:
            os.kill(command, seen.si_signo)


def _reap(command: int) -> int | None:
    """Collect every child that has ended; the exit code of ``command`` where it is one of them."""
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
    """Kill what is below this process until nothing is left; the ids of what could not be killed in time."""
    deadline = time.monotonic() + _KILLED_WITHIN_S
    while True:
        # One that forks in between leaves a child here, which the next round finds.
        for pid in _below(os.getpid()):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        _reap(0)
        left = _below(os.getpid())
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(0.01)


def _below(pid: int) -> list[int]:
    """The processes that ``pid`` has started or inherited, and theirs."""
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
