"""The agent's start: numpy and OpenCV bring no threads of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_COUNT = """
import os, sys
from agent.daemon.blas import load_with_one_blas_thread
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
