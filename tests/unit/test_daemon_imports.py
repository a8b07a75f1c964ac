"""The imports of the agent's start: no threads of numpy and OpenCV, and no search for garbage."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest

from agent.daemon.imports import without_garbage_search

_COUNT = """
import os, sys
from agent.daemon.imports import load_with_one_blas_thread
load_with_one_blas_thread()
import numpy as np, cv2
np.ones((64, 64)) @ np.ones((64, 64))
print(len(os.listdir("/proc/self/task")), os.environ.get("OPENBLAS_NUM_THREADS", "unset"))
"""


def _run(**variables: str) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"} | variables
    done = subprocess.run(
        [sys.executable, "-c", _COUNT], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.split()


def test_the_libraries_start_no_thread_and_the_environment_is_as_before() -> None:
    assert _run() == ["1", "unset"]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="with one core OpenBLAS starts no thread")
def test_a_number_in_the_environment_goes_before() -> None:
    threads, variable = _run(OPENBLAS_NUM_THREADS="2")
    assert int(threads) > 1
    assert variable == "2"


def test_garbage_is_searched_for_again_after_the_imports() -> None:
    with pytest.raises(ImportError, match="lost"), without_garbage_search():
        assert not gc.isenabled()
        raise ImportError("lost")
    assert gc.isenabled()


def test_who_searches_never_goes_before() -> None:
    gc.disable()
    try:
        with without_garbage_search():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
