"""A worker's inbox: newest-frame slots for live cameras, waiting lines for files, and the batcher over both."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from agent.cameras.frame_counters import Ticket
from agent.runtime.channel import ChannelClosed
from agent.runtime.wait_queue import Sleepers


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """One classifier of one camera, as one worker sees it; two lanes with the same names are two lanes.

    ``is_live``: a newer frame takes the place of one that still waits. A lane of a file keeps them all; its length is
    bounded by the frames that its camera may have on their way. ``priority`` 1 is served first.
    """

    camera: str
    classifier: str
    is_live: bool
    priority: int


L = TypeVar("L", bound=Lane)


@dataclass(frozen=True, slots=True)
class Job(Generic[L]):
    """One frame for one classifier."""

    lane: L
    ticket: Ticket
    arrival: int
    """Order of arrival in this inbox."""
    arrived_at_ns: int


class Inbox(Generic[L]):
    """Hands a worker the frames of many cameras as batches.

    Order: by priority, then by arrival; frames of one lane never overtake each other. ``on_superseded`` is called
    with each frame that gave way to a newer one, on the camera's thread and outside the lock.
    """

    def __init__(self, on_superseded: Callable[[Job[L]], None]) -> None:
        self._on_superseded = on_superseded
        self._lock = threading.Lock()
        self._takers = Sleepers(self._lock)
        self._lanes: dict[L, deque[Job[L]]] = {}
        self._waiting = 0
        self._arrivals = 0
        self._is_closed = False

    def put(self, lane: L, ticket: Ticket) -> None:
        """Add a frame; never waits.

        Raises:
            ChannelClosed: the inbox was closed; the frame stays the caller's.
        """
        superseded: Job[L] | None = None
        with self._lock:
            if self._is_closed:
                raise ChannelClosed
            jobs = self._lanes.get(lane)
            if jobs is None:
                jobs = self._lanes[lane] = deque()
            if lane.is_live and jobs:
                superseded = jobs.popleft()
                self._waiting -= 1
            jobs.append(Job(lane, ticket, self._arrivals, time.monotonic_ns()))
            self._arrivals += 1
            self._waiting += 1
        self._takers.wake_one()
        if superseded is not None:
            self._on_superseded(superseded)

    def take(self, max_size: int, max_delay_s: float, timeout_s: float) -> list[Job[L]]:
        """The next batch, 1 to ``max_size`` jobs; empty when ``timeout_s`` passed without a frame.

        A batch that is not full waits until its oldest frame is ``max_delay_s`` old; 0 sends what is there at once.

        Raises:
            ChannelClosed: the inbox was closed.
        """
        with self._lock:
            if not self._wait_for_frames(1, time.monotonic() + timeout_s):
                return []
            if max_delay_s > 0 and max_size > 1 and not self._is_closed:
                self._wait_for_company(max_size, max_delay_s)
            if self._is_closed:
                raise ChannelClosed
            return self._pick(max_size)

    def close(self) -> list[Job[L]]:
        """Refuse further frames, wake the worker, and give back what still waited."""
        with self._lock:
            self._is_closed = True
            rest = [job for jobs in self._lanes.values() for job in jobs]
            self._lanes.clear()
            self._waiting = 0
            self._takers.wake_all()
        return sorted(rest, key=lambda job: job.arrival)

    @property
    def waiting(self) -> int:
        """Frames that wait at the moment."""
        return self._waiting

    def _wait_for_company(self, max_size: int, max_delay_s: float) -> None:
        oldest_ns = min(jobs[0].arrived_at_ns for jobs in self._lanes.values() if jobs)
        self._wait_for_frames(max_size, oldest_ns / 1e9 + max_delay_s)

    def _wait_for_frames(self, count: int, deadline_s: float) -> bool:
        """Wait until so many are there or the inbox is closed; False when the monotonic ``deadline_s`` came first."""
        while self._waiting < count and not self._is_closed:
            remaining_s = deadline_s - time.monotonic()
            if remaining_s <= 0:
                return False
            self._takers.wait(remaining_s, unless=lambda: self._waiting >= count or self._is_closed)
        return True

    def _pick(self, max_size: int) -> list[Job[L]]:
        batch: list[Job[L]] = []
        while self._waiting and len(batch) < max_size:
            heads = [jobs for jobs in self._lanes.values() if jobs]
            first = heads[0] if len(heads) == 1 else min(heads, key=_urgency)
            batch.append(first.popleft())
            self._waiting -= 1
        return batch

    def forget(self, lane: L) -> None:
        """Drop the books of a lane that gets no more frames; one that still has some is left alone."""
        with self._lock:
            if not self._lanes.get(lane):
                self._lanes.pop(lane, None)


def _urgency(jobs: deque[Job[L]]) -> tuple[int, int]:
    first = jobs[0]
    return first.lane.priority, first.arrival
