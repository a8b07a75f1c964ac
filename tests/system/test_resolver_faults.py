"""A resolver that never answers, under a whole agent in a network and with name files of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

from tests.fixtures.agent_process import write_config
from tests.fixtures.canary import with_canary
from tests.fixtures.deadlines import wait_until
from tests.fixtures.drills import note
from tests.fixtures.namespaces import isolated

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("no_password_leaks")]

_MAX_STOP_S = 5.0
_NAMESERVER_PORT = "0035"  # 53, as /proc/net/udp writes it

# Takes questions on the port of name servers and leaves them unread; brings the loopback interface of its network up
# first (SIOCSIFFLAGS with IFF_UP | IFF_RUNNING). Source: netdevice(7).
_BLACK_HOLE = """
import fcntl, os, socket, struct, sys
hole = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
fcntl.ioctl(hole, 0x8914, struct.pack("16sh14x", b"lo", 0x41))
hole.bind(("127.0.0.1", 53))
hole.set_inheritable(True)
os.execv(sys.executable, [sys.executable, "-m", "agent", *sys.argv[1:]])
"""
_MOUNTS = ("mount --bind resolv.conf /etc/resolv.conf", "mount --bind nsswitch.conf /etc/nsswitch.conf")


@contextmanager
def _agent(directory: Path, config: Path) -> Iterator[subprocess.Popen[bytes]]:
    run = [sys.executable, "-c", _BLACK_HOLE, "run", "--print", "-c", str(config)]
    command = isolated(run, *_MOUNTS, has_own_network=True)
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with (directory / "stdout").open("wb") as out, (directory / "stderr").open("wb") as err:
        running = subprocess.Popen(command, cwd=directory, stdout=out, stderr=err, env=environment)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def _results(directory: Path) -> int:
    return (directory / "stdout").read_text().count('"result-compact/1"')


def _questions_left(pid: int) -> bool:
    """Whether something waits unread at the port of name servers of that process's network."""
    for line in Path(f"/proc/{pid}/net/udp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(f":{_NAMESERVER_PORT}") and int(fields[4].split(":")[1], 16) > 0:
            return True
    return False


def test_a_resolver_that_never_answers_holds_up_neither_results_nor_the_end(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:5 attempts:1\n")
    (tmp_path / "nsswitch.conf").write_text("hosts: dns\n")
    camera = {
        "source": {"type": "pattern", "fps": 15, "width": 160, "height": 120},
        "classify": [{"model": "inspect"}],
    }
    models = {"inspect": {"package": "demo", "engine": "ort-cpu"}}
    config = {"models": models, "cameras": {"cam": camera}, "mqtt": {"broker": "mqtt://broker.test:1883"}}
    path = write_config(tmp_path, with_canary(tmp_path, config))
    with _agent(tmp_path, path) as agent:
        wait_until(lambda: _results(tmp_path) >= 10, within_s=60)
        wait_until(lambda: _questions_left(agent.pid), within_s=20)
        before = _results(tmp_path)
        seen_s = wait_until(
            lambda: "broker.test' cannot be resolved" in (tmp_path / "stderr").read_text(), within_s=60
        )
        # It hung for seconds; whoever waited with it had no results.
        assert _results(tmp_path) - before >= 15 * min(seen_s, 1.0), "results went on while it hung"
        again = _results(tmp_path)
        wait_until(lambda: _results(tmp_path) >= again + 60, within_s=30)
        assert agent.poll() is None
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(_MAX_STOP_S) == 0
    note(seen_s=seen_s)
    last = [orjson.loads(line)["message"] for line in (tmp_path / "stdout").read_bytes().splitlines()]
    assert [one["seq"] for one in last if one["schema"] == "result-compact/1"] == list(range(_results(tmp_path)))
