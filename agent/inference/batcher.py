"""The batcher: newest-frame slots for live cameras, queues for files, and batches from both."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from agent.cameras.frame_counters import InFlightFrame
from agent.runtime.channel import ChannelClosed
from agent.runtime.wait_queue import WaitQueue


@dataclass(frozen=True, slots=True, eq=False)
class Binding:
    """One classifier of one camera, as its worker sees it; bindings compare by identity.

    ``is_live``: a newer frame replaces a waiting one. Frames of a file all wait; the camera bounds their number by its
    limit of frames in flight. ``priority`` 1 is served first.
    """

    camera: str
    classifier: str
    is_live: bool
    priority: int


L = TypeVar("L", bound=Binding)


@dataclass(frozen=True, slots=True)
class Request(Generic[L]):
    """One frame for one classifier."""

    binding: L
    in_flight: InFlightFrame
    arrival: int
    """Order of arrival in this batcher."""
    arrived_at_ns: int


class Batcher(Generic[L]):
    """Hands a worker the frames of many cameras in batches.

    Order: by priority, then by arrival; frames of one binding never overtake each other. ``on_superseded`` is called
    with each replaced frame, on the camera's thread and outside the lock.
    """

    def __init__(self, on_superseded: Callable[[Request[L]], None]) -> None:
        self._on_superseded = on_superseded
        self._lock = threading.Lock()
        self._takers = WaitQueue(self._lock)
        self._queues: dict[L, deque[Request[L]]] = {}
        self._waiting = 0
        self._arrivals = 0
        self._is_closed = False

    def put(self, binding: L, in_flight: InFlightFrame) -> None:
        """Add a frame; never waits.

        Raises:
            ChannelClosed: the batcher was closed; the caller keeps the frame.
        """
        superseded: Request[L] | None = None
        with self._lock:
            if self._is_closed:
                raise ChannelClosed
            requests = self._queues.get(binding)
            if requests is None:
                requests = self._queues[binding] = deque()
            if binding.is_live and requests:
                superseded = requests.popleft()
                self._waiting -= 1
            requests.append(Request(binding, in_flight, self._arrivals, time.monotonic_ns()))
            self._arrivals += 1
            self._waiting += 1
        # No lost wake-up: the frame is appended before this line, and a waiter registers before it checks for frames.
        self._takers.wake_one()
        if superseded is not None:
            self._on_superseded(superseded)

    def take(self, max_size: int, max_delay_s: float, timeout_s: float) -> list[Request[L]]:
        """The next batch, 1 to ``max_size`` requests; empty if ``timeout_s`` passed without a frame.

        A batch that is not full waits until its oldest frame has waited ``max_delay_s``; 0 does not wait.

        Raises:
            ChannelClosed: the batcher was closed.
        """
        with self._lock:
            if not self._wait_for_frames(1, time.monotonic() + timeout_s):
                return []
            if max_delay_s > 0 and max_size > 1 and not self._is_closed:
                self._wait_for_full_batch(max_size, max_delay_s)
            if self._is_closed:
                raise ChannelClosed
            return self._pick(max_size)

    def close(self) -> list[Request[L]]:
        """Refuse further frames, wake the worker, and return the waiting requests."""
        with self._lock:
            self._is_closed = True
            rest = [request for requests in self._queues.values() for request in requests]
            self._queues.clear()
            self._waiting = 0
            self._takers.wake_all()
        return sorted(rest, key=lambda request: request.arrival)

    @property
    def waiting(self) -> int:
        """Number of waiting frames."""
        return self._waiting

    def _wait_for_full_batch(self, max_size: int, max_delay_s: float) -> None:
        oldest_ns = min(requests[0].arrived_at_ns for requests in self._queues.values() if requests)
        self._wait_for_frames(max_size, oldest_ns / 1e9 + max_delay_s)

    def _wait_for_frames(self, count: int, deadline_s: float) -> bool:
        """Wait for ``count`` frames or the close; False if the monotonic ``deadline_s`` came first."""
        while self._waiting < count and not self._is_closed:
            remaining_s = deadline_s - time.monotonic()
            if remaining_s <= 0:
                return False
            self._takers.wait(remaining_s, unless=lambda: self._waiting >= count or self._is_closed)
        return True

    def _pick(self, max_size: int) -> list[Request[L]]:
        batch: list[Request[L]] = []
        while self._waiting and len(batch) < max_size:
            heads = [requests for requests in self._queues.values() if requests]
            first = heads[0] if len(heads) == 1 else min(heads, key=_urgency)
            batch.append(first.popleft())
            self._waiting -= 1
        return batch

    def forget(self, binding: L) -> None:
        """Remove the queue of a binding that gets no more frames, unless frames still wait in it."""
        with self._lock:
            if not self._queues.get(binding):
                self._queues.pop(binding, None)


def _urgency(requests: deque[Request[L]]) -> tuple[int, int]:
    first = requests[0]
    return first.binding.priority, first.arrival
