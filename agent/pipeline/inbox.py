"""A worker's inbox: newest-frame slots for live cameras, waiting lines for files, and the batcher over both."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from agent.channel import ChannelClosed
from agent.pipeline.accounting import Ticket


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
        self._ready = threading.Condition()
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
        with self._ready:
            if self._is_closed:
                raise ChannelClosed
            jobs = self._lanes.setdefault(lane, deque())
            if lane.is_live and jobs:
                superseded = jobs.popleft()
                self._waiting -= 1
            jobs.append(Job(lane, ticket, self._arrivals, time.monotonic_ns()))
            self._arrivals += 1
            self._waiting += 1
            self._ready.notify()
        if superseded is not None:
            self._on_superseded(superseded)

    def take(self, max_size: int, max_delay_s: float, timeout_s: float) -> list[Job[L]]:
        """The next batch, 1 to ``max_size`` jobs; empty when ``timeout_s`` passed without a frame.

        A batch that is not full waits until its oldest frame is ``max_delay_s`` old; 0 sends what is there at once.

        Raises:
            ChannelClosed: the inbox was closed.
        """
        with self._ready:
            if not self._ready.wait_for(lambda: self._waiting or self._is_closed, timeout_s):
                return []
            if max_delay_s > 0 and max_size > 1:
                self._wait_for_company(max_size, max_delay_s)
            if self._is_closed:
                raise ChannelClosed
            return self._pick(max_size)

    def close(self) -> list[Job[L]]:
        """Refuse further frames, wake the worker, and give back what still waited."""
        with self._ready:
            self._is_closed = True
            rest = [job for jobs in self._lanes.values() for job in jobs]
            self._lanes.clear()
            self._waiting = 0
            self._ready.notify_all()
        return sorted(rest, key=lambda job: job.arrival)

    @property
    def waiting(self) -> int:
        """Frames that wait at the moment."""
        return self._waiting

    def _wait_for_company(self, max_size: int, max_delay_s: float) -> None:
        oldest_ns = min(jobs[0].arrived_at_ns for jobs in self._lanes.values() if jobs)
        deadline_ns = oldest_ns + int(max_delay_s * 1e9)
        while self._waiting < max_size and not self._is_closed:
            remaining_s = (deadline_ns - time.monotonic_ns()) / 1e9
            if remaining_s <= 0:
                return
            self._ready.wait(remaining_s)

    def _pick(self, max_size: int) -> list[Job[L]]:
        batch: list[Job[L]] = []
        while self._waiting and len(batch) < max_size:
            heads = (jobs for jobs in self._lanes.values() if jobs)
            first = min(heads, key=lambda jobs: (jobs[0].lane.priority, jobs[0].arrival))
            batch.append(first.popleft())
            self._waiting -= 1
        return batch

    def forget(self, lane: L) -> None:
        """Drop the books of a lane that gets no more frames; one that still has some is left alone."""
        with self._ready:
            if not self._lanes.get(lane):
                self._lanes.pop(lane, None)
