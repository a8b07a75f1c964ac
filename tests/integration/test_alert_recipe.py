"""The subscriber of docs/alerts.md posts each event once, and loses none when its webhook fails."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import paho.mqtt.publish as mqtt
import pytest

from scripts.dev.markdown_blocks import blocks_of
from tests.fixtures.deadlines import wait_until
from tests.fixtures.mosquitto import MosquittoBroker

_PAGE = Path(__file__).parents[2] / "docs" / "alerts.md"
_TOPIC = "edge/line-3/camera/front/inspect/event"


class _Webhook:
    """Keeps what is posted; answers with ``status``."""

    def __init__(self) -> None:
        self.posted: list[str] = []
        self.status = 204
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.posted.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
                self.send_response(hook.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/alerts"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> _Webhook:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextlib.contextmanager
def _alerting(folder: Path, broker: MosquittoBroker, hook: _Webhook) -> Iterator[subprocess.Popen[bytes]]:
    (block,) = [one for one in blocks_of(_PAGE.read_text(encoding="utf-8")) if one.file == "alert.py"]
    assert len(block.body.splitlines()) < 30
    program = folder / "alert.py"
    program.write_text(block.body, encoding="utf-8")
    command = [sys.executable, str(program), f"127.0.0.1:{broker.port}", hook.url, "scratch", "dent"]
    before = broker.log().count("Sending SUBACK")
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "no_proxy": "*"}) as process:
        try:
            wait_until(lambda: broker.log().count("Sending SUBACK") > before, within_s=20)
            yield process
        finally:
            process.kill()


def _publish(broker: MosquittoBroker, seq: int, label: str, *, session: int = 2) -> None:
    event = {"device": "line-3", "camera": "front", "session": session, "seq": seq, "to_label": label, "at": f"t{seq}"}
    mqtt.single(_TOPIC, json.dumps(event).encode(), qos=1, hostname="127.0.0.1", port=broker.port)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[MosquittoBroker]:
    with MosquittoBroker(tmp_path / "broker", options=["log_type all"]) as started:
        yield started


def test_each_event_of_the_labels_is_posted_once(tmp_path: Path, broker: MosquittoBroker) -> None:
    with _Webhook() as hook, _alerting(tmp_path, broker, hook):
        for seq, label in [(0, "scratch"), (0, "scratch"), (1, "ok"), (2, "dent"), (1, "dent")]:
            _publish(broker, seq, label)
        _publish(broker, 0, "scratch", session=3)
        wait_until(lambda: len(hook.posted) >= 3)
    assert hook.posted == [
        "line-3 front: scratch since t0",
        "line-3 front: dent since t2",
        "line-3 front: scratch since t0",
    ]


def test_an_event_whose_webhook_failed_is_posted_by_the_next_start(tmp_path: Path, broker: MosquittoBroker) -> None:
    with _Webhook() as hook:
        hook.status = 503
        with _alerting(tmp_path, broker, hook) as process:
            _publish(broker, 0, "scratch")
            assert process.wait(timeout=20) != 0
        hook.status = 204
        _publish(broker, 1, "dent")  # while nothing is subscribed
        hook.posted.clear()
        with _alerting(tmp_path, broker, hook):
            wait_until(lambda: len(hook.posted) >= 2)
    assert hook.posted == ["line-3 front: scratch since t0", "line-3 front: dent since t1"]
