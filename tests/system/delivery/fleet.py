"""Many agents on a bridged mosquitto whose hub is cut off.

Each has its own publisher, outbox and client; several share a process.

``python -m tests.system.delivery.fleet JSON`` with the fields of `Squad` is one such process. It ends at SIGTERM.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event

import orjson

from agent.daemon.state_directory import StateDirectory
from agent.runtime.logs import configure
from tests.fixtures.deadlines import wait_until
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.recorder import Recorder
from tests.system.delivery.arrivals import Arrival, first_arrivals
from tests.system.delivery.brokers import ROOT
from tests.system.delivery.checker import Ledger, Verdict, identity_of, judge, read_ledger
from tests.system.delivery.proxy import FaultProxy
from tests.system.delivery.subject import Options, Subject

BRIDGE = ("cleansession false", "restart_timeout 1 5", "notifications false", "topic drill/# out 1")
"""The bridge keeps what it could not pass on, together with ``max_queued_messages 0`` (no limit)."""


@dataclass(frozen=True, slots=True)
class Squad:
    """The agents of one process: devices ``first`` to ``last``, each with ``events`` events."""

    port: int
    directory: str
    first: int
    last: int
    events: int
    events_per_s: float


@dataclass(frozen=True, slots=True)
class FleetOutcome:
    """What arrived at the hub. ``recovery_s`` is from the end of the cut until everything put before it was there."""

    verdict: Verdict
    recovery_s: float
    worst_age_s: float

    def __str__(self) -> str:
        return f"{self.verdict}, recovery {self.recovery_s:.1f} s, oldest event {self.worst_age_s:.1f} s"


def run_fleet_drill(
    directory: Path,
    *,
    agents: int,
    processes: int,
    cut_s: float,
    events_per_s: float,
    around_s: float = 10.0,
    settle_s: float = 120.0,
) -> FleetOutcome:
    """Cut the bridge off its hub for ``cut_s`` seconds, while every agent sends ``events_per_s`` events a second for
    that time and ``around_s``."""
    events = int(events_per_s * (cut_s + around_s))
    with ExitStack() as stack:
        hub = stack.enter_context(MosquittoBroker(directory / "hub", options=["max_queued_messages 0"]))
        recorder = stack.enter_context(Recorder(hub.port, ["drill/+/camera/+/+/event"]))
        line = stack.enter_context(FaultProxy(hub.port))
        bridge = ["connection hub", f"address 127.0.0.1:{line.port}", *BRIDGE]
        edge = stack.enter_context(MosquittoBroker(directory / "edge", options=["max_queued_messages 0", *bridge]))
        size = -(-agents // processes)
        for first in range(0, agents, size):
            last = min(first + size, agents) - 1
            stack.enter_context(
                _squad(Squad(edge.port, str(directory), first, last, events, events_per_s), directory / f"log{first}")
            )
        wait_until(lambda: len({one.topic for one in recorder.messages()}) >= agents, within_s=60.0)
        line.go_down()
        Event().wait(cut_s)
        line.come_up()
        ended = time.time()
        with suppress(AssertionError):  # the verdict says what is missing
            wait_until(lambda: _has_all(recorder, agents * events), within_s=settle_s)
        return _outcome(read_ledger(directory / "ledger"), recorder, ended)


def _has_all(recorder: Recorder, count: int) -> bool:
    messages = recorder.messages()
    return len(messages) >= count and len({identity_of(one.topic, one.payload) for one in messages}) >= count


def _outcome(ledger: Ledger, recorder: Recorder, ended: float) -> FleetOutcome:
    offset = time.time() - time.monotonic()
    arrivals = [Arrival(one.topic, one.payload, one.at + offset) for one in recorder.messages()]
    verdict = judge(
        Ledger(ledger.put, frozenset(ledger.put)), [identity_of(one.topic, one.payload) for one in arrivals]
    )
    times = first_arrivals(arrivals)
    return FleetOutcome(
        verdict,
        recovery_s=max((arrived - ended for put, arrived in times.values() if put <= ended), default=0.0),
        worst_age_s=max((arrived - put for put, arrived in times.values()), default=0.0),
    )


@contextmanager
def _squad(squad: Squad, log: Path) -> Iterator[None]:
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.system.delivery.fleet", orjson.dumps(asdict(squad)).decode()],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main(argument: str) -> None:
    configure(json=True)
    squad = Squad(**orjson.loads(argument))
    ending = Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    directory = Path(squad.directory)
    with ExitStack() as stack:
        subjects = []
        for number in range(squad.first, squad.last + 1):
            own = directory / f"agent{number}"
            own.mkdir()
            options = Options(
                port=squad.port,
                state=str(own),
                outbox=str(own / "outbox.sqlite"),
                ledger=str(directory / "ledger"),
                device=f"agent-{number}",
                topics=1,
                keepalive_s=5,
            )
            subjects.append(Subject(options, stack.enter_context(StateDirectory(own))))
        for subject in subjects:
            subject.start()
        began = time.monotonic()
        for number in range(squad.events):
            if ending.wait(max(0.0, began + number / squad.events_per_s - time.monotonic())):
                break
            for subject in subjects:
                subject.offer_event(number)
        ending.wait()
        for subject in subjects:
            subject.stop()


if __name__ == "__main__":
    main(sys.argv[1])
