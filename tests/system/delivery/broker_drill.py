"""One drill with a broker that misbehaves while it lives: events during the fault, a quiet phase, the verdict.

The agent's own publisher, outbox and client run in a process (see ``subject``). Its ledger is compared with what the
broker accepted.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from tests.fixtures.mqtt_packets import Property, Value
from tests.system.delivery.arrivals import Arrival, first_arrivals
from tests.system.delivery.brokers import ROOT
from tests.system.delivery.checker import Identity, Verdict, identity_of, judge, read_ledger
from tests.system.delivery.fronts import COMMAND, Front
from tests.system.delivery.subject import Options

_FIRST_EVENT_S = 30.0
_PREFIX = "drill/dut/"


Opener = Callable[[Path, Mapping[Property, Value]], Front]
"""Makes a front with its files in a directory, which grants these properties in its CONNACK."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to misbehave: ``begin`` starts it, ``end`` ends it after ``lasts_s`` (``quick_s`` in the test suite).

    ``published`` are the retained messages that must arrive. ``may_be_late_s`` is how long an event may take at most,
    None where the fault holds all of them back anyway; those on ``held_topic`` may take longer.
    """

    name: str
    begin: Callable[[Front], None]
    end: Callable[[Front], None] = lambda front: front.heal()
    lasts_s: float = 10.0
    quick_s: float = 1.5
    options: Mapping[str, Any] = field(default_factory=dict)
    may_be_late_s: float | None = None
    held_topic: str | None = None
    max_rss_mib: float | None = None
    grants: Mapping[Property, Value] = field(default_factory=dict)
    published: tuple[str, ...] = ("status", "runtime")


@dataclass(slots=True)
class Outcome:
    """The result. ``recovery_s`` is from the end of the fault until everything put before it had arrived."""

    kind: str
    broker: str
    verdict: Verdict
    recovery_s: float
    worst_age_s: float
    connections: int
    figures: dict[str, Any]
    problems: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost and every promise was kept."""
        return self.verdict.is_good and not self.problems

    def __str__(self) -> str:
        return (
            f"{self.kind} with {self.broker}: {self.verdict}, recovery {self.recovery_s:.1f} s, worst age "
            f"{self.worst_age_s:.1f} s, {self.connections} connections, {self.figures}, {self.problems}"
        )


def run_broker_drill(
    kind: Kind, open_front: Opener, directory: Path, *, is_quick: bool = True, settle_s: float = 30.0
) -> Outcome:
    """Run one drill in a new ``directory``."""
    directory.mkdir(parents=True)
    with ExitStack() as stack:
        front = stack.enter_context(open_front(directory, kind.grants))
        return _BrokerDrill(kind, front, directory, stack, is_quick=is_quick).run(settle_s)


class _Failed(Exception):
    """The drill cannot go on."""


class _BrokerDrill:
    def __init__(self, kind: Kind, front: Front, directory: Path, stack: ExitStack, *, is_quick: bool) -> None:
        self._kind, self._front, self._directory = kind, front, directory
        self._lasts_s = kind.quick_s if is_quick else kind.lasts_s
        rate_hz = float(kind.options.get("events_per_s", 40.0))
        options = Options(
            port=front.port,
            state=str(directory / "state"),
            outbox=str(directory / "outbox.sqlite"),
            ledger=str(directory / "ledger"),
            statistics=str(directory / "statistics"),
            events=int(rate_hz * (self._lasts_s + 1.0)),
            keepalive_s=2,
        )
        self._options = replace(options, **kind.options)
        with (directory / "log").open("ab") as log:
            self._agent = subprocess.Popen(
                [sys.executable, "-m", "tests.system.delivery.subject", self._options.argument()],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        stack.callback(self._kill)

    def run(self, settle_s: float) -> Outcome:
        ended, problems = time.time(), []
        try:
            self._wait(self._events, _FIRST_EVENT_S, "no event was delivered")
            self._kind.begin(self._front)
            threading.Event().wait(self._lasts_s)
            self._kind.end(self._front)
            ended = time.time()
            self._wait(self._is_settled, settle_s, "not everything was delivered")
        except _Failed as exc:
            problems.append(str(exc))
        arrivals = self._front.arrivals()
        problems += self._stop()
        return self._judge(arrivals, ended, problems)

    def _judge(self, arrivals: list[Arrival], ended: float, problems: list[str]) -> Outcome:
        ledger = read_ledger(self._directory / "ledger")
        promised = replace(ledger, committed=frozenset(ledger.put))
        verdict = judge(promised, [_identity(one) for one in _of(arrivals, "/event")])
        ages = first_arrivals(arrivals)
        worst_age_s = max((arrived - put for put, arrived in ages.values()), default=0.0)
        recovery_s = max((arrived - ended for put, arrived in ages.values() if put <= ended), default=0.0)
        figures = self._figures()
        problems += self._front.problems()
        problems += self._retained_problems(arrivals)
        limit_s, limit_mib = self._kind.may_be_late_s, self._kind.max_rss_mib
        of_others_s = max(
            (at - put for key, (put, at) in ages.items() if key[0] != self._kind.held_topic), default=0.0
        )
        if limit_s is not None and of_others_s > limit_s:
            problems.append(f"an event took {of_others_s:.1f} s, but at most {limit_s:g} s are allowed")
        if limit_mib is not None and figures.get("peak_rss_mib", 0.0) > limit_mib:
            problems.append(f"{figures['peak_rss_mib']} MiB were used, but at most {limit_mib:g} are allowed")
        replies = len(_of(arrivals, "/reply/explain"))
        if self._kind.options.get("takes_commands") and replies > 60:
            problems.append(f"{replies} replies to a flood, but at most 60 are allowed")
        figures["results"] = len(_of(arrivals, "/result"))
        figures["bytes"] = sum(len(one.payload) + len(one.topic) for one in arrivals)
        return Outcome(
            kind=self._kind.name,
            broker=self._front.name,
            verdict=verdict,
            recovery_s=max(0.0, recovery_s),
            worst_age_s=worst_age_s,
            connections=self._front.connections,
            figures=figures,
            problems=problems,
        )

    def _events(self) -> list[Arrival]:
        return _of(self._front.arrivals(), "/event")

    def _is_settled(self) -> bool:
        put = read_ledger(self._directory / "ledger").put
        if len(put) < self._options.events:
            return False
        arrivals = self._front.arrivals()
        has_all = set(put) <= {_identity(one) for one in _of(arrivals, "/event")}
        return has_all and not self._retained_problems(arrivals)

    def _retained_problems(self, arrivals: Iterable[Arrival]) -> list[str]:
        """Where the newest retained message is not the one that holds now."""
        newest = {one.topic: orjson.loads(one.payload) for one in arrivals if one.payload and one.topic != COMMAND}
        missing = [name for name in self._kind.published if f"{_PREFIX}{name}" not in newest]
        problems = [f"{name} was not published" for name in missing]
        for number in range(self._options.topics):
            topic = f"{_PREFIX}camera/c{number}/inspect/"
            event, state = newest.get(f"{topic}event"), newest.get(f"{topic}state")
            if event is not None and (state is None or state["label"] != event["to_label"]):
                problems.append(f"the state of c{number} is not that of its last event")
        return problems

    def _wait(self, has_happened: Callable[[], object], within_s: float, or_else: str) -> None:
        deadline = time.monotonic() + within_s
        while not has_happened():
            if self._agent.poll() is not None:
                log = (self._directory / "log").read_text(encoding="utf-8", errors="replace")
                raise _Failed(f"the agent ended with {self._agent.returncode}: {log[-1000:]}")
            if time.monotonic() > deadline:
                raise _Failed(f"{or_else} within {within_s:g} s")
            time.sleep(0.1)

    def _stop(self) -> list[str]:
        self._agent.send_signal(signal.SIGTERM)
        try:
            code = self._agent.wait(8)
        except subprocess.TimeoutExpired:
            return ["it did not end within 8 s of SIGTERM"]
        return [] if code == 0 else [f"it ended with {code}"]

    def _figures(self) -> dict[str, Any]:
        path = self._directory / "statistics"
        figures: dict[str, Any] = orjson.loads(path.read_bytes()) if path.exists() else {}
        return figures

    def _kill(self) -> None:
        if self._agent.poll() is None:
            self._agent.kill()
            self._agent.wait(10)


def _identity(arrival: Arrival) -> Identity:
    return identity_of(arrival.topic, arrival.payload)


def _of(arrivals: Iterable[Arrival], ending: str) -> list[Arrival]:
    return [one for one in arrivals if one.topic.endswith(ending)]
