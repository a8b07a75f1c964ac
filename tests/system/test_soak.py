"""A short soak, in which everything holds but what was broken on purpose."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from scripts.soak_harness import evidence
from scripts.soak_harness.faults import FAULTS
from scripts.soak_harness.soak import Plan, soak
from scripts.soak_harness.stage import RESULTS, Stage
from tests.fixtures.deadlines import wait_until
from tests.fixtures.processes import is_alive

pytestmark = pytest.mark.timeout(180)

_SLOW_DISK = next(fault for fault in FAULTS if fault.name == "disk is slow")


def test_a_soak_survives_its_faults_and_finds_the_planted_leak_alone(tmp_path: Path) -> None:
    """The leak is the one problem: everything else that a soak looks at held, through a fault too."""
    plan = Plan(
        seconds=20.0,
        has_faults=True,
        every_s=1.0,
        seed=3,
        leak_bytes=120_000,
        faults=(replace(_SLOW_DISK, lasts_s=(3.0, 3.0)),),
    )
    report = soak(plan, tmp_path, log=print)
    assert [problem for problem in report.problems if "grew by" not in problem] == [], "\n".join(report.lines())
    assert any("grew by" in problem for problem in report.problems), "\n".join(report.lines())
    assert report.drills
    assert min(report.results.values()) > 20


def test_no_fault_is_seen_where_there_is_none(tmp_path: Path) -> None:
    """What shows that a fault took hold would otherwise show it for a fault that was never made."""
    with Stage(tmp_path) as stage:
        for topic in RESULTS.values():
            stage.subscriber.wait_count(30, topic, 60.0)
        now = stage.before()
        before = replace(now, at=now.at - 25.0)  # long ago: what needs some time has had it
        stage.subscriber.wait_count(len(stage.subscriber.messages(RESULTS["net"])) + 15, RESULTS["net"], 30.0)
        # Looking whether anything listens is a connection too.
        by_connecting = [fault for fault in FAULTS if fault.shows is evidence.is_broker_gone]
        others = [fault for fault in FAULTS if fault not in by_connecting]
        with ThreadPoolExecutor(len(others)) as pool:
            seen = list(pool.map(lambda fault: fault.shows(stage, before), others))
        seen += [fault.shows(stage, before) for fault in by_connecting]
    assert [fault.name for fault, is_seen in zip([*others, *by_connecting], seen, strict=True) if is_seen] == []


@pytest.mark.parametrize(
    ("moment", "at_least"),
    [("machine.so", 1), ("mosquitto.log", 2), ("agent.yaml", 3), ("agent.log", 4)],
    ids=["begins", "broker starts", "camera runs", "agent starts"],
)
def test_a_soak_that_is_told_to_end_leaves_nothing_behind(tmp_path: Path, moment: str, at_least: int) -> None:
    """At whichever moment it is told: nobody may lose sight of what it is just starting."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "scripts.soak_harness", "--minutes", "5"]
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        wait_until(lambda: any(tmp_path.rglob(moment)), within_s=60.0)
        session = [one for one in psutil.process_iter() if _session_of(one) == process.pid]
        process.terminate()
        assert process.wait(60) != 0
    assert len(session) > at_least, "its keeper, and itself, the broker, the camera and the agent as they come"
    assert [one for one in session if is_alive(one)] == []
    assert list(tmp_path.iterdir()) == []


def _session_of(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except (ProcessLookupError, PermissionError):
        return None
