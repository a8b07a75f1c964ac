"""`agent serve` and `serve:` as their users run them: a process, a real model, the documented curl session."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from agent.demo import demo_package
from agent.runtime.errors import UsageError
from agent.tools.serve import ServeOptions, serve_packages
from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.deadlines import wait_until
from tests.fixtures.mosquitto import free_port
from tests.fixtures.packages import PackageFiles, TinyModel
from tests.fixtures.serving import png

_CYCLES = int(os.environ.get("AGENT_LOAD_CYCLES", "10"))
_PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


def _address_in(log: str) -> str:
    found = re.search(r"on http://(\S+)", log)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("serve")
    state = {"STATE_DIRECTORY": str(directory / "state")}
    with AgentProcess(directory, "serve", "--package", "demo", "--http", "127.0.0.1:0", env=state) as agent:
        agent.wait_for_log("Serving conveyor on http://")
        yield _address_in(agent.stderr)
        assert agent.end(signal.SIGTERM) == 0


def test_the_curl_session_of_the_documentation(address: str, tmp_path: Path) -> None:
    """Each command of the page runs, and its answer has the text that the page shows after `# `."""
    session = re.search(r"<!-- curl session -->\n```sh\n(.*?)```", _PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert session is not None
    copied = re.search(r"^cp (\S+) dent.jpg$", _PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert copied is not None
    shutil.copy(_PAGE.parent.parent / copied[1], tmp_path / "dent.jpg")
    commands = re.findall(r"^(curl .*?)\n# (.*?)$", session[1], re.MULTILINE)
    assert len(commands) >= 5
    for command, expected in commands:
        words = shlex.split(command.replace("127.0.0.1:8000", address))
        answer = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=20, check=True)
        assert expected in answer.stdout, command


def test_requests_beside_a_camera_reload_and_stop_with_open_connections(tmp_path: Path) -> None:
    """Serving is switched on by a reload, and an agent with idle and half-sent connections stops in time."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        http = f"127.0.0.1:{free.getsockname()[1]}"
    camera = {"source": {"type": "pattern"}, "rate_hz": 10, "classify": [{"model": "inspect"}]}
    config = {
        "models": {"inspect": {"package": "demo", "serve": True}},
        "cameras": {"front": camera},
        "mqtt": {"broker": "mqtt://127.0.0.1:1"},
    }
    write_config(tmp_path, config)
    with AgentProcess(tmp_path, "--log-format", "json", "run", "-c", "agent.yaml") as agent:
        agent.wait_for_log("agent.ready")
        assert "serve.started" not in agent.stderr
        write_config(tmp_path, {**config, "serve": {"http": http}})
        agent.process.send_signal(signal.SIGHUP)
        agent.wait_for_log("serve.started")
        wait_until(lambda: agent.stderr.count("agent.ready") == 2, within_s=20.0)
        image = (demo_package() / "evaluation" / "002_dent.jpg").read_bytes()
        answer = httpx.post(f"http://{http}/v1/models/inspect:classify", content=image).json()
        assert answer["results"][0]["labels"][0]["label"] == "dent"
        host, port = http.split(":")
        with socket.create_connection((host, int(port))), socket.create_connection((host, int(port))) as half:
            half.sendall(b"POST /v2/models/inspect/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
            assert agent.end(signal.SIGTERM, deadline_s=5.0) == 0


class _Traffic:
    """A client that sends to one model without pause, and counts its answers by status and reason."""

    def __init__(self, http: str, model: str, body: bytes) -> None:
        self.answers: Counter[str] = Counter()
        self._url = f"http://{http}/v1/models/{model}:classify"
        self._body = body
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send, name=f"client-{model}")

    def __enter__(self) -> _Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30.0)

    def _send(self) -> None:
        with httpx.Client(timeout=20.0) as client:
            while not self._stop.is_set():
                self.answers[self._answer(client)] += 1

    def _answer(self, client: httpx.Client) -> str:
        try:
            answer = client.post(self._url, content=self._body)
        except httpx.HTTPError as exc:
            return repr(exc)
        return "200" if answer.status_code == 200 else f"{answer.status_code} {answer.json()['error']}"


def test_models_are_loaded_and_unloaded_under_traffic_without_a_failed_request(tmp_path: Path) -> None:
    """One model serves throughout, one is loaded again while it serves, one is unloaded and loaded.

    Requests for the last one are answered, or refused because it is unloaded; `AGENT_LOAD_CYCLES` sets how often.
    """
    http = f"127.0.0.1:{free_port()}"
    package = str(PackageFiles.of(TinyModel()).write(tmp_path))
    model = {"package": package, "engine": "ort-cpu", "serve": True}
    names = ("steady", "again", "cycled")
    config = {
        "models": {name: dict(model) for name in names},
        "mqtt": {"broker": "mqtt://127.0.0.1:1"},
        "serve": {"http": http, "allow_load": True},
    }
    write_config(tmp_path, config)
    body = png(1)
    with AgentProcess(tmp_path, "run", "-c", "agent.yaml") as agent, ExitStack() as stack:
        agent.wait_for_log("agent.ready")
        control = stack.enter_context(httpx.Client(base_url=f"http://{http}/v2/repository/models", timeout=30.0))
        steady, again, cycled = (stack.enter_context(_Traffic(http, name, body)) for name in names)
        wait_until(lambda: all(one.answers["200"] for one in (steady, again, cycled)))
        for _ in range(_CYCLES):
            served = cycled.answers["200"]
            for call in ("cycled/unload", "again/load", "cycled/load"):
                answer = control.post(f"/{call}", json={})
                assert answer.status_code == 200, answer.text
            wait_until(lambda: cycled.answers["200"] > served)  # noqa: B023 - called before the next cycle
        stack.close()
        assert agent.end(signal.SIGTERM) == 0
    assert set(steady.answers) == {"200"}
    assert set(again.answers) == {"200"}
    refused = set(cycled.answers) - {"200"}
    assert refused
    assert all(re.match("503 model cycled is not ready: ", one) for one in refused), refused


def test_an_agent_without_an_address_imports_nothing_of_the_server() -> None:
    names = "('agent.web', 'uvicorn', 'starlette', 'uvloop')"
    code = f"import sys, agent.supervise, agent.app; print([one for one in sys.modules if one.startswith({names})])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("packages", "http", "text"),
    [
        (1, "0.0.0.0:8000", r"^serve\.http: .* can be reached by other machines, but there is no tokens_file"),
        (1, "127.0.0.1:99999", r"^serve\.http: port 99999 is above 65535"),
        (2, "127.0.0.1:0", "are both named conveyor, but each model needs a name of its own"),
    ],
)
def test_a_command_line_that_cannot_be_served_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, packages: int, http: str, text: str
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    options = ServeOptions(
        http=http, grpc=None, tokens_file=None, engine="auto", precision="fp32", max_batch=None, max_file_mib=512
    )
    with pytest.raises(UsageError, match=text):
        serve_packages([demo_package()] * packages, options, is_stopping=lambda: True, on_ready=lambda *_: None)
