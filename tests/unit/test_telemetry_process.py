"""The agent's view of its own process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from agent.telemetry.process import ProcessMeter

_WITHOUT_DESCRIPTORS = """
import resource
from agent.telemetry.process import ProcessMeter
meter = ProcessMeter()
first = meter.read()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
second = meter.read()
assert (second.rss_bytes, second.fds) == (first.rss_bytes, first.fds), (first, second)
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
assert meter.read().rss_bytes > 0
"""


def test_a_reading_has_all_figures() -> None:
    meter = ProcessMeter()
    assert meter.read().cpu_ratio == 0.0
    figures = meter.read()
    assert figures.rss_bytes > 2**20
    assert figures.threads >= 1
    assert figures.fds >= 3


def test_without_a_free_descriptor_the_last_reading_stands() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-c", _WITHOUT_DESCRIPTORS]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert result.returncode == 0, result.stderr
