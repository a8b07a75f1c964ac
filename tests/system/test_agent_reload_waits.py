"""A reload that builds an engine takes minutes: the agent can be stopped meanwhile, and says what waits.

TensorRT and CUDA are stand-ins; everything else is real: processes, plans on disk, the broker.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import paho.mqtt.publish
import psutil
import pytest

from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.deadlines import wait_until
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.nvidia import FakeNvidia
from tests.fixtures.processes import is_alive
from tests.fixtures.recorder import Recorder

pytestmark = pytest.mark.timeout(180)

RESULT = "edge/dut/camera/cam/inspect/result"
BUILT: dict[str, Any] = {"engine": "tensorrt", "strict": True}


@pytest.fixture
def nvidia(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvidia]:
    fake = FakeNvidia(monkeypatch)
    yield fake
    fake.close()


class Waiting:
    """An agent on the CPU whose configuration asks for an engine that has to be built."""

    def __init__(self, directory: Path, broker: MosquittoBroker, recorder: Recorder, nvidia: FakeNvidia) -> None:
        self.directory, self.broker, self.recorder = directory, broker, recorder
        self.agent = AgentProcess(directory, "run", "-c", str(self.write(engine="ort-cpu")), env=nvidia.environment())

    def write(self, *, rate_hz: float = 20, **model: Any) -> Path:
        camera = {
            "source": {"type": "pattern", "fps": 30, "width": 320, "height": 240},
            "rate_hz": rate_hz,
            "classify": [{"model": "inspect"}],
        }
        return write_config(
            self.directory,
            {
                "models": {"inspect": {"package": "demo", **model}},
                "cameras": {"cam": camera},
                "mqtt": {
                    "broker": self.broker.url,
                    "commands": {"enabled": True, "allow": ["reload", "set", "explain"]},
                },
                "thermal": {"source": "none"},
            },
        )

    def hang_up(self) -> None:
        self.agent.process.send_signal(signal.SIGHUP)

    def begin_to_build(self) -> psutil.Process:
        """Ask for the engine, and wait until it is being built."""
        self.write(**BUILT)
        self.hang_up()
        wait_until(self._builders, within_s=60)
        (builder,) = self._builders()
        return builder

    def ask(self, verb: str, **body: Any) -> Any:
        key = f"{verb}-{time.monotonic_ns()}"
        whole = orjson.dumps({"id": key, "expires_at": time.time() + 60, **body})
        paho.mqtt.publish.single(f"edge/dut/cmd/{verb}", whole, qos=1, hostname="127.0.0.1", port=self.broker.port)
        topic = f"edge/dut/reply/{verb}"
        return self.recorder.wait_for(lambda one: one.topic == topic and one.json["id"] == key, 30).json

    def _builders(self) -> list[psutil.Process]:
        found = []
        for child in psutil.Process(self.agent.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # a probe that has just ended
                if any("build_child" in part for part in child.cmdline()):
                    found.append(child)
        return found


@pytest.fixture
def waiting(tmp_path: Path, broker: MosquittoBroker, recorder: Recorder, nvidia: FakeNvidia) -> Iterator[Waiting]:
    nvidia.set(build_s=120)
    running = Waiting(tmp_path, broker, recorder, nvidia)
    with running.agent:
        running.agent.wait_for_log("agent.ready")
        recorder.wait_count(3, RESULT, 30)
        yield running


def test_a_term_while_a_reload_builds_ends_the_agent_and_the_build_within_five_seconds(waiting: Waiting) -> None:
    builder = waiting.begin_to_build()
    assert waiting.agent.end(deadline_s=5.0) == 0, waiting.agent.stderr
    assert not is_alive(builder)
    assert "config.reload_abandoned" in waiting.agent.stderr
    assert "stop.cut_off" not in waiting.agent.stderr
    assert "config.applied" not in waiting.agent.stderr
    results = waiting.recorder.messages(RESULT)
    assert {one.json["ran"][1] for one in results} == {"ort-cpu"}


def test_a_term_while_a_commanded_reload_builds_ends_the_agent_within_five_seconds(waiting: Waiting) -> None:
    waiting.write(**BUILT)
    body = orjson.dumps({"id": "slow", "expires_at": time.time() + 60})
    paho.mqtt.publish.single("edge/dut/cmd/reload", body, qos=1, hostname="127.0.0.1", port=waiting.broker.port)
    wait_until(waiting._builders, within_s=60)
    assert waiting.agent.end(deadline_s=5.0) == 0, waiting.agent.stderr
    assert "stop.cut_off" not in waiting.agent.stderr


def test_the_old_engine_serves_and_the_build_is_shown_while_a_reload_waits(waiting: Waiting) -> None:
    waiting.begin_to_build()
    waiting.agent.wait_for_log("engine.building", 30)
    seen = len(waiting.recorder.messages(RESULT))
    waiting.recorder.wait_count(seen + 20, RESULT, 30)
    assert waiting.agent.end() == 0, waiting.agent.stderr


def test_a_second_reload_waits_its_turn_and_says_so(
    tmp_path: Path, broker: MosquittoBroker, recorder: Recorder, nvidia: FakeNvidia
) -> None:
    nvidia.set(build_s=8)
    waiting = Waiting(tmp_path, broker, recorder, nvidia)
    with waiting.agent as agent:
        agent.wait_for_log("agent.ready")
        waiting.begin_to_build()
        waiting.write(**BUILT, rate_hz=7)
        waiting.hang_up()
        agent.wait_for_log("config.reload_deferred")
        assert "config.applied" not in agent.stderr
        agent.wait_for_log("config.applied", 60)
        runtime = recorder.wait_for(
            lambda one: one.topic == "edge/dut/runtime" and one.json["cameras"]["cam"]["rate_hz"] == 7, 30
        )
        assert runtime.json["models"]["inspect"]["engine"] == "tensorrt"
        assert agent.end() == 0, agent.stderr


def test_a_command_that_changes_something_meanwhile_is_refused_and_others_are_answered(waiting: Waiting) -> None:
    waiting.begin_to_build()
    refused = waiting.ask("set", camera="cam", rate_hz=3)
    assert (refused["outcome"], refused["reason"]) == ("failed", "reload_under_way")
    assert waiting.ask("reload")["details"] == {"outcome": "waiting"}
    assert waiting.ask("explain", camera="cam")["outcome"] == "done"
    assert waiting.agent.end(deadline_s=5.0) == 0, waiting.agent.stderr
