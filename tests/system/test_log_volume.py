"""How much agents write to their logs while something is wrong for long, scaled to a day."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.canary import with_canary
from tests.fixtures.deadlines import wait_until
from tests.fixtures.drills import note
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.namespaces import isolated

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("no_password_leaks")]

_MEASURED_S = 21.0
"""Two of the intervals in which the same line comes once."""
_BYTES_A_DAY = 10_000_000
_DAY_S = 86400.0
_NOBODY = "mqtt://127.0.0.1:1"

Log = Callable[[], str]


def _classified(source: dict[str, Any]) -> dict[str, Any]:
    return {"source": source, "classify": [{"model": "inspect", "decide": {"votes": 1, "window": 1}}], "rate_hz": 15}


def _write(directory: Path, broker: str, package: str = "demo", **more: Any) -> Path:
    cameras = more.pop("cameras", {"cam": _classified({"type": "file", "path": "demo", "loop": True})})
    models = {"inspect": {"package": package, "engine": "ort-cpu"}}
    config = {"models": models, "cameras": cameras, "mqtt": {"broker": broker}, **more}
    return write_config(directory, with_canary(directory, config))


@contextmanager
def _agent(directory: Path, config: Path) -> Iterator[Log]:
    with AgentProcess(directory, "run", "-c", str(config)) as agent:
        yield lambda: agent.stderr
        assert agent.process.poll() is None, agent.stderr


@contextmanager
def _agent_on_a_full_disk(directory: Path, config: Path) -> Iterator[Log]:
    """Its events have nowhere to go: there is no broker either."""
    (directory / "state").mkdir()
    mounts = ["mount -t tmpfs -o size=64m none state"]
    run = [sys.executable, "-m", "agent", "run", "-c", str(config)]
    with (directory / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            isolated(run, f"cd {directory}", *mounts),
            stderr=stderr,
            env={"PYTHONPATH": str(Path.cwd()), "PATH": os.environ["PATH"]},
        )
    try:
        log = (directory / "stderr").read_text
        wait_until(lambda: "agent.ready" in log(), within_s=90)
        with suppress(OSError), Path(f"/proc/{process.pid}/root{directory}/state/full").open("wb") as ballast:
            while True:
                ballast.write(bytes(1 << 16))
        yield log
        assert process.poll() is None, (directory / "stderr").read_text()
    finally:
        process.kill()
        process.wait()


def test_no_fault_that_lasts_writes_more_than_ten_megabytes_a_day(tmp_path: Path) -> None:
    gone = {"type": "rtsp", "url": "rtsp://127.0.0.1:9/gone"}
    with ExitStack() as running:
        broker = running.enter_context(MosquittoBroker(tmp_path / "broker"))
        strict = running.enter_context(MosquittoBroker(tmp_path / "strict", users={"canary-user": "another"}))
        configs = {
            "camera gone": _write(tmp_path / "camera", broker.url, cameras={"cam": _classified(gone)}),
            "broker gone": _write(tmp_path / "absent", _NOBODY),
            "wrong password": _write(tmp_path / "password", strict.url),
            "sensor lost": _write(tmp_path / "sensor", broker.url, thermal={"source": "jtop"}),
        }
        logs = {name: running.enter_context(_agent(path.parent, path)) for name, path in configs.items()}
        full = _write(tmp_path / "full", _NOBODY)
        logs["disk full"] = running.enter_context(_agent_on_a_full_disk(full.parent, full))
        told = {
            "camera gone": "camera.lost",
            "broker gone": "connection refused",
            "wrong password": "not authorised",
            "sensor lost": "thermal",
            "disk full": "outbox.in_memory",
        }
        for name, text in told.items():
            wait_until(lambda log=logs[name], text=text: text in log(), within_s=90)  # type: ignore[misc]  # mypy knows no such default
        before = {name: len(log()) for name, log in logs.items()}
        time.sleep(_MEASURED_S)
        written = {name: len(log()) - before[name] for name, log in logs.items()}
        tails = {name: log()[before[name] :] for name, log in logs.items()}
    a_day = {name: size * _DAY_S / _MEASURED_S for name, size in written.items()}
    note(**{f"bytes_a_day_{name.replace(' ', '_')}": size for name, size in a_day.items()})
    assert {name: tails[name] for name, size in a_day.items() if size > _BYTES_A_DAY} == {}
