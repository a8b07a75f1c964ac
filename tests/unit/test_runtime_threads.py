from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from agent.runtime.threads import StageThread


def test_the_exception_that_ends_a_stage_is_kept_and_reported() -> None:
    reported: list[Exception] = []

    def work() -> None:
        raise KeyError("planted")

    stage = StageThread("stage", work, on_failure=reported.append)
    stage.start()
    assert stage.join(5)
    assert isinstance(stage.failure, KeyError)
    assert reported == [stage.failure]


def test_a_stage_that_comes_to_its_end_has_no_failure() -> None:
    stage = StageThread("stage", lambda: None)
    assert stage.join(0)
    stage.start()
    assert stage.join(5)
    assert stage.failure is None
    assert not stage.is_alive


def test_join_says_whether_a_stage_still_runs() -> None:
    release = threading.Event()

    def work() -> None:
        release.wait(30)

    stage = StageThread("stage", work)
    stage.start()
    assert not stage.join(0.01)
    assert stage.is_alive
    release.set()
    assert stage.join(5)


_ENDING = """
import atexit, ctypes, os, sys, threading, time
from agent.runtime.threads import StageThread, end_now_if_threads_are_left

library = ctypes.CDLL(None)
library.__cxa_atexit(library.abort, None, None)  # stands for what a library tears down at the end of a process
atexit.register(lambda: os.write(1, b"Python "))
threading.Thread(target=lambda: (time.sleep(0.2), os.write(1, b"joined "))).start()
if sys.argv[1] == "left":
    entered = threading.Event()
    StageThread("in-a-library", lambda: (entered.set(), time.sleep(60))).start()
    entered.wait()
end_now_if_threads_are_left(3)
sys.exit(4)
"""


@pytest.mark.parametrize(("state", "code"), [("left", 3), ("none", -signal.SIGABRT)])
def test_no_library_is_torn_down_beneath_a_thread_that_was_left(state: str, code: int) -> None:
    process = subprocess.run([sys.executable, "-c", _ENDING, state], stdout=subprocess.PIPE, text=True, check=False)
    assert (process.returncode, process.stdout) == (code, "joined Python ")
