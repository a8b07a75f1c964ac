"""The agent itself on real boards' trees, bound to /sys where only it sees them: a warm board costs no frame."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import orjson
import pytest

from tests.fixtures.agent_process import write_config
from tests.fixtures.boards import ORIN_NANO_SUPER, ORIN_NX, Board, tree_of
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.namespaces import isolated
from tests.fixtures.recorder import Recorder

pytestmark = pytest.mark.timeout(120)

_FPS = 10
_RESULT = "edge/dut/camera/cam/inspect/result"
_THERMAL = "edge/dut/thermal"
_HEALTH = "edge/dut/health"
_STOP_S = 10.0


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[MosquittoBroker]:
    with MosquittoBroker(tmp_path / "broker") as running:
        yield running


def _config(directory: Path, broker: str) -> Path:
    camera = {
        "source": {"type": "pattern", "fps": _FPS, "width": 160, "height": 120},
        "classify": [{"model": "inspect"}],
    }
    models = {"inspect": {"package": "demo", "engine": "ort-cpu"}}
    thermal = {"source": "sysfs", "interval_s": 0.5}
    config = {"models": models, "cameras": {"cam": camera}, "mqtt": {"broker": broker}, "thermal": thermal}
    return write_config(directory, config)


def _last(recorder: Recorder, topic: str) -> dict[str, Any]:
    message: dict[str, Any] = orjson.loads(recorder.messages(topic)[-1].payload)
    return message


def _intervals_s(recorder: Recorder) -> list[float]:
    """Between the captures of the results."""
    texts = [orjson.loads(message.payload)["captured_at"] for message in recorder.messages(_RESULT)]
    times = [datetime.fromisoformat(text.replace("Z", "+00:00")) for text in texts]
    return [(later - earlier).total_seconds() for earlier, later in pairwise(times)]


@pytest.mark.parametrize("celsius", [63.6, 77.0])
@pytest.mark.parametrize("board", [ORIN_NX, ORIN_NANO_SUPER], ids=lambda board: board.name)
def test_warm_orin_keeps_every_camera_at_its_rate(
    board: Board, celsius: float, tmp_path: Path, broker: MosquittoBroker
) -> None:
    config = _config(tmp_path, broker.url)
    with tree_of(board, tmp_path / "sys") as tree, Recorder(broker.port) as recorder:
        tree.heat(celsius)
        tree.set_state("hot-surface-alert", 1)
        command = isolated([sys.executable, "-m", "agent", "run", "-c", str(config)], f"mount --bind {tree.root} /sys")
        with (tmp_path / "log").open("wb") as log:
            agent = subprocess.Popen(
                command, stderr=log, env={"PYTHONPATH": str(Path.cwd()), "PATH": os.environ["PATH"]}
            )
            try:
                recorder.wait_count(5, _RESULT, 60)
                recorder.wait_count(5 + 5 * _FPS, _RESULT, 30)
                agent.terminate()
                agent.wait(_STOP_S)
            finally:
                agent.kill()
                agent.wait()
    for message in recorder.messages(_THERMAL):
        governor = orjson.loads(message.payload)["governor"]
        assert (governor["state"], governor["rate_ratio"]) == ("free", 1.0)
    # A cut leaves 1 Hz and less; the median is that of an ordinary frame on a busy machine too.
    assert median(_intervals_s(recorder)) < 2.0 / _FPS
    assert "governor" not in _last(recorder, _HEALTH)["cameras"]["cam"]["dropped"]
    thermal = _last(recorder, _THERMAL)
    assert (thermal["source"], thermal["zones"]["gpu"]["celsius"]) == ("sysfs", celsius)
    assert thermal["zones"]["gpu"]["throttle_celsius"] == 99.0
    assert (thermal["throttled"], thermal["hints"]) == (False, {"hot-surface-alert": 1})
    assert _last(recorder, _HEALTH)["thermal"]["throttled"] is False
