"""`agent doctor` as a process: its sections, its exit codes, and no traceback whatever is wrong."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.fixtures.colour_packages import write_colour_package
from tests.fixtures.mosquitto import MosquittoBroker


def doctor(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent", "doctor", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)


def config(folder: Path, broker: str, source: str = "{type: pattern}", **changes: str) -> Path:
    package = changes.get("package") or str(write_colour_package(folder, calibration=0))
    file = folder / "agent.yaml"
    file.write_text(
        f"version: 1\ndevice: {{id: line-3}}\nstate_dir: {folder}/state\n"
        f"models: {{colours: {{package: {package}, engine: ort-cpu}}}}\n"
        f"cameras: {{front: {{source: {source}, classify: [{{model: colours}}]}}}}\n"
        f"mqtt: {{broker: '{broker}'}}\n"
    )
    return file


def test_the_machine_alone_is_described_with_every_engine() -> None:
    result = doctor("--json")
    report = json.loads(result.stdout)
    assert result.returncode == 0, result.stdout
    assert set(report["sections"]) == {"runtime", "engines", "machine"}
    engines = {one["name"]: one for one in report["sections"]["engines"]}
    assert engines["ort-cpu"]["state"] == "ok"
    assert all(one["state"] == "ok" or one["remedy"] for one in engines.values())
    assert result.stderr == ""


def test_what_a_configuration_needs_can_run(tmp_path: Path) -> None:
    with MosquittoBroker(tmp_path / "broker") as broker:
        result = doctor("-c", str(config(tmp_path, broker.url)))
    assert result.returncode == 0, result.stdout
    for words in ("front", "640x480", "colours 1.0.0", "MQTT", "needs can run."):
        assert words in " ".join(result.stdout.split())
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("source", ["{type: v4l2, device: /dev/video97}", "{type: rtsp, url: 'rtsp://127.0.0.1:1/s'}"])
def test_whatever_is_missing_is_a_line_and_exit_code_69(tmp_path: Path, source: str) -> None:
    result = doctor("--json", "-c", str(config(tmp_path, "mqtt://127.0.0.1:1", source)))
    report = json.loads(result.stdout)
    assert result.returncode == 69
    assert report["failures"] == ["cameras: front", "broker: broker"]
    assert "Traceback" not in result.stdout + result.stderr


def test_a_gate_that_waits_for_a_label_which_its_model_does_not_have_is_told_before_the_agent_starts(
    tmp_path: Path,
) -> None:
    file = config(tmp_path, "embedded")
    gate = "{model: colours, name: second, when: {classifier: colours, labels: [rde]}}"
    file.write_text(file.read_text().replace("[{model: colours}]", f"[{{model: colours}}, {gate}]"))
    report = json.loads(doctor("--json", "--no-cameras", "-c", str(file)).stdout)
    assert "models: labels" in report["failures"]
    (finding,) = [one for one in report["sections"]["models"] if one["name"] == "labels"]
    assert f"{file}:5: " in finding["detail"]
    assert "no label `rde`" in finding["detail"]


def test_cameras_can_be_left_alone(tmp_path: Path) -> None:
    file = config(tmp_path, "mqtt://127.0.0.1:1", "{type: v4l2, device: /dev/video97}")
    assert "cameras" not in json.loads(doctor("--json", "--no-cameras", "-c", str(file)).stdout)["sections"]


def test_a_refused_configuration_is_told_beside_the_rest_with_78(tmp_path: Path) -> None:
    file = config(tmp_path, "mqtt://127.0.0.1:1", "{type: patern}")
    result = doctor("--json", "-c", str(file))
    report = json.loads(result.stdout)
    assert result.returncode == 78
    (line,) = report["sections"]["configuration"]
    assert line["detail"].startswith(f"{file}:5: cameras.front.source.type: ")
    assert report["subject"] == str(file)
    assert report["sections"]["engines"]


def test_a_broker_that_never_answers_is_told_from_one_that_is_not_there(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.tar.gz"
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        args = ("--json", "--bundle", str(bundle), "-c", str(config(tmp_path, f"mqtt://127.0.0.1:{port}")))
        (finding,) = json.loads(doctor(*args).stdout)["sections"]["broker"]
    assert finding["state"] == "failed"
    assert "did not answer CONNECT" in finding["detail"]
    with tarfile.open(bundle) as archive:
        kept = archive.extractfile("agent-bundle/messages.json")
        assert kept is not None
        assert json.load(kept) == {"none": finding["detail"]}


def test_an_output_that_has_not_every_letter_is_no_internal_error() -> None:
    environ = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "agent", "doctor"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False, env=environ)
    assert (result.returncode, result.stderr) == (0, "")
    assert "\\u2714 Everything" in result.stdout


def test_a_reader_that_goes_away_is_no_failed_gate() -> None:
    command = [sys.executable, "-m", "agent", "doctor"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == ""
