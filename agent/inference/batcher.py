"""The batcher: newest-frame slots for live cameras, queues for files, and batches from both."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from typing import Generic

from agent.cameras.frame_counters import InFlightFrame
from agent.inference.fair_queue import FairQueue, L, Request
from agent.runtime.channel import ChannelClosed
from agent.runtime.wait_queue import WaitQueue

_SILENT_NS = 1_000_000_000
"""A binding without a frame for this long (a lost camera, a closed gate) is not waited for: the longest
``max_delay_ms`` is as long."""
_EARLIEST_PERIODS = 0.75
"""A paced frame comes at most a quarter of a period early, see Pacer."""


class Batcher(Generic[L]):
    """Hands a worker the frames of many cameras in batches, in the order of `FairQueue`.

    ``on_superseded`` is called with each replaced frame, on the camera's thread and outside the lock. ``min_share``:
    see FairQueue.
    """

    def __init__(
        self,
        on_superseded: Callable[[Request[L]], None],
        *,
        min_share: float,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._on_superseded = on_superseded
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._takers = WaitQueue(self._lock)
        self._queue = FairQueue[L](min_share)
        self._bindings: Collection[L] = ()
        self._arrived_ns: dict[L, int] = {}
        self._is_closed = False
        self._is_called = False

    def put(self, binding: L, in_flight: InFlightFrame) -> None:
        """Add a frame; never waits.

        Raises:
            ChannelClosed: the batcher was closed; the caller keeps the frame.
        """
        now_ns = self._now_ns()
        with self._lock:
            if self._is_closed:
                raise ChannelClosed
            self._arrived_ns[binding] = now_ns
            superseded = self._queue.push(binding, in_flight, now_ns)
        # No lost wake-up: the frame is added before this line, and a waiter registers before it checks for frames.
        self._takers.wake_one()
        if superseded is not None:
            self._on_superseded(superseded)

    def take(self, max_size: int, max_delay_s: float, timeout_s: float, *, one_each: bool = False) -> list[Request[L]]:
        """The next batch, 1 to ``max_size`` requests; empty after ``timeout_s`` without a frame, or after ``call``.

        A batch that is not full waits until its oldest frame has waited ``max_delay_s``, or until no binding is left
        that could add a frame by then; 0 does not wait. ``one_each``: see FairQueue.take.

        Raises:
            ChannelClosed: the batcher was closed.
        """
        with self._lock:
            if not self._queue.waiting:
                self._wait_until(lambda: self._queue.waiting or self._is_called, self._now_ns() + timeout_s * 1e9)
            self._is_called = False
            if max_delay_s > 0 and 0 < self._queue.waiting < max_size:
                self._wait_for_full_batch(max_size, max_delay_s)
            if self._is_closed:
                raise ChannelClosed
            return self._queue.take(max_size, one_each=one_each)

    def call(self) -> None:
        """End a wait for frames: the worker has something else to do. From any thread."""
        self._is_called = True
        self._takers.wake_one()

    def close(self) -> list[Request[L]]:
        """Refuse further frames, wake the worker, and return the waiting requests."""
        with self._lock:
            self._is_closed = True
            rest = self._queue.clear()
            self._takers.wake_all()
        return rest

    @property
    def waiting(self) -> int:
        """Number of waiting frames."""
        return self._queue.waiting

    def set_bindings(self, bindings: Collection[L]) -> None:
        """The bindings that may deliver frames from now on. Frames that already wait for others are still taken."""
        with self._lock:
            self._bindings = tuple(bindings)
            self._arrived_ns = {one: at_ns for one, at_ns in self._arrived_ns.items() if one in self._bindings}
            self._queue.keep(self._bindings)

    def _wait_for_full_batch(self, max_size: int, max_delay_s: float) -> None:
        deadline_ns = self._queue.oldest_ns() + round(max_delay_s * 1e9)

        def is_full() -> bool:
            return self._is_called or self._queue.waiting >= max_size or not self._expects_more(deadline_ns)

        self._wait_until(is_full, deadline_ns)

    def _expects_more(self, deadline_ns: int) -> bool:
        now_ns = self._now_ns()
        return any(self._is_expected(binding, now_ns, deadline_ns) for binding in self._bindings)

    def _is_expected(self, binding: L, now_ns: int, deadline_ns: int) -> bool:
        """Whether ``binding`` could add a frame to the batch before ``deadline_ns``."""
        if not binding.has_room or (binding.is_live and self._queue.has_waiting(binding)):
            return False
        last_ns = self._arrived_ns.get(binding)
        if last_ns is None:
            return False
        period_ns = 0.0 if binding.rate_hz is None else 1e9 / binding.rate_hz
        is_silent = now_ns - last_ns > max(_SILENT_NS, 2 * period_ns)
        return not is_silent and last_ns + _EARLIEST_PERIODS * period_ns <= deadline_ns

    def _wait_until(self, is_over: Callable[[], object], deadline_ns: float) -> None:
        """Wait until ``is_over``, the close, or the monotonic ``deadline_ns``."""

        def has_ended() -> bool:
            return self._is_closed or bool(is_over())

        while not has_ended():
            remaining_s = (deadline_ns - self._now_ns()) / 1e9
            if remaining_s <= 0:
                return
            self._takers.wait(remaining_s, unless=has_ended)
