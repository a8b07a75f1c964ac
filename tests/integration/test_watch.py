"""`agent watch` against a real broker."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import paho.mqtt.publish as mqtt
import pytest

from agent.mqtt.messages import state_from_state_change
from agent.mqtt.topics import encode
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.publish_samples import DEVICE, SESSION, TOPICS, camera_health, health, runtime, state_change

PASSWORD = "correct-horse-battery"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[MosquittoBroker]:
    with MosquittoBroker(tmp_path / "broker") as started:
        yield started


def fill(port: int, **options: object) -> None:
    """Retained messages of one device."""
    messages = [
        (TOPICS.status, json.dumps({"state": "online"}).encode(), 1, True),
        (TOPICS.runtime, encode(runtime()), 1, True),
        (TOPICS.health, encode(health()), 1, True),
        (TOPICS.camera_health("front"), encode(camera_health()), 1, True),
    ]
    mqtt.multiple(messages, hostname="127.0.0.1", port=port, **options)  # type: ignore[arg-type]  # untyped pass-through


def watch(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent", "watch", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_retained_messages_are_shown_off_a_terminal_as_lines(broker: MosquittoBroker) -> None:
    fill(broker.port)
    result = watch(broker.url, "--for", "500ms")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{DEVICE} online\n", "")


def test_explain_says_why_a_classifier_is_where_it_is(broker: MosquittoBroker) -> None:
    command = [sys.executable, "-m", "agent", "explain", broker.url, "--camera", "front", "--for", "500ms"]
    nobody = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (nobody.returncode, nobody.stdout) == (69, "")
    assert "no classifier of camera front was heard under edge/+/#" in nobody.stderr
    fill(broker.port)
    change = state_from_state_change(
        replace(state_change("stale", None), labels=()),
        device=DEVICE,
        session=SESSION,
        seq=0,
        at_utc_ns=0,
        clock_state="synced",
    )
    mqtt.single(
        TOPICS.state("front", "inspect"), encode(change), 1, retain=True, hostname="127.0.0.1", port=broker.port
    )
    heard = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (heard.returncode, heard.stderr) == (0, "")
    assert f"{DEVICE} front/inspect is stale: no result comes" in heard.stdout


def test_json_gives_every_message_as_a_line(broker: MosquittoBroker) -> None:
    fill(broker.port)
    mqtt.single("edge/x/strange", b"\xffnot json", retain=True, hostname="127.0.0.1", port=broker.port)
    result = watch(broker.url, "--json", "--for", "500ms")
    lines = {line["topic"]: line["message"] for line in map(json.loads, result.stdout.splitlines())}
    assert set(lines) == {
        TOPICS.status,
        TOPICS.runtime,
        TOPICS.health,
        TOPICS.camera_health("front"),
        "edge/x/strange",
    }
    assert lines[TOPICS.status] == {"state": "online"}


def test_the_time_counts_from_when_the_broker_has_answered(broker: MosquittoBroker) -> None:
    fill(broker.port)
    with socket.create_server(("127.0.0.1", 0)) as slow:
        port = slow.getsockname()[1]
        thread = threading.Thread(target=_pass_on_late, args=(slow, broker.port, 1.0))
        thread.start()
        result = watch(f"mqtt://127.0.0.1:{port}", "--for", "500ms")
        thread.join()
    assert result.stdout == f"{DEVICE} online\n"


def _pass_on_late(slow: socket.socket, port: int, late_s: float) -> None:
    """One connection to the broker at ``port``, whose first word takes its time."""
    client, _ = slow.accept()
    with client, socket.create_connection(("127.0.0.1", port)) as server:
        time.sleep(late_s)
        ends = {client: server, server: client}
        while True:
            for end in select.select([*ends], [], [])[0]:
                data = end.recv(65536)
                if not data:
                    return
                ends[end].sendall(data)


def test_only_the_device_that_was_asked_for_is_heard(broker: MosquittoBroker) -> None:
    fill(broker.port)
    assert watch(broker.url, "--device", "other", "--for", "500ms").stdout == "no messages under edge/ yet\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_on_a_terminal_a_picture_is_drawn_until_a_signal_which_leaves_it_as_it_was(
    broker: MosquittoBroker, number: signal.Signals
) -> None:
    fill(broker.port)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "agent", "watch", broker.url]
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        seen = b""
        while b"Jetson Orin Nano" not in seen:
            seen += os.read(ours, 65536)
        process.send_signal(number)
        try:
            while chunk := os.read(ours, 65536):
                seen += chunk
        except OSError:  # how a terminal tells that the other side is closed
            pass
        os.close(ours)
        assert process.wait(timeout=30) == 0, seen[-2000:]
    assert DEVICE.encode() in seen
    assert b"\x1b[?1049l" in seen, "the screen from before comes back"
    assert b"Traceback" not in seen


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_names_that_the_output_cannot_hold_are_written_as_escapes(broker: MosquittoBroker, encoding: str) -> None:
    mqtt.single("edge/caméra-机/status", b'{"state": "online"}', retain=True, hostname="127.0.0.1", port=broker.port)
    command = [sys.executable, "-m", "agent", "watch", broker.url, "--for", "500ms"]
    env = {**os.environ, "PYTHONIOENCODING": encoding, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    lines = subprocess.run(command, env=env, capture_output=True, timeout=60, check=False)
    assert (lines.returncode, lines.stderr) == (0, b"")
    assert b"-\\u673a online" in lines.stdout

    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        seen = b""
        with suppress(OSError):  # how a terminal tells that the other side is closed
            while chunk := os.read(ours, 65536):
                seen += chunk
        assert process.wait(timeout=30) == 0, seen
    os.close(ours)
    assert b"-\\u673a" in seen


def test_the_configuration_gives_address_prefix_and_password(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD)
    (tmp_path / "password").chmod(0o600)
    (tmp_path / "model.yaml").touch()
    with MosquittoBroker(tmp_path / "broker", users={"agent": PASSWORD}) as broker:
        fill(broker.port, auth={"username": "agent", "password": PASSWORD})
        config = tmp_path / "agent.yaml"
        config.write_text(
            "version: 1\ndevice: {id: line-3}\nmodels: {m: {package: .}}\n"
            "cameras: {c: {source: {type: pattern}, classify: [{model: m}]}}\n"
            f"mqtt: {{broker: '{broker.url}', username: agent, password_file: password}}\n"
        )
        result = watch("-c", str(config), "--for", "500ms")
        assert result.stdout == f"{DEVICE} online\n"
        refused = watch(broker.url, "--for", "500ms")
    assert refused.returncode == 69
    assert "not authori" in refused.stderr.lower()
    assert PASSWORD not in result.stderr + refused.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["http://127.0.0.1"], "mqtt://host:1883"),
        (["mqtt://me:secret@127.0.0.1"], "mqtt://host:1883"),
        (["--for", "soon"], "is not a duration"),
        (["--for", "0"], "is not a duration"),
        (["mqtt://127.0.0.1:0"], "mqtt://host:1883"),
        (["--prefix", "edge/#"], "is not a topic prefix"),
        (["--prefix", ""], "is not a topic prefix"),
        (["--password-file", "/dev/null"], "--username"),
    ],
)
def test_wrong_usage_is_explained(args: list[str], words: str) -> None:
    result = watch(*args)
    assert result.returncode == 2
    assert words in result.stderr
    assert "secret" not in result.stderr


def test_an_absent_broker_is_one_line_and_exit_code_69() -> None:
    result = watch("mqtt://127.0.0.1:1", "--for", "500ms")
    assert result.returncode == 69
    assert result.stderr.startswith("error: no connection to mqtt://127.0.0.1:1 within 5 s: ")
    assert len(result.stderr.splitlines()) == 1
