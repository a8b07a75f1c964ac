"""Times calls of an engine, back to back or at a camera's frame rate. Runs in the engine's own process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from engines import Images, Scores

Infer = Callable[[Images], Scores]
StageTimes = Callable[[], Mapping[str, float]]

WARM_UP_RUNS = 3
"""At the start of each block, because the previous engine has filled the caches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One stretch of queries. Times are of ``perf_counter_ns``, one per query.

    ``missed`` counts paced queries that were skipped because the previous one was still running. ``cpu_ns`` is CPU
    time of this process from the first query to the last, on all its threads. ``stages_ms`` are the times of
    the device's own events per query, by stage, if the engine has any.
    """

    times_ns: tuple[int, ...]
    wall_ns: int
    cpu_ns: int
    missed: int = 0
    warm_up: int = WARM_UP_RUNS
    stages_ms: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRequest:
    """How one block is run; see ``Case``. After ``max_ns`` it ends even if fewer queries were made."""

    batch: int
    samples: int
    duration_ns: int
    queries: int
    period_ns: int | None = None
    max_ns: int = 60_000_000_000


class ImageFeed:
    """Cycles through real images, so that consecutive calls never get the same batch."""

    def __init__(self, images: Images, largest_batch: int) -> None:
        """``images`` is ``(K, H, W, 3)``; it is repeated if it is smaller than two batches."""
        repeats = max(1, -(-2 * largest_batch // len(images)))
        self._images: Images = np.ascontiguousarray(np.tile(images, (repeats, 1, 1, 1)))
        self._next = 0

    def take(self, count: int) -> Images:
        """A view of the next ``count`` images."""
        if self._next + count > len(self._images):
            self._next = 0
        view = self._images[self._next : self._next + count]
        self._next += count
        return view


def run_block(
    infer: Infer,
    feed: ImageFeed,
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
    latest = began + max(request.max_ns, request.duration_ns)
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


def _query(infer: Infer, feed: ImageFeed, sizes: Sequence[int]) -> None:
    for size in sizes:
        infer(feed.take(size))


def _next_beat(due_ns: int, now_ns: int, period_ns: int) -> tuple[int, int]:
    """The next due time and how many were missed: a camera does not wait, so its frames are lost."""
    due_ns += period_ns
    if now_ns <= due_ns:
        return due_ns, 0
    missed = -(-(now_ns - due_ns) // period_ns)
    return due_ns + missed * period_ns, missed


def _sleep_until(due_ns: int) -> None:
    remaining = due_ns - time.perf_counter_ns()
    if remaining > 0:
        time.sleep(remaining / 1e9)
