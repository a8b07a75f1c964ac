"""One frame on command, as a line controller asks for it: one reply and result each, from every kind of source."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest

from agent.commands.schemas import message_schemas
from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.http_camera import http_camera
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.recorder import Recorded, Recorder
from tests.fixtures.rtsp_server import RtspServer
from tests.fixtures.videos import write_video

pytestmark = pytest.mark.timeout(120)


def _use(name: str = "inspect") -> dict[str, Any]:
    return {"model": "inspect", "name": name, "decide": {"votes": 1, "window": 1}}


def _camera(source: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"source": source, "trigger": {}, "classify": [_use()], **more}


def _config(broker: MosquittoBroker, rtsp: str, http: str) -> dict[str, Any]:
    pattern = {"type": "pattern", "fps": 20, "width": 64, "height": 48}
    return {
        "models": {"inspect": {"package": "demo", "engine": "ort-cpu"}},
        "cameras": {
            "pattern": _camera({**pattern}, classify=[_use("left"), _use("right")]),
            "network": _camera({"type": "rtsp", "url": rtsp}),
            "snapshot": _camera({"type": "http", "url": http, "interval_s": 60}),
            "file": _camera({"type": "file", "path": "clip.mp4", "loop": True}),
            "absent": _camera({"type": "v4l2", "device": "/dev/video-absent"}),
            "off": _camera({**pattern, "seed": 1}, enabled=False),
        },
        "mqtt": {
            "broker": broker.url,
            "commands": {"enabled": True, "allow": ["capture", "explain"], "max_per_minute": 6000},
        },
    }


class Controller:
    """Asks for frames and collects what comes."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def ask(self, camera: str, key: str, verb: str = "capture") -> None:
        self.recorder.publish(f"edge/dut/cmd/{verb}", orjson.dumps({"id": key, "camera": camera}))

    def reply(self, key: str) -> Any:
        found = self.recorder.wait_for(lambda one: "/reply/" in one.topic and one.json["id"] == key, 20)
        jsonschema.Draft202012Validator(message_schemas()["reply/1"]).validate(found.json)
        return found.json

    def results(self, camera: str) -> list[Any]:
        def is_result(one: Recorded) -> bool:
            return one.topic.startswith(f"edge/dut/camera/{camera}/") and one.topic.endswith("/result")

        return [one.json for one in self.recorder.messages() if is_result(one)]


@pytest.fixture
def controller(tmp_path: Path, broker: MosquittoBroker, recorder: Recorder) -> Iterator[Controller]:
    write_video(tmp_path / "clip.mp4", frames=12)
    with RtspServer(tmp_path) as rtsp, http_camera() as http:
        path = write_config(tmp_path, _config(broker, rtsp.url, http.url("/snapshot.jpg")))
        with AgentProcess(tmp_path, "run", "-c", str(path)) as agent:
            agent.wait_for_log("agent.ready")
            for camera in ("pattern", "network", "snapshot", "file"):
                topic = f"edge/dut/camera/{camera}/health"
                recorder.wait_for(lambda one, topic=topic: one.topic == topic and one.json["state"] == "connected", 20)  # type: ignore[misc]  # bound now
            yield Controller(recorder)
            assert agent.end() == 0, agent.stderr


def test_every_kind_of_camera_gives_one_new_frame_for_each_command(controller: Controller) -> None:
    cameras = ("pattern", "network", "snapshot", "file")
    before = time.time()
    for number in range(3):
        for camera in cameras:  # all at once, as for one part under four cameras
            controller.ask(camera, f"{camera}-{number}")
        for camera in cameras:
            reply = controller.reply(f"{camera}-{number}")
            assert (reply["outcome"], reply["details"]["camera"]) == ("done", camera), reply
            assert set(reply["details"]["labels"]) == ({"left", "right"} if camera == "pattern" else {"inspect"})
    schema = jsonschema.Draft202012Validator(message_schemas()["result-compact/1"])
    for camera in cameras:
        per_frame = 2 if camera == "pattern" else 1
        results = controller.results(camera)
        assert len(results) == 3 * per_frame, "nothing that was not asked for"
        assert [one["trigger"] for one in results] == [f"{camera}-{n}" for n in range(3) for _ in range(per_frame)]
        assert len({one["frame"] for one in results}) == 3
        for one in results:
            schema.validate(one)
            assert one["captured_at"] > time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(before))
    event = controller.recorder.wait_for(lambda one: one.topic == "edge/dut/camera/file/inspect/event").json
    assert event["evidence"]["trigger"] == "file-0"


def test_a_command_that_cannot_have_its_frame_says_why_and_the_counters_agree(
    tmp_path: Path, controller: Controller
) -> None:
    for camera, reason, text in (
        ("absent", "lost", "/dev/video-absent"),
        ("off", "disabled", "is disabled"),
        ("nowhere", "unknown_camera", "the configuration has"),
    ):
        controller.ask(camera, camera)
        reply = controller.reply(camera)
        assert (reply["outcome"], reply["reason"]) == ("refused", reason)
        assert text in reply["text"]
    for number in range(10):  # 20 frames a second: not all of them fit
        controller.ask("pattern", f"burst-{number}")
    replies = [controller.reply(f"burst-{number}") for number in range(10)]
    done = [one for one in replies if one["outcome"] == "done"]
    assert {one["reason"] for one in replies if one not in done} <= {"busy"}
    assert len(done) >= 8
    assert len({one["details"]["frame"] for one in done}) == len(done)
    assert {one["trigger"] for one in controller.results("pattern")} == {one["id"] for one in done}
    controller.ask("pattern", "counters", verb="explain")
    counters = controller.reply("counters")["details"]
    assert counters["classified"] == len(done)
    assert counters["captured"] == counters["classified"] + sum(counters["dropped"].values()) + counters["in_flight"]
    assert set(counters["dropped"]) == {"not_triggered"}
