"""The run: samples every half second, faults when they are due, the verdict."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from scripts.soak_harness.faults import FAULTS, Draw, Fault
from scripts.soak_harness.judge import judge
from scripts.soak_harness.report import Drill, Report
from scripts.soak_harness.stage import CANARY, RESULTS, Stage
from scripts.soak_harness.verdict import Sample

_STARTS_WITHIN_S = 60.0
_LAST_FAULT_S = 15.0
"""No fault in the last seconds, so that the run ends normally."""
_SAMPLE_S = 0.5
_RECONNECTS_WITHIN_S = 5.0
_LEAK = """
import agent.cameras.sources.pattern as source
lost = []
read = source.Pattern.read

def read_and_lose(self):
    lost.append(bytearray(b"x") * {size})
    return read(self)

source.Pattern.read = read_and_lose
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """Length, faults or not, seconds between them, and bytes to leak per frame on purpose."""

    seconds: float
    has_faults: bool
    every_s: float
    seed: int
    leak_bytes: int = 0
    faults: tuple[Fault, ...] = FAULTS


class _Sampler:
    """Samples the agent's process twice a second on its own thread."""

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


def soak(plan: Plan, directory: Path, *, log: Callable[[str], None]) -> Report:
    """Run to the end of the plan and judge."""
    report = Report(plan.seed, plan.seconds)
    with Stage(directory, _planted(plan, directory)) as stage:
        _wait_for_first_results(stage)
        began = time.monotonic()
        with _Sampler(stage) as sampler:
            _run(plan, stage, report, log)
            ended = time.monotonic()
        report.stop_s = stage.agent.stop()
        judge(stage, sampler.samples, sampler.leaks, report, (began, ended))
    return report


def _wait_for_first_results(stage: Stage) -> None:
    try:
        for topic in RESULTS.values():
            stage.subscriber.wait_count(1, topic, _STARTS_WITHIN_S)
    except TimeoutError as exc:
        log = stage.agent.log.read_text(encoding="utf-8", errors="replace")
        raise SystemExit(f"the soak did not start: {exc}; the agent's log ends with:\n{log[-3000:]}") from exc


def _planted(plan: Plan, directory: Path) -> dict[str, str]:
    if not plan.leak_bytes:
        return {}
    planted = directory / "planted"
    planted.mkdir()
    (planted / "sitecustomize.py").write_text(_LEAK.format(size=plan.leak_bytes), encoding="utf-8")
    return {"PYTHONPATH": f"{planted}:{Path.cwd()}"}


def _run(plan: Plan, stage: Stage, report: Report, log: Callable[[str], None]) -> None:
    began, draw = time.monotonic(), Draw(plan.seed, plan.faults)
    while (passed_s := time.monotonic() - began) < plan.seconds:
        left_s = plan.seconds - passed_s
        if not plan.has_faults or left_s < plan.every_s + _LAST_FAULT_S:
            time.sleep(left_s)
            return
        time.sleep(plan.every_s)
        fault, lasts_s = draw.next()
        drill = run_drill(stage, fault, lasts_s, report, at_s=time.monotonic() - began)
        report.drills.append(drill)
        came = "not recovered" if drill.recovered_s is None else f"recovered in {drill.recovered_s} s"
        log(f"{drill.at_s:6.0f} s  {drill.name} for {drill.lasted_s:g} s: {came}")


def run_drill(stage: Stage, fault: Fault, lasts_s: float, report: Report, *, at_s: float = 0.0) -> Drill:
    """Inject one fault and wait until the agent has recovered; problems are added to the report."""
    before = stage.before()
    fault.begin(stage)
    during = time.monotonic()
    time.sleep(lasts_s)
    took_hold = lasts_s > 0.0 and fault.shows(stage, before)
    for camera in fault.spares if lasts_s > 1.0 else ():
        if not stage.messages_since(during, RESULTS[camera]):
            report.problems.append(
                f"at {at_s:.0f} s, {fault.name}: camera {camera} gave no result for {lasts_s:.1f} s"
            )
    lasted_s = time.monotonic() - before.at if lasts_s > 0.0 else 0.0
    fault.end(stage)
    ended = time.monotonic()
    recovered_s = _recovery_s(stage, fault, ended, before.exits)
    if lasts_s == 0.0:
        took_hold = fault.shows(stage, before)
    recovered = time.monotonic()
    if fault.loses_subscriber:
        report.deaf.append((before.at, recovered + _RECONNECTS_WITHIN_S))
    exits = [code for _, code in stage.agent.exits[before.exits :]]
    if exits and not (fault.ends_agent or fault.may_end_agent):
        report.problems.append(f"at {at_s:.0f} s, {fault.name}: the agent ended with {exits[-1]}")
    return Drill(
        at_s=round(at_s, 1),
        name=fault.name,
        row=fault.row,
        kind=fault.kind,
        lasted_s=round(lasted_s, 1),
        recovered_s=recovered_s,
        recovers_within_s=fault.recovers_within_s,
        took_hold=took_hold,
        span=(before.at, recovered),
        ended_agent=bool(exits),
        touches=tuple(sorted(fault.touches)),
    )


def _recovery_s(stage: Stage, fault: Fault, ended: float, exits: int) -> float | None:
    """Seconds until both cameras gave results again, of a new process if the old one ended."""
    while time.monotonic() - ended < fault.recovers_within_s:
        own = stage.agent.exits[exits:]
        since = max([ended, *(at for at, _ in own)])
        firsts = [stage.messages_since(since, topic)[:1] for topic in RESULTS.values()]
        if all(firsts) and (own or not fault.ends_agent):
            return round(max(first[0].at for first in firsts) - ended, 2)
        time.sleep(0.05)
    return None
