"""A disk that is slow or reports errors, under a whole agent: its system calls are disturbed from outside."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from agent.publish.outbox.file import OutboxFile
from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.canary import with_canary
from tests.fixtures.deadlines import wait_until
from tests.fixtures.drills import note
from tests.fixtures.faulty_calls import disturbed, faulty_calls, why_not

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.usefixtures("no_password_leaks"),
    pytest.mark.skipif(why_not() is not None, reason=f"the disk cannot be disturbed: {why_not()}"),
]

_SLOW_S = 3.0
_MAX_STOP_S = 20.0
"""TimeoutStopSec of the unit: each file that is kept at the end takes its time on such a disk."""
_BACK_WITHIN_S = 10.0
"""Bar: the disk is used again so soon after it works."""


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    """Looks at the bundled clip four times over, without a broker, and prints its messages."""
    several = [
        {"model": "inspect", "name": f"look-{number}", "decide": {"votes": 1, "window": 1}} for number in range(4)
    ]
    camera = {"source": {"type": "file", "path": "demo", "loop": True}, "rate_hz": 15, "classify": several}
    models = {"inspect": {"package": "demo", "engine": "ort-cpu"}}
    config = {"models": models, "cameras": {"cam": camera}, "mqtt": {"broker": "mqtt://127.0.0.1:1"}}
    path = write_config(tmp_path, with_canary(tmp_path, config))
    with AgentProcess(tmp_path, "run", "--print", "-c", str(path)) as running:
        running.wait_for_log("agent.ready", 60)
        wait_until(lambda: _said(running, "event/1"), within_s=30)
        yield running


def _said(agent: AgentProcess, schema: str) -> list[Any]:
    """The messages of one kind so far; a line that is still being written is left out."""
    lines = agent.stdout.splitlines(keepends=True)
    messages = [orjson.loads(line)["message"] for line in lines if line.endswith("\n")]
    return [message for message in messages if message["schema"] == schema]


def _max_gap_s(results: list[Any]) -> float:
    at = [datetime.fromisoformat(result["captured_at"].replace("Z", "+00:00")).timestamp() for result in results]
    return max(after - before for before, after in itertools.pairwise(sorted(at)))


def _in_file(directory: Path) -> int:
    file = OutboxFile(directory / "state" / "outbox.sqlite")
    try:
        return file.content().rows
    finally:
        file.close()


def test_a_disk_that_takes_three_seconds_for_each_commit_holds_up_no_frame(
    tmp_path: Path, agent: AgentProcess
) -> None:
    before = len(_said(agent, "result-compact/1"))
    slow = f"delay_enter={_SLOW_S * 1e6:.0f}"
    with faulty_calls(agent.process.pid, "fsync,fdatasync", slow, tmp_path) as listing:
        wait_until(lambda: len(disturbed(listing)) >= 2, within_s=60)
        during = _said(agent, "result-compact/1")[before:]
        threads = {line.split()[0] for line in disturbed(listing)}
        assert agent.end(deadline_s=_MAX_STOP_S) == 0
    gap_s = _max_gap_s(during)
    note(longest_gap_s=gap_s)
    # Whoever waited for the disk would have seen nothing for at least as long as one commit took.
    assert gap_s < _SLOW_S / 2
    assert len(threads) == 1, "one thread alone waits for the disk"
    assert threads != {str(agent.process.pid)}, "and it is not the main one"


@pytest.mark.parametrize("calls", ["fsync,fdatasync", "write,pwrite64"])
def test_events_wait_in_memory_while_the_disk_reports_errors_and_go_to_it_afterwards(
    tmp_path: Path, agent: AgentProcess, calls: str
) -> None:
    files = [tmp_path / "state" / f"outbox.sqlite{suffix}" for suffix in ("", "-wal", "-shm", "-journal")]
    with faulty_calls(agent.process.pid, calls, "error=EIO", tmp_path, files) as listing:
        agent.wait_for_log("outbox.in_memory", 60)
        told = len(_said(agent, "health/1"))
        before = len(_said(agent, "result-compact/1"))
        wait_until(lambda: len(_said(agent, "health/1")) > told, within_s=30)
        health = _said(agent, "health/1")[-1]["publisher"]
        during = _said(agent, "result-compact/1")[before:]
        assert disturbed(listing)
        assert "outbox.recovered" not in agent.stderr, "a file that opens and takes nothing has not recovered"
    assert health["durability"] == "memory"
    assert "the disk reports an error" in health["reason"]
    assert health["stored"] > 0
    assert health["dropped"].get("outbox_full", 0) == 0
    assert len(during) > 30
    assert _max_gap_s(during) < _SLOW_S / 2
    recovery_s = wait_until(lambda: "outbox.recovered" in agent.stderr, within_s=_BACK_WITHIN_S)
    note(recovery_s=recovery_s)
    events = len(_said(agent, "event/1"))
    wait_until(lambda: _in_file(tmp_path) >= events, within_s=10)
    agent.end(signal.SIGKILL)
    assert _in_file(tmp_path) >= events, "on the disk, also those of the time without it"
