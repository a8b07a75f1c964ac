"""Faults of a network camera of a running agent, as a subscriber sees them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.canary import with_canary
from tests.fixtures.drills import note
from tests.fixtures.hanging_camera import hanging_camera
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.recorder import Recorded, Recorder
from tests.fixtures.rtsp_server import RtspServer

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("no_password_leaks")]

_HEALTH = "edge/dut/camera/cam/health"
_RESULT = "edge/dut/camera/cam/inspect/result"


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    with MosquittoBroker(tmp_path / "broker") as broker, Recorder(broker.port) as running:
        (tmp_path / "url").write_text(broker.url)
        yield running


def _agent(directory: Path, cameras: dict[str, Any]) -> AgentProcess:
    config = {
        "models": {"inspect": {"package": "demo", "engine": "ort-cpu"}},
        "cameras": {
            name: {"source": source, "classify": [{"model": "inspect"}], "rate_hz": 10}
            for name, source in cameras.items()
        },
        "mqtt": {"broker": (directory / "url").read_text()},
    }
    return AgentProcess(directory, "run", "-c", str(write_config(directory, with_canary(directory, config))))


def _after(recorder: Recorder, began: float, topic: str, fits: Callable[[Any], bool], within_s: float) -> float:
    """Seconds from monotonic ``began`` to the first message on ``topic`` after it that fits."""

    def is_it(message: Recorded) -> bool:
        return message.topic == topic and message.at > began and fits(message.json)

    return recorder.wait_for(is_it, within_s).at - began


def _is(state: str) -> Callable[[Any], bool]:
    return lambda health: bool(health["state"] == state)


def test_a_stalled_or_absent_camera_is_reported_within_five_seconds_and_recovers(
    tmp_path: Path,
    recorder: Recorder,
) -> None:
    first = RtspServer(tmp_path)
    with first as server:
        source = {"type": "rtsp", "url": server.url}
        with _agent(tmp_path, {"cam": source}) as agent:
            _after(recorder, 0.0, _RESULT, bool, 60)

            began = time.monotonic()
            server.stall()
            stall_s = _after(recorder, began, _HEALTH, _is("lost"), 15)
            server.resume()
            began = time.monotonic()
            resume_s = _after(recorder, began, _RESULT, bool, 30)

            began = time.monotonic()
            server.kill()
            kill_s = _after(recorder, began, _HEALTH, _is("lost"), 15)
            with RtspServer(tmp_path, port=server.port):
                began = time.monotonic()
                again_s = _after(recorder, began, _RESULT, bool, 30)
                assert _after(recorder, began, _HEALTH, _is("connected"), 5) < again_s + 5
                assert agent.end() == 0
    note(seen_s=max(stall_s, kill_s))
    note(recovery_s=max(resume_s, again_s))
    # The limit is what the agent promises, not a measurement of this machine: timeouts of 2 s, plus the report.
    assert max(stall_s, kill_s) <= 5.0
    errors = [message.json["error"] for message in recorder.messages(_HEALTH) if message.json["state"] == "lost"]
    assert any("sent no frame" in error for error in errors)


def test_the_agent_ends_within_five_seconds_while_ffmpeg_waits_for_a_camera(
    tmp_path: Path, recorder: Recorder
) -> None:
    in_ffmpeg = threading.Event()
    with hanging_camera(in_ffmpeg) as url:
        cameras = {"hangs": {"type": "rtsp", "url": url, "open_timeout_s": 30}, "cam": {"type": "pattern", "fps": 10}}
        with _agent(tmp_path, cameras) as agent:
            _after(recorder, 0.0, _RESULT, bool, 60)
            assert in_ffmpeg.wait(20)
            began = time.monotonic()
            assert agent.end() == 0, agent.stderr
            assert time.monotonic() - began < 5.0
            assert "stop.cut_off" not in agent.stderr, "the camera leaves its opening behind, and ends in time"
        stopped = recorder.wait_for(lambda one: one.topic == "edge/dut/status" and one.json["state"] == "stopped", 10)
    assert stopped.retain is False


def test_a_black_camera_is_flagged_in_every_result(
    tmp_path: Path,
    recorder: Recorder,
) -> None:
    with (
        RtspServer(tmp_path, black=(75, 225)) as server,
        _agent(tmp_path, {"cam": {"type": "rtsp", "url": server.url}}) as agent,
    ):
        seen_s = _after(recorder, 0.0, _RESULT, lambda result: result.get("image_fault") == "black", 60)
        marked = time.monotonic()
        _after(recorder, 0.0, _HEALTH, lambda health: health["image_fault"] == "black", 5)
        _after(recorder, marked, _RESULT, lambda result: result.get("image_fault") is None, 20)
        assert agent.end() == 0
        assert "camera.image_fault_cleared" in agent.stderr
    assert seen_s > 0
    marks = [message.json.get("image_fault") for message in recorder.messages(_RESULT)]
    note(results_marked=sum(image_fault is not None for image_fault in marks))
    assert set(marks) == {None, "black"}
