"""The agent whole: a process, a real broker, a subscriber that knows nothing of its code."""

from __future__ import annotations

import json
import signal
import socket
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.certificates import Authority
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.recorder import Recorded, Recorder

pytestmark = pytest.mark.timeout(180)

_DEMO_MODEL = {"inspect": {"package": "demo", "engine": "ort-cpu"}}


def _pattern(**camera: Any) -> dict[str, Any]:
    return {
        "source": {"type": "pattern", "fps": 30, "width": 320, "height": 240},
        "classify": [{"model": "inspect"}],
        **camera,
    }


def _clip(**camera: Any) -> dict[str, Any]:
    return {"source": {"type": "file", "path": "demo"}, "classify": [{"model": "inspect"}], **camera}


def _run(directory: Path, broker: MosquittoBroker | str, cameras: dict[str, Any], **more: Any) -> AgentProcess:
    url = broker if isinstance(broker, str) else broker.url
    mqtt = {"broker": url, **more.pop("mqtt", {})}
    models = more.pop("models", _DEMO_MODEL)
    config = {"models": models, "cameras": cameras, "mqtt": mqtt, **more}
    return AgentProcess(directory, "run", "-c", str(write_config(directory, config)))


def _last(recorder: Recorder, topic: str) -> Any:
    return recorder.messages(topic)[-1].json


def _is_status(state: str) -> Any:
    return lambda message: message.topic == "edge/dut/status" and message.json["state"] == state


def test_the_bundled_clip_is_decided_as_its_truth_says(
    tmp_path: Path, broker: MosquittoBroker, recorder: Recorder
) -> None:
    """Each stay of a part under the camera is decided as what was drawn there, and nothing else is."""
    from agent.demo import demo_clip

    truth = json.loads(demo_clip().with_name("conveyor.truth.json").read_text(encoding="utf-8"))
    frames = truth["frames"]
    with _run(tmp_path, broker, {"belt": _clip(rate_hz=None)}) as agent:
        assert agent.wait(120) == 0, agent.stderr
    recorder.wait_for(_is_status("stopped"))
    results = {
        message.json["frame"]: message.json for message in recorder.messages("edge/dut/camera/belt/inspect/result")
    }
    assert sorted(results) == list(range(len(frames)))
    clear = [index for index, frame in enumerate(frames) if not frame["transition"]]
    right = sum(results[index]["label"] == frames[index]["label"] for index in clear)
    assert right / len(clear) >= 0.98

    stays: list[str] = []
    previous: str | None = None
    for frame in frames:
        label = None if frame["transition"] else frame["label"]
        if label is not None and label != previous:
            stays.append(label)
            previous = label
    decided = [
        message.json["to_label"]
        for message in recorder.messages("edge/dut/camera/belt/inspect/event")
        if message.json["to_label"] not in {"unknown", "stale"}
    ]
    collapsed = [label for index, label in enumerate(decided) if index == 0 or label != decided[index - 1]]
    assert collapsed == stays


def test_four_cameras_share_a_model_two_models_share_a_camera_and_the_books_balance(
    tmp_path: Path, broker: MosquittoBroker, recorder: Recorder
) -> None:
    models = {**_DEMO_MODEL, "second": {"package": "demo", "engine": "ort-cpu"}}
    cameras = {f"c{index}": _pattern(rate_hz=10) for index in range(3)}
    both = [{"model": "inspect"}, {"model": "second"}]
    cameras["c3"] = _pattern(classify=both)
    with _run(tmp_path, broker, cameras, models=models) as agent:
        for camera in cameras:
            recorder.wait_count(10, f"edge/dut/camera/{camera}/inspect/result", 60)
        recorder.wait_count(10, "edge/dut/camera/c3/second/result", 60)
        assert agent.end() == 0, agent.stderr
    recorder.wait_for(_is_status("stopped"))
    health = _last(recorder, "edge/dut/health")
    for camera in cameras:
        books = health["cameras"][camera]
        assert books["captured"] > 10
        assert books["captured"] == books["classified"] + sum(books["dropped"].values())
        assert books["in_flight"] == 0
    assert set(health["classifiers"]["c3"]) == {"inspect", "second"}
    for classifiers in health["classifiers"].values():
        for tally in classifiers.values():
            done = tally["classified"] + tally["skipped"] + sum(tally["dropped"].values())
            assert (tally["offered"], tally["in_flight"]) == (done, 0)


def test_the_stages_of_every_result_add_up_to_its_total(
    tmp_path: Path, broker: MosquittoBroker, recorder: Recorder
) -> None:
    with _run(tmp_path, broker, {"cam": _pattern()}, mqtt={"results": {"detail": "full"}}) as agent:
        results = recorder.wait_count(30, "edge/dut/camera/cam/inspect/result", 60)
        assert agent.end() == 0
    for message in results:
        latency = message.json["latency_ms"]
        total = latency.pop("total")
        assert abs(sum(latency.values()) - total) < 1.0
        assert set(latency) == {"capture", "queue", "preprocess", "infer", "decide"}


def test_numbers_have_no_gaps_and_sessions_count_up(
    tmp_path: Path, broker: MosquittoBroker, recorder: Recorder
) -> None:
    topic = "edge/dut/camera/cam/inspect/result"
    for _ in range(2):
        seen = len(recorder.messages(topic))
        with _run(tmp_path, broker, {"cam": _pattern()}) as agent:
            recorder.wait_count(seen + 10, topic, 60)
            assert agent.end() == 0
    by_session: dict[int, list[int]] = {}
    for message in recorder.messages(topic):
        by_session.setdefault(message.json["session"], []).append(message.json["seq"])
    assert sorted(by_session) == [1, 2]
    for numbers in by_session.values():
        assert numbers == list(range(len(numbers)))


def test_a_broker_that_was_killed_is_found_again(tmp_path: Path, broker: MosquittoBroker) -> None:
    with _run(tmp_path, broker, {"cam": _pattern()}) as agent:
        agent.wait_for_log("agent.ready")
        broker.kill()
        agent.wait_for_log("broker.disconnected")
        broker.start()
        again = Recorder(broker.port).start()
        try:
            again.wait_for(_is_status("online"), 60)
            again.wait_for(lambda message: message.topic == "edge/dut/runtime", 10)
            again.wait_for(lambda message: message.topic.endswith("/state"), 10)
            again.wait_count(5, "edge/dut/camera/cam/inspect/result", 30)
        finally:
            again.stop()
        assert agent.end() == 0, agent.stderr


def test_an_agent_that_is_killed_is_reported_by_its_last_will(
    tmp_path: Path, broker: MosquittoBroker, recorder: Recorder
) -> None:
    with _run(tmp_path, broker, {"cam": _pattern()}) as agent:
        recorder.wait_for(_is_status("online"), 60)
        agent.end(signal.SIGKILL)
    assert recorder.wait_for(_is_status("offline"), 30).json["session"] == 1


def test_a_late_subscriber_learns_state_and_runtime_from_retained_messages(
    tmp_path: Path, broker: MosquittoBroker, recorder: Recorder
) -> None:
    with _run(tmp_path, broker, {"cam": _pattern()}) as agent:
        recorder.wait_count(5, "edge/dut/camera/cam/inspect/result", 60)
        late = Recorder(broker.port, ["edge/dut/status", "edge/dut/runtime", "edge/dut/camera/+/+/state"]).start()
        try:
            found: list[Recorded] = late.wait_count(3, deadline_s=10)
        finally:
            late.stop()
        assert agent.end() == 0
    assert all(message.retain for message in found[:3])
    runtime = next(message.json for message in found if message.topic.endswith("/runtime"))
    model = runtime["models"]["inspect"]
    assert (model["engine"], model["requested_engine"], model["degraded"]) == ("ort-cpu", "ort-cpu", None)
    # ONNX Runtime tells the placement from 1.24 on, and the newest for Python 3.10 is older.
    assert model["placement"].get("CPUExecutionProvider", 1) > 0
    assert set(model["placement"]) <= {"CPUExecutionProvider"}
    assert model["labels"] == ["ok", "scratch", "dent", "missing_label", "empty"]


def test_a_wrong_password_is_named_and_the_right_one_is_picked_up(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("wrong-CANARY-1\n")
    secret.chmod(0o600)
    with MosquittoBroker(tmp_path / "broker", users={"agent": "right-CANARY-2", "tester": "t"}) as broker:
        mqtt = {"username": "agent", "password_file": str(secret)}
        with _run(tmp_path, broker, {"cam": _pattern()}, mqtt=mqtt) as agent:
            agent.wait_for_log("not authorised")
            secret.write_text("right-CANARY-2\n")
            agent.wait_for_log("broker.connected", 60)
            assert agent.end() == 0
            assert "CANARY" not in agent.stderr + agent.stdout


def test_a_wrong_authority_never_connects_and_says_why(tmp_path: Path) -> None:
    right, wrong = Authority(tmp_path / "right"), Authority(tmp_path / "wrong")
    with MosquittoBroker(tmp_path / "broker", tls=right.server("server")) as broker:
        mqtt = {"tls": {"ca_file": str(wrong.certificate)}}
        with _run(tmp_path, broker, {"cam": _pattern()}, mqtt=mqtt) as agent:
            agent.wait_for_log("agent.ready")
            agent.wait_for_log("ca_file")
            assert agent.end() == 0
            assert "broker.connected" not in agent.stderr


def test_the_agent_works_before_there_is_a_broker(tmp_path: Path) -> None:
    broker = MosquittoBroker(tmp_path / "broker")
    with _run(tmp_path, broker, {"cam": _pattern()}) as agent:
        agent.wait_for_log("agent.ready")
        with broker:
            agent.wait_for_log("broker.connected", 60)
            assert agent.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_takes_less_than_five_seconds_with_broker_and_camera_stalled(
    tmp_path: Path, number: signal.Signals
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, MosquittoBroker(tmp_path / "broker") as broker:
        port = silent.getsockname()[1]
        stalled = {"source": {"type": "rtsp", "url": f"rtsp://127.0.0.1:{port}/x"}, "classify": [{"model": "inspect"}]}
        with _run(tmp_path, broker, {"cam": _pattern(), "stalled": stalled}) as agent:
            agent.wait_for_log("broker.connected")
            agent.wait_for_log("agent.ready")
            broker.pause()
            began = time.monotonic()
            assert agent.end(number) == 0
            assert time.monotonic() - began < 5.0


def test_a_second_signal_ends_at_once(tmp_path: Path, broker: MosquittoBroker) -> None:
    with _run(tmp_path, broker, {"cam": _pattern()}) as agent:
        agent.wait_for_log("agent.ready")
        broker.pause()
        agent.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        began = time.monotonic()
        assert agent.end(signal.SIGTERM) in (0, 128 + signal.SIGTERM)
        assert time.monotonic() - began < 1.0


def test_a_second_agent_on_the_same_state_is_refused(tmp_path: Path, broker: MosquittoBroker) -> None:
    with _run(tmp_path, broker, {"cam": _pattern()}) as first:
        first.wait_for_log("agent.ready")
        (tmp_path / "other").mkdir()
        with AgentProcess(tmp_path / "other", "run", "-c", str(tmp_path / "agent.yaml")) as second:
            assert second.wait() == 75
            assert f"process {first.process.pid}" in second.stderr
        assert first.end() == 0


def test_a_missing_model_is_refused_with_its_path(tmp_path: Path) -> None:
    models = {"inspect": {"package": "no-such-package"}}
    with _run(tmp_path, "mqtt://127.0.0.1:1", {"cam": _pattern()}, models=models) as agent:
        assert agent.wait() == 78
    assert str(tmp_path / "no-such-package") in agent.stderr
    assert "Traceback" not in agent.stderr


def test_a_label_file_with_one_line_too_few_is_refused_with_both_numbers(tmp_path: Path) -> None:
    import shutil

    from agent.demo import demo_package

    package = tmp_path / demo_package().name
    shutil.copytree(demo_package(), package)
    labels = (package / "labels.txt").read_text().splitlines()
    (package / "labels.txt").write_text("\n".join(labels[:-1]) + "\n")
    models = {"inspect": {"package": str(package)}}
    with _run(tmp_path, "mqtt://127.0.0.1:1", {"cam": _pattern()}, models=models) as agent:
        assert agent.wait() == 78
    assert "4" in agent.stderr
    assert "5" in agent.stderr
    assert "labels.txt" in agent.stderr
    assert "Traceback" not in agent.stderr


def test_a_typo_in_the_configuration_is_refused_with_its_line_and_the_nearest_key(tmp_path: Path) -> None:
    path = write_config(tmp_path, {"models": _DEMO_MODEL, "cameras": {"cam": {**_pattern(), "priorty": 2}}})
    line = next(number for number, text in enumerate(path.read_text().splitlines(), 1) if "priorty" in text)
    with AgentProcess(tmp_path, "run", "-c", str(path)) as agent:
        assert agent.wait() == 78
    assert f"agent.yaml:{line}" in agent.stderr
    assert "priority" in agent.stderr
    assert "Traceback" not in agent.stderr


def test_an_option_that_the_engine_does_not_have_is_refused_with_its_line_and_model(tmp_path: Path) -> None:
    models = {"inspect": {"package": "demo", "engine": "ort-cpu", "options": {"treads": 1}}}
    with _run(tmp_path, "embedded", {"front": _pattern()}, models=models) as agent:
        assert agent.wait(60) == 78
    line = (tmp_path / "agent.yaml").read_text(encoding="utf-8").splitlines().index("      treads: 1") + 1
    assert f"agent.yaml:{line}: models.inspect.options.treads: engine ort-cpu has no option" in agent.stderr


def test_a_gate_that_waits_for_an_unknown_label_is_refused(tmp_path: Path) -> None:
    gated = {"model": "inspect", "name": "b", "when": {"classifier": "a", "labels": ["scrach"]}}
    cameras = {"cam": _pattern(classify=[{"model": "inspect", "name": "a"}, gated])}
    with _run(tmp_path, "mqtt://127.0.0.1:1", cameras) as agent:
        assert agent.wait() == 78
    assert "scratch" in agent.stderr


def test_files_that_give_no_frame_at_all_are_a_failure(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noise.mp4").write_bytes(b"no video" * 1000)
    cameras = {
        "left": _clip(source={"type": "file", "path": "noise.mp4"}),
        "right": _clip(source={"type": "file", "path": "empty.mp4"}),
    }
    with _run(tmp_path, "embedded", cameras) as agent:
        assert agent.wait(60) == 69
    *_, last = agent.stderr.splitlines()
    assert last.startswith("error: no camera gave a frame")
    assert "left: " in last
    assert "noise.mp4" in last
    assert "right: " in last
    assert "empty.mp4" in last
    assert _levels_of_endings(agent) == {"left": "warning", "right": "warning"}


def test_one_file_of_two_that_cannot_be_opened_is_a_warning(tmp_path: Path) -> None:
    source = {"type": "images", "path": "pictures"}
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "pictures").mkdir()
    cv2.imwrite(str(tmp_path / "pictures" / "one.png"), np.zeros((120, 160, 3), np.uint8))
    cameras = {"left": _clip(source={"type": "file", "path": "empty.mp4"}), "right": _clip(source=source)}
    with _run(tmp_path, "embedded", cameras) as agent:
        assert agent.wait(60) == 0, agent.stderr
    assert _levels_of_endings(agent) == {"left": "warning", "right": "info"}


def _levels_of_endings(agent: AgentProcess) -> dict[str, str]:
    lines = [json.loads(line) for line in agent.stderr.splitlines() if line.startswith("{")]
    return {line["camera"]: line["level"] for line in lines if line["event"] == "camera.ended"}


def test_printed_messages_are_the_published_ones(tmp_path: Path, broker: MosquittoBroker) -> None:
    config = write_config(
        tmp_path, {"models": _DEMO_MODEL, "cameras": {"cam": _pattern()}, "mqtt": {"broker": broker.url}}
    )
    with AgentProcess(tmp_path, "run", "-c", str(config), "--print") as agent:
        agent.wait_for_log("agent.ready")
        time.sleep(1.0)
        assert agent.end() == 0
    lines = [json.loads(line) for line in agent.stdout.splitlines()]
    schemas = {line["message"]["schema"] for line in lines}
    assert {"status/1", "runtime/1", "result-compact/1", "state/1", "health/1", "camera-health/1"} <= schemas
