"""The agent whole, with a TensorRT that must build first: it serves meanwhile, survives kills, and dies of a lost GPU.

TensorRT and CUDA are stand-ins; everything else is real: processes, plans on disk, the broker.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from engines.store.plan_cache import PlanCache
from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.deadlines import wait_until
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.nvidia import FakeNvidia
from tests.fixtures.processes import is_alive
from tests.fixtures.recorder import Recorder

pytestmark = pytest.mark.timeout(180)

_RESULT = "edge/dut/camera/cam/inspect/result"


@pytest.fixture
def nvidia(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvidia]:
    fake = FakeNvidia(monkeypatch)
    yield fake
    fake.close()


def _agent(directory: Path, broker: MosquittoBroker, nvidia: FakeNvidia, **model: Any) -> AgentProcess:
    config = {
        "models": {"inspect": {"package": "demo", **model}},
        "cameras": {
            "cam": {
                "source": {"type": "pattern", "fps": 30, "width": 320, "height": 240},
                "rate_hz": None,
                "classify": [{"model": "inspect"}],
            }
        },
        "mqtt": {"broker": broker.url},
        "thermal": {"source": "none"},
    }
    path = write_config(directory, config)
    return AgentProcess(directory, "run", "-c", str(path), env=nvidia.environment())


def _engines(recorder: Recorder) -> list[str]:
    names = [message.json["ran"][1] for message in recorder.messages(_RESULT)]
    return [name for name, _ in itertools.groupby(names)]


def _builders(agent: AgentProcess) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(agent.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # a probe that has just ended
            if any("build_child" in part for part in child.cmdline()):
                found.append(child)
    return found


def test_frames_are_classified_from_the_first_second_and_the_plan_takes_over(
    tmp_path: Path, broker: MosquittoBroker, recorder: Recorder, nvidia: FakeNvidia
) -> None:
    nvidia.set(build_s=3)
    with _agent(tmp_path, broker, nvidia) as agent:
        agent.wait_for_log("agent.ready")
        assert PlanCache(tmp_path / "state" / "cache").entries() == [], "it waited for the build"
        recorder.wait_count(3, _RESULT, 30)
        wait_until(lambda: _engines(recorder) == ["ort-cpu", "tensorrt"], within_s=60)
        wait_until(lambda: len(recorder.messages("edge/dut/runtime")) >= 2)
        assert agent.end() == 0, agent.stderr
    first, second = (message.json for message in recorder.messages("edge/dut/runtime")[:2])
    assert first["models"]["inspect"]["pending"] == "tensorrt"
    assert "Orin is not used" in first["models"]["inspect"]["degraded"]
    assert second["changed"] == "inspect: ort-cpu was replaced by tensorrt"
    model = second["models"]["inspect"]
    assert (model["engine"], model["pending"], model["degraded"]) == ("tensorrt", None, None)
    assert model["accuracy"]["passed"] is True
    assert model["details"]["device_memory_bytes"] > 0
    results = [message.json for message in recorder.messages(_RESULT)]
    frames = [result["frame"] for result in results]
    assert frames == sorted(set(frames))
    wait_until(lambda: recorder.messages("edge/dut/status")[-1].json["state"] == "stopped")
    books = recorder.messages("edge/dut/health")[-1].json["cameras"]["cam"]
    assert books["in_flight"] == 0
    assert books["captured"] == books["classified"] + sum(books["dropped"].values())
    assert set(books["dropped"]) <= {"superseded", "stopping"}
    assert books["classified"] == len(results)


def test_strict_waits_for_the_plan_and_shows_the_build(
    tmp_path: Path, broker: MosquittoBroker, recorder: Recorder, nvidia: FakeNvidia
) -> None:
    nvidia.set(build_s=2)
    with _agent(tmp_path, broker, nvidia, engine="tensorrt", strict=True) as agent:
        recorder.wait_for(lambda message: message.topic == "edge/dut/health" and message.json["builds"] != {}, 30)
        assert recorder.messages(_RESULT) == []
        agent.wait_for_log("agent.ready")
        recorder.wait_count(3, _RESULT, 30)
        assert agent.end() == 0, agent.stderr
    assert _engines(recorder) == ["tensorrt"]
    building = [message.json["builds"] for message in recorder.messages("edge/dut/health")]
    assert any(builds.get("inspect", {}).get("engine") == "tensorrt" for builds in building)
    assert building[-1] == {}


def test_a_kill_in_the_middle_of_a_build_takes_the_child_along_and_the_next_start_builds(
    tmp_path: Path, broker: MosquittoBroker, recorder: Recorder, nvidia: FakeNvidia
) -> None:
    nvidia.set(build_s=30)
    with _agent(tmp_path, broker, nvidia) as agent:
        wait_until(lambda: _builders(agent), within_s=60)
        (builder,) = _builders(agent)
        wait_until(lambda: list((tmp_path / "state" / "cache" / "building").iterdir()))
        agent.end(signal.SIGKILL)
    wait_until(lambda: not is_alive(builder))
    nvidia.set(build_s=0)
    with _agent(tmp_path, broker, nvidia) as agent:
        wait_until(lambda: _engines(recorder)[-1:] == ["tensorrt"], within_s=60)
        assert agent.end() == 0, agent.stderr
    assert list((tmp_path / "state" / "cache" / "building").iterdir()) == []
    assert len(PlanCache(tmp_path / "state" / "cache").entries()) == 1


def test_a_term_in_the_middle_of_a_build_ends_both(
    tmp_path: Path, broker: MosquittoBroker, nvidia: FakeNvidia
) -> None:
    nvidia.set(build_s=60)
    with _agent(tmp_path, broker, nvidia) as agent:
        wait_until(lambda: _builders(agent), within_s=60)
        (builder,) = _builders(agent)
        assert agent.end() == 0, agent.stderr
        assert not is_alive(builder)
        assert "stop.cut_off" not in agent.stderr


def test_a_lost_gpu_ends_the_program_with_exit_code_70(
    tmp_path: Path, broker: MosquittoBroker, recorder: Recorder, nvidia: FakeNvidia
) -> None:
    with _agent(tmp_path, broker, nvidia, engine="tensorrt", strict=True) as agent:
        recorder.wait_count(3, _RESULT, 60)
        assert agent.end() == 0, agent.stderr
    nvidia.set(faults="sticky_at_run=120")
    with _agent(tmp_path, broker, nvidia, engine="tensorrt", strict=True) as agent:
        assert agent.wait() == 70, agent.stderr
        last = recorder.messages(_RESULT)[-1].at
        assert time.monotonic() - last < 5
    assert "the GPU is lost" in agent.stderr
    assert "illegal memory access" in agent.stderr
    exit_word = (tmp_path / "state" / "last-exit").read_text()
    assert "exit code 70" in exit_word


def test_a_lost_gpu_ends_the_program_also_where_the_broker_does_not_answer(
    tmp_path: Path, broker: MosquittoBroker, recorder: Recorder, nvidia: FakeNvidia
) -> None:
    nvidia.set(faults="sticky_at_run=200")
    with _agent(tmp_path, broker, nvidia, engine="tensorrt", strict=True) as agent:
        recorder.wait_count(1, _RESULT, 60)
        broker.pause()
        try:
            agent.wait_for_log("engine.lost", 60)
            assert agent.wait(3) == 70, agent.stderr
        finally:
            broker.resume()


def test_a_plan_that_crashes_three_times_gives_way_to_the_next_engine(
    tmp_path: Path, broker: MosquittoBroker, recorder: Recorder, nvidia: FakeNvidia
) -> None:
    nvidia.set(faults="crash_on_load")
    for _ in range(3):
        with _agent(tmp_path, broker, nvidia) as agent:
            assert agent.wait() == -signal.SIGABRT, agent.stderr
    seen = len(recorder.messages(_RESULT))
    with _agent(tmp_path, broker, nvidia) as agent:
        recorder.wait_count(seen + 3, _RESULT, 60)
        assert agent.end() == 0, agent.stderr
    runtime = recorder.messages("edge/dut/runtime")[-1].json["models"]["inspect"]
    assert runtime["engine"] == "ort-cpu"
    (rejected,) = [one for one in runtime["rejected"] if one["engine"] == "tensorrt"]
    assert "ended this program 3 times" in rejected["reason"]


def test_two_agents_build_once(tmp_path: Path, broker: MosquittoBroker, nvidia: FakeNvidia) -> None:
    """They share a cache as two services of one user may."""
    nvidia.set(build_s=2)
    shared = tmp_path / "shared"
    shared.mkdir()
    for name in ("one", "two"):
        (tmp_path / name / "state").mkdir(parents=True)
        (tmp_path / name / "state" / "cache").symlink_to(shared)
    with (
        _agent(tmp_path / "one", broker, nvidia) as first,
        _agent(tmp_path / "two", broker, nvidia) as second,
    ):
        first.wait_for_log("was replaced by tensorrt", 60)
        second.wait_for_log("was replaced by tensorrt", 60)
        codes = [first.end(), second.end()]
    assert codes == [0, 0]
    assert len(PlanCache(shared).entries()) == 1
    assert list((shared / "building").iterdir()) == []
