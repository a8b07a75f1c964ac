from __future__ import annotations

import threading
import time
from functools import partial

from agent.runtime.wait_queue import WaitQueue
from tests.fixtures.deadlines import wait_until

_DEADLINE_S = 10.0


def test_a_sleeper_shows_itself_before_it_looks_whether_to_sleep() -> None:
    lock = threading.Lock()
    wait_queue = WaitQueue(lock)
    shown: list[int] = []

    def look() -> bool:
        shown.append(len(wait_queue.waiters))
        return True

    with lock:
        wait_queue.wait(_DEADLINE_S, unless=look)
    assert shown == [1]
    assert not wait_queue.waiters


def test_a_waker_that_comes_between_finds_the_sleeper() -> None:
    lock = threading.Lock()
    wait_queue = WaitQueue(lock)
    began = time.monotonic()
    with lock:
        wait_queue.wait(_DEADLINE_S, unless=wait_queue.wake_one)
        assert lock.locked()
    assert time.monotonic() - began < _DEADLINE_S / 2
    assert not wait_queue.waiters


def test_a_waiter_whose_wait_timed_out_is_not_woken() -> None:
    lock = threading.Lock()
    wait_queue = WaitQueue(lock)
    with lock:
        wait_queue.wait(0.01, unless=bool)
        assert lock.locked()
    assert not wait_queue.waiters
    wait_queue.wake_one()


def test_the_one_that_sleeps_longest_is_woken_first_and_the_rest_together() -> None:
    lock = threading.Lock()
    wait_queue = WaitQueue(lock)
    woken: list[int] = []

    def sleep(number: int) -> None:
        with lock:
            wait_queue.wait(_DEADLINE_S, unless=bool)
            woken.append(number)

    threads = [threading.Thread(target=sleep, args=(number,)) for number in range(3)]
    for thread in threads:
        before = len(wait_queue.waiters)
        thread.start()
        wait_until(partial(_has_grown, wait_queue, before))
    wait_queue.wake_one()
    wait_until(lambda: woken == [0])
    wait_queue.wake_all()
    for thread in threads:
        thread.join(_DEADLINE_S)
    assert sorted(woken) == [0, 1, 2]


def _has_grown(wait_queue: WaitQueue, before: int) -> bool:
    return len(wait_queue.waiters) > before
