"""No wake-up and no item is lost, also where threads meet at the worst moment."""

from __future__ import annotations

import contextlib
import random
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.runtime.channel import Channel, ChannelClosed, Policy

_ROUNDS = 300
_SHORT_S = 0.0003
_DEADLINE_S = 10.0


@pytest.fixture
def channel() -> Iterator[Channel[int]]:
    channel: Channel[int] = Channel(8, "drop_oldest")
    yield channel
    channel.close()


@pytest.fixture
def pool(channel: Channel[int]) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(6) as pool:
        yield pool
        channel.close()  # lets go whom a lost wake-up left asleep


@pytest.fixture
def _threads_interrupt_each_other() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def _spin(seconds: float) -> None:
    """A moment that is shorter than the system's shortest sleep."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def _send_twenty(channel: Channel[int], first: int, refused: list[int]) -> None:
    items = list(range(first, first + 20))
    with contextlib.suppress(ChannelClosed):
        while items:
            channel.send(items[0])
            del items[0]
    refused += items


def _receive_all(channel: Channel[int]) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(ChannelClosed):
        while True:
            item = channel.receive()
            if item is not None:
                found.append(item)
    return found


def test_an_item_that_meets_receivers_in_a_hurry_reaches_the_patient_one(
    channel: Channel[int], pool: ThreadPoolExecutor
) -> None:
    chance = random.Random(1)
    for turn in range(_ROUNDS):
        hasty = [pool.submit(channel.receive, chance.random() * _SHORT_S) for _ in range(2)]
        patient = pool.submit(channel.receive)
        _spin(chance.random() * _SHORT_S)
        assert channel.send(turn)
        taken = [one.result(_DEADLINE_S) for one in hasty]
        if taken != [None, None]:
            assert channel.send(turn)
        assert patient.result(_DEADLINE_S) == turn


@pytest.mark.usefixtures("_threads_interrupt_each_other")
def test_as_many_items_as_receivers_reach_them_all(channel: Channel[int], pool: ThreadPoolExecutor) -> None:
    chance = random.Random(2)
    for turn in range(_ROUNDS):
        receivers = [pool.submit(channel.receive) for _ in range(3)]
        _spin(chance.random() * _SHORT_S)
        senders = [pool.submit(channel.send, 3 * turn + number) for number in range(3)]
        assert sorted(one.result(_DEADLINE_S) or 0 for one in receivers) == [3 * turn, 3 * turn + 1, 3 * turn + 2]
        assert all(one.result(_DEADLINE_S) for one in senders)


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
@pytest.mark.usefixtures("_threads_interrupt_each_other")
def test_every_item_is_received_dropped_or_refused_also_while_the_channel_closes(
    policy: Policy, pool: ThreadPoolExecutor
) -> None:
    chance = random.Random(3)
    for _ in range(_ROUNDS // 3):
        lost: list[int] = []
        refused: list[int] = []
        channel: Channel[int] = Channel(2, policy, on_drop=lost.append)

        receivers = [pool.submit(_receive_all, channel) for _ in range(2)]
        senders = [pool.submit(_send_twenty, channel, 100 * number, refused) for number in range(3)]
        _spin(chance.random() * _SHORT_S)
        channel.close()
        for one in senders:
            one.result(_DEADLINE_S)
        taken = [item for one in receivers for item in one.result(_DEADLINE_S)]
        everything = sorted(100 * number + item for number in range(3) for item in range(20))
        assert sorted([*taken, *lost, *refused]) == everything
        counts = channel.statistics()
        assert (counts.received, counts.dropped, counts.buffered) == (len(taken), len(lost), 0)
        assert counts.sent == len(taken) + len(lost)


@pytest.mark.usefixtures("_threads_interrupt_each_other")
def test_senders_that_meet_behind_the_end_are_each_refused(pool: ThreadPoolExecutor) -> None:
    channel: Channel[int] = Channel(3000, "drop_oldest")
    for item in range(3000):
        channel.send(item)
    channel.close()
    refused: list[list[int]] = [[] for _ in range(4)]

    def send_all(refused: list[int]) -> None:
        for item in range(20):
            with pytest.raises(ChannelClosed):
                channel.send(item)
            refused.append(item)

    for one in [pool.submit(send_all, each) for each in refused]:
        one.result(_DEADLINE_S)
    assert refused == [list(range(20))] * 4
    assert [channel.receive() for _ in range(3000)] == list(range(3000))


def test_closing_wakes_everyone_who_waits(pool: ThreadPoolExecutor) -> None:
    chance = random.Random(4)
    for _ in range(_ROUNDS):
        channel: Channel[int] = Channel(1, "drop_oldest")
        receivers = [pool.submit(channel.receive, timeout) for timeout in (None, None, chance.random() * _SHORT_S)]
        _spin(chance.random() * _SHORT_S)
        channel.close()
        ends = [one.exception(_DEADLINE_S) for one in receivers]
        assert isinstance(ends[0], ChannelClosed)
        assert isinstance(ends[1], ChannelClosed)
        assert ends[2] is None or isinstance(ends[2], ChannelClosed)


def test_a_sender_never_waits_for_a_receiver(channel: Channel[int]) -> None:
    done = threading.Event()

    def flood() -> None:
        for item in range(1000):
            channel.send(item)
        done.set()

    sender = threading.Thread(target=flood)
    sender.start()
    assert done.wait(_DEADLINE_S)
    sender.join()
    counts = channel.statistics()
    assert (counts.sent, counts.dropped, counts.buffered) == (1000, 992, 8)
