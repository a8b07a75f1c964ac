from __future__ import annotations

import functools
import threading
import time

import numpy as np
import pytest

from agent.cameras.frame_counters import InFlightFrame
from agent.inference.batcher import Batcher, Binding, Request
from agent.runtime.channel import ChannelClosed
from agent.runtime.records import Frame

_IMAGE = np.zeros((2, 2, 3), np.uint8)


def _ticket(camera: str, index: int) -> InFlightFrame:
    return InFlightFrame(Frame(camera, index, _IMAGE, 0, 0, 0.0), 1)


@functools.cache
def _lane(camera: str, *, is_live: bool = True, priority: int = 1) -> Binding:
    return Binding(camera, "inspect", is_live, priority)


def _order(batch: list[Request[Binding]]) -> list[tuple[str, int]]:
    return [(request.binding.camera, request.in_flight.frame.index) for request in batch]


def test_the_newest_frame_of_a_live_camera_wins() -> None:
    superseded: list[Request[Binding]] = []
    batcher = Batcher[Binding](superseded.append)
    for index in range(4):
        batcher.put(_lane("a"), _ticket("a", index))
    assert _order(batcher.take(8, 0, 0)) == [("a", 3)]
    assert _order(superseded) == [("a", 0), ("a", 1), ("a", 2)]


def test_no_frame_of_a_file_is_dropped() -> None:
    superseded: list[Request[Binding]] = []
    batcher = Batcher[Binding](superseded.append)
    for index in range(6):
        batcher.put(_lane("f", is_live=False), _ticket("f", index))
    assert _order(batcher.take(4, 0, 0)) == [("f", 0), ("f", 1), ("f", 2), ("f", 3)]
    assert _order(batcher.take(4, 0, 0)) == [("f", 4), ("f", 5)]
    assert superseded == []


def test_a_batch_takes_one_frame_of_each_camera_in_order_of_arrival() -> None:
    batcher = Batcher[Binding](lambda request: None)
    for camera in ("b", "a", "c"):
        batcher.put(_lane(camera), _ticket(camera, 0))
    assert _order(batcher.take(8, 0, 0)) == [("b", 0), ("a", 0), ("c", 0)]


def test_a_higher_priority_is_served_first() -> None:
    batcher = Batcher[Binding](lambda request: None)
    batcher.put(_lane("common", priority=5), _ticket("common", 0))
    batcher.put(_lane("urgent", priority=1), _ticket("urgent", 0))
    assert _order(batcher.take(1, 0, 0)) == [("urgent", 0)]
    assert _order(batcher.take(1, 0, 0)) == [("common", 0)]


def test_without_a_delay_a_lone_frame_goes_at_once() -> None:
    batcher = Batcher[Binding](lambda request: None)
    batcher.put(_lane("a"), _ticket("a", 0))
    began = time.monotonic()
    assert len(batcher.take(8, 0, 10)) == 1
    assert time.monotonic() - began < 5


def test_a_full_batch_does_not_wait_for_the_delay() -> None:
    batcher = Batcher[Binding](lambda request: None)
    for camera in ("a", "b"):
        batcher.put(_lane(camera), _ticket(camera, 0))
    began = time.monotonic()
    assert len(batcher.take(2, 60, 10)) == 2
    assert time.monotonic() - began < 30


def test_a_frame_waits_for_others_until_its_delay() -> None:
    batcher = Batcher[Binding](lambda request: None)
    batcher.put(_lane("a"), _ticket("a", 0))
    helper = threading.Timer(0.05, lambda: batcher.put(_lane("b"), _ticket("b", 0)))
    helper.start()
    assert _order(batcher.take(2, 60, 10)) == [("a", 0), ("b", 0)]
    helper.join()


def test_a_lone_frame_goes_after_its_delay() -> None:
    batcher = Batcher[Binding](lambda request: None)
    batcher.put(_lane("a"), _ticket("a", 0))
    began = time.monotonic()
    assert len(batcher.take(2, 0.05, 10)) == 1
    assert time.monotonic() - began >= 0.04


def test_without_frames_the_batch_is_empty() -> None:
    assert Batcher[Binding](lambda request: None).take(4, 0, 0.01) == []


def test_closing_returns_the_waiting_requests_and_wakes_the_worker() -> None:
    batcher = Batcher[Binding](lambda request: None)
    outcome: list[str] = []

    def work() -> None:
        try:
            batcher.take(4, 0, 60)
        except ChannelClosed:
            outcome.append("closed")

    worker = threading.Thread(target=work)
    worker.start()
    assert batcher.close() == []
    worker.join(5)
    assert outcome == ["closed"]


def test_closing_wakes_a_worker_that_waits_to_fill_a_batch() -> None:
    batcher = Batcher[Binding](lambda request: None)
    batcher.put(_lane("a"), _ticket("a", 0))
    helper = threading.Timer(0.05, batcher.close)
    helper.start()
    with pytest.raises(ChannelClosed):
        batcher.take(4, 60, 10)
    helper.join()
    with pytest.raises(ChannelClosed):
        batcher.take(4, 60, 10)


def test_a_closed_batcher_refuses_frames() -> None:
    batcher = Batcher[Binding](lambda request: None)
    batcher.put(_lane("a"), _ticket("a", 0))
    assert _order(batcher.close()) == [("a", 0)]
    with pytest.raises(ChannelClosed):
        batcher.put(_lane("a"), _ticket("a", 1))
    with pytest.raises(ChannelClosed):
        batcher.take(1, 0, 0)
