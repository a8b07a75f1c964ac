"""How fast the line to the broker drains, and how much may wait for it.

A socket takes megabytes that a thin line needs minutes for, and nothing can be put before them. So no more is handed
over than the line drains in ``QUEUE_S``, and everything else waits where it can still be ordered or dropped.
"""

from __future__ import annotations

import fcntl
import struct
import termios
from collections import deque
from contextlib import suppress

QUEUE_S = 0.5
"""Time that the last accepted byte may wait behind others, as far as the measured rate tells."""

UNMEASURED_BYTES = 65536
"""May wait while the rate is unknown, as no byte has had to wait."""

QOS_1_SHARE = 1.5
"""QoS 1 may fill the line so far above ``QUEUE_S``: events and states go on when results are refused."""

_SAMPLE_S = 0.25
_WINDOW = 8  # samples' intervals that a rate is averaged over: a packet may take longer than one
_SAMPLES = 20


def unsent_bytes(descriptor: int) -> int:
    """Bytes of a socket in the kernel that the other side has not received yet; 0 where the system does not say."""
    with suppress(OSError):
        return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, b"\0" * 4))[0])
    return 0


class Line:
    """Counts bytes in and out, and measures the rate. Times are monotonic seconds.

    Samples are taken only as a lower bound while the line keeps up, so a quiet agent does not seem to have a thin
    line. ``accept`` and ``has_room`` are called by the thread that sends, everything else by the one that runs the
    network. A ``Line`` serves one connection after the other and keeps its rate.
    """

    def __init__(self) -> None:
        self._rate: float | None = None
        self._fastest = 0.0
        self._samples: deque[float] = deque(maxlen=_SAMPLES)
        self.start(0.0)

    def start(self, now: float) -> None:
        """A new connection: nothing waits."""
        self._accepted = self._control = self._written = self._position = 0
        self._marks: deque[tuple[int, float]] = deque()
        self._shortest_s: float | None = None
        self._busy: deque[tuple[float, int]] = deque([(now, 0)], maxlen=_WINDOW)

    @property
    def bytes_per_s(self) -> float | None:
        """The rate while bytes had to wait; None until they did."""
        return self._rate

    @property
    def waiting(self) -> int:
        """Bytes that were accepted and have not left."""
        return max(0, self.accepted - self.position)

    @property
    def accepted(self) -> int:
        """Bytes accepted on this connection: where the next packet begins."""
        return self._accepted + self._control

    @property
    def position(self) -> int:
        """Bytes that had left when the line was last observed."""
        return self._position

    def has_room(self, size: int, qos: int) -> bool:
        """Whether a packet may be handed over now. It always may if none waits."""
        return not self._marks or self.waiting + size <= self._budget() * (QOS_1_SHARE if qos else 1.0)

    def accept(self, size: int, now: float) -> int:
        """A packet was handed over; where it ends."""
        self._accepted += size
        end = self.accepted
        self._marks.append((end, now))
        return end

    def add_control(self, size: int) -> None:
        """A packet of the protocol itself is about to be written."""
        self._control += size

    def wrote(self, size: int) -> None:
        """Bytes were written to the socket."""
        self._written += size

    def observe(self, unsent: int, now: float) -> None:
        """``unsent`` of the written bytes are still in this machine or unanswered."""
        self._position = position = self._written - unsent
        while self._marks and self._marks[0][0] <= position:
            _, at = self._marks.popleft()
            took_s = now - at
            self._shortest_s = took_s if self._shortest_s is None else min(self._shortest_s, took_s)
        if now - self._busy[-1][0] >= _SAMPLE_S:
            self._sample(position, now)

    def _sample(self, position: int, now: float) -> None:
        since, before = self._busy[0]
        rate = (position - before) / (now - since)
        if not self._marks:  # idle time is no part of a rate
            self._busy.clear()
        self._busy.append((now, position))
        waited_s = now - self._marks[0][1] if self._marks else 0.0
        if waited_s >= _SAMPLE_S + (self._shortest_s or 0.0):
            self._samples.append(rate)
            self._rate = max(self._samples)
        elif self._rate is None:
            self._fastest = max(self._fastest, rate)
        elif rate > self._rate:
            self._samples.append(rate)
            self._rate = rate

    def _budget(self) -> float:
        # The time that a packet needs on an idle line is no queue: without it a line with a long round trip would
        # carry less and less.
        window_s = QUEUE_S + (self._shortest_s or 0.0)
        return max(UNMEASURED_BYTES, self._fastest * window_s) if self._rate is None else self._rate * window_s
