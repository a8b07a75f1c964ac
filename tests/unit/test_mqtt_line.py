"""No more is handed over than the line drains, and a broker that confirms nothing is noticed, on simulated lines."""

from __future__ import annotations

import threading
from collections import deque

import pytest

from agent.mqtt.network.line import QUEUE_S, UNMEASURED_BYTES, Line
from agent.mqtt.unconfirmed import INFLIGHT, MAX_UNCONFIRMED, ConfirmationWatch, Unconfirmed

STEP_S = 0.02
PACKET = 600
LIMIT_S = 10.0


class Wire:
    """A line that carries ``bytes_per_s`` and acknowledges after ``round_trip_s``, seen every 20 ms."""

    def __init__(self, bytes_per_s: float, round_trip_s: float = 0.05, *, line: Line | None = None) -> None:
        self.line = line or Line()
        self.now = 100.0
        self.line.start(self.now)
        self._rate, self._round_trip_s = bytes_per_s, round_trip_s
        self._sent = self._free_at = 0.0
        self._arrivals: deque[tuple[float, int, float]] = deque()
        self.accepted = 0
        self.refused = 0
        self.ages: list[float] = []

    def offer(self, size: int = PACKET, qos: int = 0) -> bool:
        if not self.line.has_room(size, qos):
            self.refused += 1
            return False
        self.accepted += 1
        self.line.accept(size, self.now)
        self.line.wrote(size)
        self._free_at = max(self.now, self._free_at) + size / self._rate
        self._arrivals.append((self._free_at + self._round_trip_s, size, self.now))
        return True

    def step(self) -> None:
        self.now += STEP_S
        while self._arrivals and self._arrivals[0][0] <= self.now:
            arrived, _, handed = self._arrivals.popleft()
            self.ages.append(arrived - handed)
        self.line.observe(sum(size for _, size, _ in self._arrivals), self.now)

    def run(self, seconds: float, per_s: float) -> None:
        due = self.now
        for _ in range(round(seconds / STEP_S)):
            while due <= self.now:
                self.offer()
                due += 1 / per_s
            self.step()


@pytest.mark.parametrize("rate", [5_000, 12_000, 15_000])
def test_on_a_thin_line_no_packet_waits_long_and_the_line_is_kept_full(rate: int) -> None:
    wire = Wire(rate)
    wire.run(10, per_s=100)
    wire.ages.clear()
    wire.accepted = 0
    wire.run(60, per_s=100)
    assert max(wire.ages) < 2 * QUEUE_S + 0.3
    assert wire.accepted * PACKET > 0.9 * 60 * rate
    measured = wire.line.bytes_per_s
    assert measured is not None
    assert 0.9 * rate < measured < 1.3 * rate


@pytest.mark.parametrize("round_trip_s", [0.001, 0.2, 1.0, 2.0])
def test_a_fast_line_is_never_limited_however_long_its_round_trip(round_trip_s: float) -> None:
    wire = Wire(10e6, round_trip_s)
    wire.run(30, per_s=100)  # 60 kB/s; a long round trip takes some to find out
    refused = wire.refused
    wire.run(30, per_s=100)
    assert wire.refused == refused
    assert refused < (1 if round_trip_s < 1 else 1500)


def test_a_line_that_recovers_is_used_again() -> None:
    wire = Wire(5_000)
    wire.run(20, per_s=100)
    wire._rate = 1e6
    wire.run(5, per_s=100)
    wire.refused = 0
    wire.run(10, per_s=100)
    assert wire.refused == 0


def test_qos_1_has_room_when_qos_0_has_none() -> None:
    wire = Wire(5_000)
    wire.run(20, per_s=100)
    while wire.offer():
        pass
    assert wire.offer(qos=1)
    while wire.offer(qos=1):
        pass
    assert wire.line.waiting < 7_000


def test_one_packet_always_goes_however_large_it_is() -> None:
    wire = Wire(1_000)
    wire.run(10, per_s=10)
    while wire.line.waiting:
        wire.step()
    assert wire.offer(50_000)
    assert not wire.offer(1)


def test_the_rate_outlives_the_connection_and_nothing_else_does() -> None:
    wire = Wire(5_000)
    wire.run(20, per_s=100)
    again = Wire(5_000, line=wire.line)
    assert again.line.waiting == 0
    accepted = 0
    while again.offer():
        accepted += PACKET
    assert 0 < accepted < 10_000


def test_what_the_protocol_itself_sends_holds_up_no_packet() -> None:
    line = Line()
    line.start(0.0)
    line.add_control(100)
    assert line.waiting == 100
    assert line.has_room(10 * UNMEASURED_BYTES, 0)


def test_without_a_measurement_64_kib_may_wait() -> None:
    line = Line()
    line.start(0.0)
    assert line.bytes_per_s is None
    line.accept(UNMEASURED_BYTES - 100, 0.0)
    assert line.has_room(100, 0)
    assert not line.has_room(101, 0)


def _overdue_after(watch: ConfirmationWatch, *, oldest: int, position: int, start: float) -> float:
    now = start
    while watch.overdue_s(oldest, position, now) is None:
        now += 0.1
        assert now < start + 1000
    return now - start


def test_a_packet_that_has_left_must_be_confirmed_in_10_s() -> None:
    assert _overdue_after(ConfirmationWatch(LIMIT_S), oldest=100, position=100, start=5.0) == pytest.approx(
        LIMIT_S, abs=0.2
    )


def test_a_packet_that_still_waits_for_the_line_is_no_alarm() -> None:
    watch = ConfirmationWatch(LIMIT_S)
    assert all(watch.overdue_s(100, 99, now) is None for now in range(1000))
    assert watch.overdue_s(None, 100, 2000.0) is None


def test_confirmations_of_others_keep_the_connection_but_not_for_ever() -> None:
    watch = ConfirmationWatch(LIMIT_S)
    now = 0.0
    while watch.overdue_s(100, 1000, now) is None:
        now += 0.5
        watch.confirmed(now)
    assert now == pytest.approx(3 * LIMIT_S, rel=0.2)


def test_a_slow_broker_gets_more_time() -> None:
    watch = ConfirmationWatch(LIMIT_S)
    assert watch.overdue_s(100, 100, 0.0) is None
    watch.confirmed(8.0)
    assert _overdue_after(watch, oldest=200, position=200, start=8.0) == pytest.approx(LIMIT_S + 2 * 8.0, abs=0.2)


def _sent(count: int, qos: int) -> Unconfirmed:
    packets = Unconfirmed(threading.Lock(), confirm_within_s=LIMIT_S)
    for packet_id in range(1, count + 1):
        packets.add(packet_id, packet_id * 10, qos, ends=packet_id * 100)
    return packets


@pytest.mark.parametrize(
    ("receive_maximum", "most"), [(1, 1), (INFLIGHT - 1, INFLIGHT - 1), (INFLIGHT, MAX_UNCONFIRMED)]
)
def test_the_broker_s_receive_maximum_limits_qos_1_alone(receive_maximum: int, most: int) -> None:
    assert _sent(most - 1, 1).has_room(1, receive_maximum)
    full = _sent(most, 1)
    assert not full.has_room(1, receive_maximum)
    assert full.has_room(0, receive_maximum) == (most < MAX_UNCONFIRMED)


def test_answers_are_matched_by_packet_id_and_unknown_ones_are_ignored() -> None:
    packets = _sent(3, 1)
    packets.refused(2, "quota_exceeded")
    for packet_id in (3, 2, 77, 3):
        packets.answered(packet_id)
    assert list(packets.settle(0.0)) == [(30, None), (20, "quota_exceeded")]
    assert len(packets) == 1
    assert packets.overdue(100, 0.0) is None
    assert packets.overdue(100, LIMIT_S) == (LIMIT_S, 1)


def test_a_packet_at_qos_0_is_never_overdue() -> None:
    packets = _sent(3, 0)
    assert packets.overdue(1000, 0.0) is None
    assert packets.overdue(1000, 1e6) is None
