"""What every test must leave behind: nothing.

After each test no thread, file descriptor, child process or swallowed exception may remain; the failure names the
test and what it left. Fixtures of module and session scope are set up before the snapshot and are not counted, as long
as the test takes them as arguments (`request.getfixturevalue` in a test's body would be too late). What they leave is
found once more at the end of the session.

Tolerated, because nobody can close them:
- native threads of libraries (ONNX Runtime, OpenCV, FFmpeg): Python does not list them;
- the `_DummyThread` records that Python makes for native threads which called into it;
- device files of a GPU driver, opened once per process at first use (`_SINGLETON_TARGETS`);
- the resource tracker of `multiprocessing`, a child and a pipe per process: started before the first snapshot.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing.resource_tracker
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import psutil
import pytest
import structlog

from agent.runtime.logs import LibraryHandler
from scripts import sealed_path

# Threads and descriptors of a library may need a moment to go after the call that ends them has returned.
_SETTLE_S = 1.0

_SINGLETON_TARGETS = ("/dev/nvidia", "/dev/nvhost", "/dev/nvmap", "/dev/dri/", "/dev/shm/cuda")

# An undeclared program is found on no machine, also where pytest is called by hand. Processes of xdist inherit it.
os.environ.update(sealed_path.seal(os.environ, Path(__file__).parents[1] / ".venvs"))

# Read when ONNX Runtime is imported, which otherwise writes below the home directory of whoever runs the tests.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# Read when gRPC is imported. With it gRPC's core makes its descriptors again after each fork, which looks like a leak.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

# A shell makes what it starts in the background ignore Ctrl-C, nohup does so with SIGHUP, and every child inherits it.
if threading.current_thread() is threading.main_thread():
    for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(_number) is signal.SIG_IGN:
            signal.signal(_number, _usual)

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None, print_blob=True)
hypothesis.settings.register_profile("exploring", deadline=None)
hypothesis.settings.load_profile("repeatable" if os.environ.get("CI") == "true" else "exploring")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What this process holds at one moment."""

    threads: frozenset[threading.Thread]
    descriptors: frozenset[tuple[int, str]]
    children: frozenset[psutil.Process]

    @classmethod
    def take(cls) -> Snapshot:
        """Read the threads, open descriptors and children (with their own children) of this process."""
        return cls(
            threads=frozenset(t for t in threading.enumerate() if not isinstance(t, threading._DummyThread)),
            descriptors=frozenset(_open_descriptors()),
            children=frozenset(psutil.Process().children(recursive=True)),
        )

    def leaks_since(self, before: Snapshot) -> list[str]:
        """Describe what is here and was not there before, one line each."""
        lines = [f"thread {t.name!r}{' (daemon)' if t.daemon else ''}" for t in self.threads - before.threads]
        lines += [f"file descriptor {fd} -> {target}" for fd, target in self.descriptors - before.descriptors]
        lines += [f"child process {_described(child)}" for child in self.children - before.children]
        return sorted(lines)


def _open_descriptors() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:  # the descriptor of this very listing
            continue
        # pytest swaps 0 to 2 while it captures output, also in the middle of a fixture's life.
        if int(entry.name) > 2 and not target.startswith(_SINGLETON_TARGETS):
            yield int(entry.name), target


def _described(child: psutil.Process) -> str:
    try:
        if child.status() == psutil.STATUS_ZOMBIE:
            return f"{child.pid}, ended but never waited for"
        return f"{child.pid}: {' '.join(child.cmdline())[:200]}"
    except psutil.NoSuchProcess:
        return f"{child.pid}, just gone"


def _leaks_after_settling(before: Snapshot) -> list[str]:
    """Leaks that are still there at the deadline, or an empty list as soon as there are none."""
    deadline = time.monotonic() + _SETTLE_S
    while leaks := Snapshot.take().leaks_since(before):
        if time.monotonic() > deadline:
            return leaks
        time.sleep(0.01)
    return []


def _end_children(before: Snapshot) -> None:
    """Kill leaked children, so that one test's leak does not load the machine of the next."""
    for child in Snapshot.take().children - before.children:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            child.kill()
            child.wait(timeout=5)


@pytest.fixture(scope="session", autouse=True)
def _nothing_survives_the_session() -> Iterator[None]:
    multiprocessing.resource_tracker.ensure_running()
    before = Snapshot.take()
    yield
    gc.collect()
    if leaks := _leaks_after_settling(before):
        _end_children(before)
        pytest.fail("fixtures of module or session scope left behind:\n  " + "\n  ".join(leaks), pytrace=False)


@pytest.fixture
def swallowed_exceptions() -> Iterator[list[str]]:
    """Exceptions that nobody could catch: of threads and of finalisers, as formatted tracebacks.

    A test that provokes one on purpose takes this fixture, asserts on the list and clears it.
    """
    seen: list[str] = []

    def note_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:
            name = args.thread.name if args.thread else "unknown"
            text = "".join(traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback))
            seen.append(f"in thread {name!r}:\n{text}")

    def note_unraisable(args: sys.UnraisableHookArgs) -> None:
        text = "".join(traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback))
        seen.append(f"{args.err_msg or 'Exception ignored in'} {args.object!r}:\n{text}")

    hooks: tuple[Callable[..., object], Callable[..., object]] = (threading.excepthook, sys.unraisablehook)
    threading.excepthook, sys.unraisablehook = note_thread, note_unraisable
    try:
        yield seen
    finally:
        threading.excepthook, sys.unraisablehook = hooks


@pytest.fixture(autouse=True)
def _log_settings_end_with_the_test() -> Iterator[None]:
    """A command called in this process sets where logs go and from which level on, for every later test too."""
    root = logging.getLogger()
    level, handlers = root.level, tuple(root.handlers)
    yield
    # Not back to what it was before: a fixture of module scope may have called a command already.
    structlog.reset_defaults()
    root.setLevel(level)
    # Not pytest's own handlers, which it adds and removes for each phase of a test.
    for handler in [one for one in root.handlers if isinstance(one, LibraryHandler) and one not in handlers]:
        root.removeHandler(handler)


@pytest.fixture(autouse=True)
def _nothing_survives_a_test(request: pytest.FixtureRequest, swallowed_exceptions: list[str]) -> Iterator[None]:
    # Freezing makes the collection below look only at what the test made: 1 ms instead of 100.
    gc.freeze()
    before = Snapshot.take()
    yield
    gc.collect()
    gc.unfreeze()
    leaks = _leaks_after_settling(before)
    _end_children(before)
    leaks += [f"exception nobody caught {text}" for text in swallowed_exceptions]
    if leaks:
        pytest.fail(f"{request.node.nodeid} left behind:\n  " + "\n  ".join(leaks), pytrace=False)
