from __future__ import annotations

import threading
import time
from functools import partial

from agent.runtime.wait_queue import Sleepers
from tests.fixtures.deadlines import wait_until

_DEADLINE_S = 10.0


def test_a_sleeper_shows_itself_before_it_looks_whether_to_sleep() -> None:
    lock = threading.Lock()
    sleepers = Sleepers(lock)
    shown: list[int] = []

    def look() -> bool:
        shown.append(len(sleepers.beds))
        return True

    with lock:
        sleepers.wait(_DEADLINE_S, unless=look)
    assert shown == [1]
    assert not sleepers.beds


def test_a_waker_that_comes_between_finds_the_sleeper() -> None:
    lock = threading.Lock()
    sleepers = Sleepers(lock)
    began = time.monotonic()
    with lock:
        sleepers.wait(_DEADLINE_S, unless=sleepers.wake_one)
        assert lock.locked()
    assert time.monotonic() - began < _DEADLINE_S / 2
    assert not sleepers.beds


def test_whoever_slept_long_enough_is_no_longer_woken() -> None:
    lock = threading.Lock()
    sleepers = Sleepers(lock)
    with lock:
        sleepers.wait(0.01, unless=bool)
        assert lock.locked()
    assert not sleepers.beds
    sleepers.wake_one()


def test_the_one_that_sleeps_longest_is_woken_first_and_the_rest_together() -> None:
    lock = threading.Lock()
    sleepers = Sleepers(lock)
    woken: list[int] = []

    def sleep(number: int) -> None:
        with lock:
            sleepers.wait(_DEADLINE_S, unless=bool)
            woken.append(number)

    threads = [threading.Thread(target=sleep, args=(number,)) for number in range(3)]
    for thread in threads:
        before = len(sleepers.beds)
        thread.start()
        wait_until(partial(_has_grown, sleepers, before))
    sleepers.wake_one()
    wait_until(lambda: woken == [0])
    sleepers.wake_all()
    for thread in threads:
        thread.join(_DEADLINE_S)
    assert sorted(woken) == [0, 1, 2]


def _has_grown(sleepers: Sleepers, before: int) -> bool:
    return len(sleepers.beds) > before
