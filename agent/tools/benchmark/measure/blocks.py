"""Times calls of an engine, back to back or in the rhythm of a camera. Runs inside the engine's own process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from engines import Images, Scores

Infer = Callable[[Images], Scores]
StageTimes = Callable[[], Mapping[str, float]]

WARM_UP_RUNS = 3
"""At the start of each block: the engine before it has filled the caches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One stretch of queries. Times are of ``perf_counter_ns``, one per query.

    ``missed`` counts the beats of a paced block at which the query before was still running. ``cpu_ns`` is processor
    time of this process from the first query to the last, on all its threads. ``stages_ms`` are what the device's own
    events say about each query, by stage, where the engine has any.
    """

    times_ns: tuple[int, ...]
    wall_ns: int
    cpu_ns: int
    missed: int = 0
    warm_up: int = WARM_UP_RUNS
    stages_ms: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRequest:
    """How one block is run; see ``Case``. After ``longest_ns`` it ends without its count, and says so by its n."""

    batch: int
    samples: int
    duration_ns: int
    queries: int
    period_ns: int | None = None
    longest_ns: int = 60_000_000_000


class PictureFeed:
    """Gives out batches from real pictures, round and round, so that no call sees the one before again."""

    def __init__(self, pictures: Images, largest_batch: int) -> None:
        """``pictures`` is ``(K, H, W, 3)``; it is repeated where it is smaller than a batch."""
        repeats = max(1, -(-2 * largest_batch // len(pictures)))
        self._pictures: Images = np.ascontiguousarray(np.tile(pictures, (repeats, 1, 1, 1)))
        self._next = 0

    def take(self, count: int) -> Images:
        """A view of the next ``count`` pictures."""
        if self._next + count > len(self._pictures):
            self._next = 0
        view = self._pictures[self._next : self._next + count]
        self._next += count
        return view


def run_block(
    infer: Infer,
    feed: PictureFeed,
    request: BlockRequest,
    stage_times: StageTimes | None = None,
) -> Block:
    """Warm up, then query until both the length and the count of ``request`` are reached."""
    sizes = _call_sizes(request.samples, request.batch)
    for _ in range(WARM_UP_RUNS):
        _query(infer, feed, sizes)
    times: list[int] = []
    stages: dict[str, list[float]] = {}
    missed = 0
    clock, cpu = time.perf_counter_ns, time.process_time_ns
    began, cpu_began = clock(), cpu()
    latest = began + max(request.longest_ns, request.duration_ns)
    due = began
    while True:
        now = clock()
        if (len(times) >= request.queries and now - began >= request.duration_ns) or (times and now >= latest):
            break
        if request.period_ns is not None:
            due, skipped = _next_beat(due, now, request.period_ns)
            missed += skipped
            _sleep_until(due)
        started = clock()
        _query(infer, feed, sizes)
        times.append(clock() - started)
        if stage_times is not None:
            for name, value in stage_times().items():
                stages.setdefault(name, []).append(value)
    return Block(
        times_ns=tuple(times),
        wall_ns=clock() - began,
        cpu_ns=cpu() - cpu_began,
        missed=missed,
        stages_ms={name: tuple(values) for name, values in stages.items()},
    )


def _call_sizes(samples: int, batch: int) -> tuple[int, ...]:
    full, rest = divmod(samples, batch)
    return (batch,) * full + ((rest,) if rest else ())


def _query(infer: Infer, feed: PictureFeed, sizes: Sequence[int]) -> None:
    for size in sizes:
        infer(feed.take(size))


def _next_beat(due_ns: int, now_ns: int, period_ns: int) -> tuple[int, int]:
    """The next beat and how many were missed: a camera does not wait, its frames are lost."""
    due_ns += period_ns
    if now_ns <= due_ns:
        return due_ns, 0
    missed = -(-(now_ns - due_ns) // period_ns)
    return due_ns + missed * period_ns, missed


def _sleep_until(due_ns: int) -> None:
    remaining = due_ns - time.perf_counter_ns()
    if remaining > 0:
        time.sleep(remaining / 1e9)
