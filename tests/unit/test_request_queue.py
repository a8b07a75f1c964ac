"""Requests of programs: order, deadlines, limits, cancellation, and what is counted for each."""

from __future__ import annotations

from concurrent.futures import CancelledError

import numpy as np
import pytest

from agent.inference.requests.queue import (
    DeadlinePassed,
    EngineFailed,
    NotReady,
    QueueFull,
    RequestLimits,
    RequestQueue,
    RequestShare,
)
from agent.inference.requests.statistics import Duration, FailureReason, RequestStatistics
from engines import Images


class _Clock:
    def __init__(self) -> None:
        self.ns = 1_000_000_000

    def __call__(self) -> int:
        return self.ns


def _images(count: int = 1, value: int = 0) -> Images:
    return np.full((count, 2, 2, 3), value, np.uint8)


def _queue(
    clock: _Clock, *, max_waiting: int = 3, timeout_s: float = 1.0, woken: list[int] | None = None
) -> RequestQueue:
    return RequestQueue(
        "inspect",
        RequestStatistics(utc_ns=lambda: 5_000_000),
        limits=RequestLimits(max_waiting, timeout_s, 0.2),
        wake=lambda: None if woken is None else woken.append(1),
        now_ns=clock,
    )


def _values(queue: RequestQueue, room: int = 8, *, max_requests: int = 8) -> list[int]:
    return [int(one.images[0, 0, 0, 0]) for one in queue.take(room, max_requests=max_requests, largest=8)]


def test_requests_leave_in_order_of_priority_then_arrival_and_wake_the_worker() -> None:
    woken: list[int] = []
    queue = _queue(_Clock(), max_waiting=8, woken=woken)
    for value, priority in ((1, 0), (2, 9), (3, 1), (4, 5), (5, 1)):
        queue.submit(_images(value=value), priority=priority)
    assert len(woken) == 5
    assert _values(queue) == [3, 5, 1, 4, 2]


def test_an_answer_is_counted_before_its_client_has_it() -> None:
    queue = _queue(_Clock())
    counted: list[tuple[int, int]] = []
    for _ in range(2):
        future = queue.submit(_images())
        future.add_done_callback(
            lambda _: counted.append(
                (queue.statistics.snapshot().inference_count, queue.statistics.snapshot().execution_count)
            )
        )
    taken = queue.take(8, max_requests=8, largest=8)
    queue.answer(taken, np.ones((2, 3), np.float32), (1_000_000_000,) * 3)
    assert counted == [(2, 1), (2, 1)]


def test_a_request_is_not_split_and_none_overtakes_it() -> None:
    queue = _queue(_Clock())
    queue.submit(_images(2, 1))
    queue.submit(_images(3, 2))
    queue.submit(_images(1, 3))
    assert _values(queue, 4) == [1]
    assert _values(queue, 4, max_requests=1) == [2]
    assert _values(queue, 0) == []
    assert queue.waiting == 1


def test_a_request_larger_than_a_call_fails_instead_of_blocking_the_queue() -> None:
    queue = _queue(_Clock())
    large, small = queue.submit(_images(4)), queue.submit(_images(1, 7))
    assert [int(one.images[0, 0, 0, 0]) for one in queue.take(2, max_requests=2, largest=2)] == [7]
    with pytest.raises(NotReady, match="has 4 images, but the engine of model inspect now takes 2"):
        large.result(0)
    assert not small.done()


def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    queue = _queue(_Clock(), max_waiting=1)
    queue.submit(_images())
    with pytest.raises(QueueFull, match="1 requests wait for model inspect, but no more may") as refused:
        queue.submit(_images())
    assert refused.value.retry_after_s == 1
    assert queue.statistics.snapshot().failures[FailureReason.REJECTED] == 1


def test_a_deadline_passes_while_no_engine_takes_anything() -> None:
    clock = _Clock()
    queue = _queue(clock, timeout_s=1.0)
    short, long, longer = queue.submit(_images(), timeout_s=0.1), queue.submit(_images(), timeout_s=9.0), None
    clock.ns += 100_000_000
    queue.expire()
    with pytest.raises(DeadlinePassed, match="waited 100 ms for model inspect, but its time was 100 ms"):
        short.result(0)
    assert not long.done()
    clock.ns += 900_000_000  # a request cannot ask for more than the configuration allows
    longer = queue.submit(_images(value=3))
    assert _values(queue) == [3]
    assert isinstance(long.exception(0), DeadlinePassed)
    assert not longer.done()
    assert queue.statistics.snapshot().failures[FailureReason.REJECTED] == 2


def test_a_cancelled_request_makes_room_and_is_counted_once() -> None:
    queue = _queue(_Clock(), max_waiting=1)
    gone = queue.submit(_images(value=1))
    assert gone.cancel()
    assert queue.waiting == 0
    queue.submit(_images(value=2))
    assert _values(queue) == [2]
    with pytest.raises(CancelledError):
        gone.result(0)
    statistics = queue.statistics.snapshot()
    assert statistics.failures[FailureReason.CANCELED] == 1
    assert statistics.fail.count == 1


def test_a_running_request_cannot_be_cancelled() -> None:
    queue = _queue(_Clock())
    future = queue.submit(_images())
    (request,) = queue.take(1, max_requests=1, largest=1)
    assert not future.cancel()
    queue.answer([request], np.ones((1, 2), np.float32), (0, 0, 0))
    assert future.result(0).scores.shape == (1, 2)


def test_closing_refuses_what_waits_and_what_comes() -> None:
    queue = _queue(_Clock())
    waiting = queue.submit(_images())
    queue.close()
    queue.close()
    with pytest.raises(NotReady, match="model inspect is not ready"):
        waiting.result(0)
    with pytest.raises(NotReady):
        queue.submit(_images())


def test_statistics_follow_the_rules_of_triton() -> None:
    """Two requests of 1 and 2 images in one call behind a frame, one of 2 alone, and one whose engine failed."""
    clock = _Clock()
    queue = _queue(clock)
    futures = [queue.submit(_images(1)), queue.submit(_images(2))]
    taken = queue.take(4, max_requests=4, largest=4)
    start = clock.ns
    clock.ns += 70
    scores = np.arange(8, dtype=np.float32).reshape(4, 2)
    queue.answer(taken, scores, (start + 10, start + 30, start + 60), first=1)
    assert futures[0].result(0).scores.tolist() == [[2.0, 3.0]]
    assert futures[1].result(0).scores.tolist() == [[4.0, 5.0], [6.0, 7.0]]
    queue.submit(_images(2))
    queue.answer(queue.take(4, max_requests=4, largest=4), scores[:2], (clock.ns, clock.ns, clock.ns))
    failed = queue.submit(_images(1))
    (request,) = queue.take(4, max_requests=4, largest=4)
    queue.fail(request, EngineFailed("the engine failed"))
    queue.fail(request, EngineFailed("counted once"))
    assert isinstance(failed.exception(0), EngineFailed)
    statistics = queue.statistics.snapshot(waiting=queue.waiting)
    assert (statistics.inference_count, statistics.execution_count, statistics.waiting) == (5, 2, 0)
    assert statistics.success == Duration(3, 140)
    assert statistics.queue == Duration(3, 20)
    assert statistics.compute_input == Duration(3, 40)
    assert statistics.compute_infer == Duration(3, 60)
    assert statistics.compute_output == Duration(3, 20)
    assert statistics.fail.count == 1
    assert statistics.failures[FailureReason.BACKEND] == 1
    assert statistics.last_inference_ms == 5
    # Images of requests in a call, and the durations of that call counted once.
    assert statistics.calls == {
        2: (Duration(1, 0), Duration(1, 0), Duration(1, 0)),
        3: (Duration(1, 20), Duration(1, 30), Duration(1, 10)),
    }
    assert sum(size * spent[0].count for size, spent in statistics.calls.items()) == statistics.inference_count


def test_scores_that_are_no_numbers_fail_their_request_alone() -> None:
    queue = _queue(_Clock())
    bad, good = queue.submit(_images()), queue.submit(_images())
    taken = queue.take(2, max_requests=2, largest=2)
    queue.answer(taken, np.array([[np.nan, 1.0], [0.5, 0.5]], np.float32), (0, 0, 0))
    with pytest.raises(EngineFailed, match="no numbers"):
        bad.result(0)
    assert good.result(0).scores.tolist() == [[0.5, 0.5]]


def _served(share: RequestShare, calls: int, *, min_share: float, size: int = 1) -> float:
    """Requests' share of the images of an engine that gains nothing by batches, with both sides always waiting."""
    images = 0
    for _ in range(calls):
        is_request = share.is_due(size)
        images += size * is_request
        share.count(int(not is_request), size * is_request, min_share=min_share, first_size=size)
    return images / (calls - images / size + images)


@pytest.mark.parametrize("min_share", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("size", [1, 4])
def test_requests_get_their_share_beside_busy_cameras(min_share: float, size: int) -> None:
    assert _served(RequestShare(), 4000, min_share=min_share, size=size) == pytest.approx(min_share, abs=0.02)


def test_without_a_share_requests_wait_for_the_frames() -> None:
    assert _served(RequestShare(), 100, min_share=0.0) == 0.0


def test_an_idle_time_saves_up_no_more_than_one_request() -> None:
    share = RequestShare()
    for _ in range(1000):
        share.count(1, 0, min_share=0.5, first_size=0)
    due = []
    for _ in range(4):
        due.append(share.is_due(1))
        share.count(int(not due[-1]), int(due[-1]), min_share=0.2, first_size=1)
    assert due == [True, False, False, False]
