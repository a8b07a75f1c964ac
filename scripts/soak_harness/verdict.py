"""What must hold after a soak: books that balance, no holes, no growth, no secret, no unexplained end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

_MIB = 2**20
MOST_SLOPE_MIB_H = 1.0
MOST_GROWTH_MIB = 20.0
SLOPE_FLOOR_MIB = 4.0
"""Below this a slope is the allocator breathing and not a leak; a longer run sees a smaller one."""
MOST_FDS = 2
MOST_THREADS = 1
SHORTEST_SESSION_S = 12.0
_DYING = 2
"""The last readings of a process may be of its end, when memory is being given back."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The agent's process at monotonic ``at`` seconds."""

    at: float
    pid: int
    rss_bytes: int
    fds: int
    threads: int


@dataclass(frozen=True, slots=True)
class Growth:
    """One process over the second half of its life; the slope is given with its standard error."""

    pid: int
    seconds: float
    rss_mib: float
    rss_slope_mib_h: float
    rss_error_mib_h: float
    fds: int
    threads: int

    @property
    def problems(self) -> list[str]:
        """What grew more than it may."""
        sure_slope = self.rss_slope_mib_h - 3.0 * self.rss_error_mib_h
        found = []
        if (sure_slope > MOST_SLOPE_MIB_H and self.rss_mib > SLOPE_FLOOR_MIB) or self.rss_mib > MOST_GROWTH_MIB:
            found.append(
                f"process {self.pid} grew by {self.rss_mib:.1f} MiB in {self.seconds:.0f} s, "
                f"{self.rss_slope_mib_h:.0f} +- {self.rss_error_mib_h:.0f} MiB/h"
            )
        if self.fds > MOST_FDS:
            found.append(f"process {self.pid} holds {self.fds} more descriptors than in the middle")
        if self.threads > MOST_THREADS:
            found.append(f"process {self.pid} has {self.threads} more threads than in the middle")
        return found


def growth_of(samples: Sequence[Sample]) -> list[Growth]:
    """For each process that lived long enough; its first half is start-up and caches and does not count."""
    by_pid: defaultdict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_pid[sample.pid].append(sample)
    return [
        _growth(own[:-_DYING])
        for own in by_pid.values()
        if own[-1].at - own[0].at >= SHORTEST_SESSION_S and len(own) >= 12
    ]


def _growth(life: Sequence[Sample]) -> Growth:
    samples = life[len(life) // 2 :]
    at = np.array([sample.at for sample in samples]) - samples[0].at
    rss = np.array([sample.rss_bytes for sample in samples]) / _MIB
    slope, intercept = np.polyfit(at, rss, 1)
    rest = rss - (slope * at + intercept)
    error = float(np.sqrt((rest @ rest) / max(len(at) - 2, 1) / ((at - at.mean()) @ (at - at.mean()))))
    # A connection more or less is no leak: the fewest at the end are held against the most before.
    before, end = life[: len(life) * 5 // 8], life[-max(len(life) // 8, 1) :]
    return Growth(
        pid=samples[0].pid,
        seconds=float(at[-1]),
        rss_mib=float(slope * at[-1]),
        rss_slope_mib_h=float(slope * 3600.0),
        rss_error_mib_h=error * 3600.0,
        fds=min(one.fds for one in end) - max(one.fds for one in before),
        threads=min(one.threads for one in end) - max(one.threads for one in before),
    )


def unbalanced(health: Mapping[str, Any]) -> Iterator[str]:
    """Books of one `health` message that do not add up."""
    for name, camera in health["cameras"].items():
        total = camera["classified"] + sum(camera["dropped"].values()) + camera["in_flight"]
        if camera["captured"] != total:
            yield f"session {health['session']}, camera {name}: captured {camera['captured']}, accounted for {total}"
    for camera, classifiers in health["classifiers"].items():
        for name, books in classifiers.items():
            total = books["classified"] + books["skipped"] + sum(books["dropped"].values()) + books["in_flight"]
            if books["offered"] != total:
                yield f"session {health['session']}, {camera}/{name}: offered {books['offered']}, found {total}"


HoleAllowed = Callable[[float, float], bool]
"""Whether a number may be missing between two messages that arrived at these monotonic seconds."""


def sequence_problems(
    topic: str, messages: Iterable[tuple[float, Mapping[str, Any]]], may_miss: HoleAllowed
) -> Iterator[str]:
    """Numbers that came twice or backwards, and holes where none may be; replayed messages may repeat one.

    ``messages`` are those of one topic with their arrival, monotonic seconds.
    """
    by_session: defaultdict[int, list[tuple[float, int]]] = defaultdict(list)
    for at, message in messages:
        numbers = by_session[message["session"]]
        if message.get("historical") and any(message["seq"] == number for _, number in numbers):
            continue
        numbers.append((at, message["seq"]))
    for session, numbers in by_session.items():
        for (at_before, before), (at_after, after) in pairwise(numbers):
            if after <= before:
                yield f"{topic}: session {session} sent {after} after {before}"
            elif after != before + 1 and not may_miss(at_before, at_after):
                yield f"{topic}: session {session} jumped from {before} to {after}"


def availability(times: Sequence[float], began: float, ended: float, *, window_s: float = 1.0) -> float:
    """Share of the windows from ``began`` to ``ended`` in which at least one of ``times`` lies."""
    count = max(int((ended - began) / window_s), 1)
    return len({int((at - began) / window_s) for at in times if began <= at < began + count * window_s}) / count
