"""No wake-up is lost, also when it meets a thread whose time is over just then."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.channel import Channel, ChannelClosed

_ROUNDS = 300
_SHORT_S = 0.0003
_DEADLINE_S = 10.0


@pytest.fixture
def channel() -> Iterator[Channel[int]]:
    channel: Channel[int] = Channel(1, "block")
    yield channel
    channel.close()


@pytest.fixture
def pool(channel: Channel[int]) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool
        channel.close()  # lets go whom a lost wake-up left asleep


def _spin(seconds: float) -> None:
    """A moment that is shorter than the system's shortest sleep."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


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


def test_room_that_meets_senders_in_a_hurry_reaches_the_patient_one(
    channel: Channel[int], pool: ThreadPoolExecutor
) -> None:
    chance = random.Random(2)
    for turn in range(_ROUNDS):
        assert channel.send(turn)
        hasty = [pool.submit(channel.send, -1, chance.random() * _SHORT_S) for _ in range(2)]
        patient = pool.submit(channel.send, turn)
        _spin(chance.random() * _SHORT_S)
        taken = [channel.receive()]
        while not all(one.done() for one in hasty):
            taken.append(channel.receive(_SHORT_S))
        if not patient.done():
            taken.append(channel.receive(_SHORT_S))
        assert patient.result(_DEADLINE_S)
        while channel.statistics().buffered:
            taken.append(channel.receive())
        expected = sum(one.result() for one in hasty)
        assert (taken.count(turn), taken.count(-1)) == (2, expected)


def test_closing_wakes_everyone_whatever_they_wait_for(pool: ThreadPoolExecutor) -> None:
    chance = random.Random(3)
    for _ in range(_ROUNDS):
        channel: Channel[int] = Channel(1, "block")
        receivers = [pool.submit(channel.receive, timeout) for timeout in (None, chance.random() * _SHORT_S)]
        senders = [pool.submit(channel.send, 1, timeout) for timeout in (None, chance.random() * _SHORT_S)]
        _spin(chance.random() * _SHORT_S)
        channel.close()
        ends = [one.exception(_DEADLINE_S) for one in receivers] + [one.exception(_DEADLINE_S) for one in senders]
        assert all(end is None or isinstance(end, ChannelClosed) for end in ends)
        counts = channel.statistics()
        sent = [one for one in senders if one.exception() is None and one.result()]
        assert counts.sent == counts.received + counts.buffered == len(sent)
