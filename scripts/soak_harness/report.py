"""The report of a soak: as plain values, as lines, and as a page."""

from __future__ import annotations

import os
import platform
import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scripts.soak_harness.verdict import Frames, Growth, Span

MIN_AVAILABILITY = 0.95


@dataclass(frozen=True, slots=True)
class Drill:
    """One fault and its recovery; ``recovered_s`` is None if there was none. ``span`` ends with the recovery."""

    at_s: float
    name: str
    row: str
    kind: str
    lasted_s: float
    recovered_s: float | None
    recovers_within_s: float
    took_hold: bool
    span: Span
    ended_agent: bool = False
    touches: tuple[str, ...] = ()


@dataclass(slots=True)
class Report:
    """The results. Without problems the soak has passed."""

    seed: int
    seconds: float
    began_at: str = ""
    command: str = ""
    machine: str = ""
    drills: list[Drill] = field(default_factory=list)
    growth: list[Growth] = field(default_factory=list)
    results: dict[str, int] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    healths: int = 0
    availability: dict[str, float] = field(default_factory=dict)
    """Share of all seconds with a result that arrived."""
    spared: dict[str, float] = field(default_factory=dict)
    """The same without the seconds in which a fault affected that camera, the agent or the subscriber."""
    frames: dict[str, Frames] = field(default_factory=dict)
    """By kind of fault; `none`: times without a fault."""
    starts: int = 0
    log_bytes: int = 0
    stop_s: float = 0.0
    problems: list[str] = field(default_factory=list)
    deaf: list[Span] = field(default_factory=list)
    """When the subscriber may have had no broker, monotonic seconds: messages it missed then are not lost ones."""

    def was_deaf_between(self, began: float, ended: float) -> bool:
        """Whether the subscriber may have missed a message between two others."""
        return any(first <= ended and began <= last for first, last in self.deaf)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.seconds:.0f} s, seed {self.seed}, {self.starts} start(s), stopped within {self.stop_s:.1f} s"
        for drill in self.drills:
            yield f"  {drill.at_s:6.0f} s  {drill.row}  {drill.name} for {drill.lasted_s:.1f} s: {_came(drill)}"
        for name, share in self.availability.items():
            yield (
                f"  camera {name}: {self.results[name]} results, in {100 * share:.1f} % of all seconds and in "
                f"{100 * self.spared[name]:.1f} % of those without a fault of it; {self.events[name]} events"
            )
        for kind, frames in self.frames.items():
            yield f"  frames, fault of {kind}: {frames.lost} of {frames.wanted} lost"
        for one in self.growth:
            yield (
                f"  process {one.pid}: {one.rss_mib:+.2f} MiB in the last {one.seconds:.0f} s "
                f"({one.rss_slope_mib_h:+.1f} +- {one.rss_error_mib_h:.1f} MiB/h, {one.steady_mib:+.2f} MiB of it "
                f"steadily), descriptors {one.fds:+d}, threads {one.threads:+d}"
            )
        yield f"  log: {self.log_bytes} bytes"
        yield from (f"PROBLEM {problem}" for problem in self.problems)
        yield "failed" if self.problems else "every promise held"


def _came(drill: Drill) -> str:
    took_hold = "" if drill.took_hold else "had no effect, "
    if drill.recovered_s is None:
        return f"{took_hold}did not recover within {drill.recovers_within_s:g} s"
    return f"{took_hold}recovered in {drill.recovered_s:.1f} s"


def this_machine() -> str:
    """Processor, cores, system and Python, without the machine's name."""
    processor = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        processor = models[0] if models else processor
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0))
    return f"{processor}, {cores} cores, Linux {platform.release()}, Python {platform.python_version()}"


def page(report: Report) -> Iterator[str]:
    """The report as Markdown, line by line."""
    broken = len(report.problems)
    verdict = f"**{broken} promise{'s' * (broken > 1)} broken.**" if broken else "**Every promise held.**"
    yield from (f"{verdict} {report.seconds / 60:g} minutes, {len(report.drills)} faults.", "")
    yield from ("| | |", "| --- | --- |", f"| command | `{report.command}` |", f"| begun | {report.began_at} |")
    yield f"| machine | {report.machine} |"
    yield f"| starts of the agent | {report.starts} |"
    yield f"| last stop | {report.stop_s:.1f} s (at most 5 s) |"
    yield f"| its log | {report.log_bytes / 1000:.0f} kB; no password, no traceback (else listed as broken) |"
    if report.problems:
        yield from ("", "## Broken", "", *(f"- {problem}" for problem in report.problems))
    yield from _faults(report)
    yield from _delivery(report)
    yield from _frames(report)
    yield from _growth(report)


def _faults(report: Report) -> Iterator[str]:
    by_name: defaultdict[tuple[str, str], list[Drill]] = defaultdict(list)
    for drill in report.drills:
        by_name[drill.row, drill.name].append(drill)
    yield from (
        "",
        "## Faults",
        "",
        "Recovery is the time from the end of the fault to the next result of both cameras.",
        "",
    )
    yield "| | fault | drawn | lasted, s | recovery p50, s | longest, s | at most, s |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    for (row, name), drills in sorted(by_name.items()):
        took = [drill.recovered_s for drill in drills if drill.recovered_s is not None]
        median = f"{statistics.median(took):.1f}" if took else "-"
        longest = f"{max(took):.1f}" if len(took) == len(drills) else "never"
        lasted = [drill.lasted_s for drill in drills]
        spread = f"{min(lasted):g} to {max(lasted):g}" if max(lasted) > 0 else "a moment"
        yield f"| {row} | {name} | {len(drills)} | {spread} | {median} | {longest} | {drills[0].recovers_within_s:g} |"


def _delivery(report: Report) -> Iterator[str]:
    yield from ("", "## Delivery and availability", "")
    yield (
        "Events are numbered; a number that is missing or comes twice is listed as broken, unless the subscriber was "
        "itself without a broker then. The last column leaves out the seconds in which a fault concerned that camera, "
        f"ended the agent, or kept the subscriber from hearing; it must be {100 * MIN_AVAILABILITY:g} % at least."
    )
    yield from ("", "| camera | results | events | seconds with a result | of those that no fault concerned |")
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name, share in report.availability.items():
        yield (
            f"| `{name}` | {report.results[name]} | {report.events[name]} | {100 * share:.1f} % | "
            f"{100 * report.spared[name]:.1f} % |"
        )


def _frames(report: Report) -> Iterator[str]:
    yield from ("", "## Frames", "")
    yield (
        f"The counters of all {report.healths} `health` messages were checked: captured = classified + dropped + in "
        "flight, else listed as broken. Frames above a camera's rate are not counted here. During broker, disk, clock "
        "and configuration faults at least 99.9 % of the others must be classified (on a busy machine: as many as "
        "without a fault). Counters are published every 10 s, so frames near a fault are attributed to it."
    )
    yield from ("", "| fault | frames | lost | classified |", "| --- | ---: | ---: | ---: |")
    for kind, frames in report.frames.items():
        yield f"| {kind} | {frames.wanted} | {frames.lost} | {100 * frames.ratio:.2f} % |"


def _growth(report: Report) -> Iterator[str]:
    yield from ("", "## Growth", "")
    yield (
        "From the middle of each life of the agent to its end. Memory may grow by 20 MiB, by 2 MiB steadily (single "
        "jumps left out), descriptors by 2, threads by 1. Lives under 12 s are not judged."
    )
    yield from (
        "",
        "| last half of a life, s | memory, MiB | of it steadily | slope, MiB/h | descriptors | threads |",
    )
    yield "| ---: | ---: | ---: | ---: | ---: | ---: |"
    for one in report.growth:
        yield (
            f"| {one.seconds:.0f} | {one.rss_mib:+.2f} | {one.steady_mib:+.2f} | {one.rss_slope_mib_h:+.1f} ± "
            f"{one.rss_error_mib_h:.1f} | {one.fds:+d} | {one.threads:+d} |"
        )
