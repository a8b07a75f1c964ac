"""The support bundle tells what is needed and holds no secret, wherever one could have slipped in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.drills import note
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.recorder import Recorder

pytestmark = pytest.mark.timeout(120)

_CANARY = "hunter2-CANARY"


def _secret(directory: Path, name: str) -> str:
    file = directory / name
    file.write_text(f"{_CANARY}-{name}\n")
    file.chmod(0o600)
    return str(file)


_TOKENS = {
    "query": {"type": "rtsp", "url": f"rtsp://127.0.0.1:9/live?access_token={_CANARY}-query&x=1"},
    "path": {"type": "rtsp", "url": f"rtsp://127.0.0.1:9/user=admin_password={_CANARY}-path_channel=1.sdp"},
    "segment": {"type": "rtsp", "url": f"rtsp://127.0.0.1:9/{_CANARY}-segment/1", "reader": "gstreamer"},
    "pipeline": {
        "type": "gstreamer",
        "pipeline": f"rtspsrc location=rtsp://u:{_CANARY}-a@127.0.0.1:9/ user-pw={_CANARY}-b ! fakesink",
    },
}
"""Secrets that no pattern finds, in the places where people write them."""


def _doctor(directory: Path, config: Path, bundle: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent", "doctor", "-c", str(config), "--bundle", str(bundle)]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path.cwd()), "HOME": str(directory)}
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment)


def test_no_password_is_in_the_bundle_the_output_the_log_or_the_process(tmp_path: Path) -> None:
    users = {"agent": f"{_CANARY}-mqtt", "listener": "listener"}
    with MosquittoBroker(tmp_path / "broker", users=users) as broker:
        pattern = {"type": "pattern", "fps": 10, "width": 160, "height": 120}
        network = {"type": "rtsp", "url": "rtsp://127.0.0.1:9/x", "username": "viewer"}
        network["password_file"] = _secret(tmp_path, "camera")
        config = write_config(
            tmp_path,
            {
                "models": {"inspect": {"package": "demo", "engine": "ort-cpu"}},
                "cameras": {
                    "cam": {"source": pattern, "classify": [{"model": "inspect"}]},
                    "net": {"source": network, "classify": [{"model": "inspect"}]},
                    **{name: {"source": one, "classify": [{"model": "inspect"}]} for name, one in _TOKENS.items()},
                },
                "mqtt": {"broker": broker.url, "username": "agent", "password_file": _secret(tmp_path, "mqtt")},
            },
        )
        config.write_text(f"# {_CANARY} in a comment\n" + config.read_text())
        with (
            Recorder(broker.port, username="listener", password="listener") as recorder,
            AgentProcess(tmp_path, "run", "-c", str(config)) as agent,
        ):
            recorder.wait_for(lambda message: message.topic == "edge/dut/health", 60)
            process = Path("/proc") / str(agent.process.pid)
            seen = {name: (process / name).read_bytes() for name in ("cmdline", "environ")}
            bundle = tmp_path / "bundle.tar.gz"
            result = _doctor(tmp_path, config, bundle)
            assert agent.end() == 0
            seen |= {"log": agent.stderr.encode(), "output": (result.stdout + result.stderr).encode()}
            seen |= {f"message {one.topic}": one.payload for one in recorder.messages()}
    assert bundle.stat().st_mode & 0o777 == 0o600, result.stderr
    with tarfile.open(bundle) as archive:
        files = {entry.name.split("/")[1]: archive.extractfile(entry) for entry in archive}
        texts = {name: stream.read() for name, stream in files.items() if stream is not None}
    assert {"doctor.json", "environment.json", "packages.txt", "journal.txt", "config.yaml", "messages.json"} <= set(
        texts
    )
    assert "edge/dut/health" in json.loads(texts["messages.json"])
    assert b"rtsp://127.0.0.1:9/#" in texts["config.yaml"]
    assert b"gstreamer pipeline #" in texts["config.yaml"]
    assert b"rtsp://127.0.0.1:9/#" in seen["log"]
    seen |= texts
    assert [name for name, content in seen.items() if _CANARY.encode() in content] == []
    note(places_searched=len(seen))


def test_a_bundle_never_replaces_a_file(tmp_path: Path) -> None:
    config = write_config(
        tmp_path,
        {
            "models": {"inspect": {"package": "demo", "engine": "ort-cpu"}},
            "cameras": {"cam": {"source": {"type": "pattern"}, "classify": [{"model": "inspect"}]}},
            "mqtt": {"broker": "mqtt://127.0.0.1:1"},
        },
    )
    (tmp_path / "there").write_text("mine")
    result = _doctor(tmp_path, config, tmp_path / "there")
    assert result.returncode == 78
    assert "already exists" in result.stderr
    assert (tmp_path / "there").read_text() == "mine"
