"""The agent on a hot board, whose tree it sees as /sys: clocks lowered, and put back, also after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fixtures.agent_process import write_config
from tests.fixtures.boards import ORIN_NX, BoardTree, tree_of
from tests.fixtures.deadlines import wait_until
from tests.fixtures.namespaces import isolated

pytestmark = pytest.mark.timeout(180)

GPU = "class/devfreq/17000000.gpu/max_freq"
CPU = "devices/system/cpu/cpufreq/policy0/scaling_max_freq"
_GPU_HZ, _CPU_KHZ = 918_000_000, 1_984_000
_START_S = 60.0


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[BoardTree]:
    with tree_of(ORIN_NX, tmp_path / "sys") as tree:
        for path, value in ((GPU, _GPU_HZ), (CPU, _CPU_KHZ)):
            (tree.root / path).parent.mkdir(parents=True, exist_ok=True)
            (tree.root / path).write_text(f"{value}\n")
        yield tree


def _clocks(tree: BoardTree) -> tuple[int, int]:
    return _number(tree.root / GPU), _number(tree.root / CPU)


def _number(file: Path) -> int:
    """A plain file is empty for a moment while it is written, unlike one of sysfs."""
    while not (text := file.read_text()):
        time.sleep(0.001)
    return int(text)


def _config(directory: Path) -> Path:
    return write_config(
        directory,
        {
            "models": {"inspect": {"package": "demo", "engine": "ort-cpu"}},
            "cameras": {
                "cam": {
                    "source": {"type": "pattern", "fps": 10, "width": 160, "height": 120},
                    "classify": [{"model": "inspect"}],
                }
            },
            "mqtt": {"broker": "mqtt://127.0.0.1:9"},
            "thermal": {"source": "sysfs", "interval_s": 0.2, "governor": {"clocks": True, "min_rate_ratio": 0.5}},
        },
    )


@contextmanager
def _agent(tree: BoardTree, config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = isolated([sys.executable, "-m", "agent", "run", "-c", str(config)], f"mount --bind {tree.root} /sys")
    env = {"PYTHONPATH": str(Path.cwd()), "PATH": os.environ["PATH"]}
    with log.open("ab") as stream:
        agent = subprocess.Popen(command, stderr=stream, env=env)
        try:
            yield agent
        finally:
            agent.kill()
            agent.wait()


def test_clocks_are_lowered_under_heat_and_put_back_at_the_end_and_after_a_kill(
    tree: BoardTree, tmp_path: Path
) -> None:
    config, log = _config(tmp_path), tmp_path / "log"
    tree.heat(96.5)
    with _agent(tree, config, log) as agent:
        wait_until(lambda: _clocks(tree)[0] < _GPU_HZ and _clocks(tree)[1] < _CPU_KHZ, within_s=_START_S)
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(20.0) == 0
    assert _clocks(tree) == (_GPU_HZ, _CPU_KHZ)

    with _agent(tree, config, log) as agent:
        wait_until(lambda: _clocks(tree)[0] < _GPU_HZ, within_s=_START_S)
        agent.kill()
        agent.wait()
    assert _clocks(tree)[0] < _GPU_HZ

    tree.heat(50.0)
    with _agent(tree, config, log) as agent:
        wait_until(lambda: _clocks(tree) == (_GPU_HZ, _CPU_KHZ), within_s=_START_S)
        agent.send_signal(signal.SIGTERM)
        agent.wait(20.0)
    text = log.read_text()
    assert "thermal.governor_changed" in text
    assert "thermal.clocks_restored" in text
