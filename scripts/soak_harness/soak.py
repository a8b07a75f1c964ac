"""The run itself: samples every half a second, faults when they are due, and the verdict."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from scripts.soak_harness.faults import Draw, Fault
from scripts.soak_harness.stage import CANARY, RESULTS, Stage
from scripts.soak_harness.verdict import Growth, Sample, availability, growth_of, sequence_problems, unbalanced

RECOVERS_WITHIN_S = 30.0
_STARTS_WITHIN_S = 30.0
_SAMPLE_S = 0.5
_RECONNECTS_WITHIN_S = 5.0
_STOPS_WITHIN_S = 5.0
_LEAK = """
import agent.sources.pattern as source
lost = []
read = source.Pattern.read

def read_and_lose(self):
    lost.append(bytearray(b"x") * {size})
    return read(self)

source.Pattern.read = read_and_lose
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, with faults or without, how many seconds between them, and bytes to lose per frame on purpose."""

    seconds: float
    has_faults: bool
    every_s: float
    seed: int
    leak_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Drill:
    """One fault and how it went; ``recovered_s`` is None where it never did."""

    at_s: float
    name: str
    row: str
    lasted_s: float
    recovered_s: float | None


@dataclass(slots=True)
class Report:
    """What came of it. No problem is a passed soak."""

    seed: int
    seconds: float
    drills: list[Drill] = field(default_factory=list)
    growth: list[Growth] = field(default_factory=list)
    results: dict[str, int] = field(default_factory=dict)
    availability: dict[str, float] = field(default_factory=dict)
    starts: int = 0
    log_bytes: int = 0
    stop_s: float = 0.0
    problems: list[str] = field(default_factory=list)
    deaf: list[tuple[float, float]] = field(default_factory=list)
    """When the subscriber may have been without a broker, monotonic seconds: what it missed then, nobody lost."""

    def was_deaf_between(self, began: float, ended: float) -> bool:
        """Whether the subscriber may have missed a message that came between two others."""
        return any(first <= ended and began <= last for first, last in self.deaf)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.seconds:.0f} s, seed {self.seed}, {self.starts} start(s), stopped within {self.stop_s:.1f} s"
        for drill in self.drills:
            came = "never recovered" if drill.recovered_s is None else f"recovered in {drill.recovered_s:.1f} s"
            yield f"  {drill.at_s:6.0f} s  {drill.row}  {drill.name} for {drill.lasted_s:.1f} s: {came}"
        for name, share in self.availability.items():
            yield f"  camera {name}: {self.results[name]} results, in {100 * share:.1f} % of all seconds"
        for one in self.growth:
            yield (
                f"  process {one.pid}: {one.rss_mib:+.2f} MiB in the last {one.seconds:.0f} s "
                f"({one.rss_slope_mib_h:+.1f} +- {one.rss_error_mib_h:.1f} MiB/h), descriptors {one.fds:+d}, "
                f"threads {one.threads:+d}"
            )
        yield f"  log: {self.log_bytes} bytes"
        yield from (f"PROBLEM {problem}" for problem in self.problems)
        yield "failed" if self.problems else "every promise held"


class _Sampler:
    """Reads the agent's process twice a second on a thread of its own."""

    def __init__(self, stage: Stage) -> None:
        self.samples: list[Sample] = []
        self.leaks: set[str] = set()
        self._stage = stage
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler")

    def __enter__(self) -> _Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(_SAMPLE_S):
            process = self._stage.agent.process
            if process is None:
                continue
            with suppress(psutil.Error):
                memory, fds, threads = process.memory_info().rss, process.num_fds(), process.num_threads()
                self.samples.append(Sample(time.monotonic(), process.pid, memory, fds, threads))
                if CANARY in " ".join(process.cmdline()):
                    self.leaks.add("command line")
                if any(CANARY in value for value in process.environ().values()):
                    self.leaks.add("environment")


def soak(plan: Plan, directory: Path, *, tell: Callable[[str], None]) -> Report:
    """Run to the end of the plan and judge."""
    report = Report(plan.seed, plan.seconds)
    with Stage(directory, _planted(plan, directory)) as stage:
        began = time.monotonic()
        _wait_for_first_results(stage)
        with _Sampler(stage) as sampler:
            _run(plan, stage, report, tell)
            ended = time.monotonic()
        report.stop_s = stage.agent.stop()
        _judge(stage, sampler, report, (began, ended))
    return report


def _wait_for_first_results(stage: Stage) -> None:
    try:
        for topic in RESULTS.values():
            stage.subscriber.wait_count(1, topic, _STARTS_WITHIN_S)
    except TimeoutError as exc:
        log = stage.agent.log.read_text(encoding="utf-8", errors="replace")
        raise SystemExit(f"the soak did not begin: {exc}; the agent's log ends with:\n{log[-3000:]}") from exc


def _planted(plan: Plan, directory: Path) -> dict[str, str]:
    if not plan.leak_bytes:
        return {}
    planted = directory / "planted"
    planted.mkdir()
    (planted / "sitecustomize.py").write_text(_LEAK.format(size=plan.leak_bytes), encoding="utf-8")
    return {"PYTHONPATH": f"{planted}:{Path.cwd()}"}


def _run(plan: Plan, stage: Stage, report: Report, tell: Callable[[str], None]) -> None:
    began, draw = time.monotonic(), Draw(plan.seed)
    while (passed_s := time.monotonic() - began) < plan.seconds:
        left_s = plan.seconds - passed_s
        if not plan.has_faults or left_s < plan.every_s + 15.0:
            time.sleep(left_s)
            return
        time.sleep(plan.every_s)
        fault, lasts_s = draw.next()
        drill = _drill(stage, fault, lasts_s, time.monotonic() - began, report)
        report.drills.append(drill)
        tell(f"{drill.at_s:6.0f} s  {drill.name}: recovered in {drill.recovered_s} s")


def _drill(stage: Stage, fault: Fault, lasts_s: float, at_s: float, report: Report) -> Drill:
    exits, began = len(stage.agent.exits), time.monotonic()
    fault.begin(stage)
    during = time.monotonic()
    time.sleep(lasts_s)
    for camera in fault.spares if lasts_s > 1.0 else ():
        if not stage.messages_since(during, RESULTS[camera]):
            report.problems.append(f"{fault.name}: camera {camera} stood still for {lasts_s:.1f} s")
    fault.end(stage)
    ended = time.monotonic()
    recovered_s = _recovery_s(stage, ended, restarts=fault.ends_agent, exits=exits)
    if recovered_s is None:
        report.problems.append(f"{fault.name}: no results of both cameras within {RECOVERS_WITHIN_S:g} s")
    if fault.loses_subscriber:
        report.deaf.append((began, time.monotonic() + _RECONNECTS_WITHIN_S))
    if not fault.ends_agent and len(stage.agent.exits) > exits:
        report.problems.append(f"{fault.name}: the agent ended with {stage.agent.exits[-1][1]}")
    return Drill(round(at_s, 1), fault.name, fault.row, round(lasts_s, 1), recovered_s)


def _recovery_s(stage: Stage, ended: float, *, restarts: bool, exits: int) -> float | None:
    """Seconds until both cameras gave results again, after the agent's new start where it was ended."""
    while time.monotonic() - ended < RECOVERS_WITHIN_S:
        since = ended
        if restarts:
            if len(stage.agent.exits) == exits:
                time.sleep(0.05)
                continue
            since = stage.agent.exits[exits][0]
        firsts = [stage.messages_since(since, topic)[:1] for topic in RESULTS.values()]
        if all(firsts):
            return round(max(first[0].at for first in firsts) - ended, 2)
        time.sleep(0.05)
    return None


def _judge(stage: Stage, sampler: _Sampler, report: Report, span: tuple[float, float]) -> None:
    subscriber, problems = stage.subscriber, report.problems
    report.starts = len(stage.agent.exits)
    report.growth = growth_of(sampler.samples)
    for growth in report.growth:
        problems.extend(growth.problems)
    has_faults = bool(report.drills)
    for camera, topic in RESULTS.items():
        messages = subscriber.messages(topic)
        report.results[camera] = len(messages)
        report.availability[camera] = round(availability([one.at for one in messages], *span), 4)
        # Results are a stream at QoS 0: without a broker they are gone.
        arrived = [(one.at, one.json) for one in messages]
        problems.extend(sequence_problems(topic, arrived, lambda _, __: has_faults))
        topic_of_events = topic.replace("/result", "/event")
        events = [(one.at, one.json) for one in subscriber.messages(topic_of_events)]
        problems.extend(sequence_problems(topic_of_events, events, report.was_deaf_between))
    for message in subscriber.messages("edge/dut/health"):
        problems.extend(unbalanced(message.json))
    _judge_log(stage, sampler, report)
    if report.stop_s > _STOPS_WITHIN_S:
        problems.append(f"stopping took {report.stop_s:.1f} s")
    if stage.agent.exits and stage.agent.exits[-1][1] != 0:
        problems.append(f"the last exit code was {stage.agent.exits[-1][1]}")


def _judge_log(stage: Stage, sampler: _Sampler, report: Report) -> None:
    log = stage.agent.log.read_text(encoding="utf-8", errors="replace")
    report.log_bytes = len(log)
    if "Traceback" in log:
        report.problems.append(f"a traceback in the log: ...{log[log.index('Traceback') :][:500]}")
    places = [*sampler.leaks, *(["log"] if CANARY in log else [])]
    if any(CANARY.encode() in message.payload for message in stage.subscriber.messages()):
        places.append("message")
    report.problems.extend(f"the password shows in: {place}" for place in places)
