"""Packets that were sent and not yet confirmed, and whether the broker confirms them at all."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

MAX_UNCONFIRMED = 1000
"""Packets sent and not yet confirmed; more are refused as ``backlog``."""

INFLIGHT = 20
"""QoS 1 packets that may wait for the broker at once; more are slower (measured with mosquitto: 15.0k/s at 20, 10.3k/s
at 200)."""

_MAX_PATIENCE_S = 60.0


class _Packet(NamedTuple):
    """``ends`` is its last byte's place among all bytes of the connection."""

    key: int | None
    qos: int
    ends: int


class Unconfirmed:
    """The packets of one connection, by packet id.

    ``lock`` is that of the connection, which holds it from publishing a packet until ``add``: the confirmation may
    arrive before publish returns. ``answered`` and ``refused`` never take it: paho calls them while it holds the lock
    that publish needs.
    """

    def __init__(self, lock: threading.Lock, *, confirm_within_s: float) -> None:
        self._lock = lock
        self._packets: dict[int, _Packet] = {}
        self._qos_1 = 0
        self._answers: deque[tuple[int, str | None]] = deque()
        self._problems: dict[int, str] = {}
        self._watch = ConfirmationWatch(confirm_within_s)

    def __len__(self) -> int:
        return len(self._packets)

    def has_room(self, qos: int, receive_maximum: int) -> bool:
        """Whether one more packet may be sent. The caller holds the lock."""
        # paho limits itself to INFLIGHT and cannot change that once it is connected.
        window = receive_maximum if receive_maximum < INFLIGHT else MAX_UNCONFIRMED
        return len(self._packets) < MAX_UNCONFIRMED and not (qos and self._qos_1 >= window)

    def add(self, packet_id: int, key: int | None, qos: int, ends: int) -> None:
        """A packet was published. The caller holds the lock."""
        self._packets[packet_id] = _Packet(key, qos, ends)
        self._qos_1 += qos

    def refused(self, packet_id: int, problem: str) -> None:
        """The next answer to this packet is a refusal."""
        self._problems[packet_id] = problem

    def answered(self, packet_id: int) -> None:
        """A packet was confirmed or, at QoS 0, written."""
        self._answers.append((packet_id, self._problems.pop(packet_id, None)))

    def settle(self, now: float) -> Iterator[tuple[int, str | None]]:
        """Key and problem of each packet with a key that was answered; the lock is not held meanwhile."""
        while self._answers:
            packet_id, problem = self._answers.popleft()
            with self._lock:
                packet = self._packets.pop(packet_id, None)
                self._qos_1 -= 0 if packet is None else packet.qos
            if packet is None:
                continue
            if packet.qos:
                self._watch.confirmed(now)
            if packet.key is not None:
                yield packet.key, problem

    def overdue(self, position: int, now: float) -> tuple[float, int] | None:
        """Seconds since the oldest packet has left, and how many wait, if that is too long. ``position``: see Line."""
        with self._lock:
            oldest = next((packet.ends for packet in self._packets.values() if packet.qos), None)
            count = self._qos_1
        waits_s = self._watch.overdue_s(oldest, position, now)
        return None if waits_s is None else (waits_s, count)


class ConfirmationWatch:
    """Whether the broker confirms QoS 1 packets. A packet counts from when it has left, so a thin line is no alarm.

    Two limits: nothing was confirmed for ``limit_s`` and twice the longest wait so far, or the oldest packet
    was passed over for three times that: its confirmation is lost, and it would hold its place for good.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._oldest: int | None = None
        self._left_at = 0.0
        self._confirmed_at = 0.0
        self._slowest_s = 0.0

    def confirmed(self, now: float) -> None:
        """A packet was confirmed."""
        if self._oldest is not None:
            self._slowest_s = max(self._slowest_s, now - max(self._left_at, self._confirmed_at))
        self._confirmed_at = now

    def overdue_s(self, oldest: int | None, position: int, now: float) -> float | None:
        """Seconds since the oldest unconfirmed packet, which ends at ``oldest``, has left, if that is too long."""
        if oldest is None or position < oldest:
            self._oldest = None
            return None
        if oldest != self._oldest:
            self._oldest, self._left_at = oldest, now
        limit_s = min(_MAX_PATIENCE_S, self._limit_s + 2.0 * self._slowest_s)
        waits_s = now - self._left_at
        is_stuck = now - max(self._left_at, self._confirmed_at) >= limit_s or waits_s >= 3.0 * limit_s
        return waits_s if is_stuck else None
