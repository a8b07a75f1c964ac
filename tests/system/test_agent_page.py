"""The page of a real agent: it shows what runs, what it changes takes effect, and no answer has a password."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.canary import CANARY, with_canary
from tests.fixtures.deadlines import wait_until
from tests.fixtures.mosquitto import MosquittoBroker, free_port

pytestmark = pytest.mark.timeout(120)

_CALLS = (
    "cameras/belt/frame.jpg?width=160",
    "cameras/belt/explain",
    "cameras/gate/explain",
    "heat",
    "reports",
)


def _config(directory: Path, broker: MosquittoBroker, port: int) -> dict[str, Any]:
    (directory / "camera.secret").write_text(f"{CANARY}\n")
    (directory / "camera.secret").chmod(0o600)
    gate = {
        "type": "rtsp",
        "url": "rtsp://127.0.0.1:9/gate",
        "username": "viewer",
        "password_file": str(directory / "camera.secret"),
    }
    return with_canary(
        directory,
        {
            "device": {"id": "line-3"},
            "models": {"inspect": {"package": "demo", "engine": "ort-cpu"}},
            "cameras": {
                "belt": {
                    "source": {"type": "file", "path": "demo", "loop": True},
                    "rate_hz": 5,
                    "classify": [{"model": "inspect"}],
                },
                "gate": {"source": gate, "classify": [{"model": "inspect"}]},
            },
            "mqtt": {"broker": broker.url, "commands": {"enabled": True, "allow": ["set"]}},
            "serve": {"http": f"127.0.0.1:{port}", "page": True, "control": True},
        },
    )


class _Page:
    """What a browser would know after it has read the stream for a while."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.text = ""
        self.messages: dict[str, Any] = {}
        self.hello: dict[str, Any] = {}

    def read(self, topic: str) -> Any:
        """Read the stream anew until ``topic`` has come."""
        with self.client.stream("GET", "/page/api/events") as stream:
            for line in stream.iter_lines():
                self.text += line
                if line.startswith('data: {"device"'):
                    self.hello = orjson.loads(line[6:])
                elif line.startswith("data: "):
                    self.messages.update(orjson.loads(line[6:])["messages"])
                if topic in self.messages:
                    return self.messages[topic]
        raise AssertionError(f"the stream ended without {topic}")


def test_the_page_shows_and_changes_what_runs_and_tells_no_password(tmp_path: Path) -> None:
    port = free_port()
    with (
        MosquittoBroker(tmp_path / "broker") as broker,
        AgentProcess(tmp_path, "run", "-c", str(write_config(tmp_path, _config(tmp_path, broker, port)))) as agent,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        agent.wait_for_log("agent.ready", 60)
        page = _Page(client)
        assert page.read("camera/belt/inspect/result")["label"] in {"ok", "scratch", "dent", "missing_label", "empty"}
        assert set(page.read("runtime")["cameras"]) == {"belt", "gate"}
        wait_until(lambda: client.get(f"/page/api/{_CALLS[0]}").status_code == 200, within_s=20)
        answers = [client.get(f"/page/api/{call}") for call in _CALLS]
        assert {one.status_code for one in answers} == {200}

        headers = {"x-csrf-token": page.hello["csrf"]}
        command = {"verb": "set", "camera": "belt", "classifier": "inspect", "enter": 0.91}
        reply = client.post("/page/api/command", json=command, headers=headers)
        assert (reply.json()["outcome"], reply.json()["details"]["classifiers"]["inspect"]["enter"]) == ("done", 0.91)
        odd = client.post("/page/api/command", json={**command, "camera": "none"}, headers=headers).json()
        assert (odd["outcome"], odd["reason"]) == ("refused", "unknown_camera")
        page.messages.clear()
        assert page.read("runtime")["cameras"]["belt"]["classifiers"]["inspect"]["enter"] == 0.91

        bundle = client.post("/page/api/bundle", headers=headers)
        assert bundle.status_code == 200, bundle.text
        with tarfile.open(fileobj=io.BytesIO(bundle.content)) as archive:
            files = {one.name: archive.extractfile(one) for one in archive if one.isfile()}
            contents = b"".join(one.read() for one in files.values() if one is not None)
        assert len(files) >= 3
        assert agent.end() == 0, agent.stderr
    heard = page.text.encode() + b"".join(one.content for one in [*answers, reply, bundle]) + contents
    assert CANARY.encode() not in heard
    assert b"127.0.0.1:9" in heard, "the address without its login is no secret"
