"""The search that runs beside the fault drills finds a password wherever one is planted."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.fixtures.canary import CANARY, SECRET_FILE, Search, with_canary
from tests.fixtures.deadlines import wait_until
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.recorder import Recorder

_SLEEP = "import time; time.sleep(60)"


@pytest.mark.parametrize("planted", ["cmdline", "environ", None])
def test_a_password_of_a_process_is_found(planted: str | None) -> None:
    command = [sys.executable, "-c", _SLEEP, *([f"--password={CANARY}"] if planted == "cmdline" else [])]
    environment = {**os.environ, **({"PASSWORD": CANARY} if planted == "environ" else {})}
    with Search() as search, subprocess.Popen(command, env=environment) as process:
        wait_until(lambda: process.pid in search.processes)
        if planted is not None:
            wait_until(lambda: search.places)
        process.kill()
    assert search.places == (set() if planted is None else {f"{planted} of process {process.pid}"})


def test_a_password_in_a_file_is_found_and_the_file_it_belongs_in_is_left_out(tmp_path: Path) -> None:
    config = with_canary(tmp_path, {"mqtt": {"broker": "mqtt://127.0.0.1:1"}})
    assert config["mqtt"]["password_file"] == str(tmp_path / SECRET_FILE)
    search = Search()
    assert search.files(tmp_path) == 0
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "outbox.sqlite-wal").write_bytes(b"\0\1" + CANARY.encode() + b"\2")
    assert search.files(tmp_path) == 1
    assert search.places == {f"file {tmp_path / 'state' / 'outbox.sqlite-wal'}"}


def test_a_password_in_a_message_is_found(tmp_path: Path) -> None:
    client = paho.Client(CallbackAPIVersion.VERSION2)
    with MosquittoBroker(tmp_path / "broker") as broker, Recorder(broker.port) as recorder:
        client.connect("127.0.0.1", broker.port)
        client.loop_start()
        client.publish("some/topic", f"connected as {CANARY}", qos=1).wait_for_publish(5)
        recorder.wait_count(1)
        client.disconnect()
        client.loop_stop()
        client._reset_sockets()  # see Recorder.stop
        search = Search()
        assert search.messages(recorder) == 1
    assert search.places == {"message some/topic"}


def test_a_password_in_a_bundle_is_found(tmp_path: Path) -> None:
    content = f"password: {CANARY}\n".encode()
    with tarfile.open(tmp_path / "bundle", "w:gz") as archive:
        entry = tarfile.TarInfo("bundle/config.yaml")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    search = Search()
    search.archive(tmp_path / "bundle")
    assert search.places == {"bundle: bundle/config.yaml"}
