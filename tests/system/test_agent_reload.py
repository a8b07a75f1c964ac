"""A new configuration under load: SIGHUP to a real process, watched by a real subscriber."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.recorder import Recorder

pytestmark = pytest.mark.timeout(180)

_MODELS = {"inspect": {"package": "demo", "engine": "ort-cpu"}}


def _camera(seed: int = 0, **camera: Any) -> dict[str, Any]:
    source = {"type": "pattern", "fps": 30, "width": 320, "height": 240, "seed": seed}
    return {"source": source, "classify": [{"model": "inspect"}], **camera}


class _Reloading:
    """An agent whose configuration is rewritten while it runs."""

    def __init__(self, directory: Path, broker: MosquittoBroker, recorder: Recorder) -> None:
        self._directory = directory
        self._broker = broker
        self.recorder = recorder
        self.path = self.write({"stays": _camera(), "goes": _camera(1)})
        self.agent = AgentProcess(directory, "run", "-c", str(self.path))

    def write(self, cameras: dict[str, Any], **more: Any) -> Path:
        whole = {"models": _MODELS, "cameras": cameras, "mqtt": {"broker": self._broker.url}, **more}
        return write_config(self._directory, whole)

    def reload(self, log: str) -> None:
        """Send SIGHUP and wait until ``log`` stands in the log."""
        self.agent.process.send_signal(signal.SIGHUP)
        self.agent.wait_for_log(log)

    def results(self, camera: str, classifier: str = "inspect") -> list[Any]:
        topic = f"edge/dut/camera/{camera}/{classifier}/result"
        return [message.json for message in self.recorder.messages(topic)]

    def more_results(self, camera: str, classifier: str = "inspect", count: int = 10) -> None:
        topic = f"edge/dut/camera/{camera}/{classifier}/result"
        self.recorder.wait_count(len(self.recorder.messages(topic)) + count, topic, 30)


@pytest.fixture
def running(tmp_path: Path, broker: MosquittoBroker, recorder: Recorder) -> Iterator[_Reloading]:
    reloading = _Reloading(tmp_path, broker, recorder)
    with reloading.agent:
        reloading.agent.wait_for_log("agent.ready")
        reloading.more_results("stays")
        reloading.more_results("goes")
        yield reloading
        assert reloading.agent.end() == 0, reloading.agent.stderr


def test_a_camera_that_stays_loses_no_frame_while_others_come_and_go(running: _Reloading) -> None:
    running.write({"stays": _camera(), "comes": _camera(2)})
    running.reload("config.applied")
    running.more_results("comes")
    running.more_results("stays")
    gone = len(running.results("goes"))
    running.more_results("stays")
    assert len(running.results("goes")) == gone
    seqs = [result["seq"] for result in running.results("stays")]
    assert seqs == list(range(len(seqs)))
    assert {result["session"] for result in running.results("stays")} == {1}


def test_a_threshold_changes_without_reopening_the_camera(running: _Reloading) -> None:
    strict = {"model": "inspect", "decide": {"enter": 1.0, "exit": 1.0, "votes": 1, "window": 1}}
    running.write({"stays": _camera(classify=[strict]), "goes": _camera(1)})
    running.reload("config.applied")
    state = "edge/dut/camera/stays/inspect/state"
    running.recorder.wait_for(
        lambda message: message.topic == state and message.json["window"] == 1 and message.json["label"] == "unknown"
    )
    running.more_results("stays")
    assert running.agent.stderr.count('"camera":"stays","source"') == 1


def test_a_new_model_is_loaded_while_the_old_one_serves(running: _Reloading) -> None:
    models = {**_MODELS, "second": {"package": "demo", "engine": "ort-cpu", "options": {"threads": 1}}}
    both = [{"model": "inspect"}, {"model": "second"}]
    running.write({"stays": _camera(classify=both), "goes": _camera(1)}, models=models)
    running.reload("config.applied")
    running.more_results("stays", "second")
    runtime = running.recorder.wait_for(
        lambda message: message.topic == "edge/dut/runtime" and "second" in message.json["models"]
    )
    assert set(runtime.json["cameras"]["stays"]["classifiers"]) == {"inspect", "second"}


def test_a_changed_model_takes_over_without_a_pause_of_the_camera(running: _Reloading) -> None:
    models = {"inspect": {"package": "demo", "engine": "ort-cpu", "options": {"threads": 1}}}
    running.write({"stays": _camera(), "goes": _camera(1)}, models=models)
    running.reload("config.applied")
    running.recorder.wait_count(2, "edge/dut/runtime")
    running.more_results("stays")
    seqs = [result["seq"] for result in running.results("stays")]
    assert seqs == list(range(len(seqs)))
    assert running.agent.stderr.count('"camera":"stays","source"') == 1


def test_bad_files_change_nothing_and_say_why(running: _Reloading) -> None:
    good = running.path.read_text()
    for text in ("version: 1\n", good + "typo: 1\n", "{"):
        running.path.write_text(text)
        running.agent.process.send_signal(signal.SIGHUP)
        running.agent.wait_for_log("config.rejected")
        running.more_results("stays")
    running.path.write_text(good)
    running.reload("config.unchanged")
    assert "config.applied" not in running.agent.stderr


def test_a_model_that_cannot_be_served_leaves_the_old_one(running: _Reloading) -> None:
    models = {"inspect": {"package": "demo", "engine": "tensorrt", "strict": True}}
    running.write({"stays": _camera(), "goes": _camera(1)}, models=models)
    running.reload("config.rejected")
    running.more_results("stays")
    assert running.results("stays")[-1]["ran"][1] == "ort-cpu"


def test_another_prefix_restarts_everything_in_the_same_process(running: _Reloading) -> None:
    running.write({"stays": _camera()}, mqtt={"broker": running._broker.url, "prefix": "plant/hall"})
    running.reload("config.restarting")
    running.recorder.wait_for(
        lambda message: message.topic == "plant/hall/dut/status" and message.json["state"] == "online", 30
    )
    stopped = running.recorder.messages("edge/dut/status")[-1].json
    assert (stopped["state"], stopped["session"]) == ("stopped", 1)
    running.recorder.wait_count(5, "plant/hall/dut/camera/stays/inspect/result", 30)


def test_many_reloads_in_a_row_are_taken_one_after_the_other(running: _Reloading) -> None:
    for turn in range(20):
        cameras = {"stays": _camera(), "goes": _camera(1, rate_hz=5 + turn % 2)}
        running.write(cameras)
        running.agent.process.send_signal(signal.SIGHUP)
    running.agent.wait_for_log("config.")
    running.more_results("stays", count=20)
