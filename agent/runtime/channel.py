"""The bounded hand-over between threads."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from agent.runtime.wait_queue import WaitQueue

T = TypeVar("T")

Policy = Literal["drop_oldest", "drop_newest"]


class ChannelClosed(Exception):
    """Nothing more can be sent, or everything that was sent has been received."""


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """Counts since the channel was made: ``sent == received + dropped + buffered`` at every moment."""

    sent: int
    received: int
    dropped: int
    buffered: int


class Channel(Generic[T]):
    """A queue of at most ``capacity`` items whose policy says what happens when it is full; sending never waits.

    ``drop_oldest`` drops the item that has waited longest, ``drop_newest`` the one being sent. ``on_drop`` is called
    with each dropped item, on the sender's thread and outside the lock. Any number of threads may send and receive.
    Closing wakes all receivers; buffered items can still be received.

    With ``drop_oldest`` a sender takes no lock unless something is to be dropped: for a moment there may be as many
    items above ``capacity`` as there are senders.
    """

    __slots__ = (
        "_capacity",
        "_closed",
        "_dropped",
        "_items",
        "_lock",
        "_on_drop",
        "_policy",
        "_received",
        "_receivers",
        "_waiters",
        "_woken",
    )

    def __init__(self, capacity: int, policy: Policy, *, on_drop: Callable[[T], None] | None = None) -> None:
        if capacity < 1:
            raise ValueError(f"a channel needs a capacity of at least 1, got {capacity}")
        self._items: deque[T] = deque()
        self._capacity = capacity
        self._policy = policy
        self._on_drop = on_drop
        self._lock = threading.Lock()
        self._receivers = WaitQueue(self._lock)
        self._waiters = self._receivers.waiters
        self._closed = False
        self._woken = False
        self._received = 0
        self._dropped = 0

    def send(self, item: T) -> bool:
        """Send ``item``; False if it was dropped.

        Raises:
            ChannelClosed: the channel was closed; the item stays the caller's.
        """
        if self._policy == "drop_newest":
            return self._send_if_room(item)
        items = self._items
        items.append(item)
        if self._closed:
            # Checked after the append, not before it: a close in between would lose the item without an error.
            self._take_back(item)
        if len(items) > self._capacity:
            self._drop_oldest()
        # WaitQueue.wake_one inlined: with cold caches the call costs a sender 5 us more.
        if self._waiters:
            try:
                self._waiters.popleft().release()
            except IndexError:
                return True  # its wait timed out, or another sender woke it
        return True

    def receive(self, timeout: float | None = None) -> T | None:
        """The oldest item; None after ``timeout`` seconds without one, or after ``wake`` while the channel is empty.

        Raises:
            ChannelClosed: the channel is closed and empty.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            while not self._items:
                if self._closed:
                    raise ChannelClosed
                if self._woken:
                    self._woken = False
                    return None
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    return None
                self._receivers.wait(remaining, unless=self._has_news)
            self._received += 1
            return self._items.popleft()

    def wake(self) -> None:
        """Make one ``receive``, the waiting one or the next, return None instead of waiting."""
        self._woken = True
        self._receivers.wake_one()

    def close(self) -> None:
        """Refuse further items and wake all receivers; harmless when called twice."""
        with self._lock:
            self._closed = True
            self._receivers.wake_all()

    def statistics(self) -> ChannelStatistics:
        """Consistent counts of one moment."""
        with self._lock:
            buffered = len(self._items)
            return ChannelStatistics(
                self._received + self._dropped + buffered, self._received, self._dropped, buffered
            )

    def _has_news(self) -> bool:
        return bool(self._items) or self._closed or self._woken

    def _send_if_room(self, item: T) -> bool:
        with self._lock:
            if self._closed:
                raise ChannelClosed
            has_room = len(self._items) < self._capacity
            if has_room:
                self._items.append(item)
                self._receivers.wake_one()
            else:
                self._dropped += 1
        if not has_room and self._on_drop is not None:
            self._on_drop(item)
        return has_room

    def _drop_oldest(self) -> None:
        with self._lock:
            if len(self._items) <= self._capacity:
                return
            lost = self._items.popleft()
            self._dropped += 1
        if self._on_drop is not None:
            self._on_drop(lost)

    def _take_back(self, item: T) -> None:
        """Remove an item that was appended after the close; nothing if a receiver has taken it.

        Raises:
            ChannelClosed: it was removed.
        """
        with self._lock:
            # Copied in one step, because other senders append meanwhile. They append behind, so positions hold.
            items = list(self._items)
            for place in reversed(range(len(items))):
                if items[place] is item:
                    del self._items[place]
                    raise ChannelClosed
