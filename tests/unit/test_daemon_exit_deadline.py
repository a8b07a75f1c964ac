"""A process that must be gone soon is gone, whatever hangs in it."""

from __future__ import annotations

import subprocess
import sys

from agent.daemon.exit_deadline import LastResort

_HANGING = """
import time
from agent.daemon.exit_deadline import LastResort
LastResort().arm(0.1, 70)
time.sleep(600)
"""


def test_a_process_that_hangs_ends_with_the_code_that_was_meant() -> None:
    assert subprocess.run([sys.executable, "-c", _HANGING], timeout=60, check=False).returncode == 70


def test_one_that_ended_in_time_is_left_alone() -> None:
    last_resort = LastResort()
    last_resort.arm(3600, 70)
    last_resort.disarm()
    last_resort.disarm()
