"""What must hold after a soak: counters that add up, no gaps, no growth, no secret, no unexplained end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

_MIB = 2**20
MAX_SLOPE_MIB_H = 1.0
MAX_GROWTH_MIB = 20.0
STEADY_FLOOR_MIB = 2.0
"""Below this, growth is the allocator breathing and not a leak; a longer run sees a smaller one. Of 26 healthy
processes that lived for up to 300 s, with faults and without, none grew by more than 1.1 MiB in the second half of its
life; those that lost 1 kB a frame for 181 and 300 s grew by 3.6 and 5.0."""
_PARTS = 8
MAX_FDS = 2
MAX_THREADS = 1
MIN_SESSION_S = 12.0
_FEWEST_SAMPLES = 20
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
    """One process over the second half of its life; the slope is given with its standard error.

    ``steady_mib`` excludes single jumps, such as code that runs for the first time: the median growth between eight
    parts, times eight.
    """

    pid: int
    seconds: float
    rss_mib: float
    steady_mib: float
    rss_slope_mib_h: float
    rss_error_mib_h: float
    fds: int
    threads: int

    @property
    def problems(self) -> list[str]:
        """The limits that were exceeded."""
        sure_slope = self.rss_slope_mib_h - 3.0 * self.rss_error_mib_h
        found = []
        if (sure_slope > MAX_SLOPE_MIB_H and self.steady_mib > STEADY_FLOOR_MIB) or self.rss_mib > MAX_GROWTH_MIB:
            found.append(
                f"process {self.pid} grew by {self.rss_mib:.1f} MiB in {self.seconds:.0f} s, "
                f"{self.rss_slope_mib_h:.0f} +- {self.rss_error_mib_h:.0f} MiB/h"
            )
        if self.fds > MAX_FDS:
            found.append(f"process {self.pid} holds {self.fds} more descriptors than in the middle")
        if self.threads > MAX_THREADS:
            found.append(f"process {self.pid} has {self.threads} more threads than in the middle")
        return found


def growth_of(samples: Sequence[Sample], heard: Sequence[float] = ()) -> list[Growth]:
    """Growth of each process that lived long enough. The first half, in which caches fill, does not count.

    ``heard``: when results arrived. A life begins with the first one.
    """
    by_pid: defaultdict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_pid[sample.pid].append(sample)
    lives = []
    for own in by_pid.values():
        began = next((at for at in heard if at >= own[0].at), own[0].at)
        lives.append([sample for sample in own if sample.at >= began])
    return [
        _growth(life[:-_DYING])
        for life in lives
        if len(life) >= _FEWEST_SAMPLES and life[-1].at - life[0].at >= MIN_SESSION_S
    ]


def _growth(life: Sequence[Sample]) -> Growth:
    samples = life[len(life) // 2 :]
    at = np.array([sample.at for sample in samples]) - samples[0].at
    rss = np.array([sample.rss_bytes for sample in samples]) / _MIB
    slope, intercept = np.polyfit(at, rss, 1)
    rest = rss - (slope * at + intercept)
    error = float(np.sqrt((rest @ rest) / max(len(at) - 2, 1) / ((at - at.mean()) @ (at - at.mean()))))
    # One connection is no leak: the minimum at the end is compared with the maximum before.
    before, end = life[: len(life) * 5 // 8], life[-max(len(life) // 8, 1) :]
    return Growth(
        pid=samples[0].pid,
        seconds=float(at[-1]),
        rss_mib=float(slope * at[-1]),
        steady_mib=_PARTS * float(np.median(np.diff([np.median(part) for part in np.array_split(rss, _PARTS)]))),
        rss_slope_mib_h=float(slope * 3600.0),
        rss_error_mib_h=error * 3600.0,
        fds=min(one.fds for one in end) - max(one.fds for one in before),
        threads=min(one.threads for one in end) - max(one.threads for one in before),
    )


def unbalanced(health: Mapping[str, Any]) -> Iterator[str]:
    """Counters of one `health` message that do not add up."""
    for name, camera in health["cameras"].items():
        total = camera["classified"] + sum(camera["dropped"].values()) + camera["in_flight"]
        if camera["captured"] != total:
            yield f"session {health['session']}, camera {name}: captured {camera['captured']}, accounted for {total}"
    for camera, classifiers in health["classifiers"].items():
        for name, counters in classifiers.items():
            total = (
                counters["classified"]
                + counters["skipped"]
                + sum(counters["dropped"].values())
                + counters["in_flight"]
            )
            if counters["offered"] != total:
                yield f"session {health['session']}, {camera}/{name}: offered {counters['offered']}, found {total}"


HoleAllowed = Callable[[float, float], bool]
"""Whether a number may be missing between two messages that arrived at these monotonic seconds."""


def sequence_problems(
    topic: str, messages: Iterable[tuple[float, Mapping[str, Any]]], may_miss: HoleAllowed
) -> Iterator[str]:
    """Sequence numbers that repeat, go backwards or are missing without a reason; replayed messages may repeat one.

    ``messages``: those of one topic with their arrival, monotonic seconds.
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


Span = tuple[float, float]
"""A span of monotonic seconds."""


def availability(times: Sequence[float], span: Span, without: Sequence[Span] = ()) -> float:
    """Share of the seconds of ``span`` that contain one of ``times``; seconds that touch ``without`` are excluded."""
    began, ended = span
    counted = [
        second
        for second in range(max(int(ended - began), 1))
        if not any(first < began + second + 1 and began + second < last for first, last in without)
    ]
    heard = {int(at - began) for at in times if at >= began}
    return sum(second in heard for second in counted) / len(counted) if counted else 1.0


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames that should be classified, without those above a camera's `rate_hz`."""

    wanted: int = 0
    lost: int = 0

    def __add__(self, other: Frames) -> Frames:
        return Frames(self.wanted + other.wanted, self.lost + other.lost)

    def __sub__(self, other: Frames) -> Frames:
        return Frames(self.wanted - other.wanted, self.lost - other.lost)

    @property
    def ratio(self) -> float:
        """Share that was classified."""
        return 1.0 - self.lost / self.wanted if self.wanted else 1.0


MIN_FRAMES_RATIO = 0.999
MAX_FRAMES_BY_CHANCE = 10
"""A machine busy with other work for half a second loses this many."""
_UNWANTED = frozenset({"rate", "governor", "stopping"})


def frames_of(health: Mapping[str, Any]) -> Frames:
    """All cameras of one `health` message."""
    drops = [camera["dropped"] for camera in health["cameras"].values()]
    lost = sum(count for dropped in drops for reason, count in dropped.items() if reason not in _UNWANTED)
    return Frames(sum(camera["classified"] for camera in health["cameras"].values()) + lost, lost)


NO_FAULT = "none"


def frames_by_kind(
    healths: Sequence[tuple[float, Mapping[str, Any]]], faults: Sequence[tuple[Span, str]]
) -> dict[str, tuple[Frames, Frames]]:
    """Frames between consecutive `health` messages, by the kind of fault in between.

    ``healths``: messages with their arrival; ``faults``: spans with a kind. `none` is the kind without a fault.
    """
    pieces: list[tuple[frozenset[str], Frames]] = []
    for (began, before), (ended, after) in pairwise(healths):
        if before["session"] == after["session"]:
            kinds = frozenset(kind for (first, last), kind in faults if first < ended and began < last)
            pieces.append((kinds or frozenset({NO_FAULT}), frames_of(after) - frames_of(before)))
    return {
        kind: (
            sum((frames for kinds, frames in pieces if kind in kinds), Frames()),
            sum((frames for kinds, frames in pieces if kind not in kinds), Frames()),
        )
        for kind in sorted({kind for kinds, _ in pieces for kind in kinds})
    }


def frames_problem(kind: str, frames: Frames, others: Frames) -> str | None:
    """Excess losses during faults that affect no camera, compared with those of all ``others``."""
    allowed = MAX_FRAMES_BY_CHANCE + frames.wanted * (1.0 - MIN_FRAMES_RATIO + 2.0 * (1.0 - others.ratio))
    if frames.lost <= allowed:
        return None
    return (
        f"during {kind} faults {frames.lost} of {frames.wanted} frames were lost, {100 * (1 - frames.ratio):.2f} %; "
        f"at other times it was {100 * (1 - others.ratio):.2f} %"
    )
