from __future__ import annotations

import functools
import threading
import time

import numpy as np
import pytest

from agent.cameras.frame_counters import InFlightFrame
from agent.cameras.triggers import Trigger
from agent.inference.batcher import Batcher
from agent.inference.fair_queue import Binding, Request
from agent.runtime.channel import ChannelClosed
from agent.runtime.records import Frame

_IMAGE = np.zeros((2, 2, 3), np.uint8)


def _ticket(camera: str, index: int) -> InFlightFrame:
    return InFlightFrame(Frame(camera, index, _IMAGE, 0, 0, 0.0), 1)


@functools.cache
def _lane(camera: str, *, is_live: bool = True, priority: int = 1, rate_hz: float | None = None) -> Binding:
    return Binding(camera, "inspect", is_live, priority, rate_hz)


def _order(batch: list[Request[Binding]]) -> list[tuple[str, int]]:
    return [(request.binding.camera, request.in_flight.frame.index) for request in batch]


def test_the_newest_frame_of_a_live_camera_wins() -> None:
    superseded: list[Request[Binding]] = []
    batcher = Batcher[Binding](superseded.append, min_share=0.05)
    for index in range(4):
        batcher.put(_lane("a"), _ticket("a", index))
    assert _order(batcher.take(8, 0, 0)) == [("a", 3)]
    assert _order(superseded) == [("a", 0), ("a", 1), ("a", 2)]


def test_a_frame_that_a_trigger_asked_for_is_not_superseded() -> None:
    superseded: list[Request[Binding]] = []
    batcher = Batcher[Binding](superseded.append, min_share=0.05)
    for index in range(7):
        trigger = Trigger(str(index), not_before_ns=0, due_ns=1, on_end=lambda _: None) if index in {2, 3} else None
        batcher.put(_lane("a"), InFlightFrame(Frame("a", index, _IMAGE, 0, 0, 0.0), 1, trigger))
    assert batcher.waiting == 3
    assert _order(batcher.take(2, 0, 0)) == [("a", 2), ("a", 3)]
    assert _order(batcher.take(8, 0, 0)) == [("a", 6)]
    assert _order(superseded) == [("a", 0), ("a", 1), ("a", 4), ("a", 5)]
    assert batcher.waiting == 0


def test_a_frame_that_supersedes_another_keeps_its_place() -> None:
    batcher = Batcher[Binding](lambda request: None, min_share=0.05)
    for camera, index in (("a", 0), ("b", 0), ("a", 1)):
        batcher.put(_lane(camera), _ticket(camera, index))
    assert _order(batcher.take(8, 0, 0)) == [("a", 1), ("b", 0)]


def test_a_classifier_keeps_its_place_among_those_of_its_camera() -> None:
    left, right = (Binding("a", name, is_live=True, priority=1, rate_hz=None) for name in ("left", "right"))
    batcher = Batcher[Binding](lambda request: None, min_share=0.05)
    taken = []
    for index in range(6):  # both get every frame, one of them is classified
        batcher.put(left, _ticket("a", index))
        batcher.put(right, _ticket("a", index))
        taken += [request.binding.classifier for request in batcher.take(1, 0, 0)]
    assert taken == ["left", "right"] * 3


def test_frames_of_a_removed_camera_are_still_taken() -> None:
    batcher = Batcher[Binding](lambda request: None, min_share=0.05)
    batcher.set_bindings([_lane("a"), _lane("b")])
    for camera in ("a", "b"):
        batcher.put(_lane(camera), _ticket(camera, 0))
    batcher.set_bindings([_lane("b")])
    assert _order(batcher.take(8, 0, 0)) == [("a", 0), ("b", 0)]
    batcher.set_bindings([_lane("b")])
    batcher.put(_lane("b"), _ticket("b", 1))
    assert _order(batcher.take(8, 0, 0)) == [("b", 1)]


def test_no_frame_of_a_file_is_dropped() -> None:
    superseded: list[Request[Binding]] = []
    batcher = Batcher[Binding](superseded.append, min_share=0.05)
    for index in range(6):
        batcher.put(_lane("f", is_live=False), _ticket("f", index))
    assert _order(batcher.take(4, 0, 0)) == [("f", 0), ("f", 1), ("f", 2), ("f", 3)]
    assert _order(batcher.take(4, 0, 0)) == [("f", 4), ("f", 5)]
    assert superseded == []


def test_a_batch_takes_one_frame_of_each_camera_in_order_of_arrival() -> None:
    batcher = Batcher[Binding](lambda request: None, min_share=0.05)
    for camera in ("b", "a", "c"):
        batcher.put(_lane(camera), _ticket(camera, 0))
    assert _order(batcher.take(8, 0, 0)) == [("b", 0), ("a", 0), ("c", 0)]


def test_a_higher_priority_is_served_first() -> None:
    batcher = Batcher[Binding](lambda request: None, min_share=0.05)
    batcher.put(_lane("common", priority=5), _ticket("common", 0))
    batcher.put(_lane("urgent", priority=1), _ticket("urgent", 0))
    assert _order(batcher.take(1, 0, 0)) == [("urgent", 0)]
    assert _order(batcher.take(1, 0, 0)) == [("common", 0)]


def test_without_a_delay_a_lone_frame_goes_at_once() -> None:
    batcher = Batcher[Binding](lambda request: None, min_share=0.05)
    batcher.put(_lane("a"), _ticket("a", 0))
    began = time.monotonic()
    assert len(batcher.take(8, 0, 10)) == 1
    assert time.monotonic() - began < 5


def test_a_full_batch_does_not_wait_for_the_delay() -> None:
    batcher = Batcher[Binding](lambda request: None, min_share=0.05)
    for camera in ("a", "b"):
        batcher.put(_lane(camera), _ticket(camera, 0))
    began = time.monotonic()
    assert len(batcher.take(2, 60, 10)) == 2
    assert time.monotonic() - began < 30


class _Cameras:
    """A batcher on a clock that stands still, whose cameras have each delivered a frame just now."""

    def __init__(self, *bindings: Binding) -> None:
        self.now_ns = 10**12
        self.batcher = Batcher[Binding](lambda request: None, min_share=0.05, now_ns=lambda: self.now_ns)
        self.batcher.set_bindings(bindings)
        for binding in bindings:
            self.put(binding)
        assert len(self.batcher.take(len(bindings), 0, 0)) == len(bindings)

    def put(self, binding: Binding) -> None:
        self.batcher.put(binding, _ticket(binding.camera, 0))

    def take(self) -> list[str]:
        """The cameras of the next batch of at most 8, without an end of the wait: the clock stands still."""
        return [request.binding.camera for request in self.batcher.take(8, 1.0, 10)]


def test_a_frame_waits_for_others_until_its_delay() -> None:
    cameras = _Cameras(_lane("a"), _lane("b"))
    cameras.put(_lane("a"))
    helper = threading.Timer(0.05, cameras.put, [_lane("b")])
    helper.start()
    assert cameras.take() == ["a", "b"]
    helper.join()


def test_a_lone_frame_goes_after_its_delay() -> None:
    batcher = Batcher[Binding](lambda request: None, min_share=0.05)
    batcher.set_bindings([_lane("a"), _lane("b")])
    batcher.put(_lane("b"), _ticket("b", 0))
    batcher.take(1, 0, 0)
    batcher.put(_lane("a"), _ticket("a", 0))
    began = time.monotonic()
    assert len(batcher.take(2, 0.05, 10)) == 1
    assert time.monotonic() - began >= 0.04


def test_the_wait_ends_when_every_camera_has_delivered() -> None:
    cameras = _Cameras(_lane("a"), _lane("b"))
    cameras.put(_lane("b"))
    cameras.put(_lane("a"))
    assert cameras.take() == ["b", "a"]


def test_a_batch_does_not_wait_for_a_camera_that_is_silent() -> None:
    cameras = _Cameras(_lane("a"), _lane("b"))
    cameras.now_ns += 1_000_000_001
    cameras.put(_lane("a"))
    assert cameras.take() == ["a"]


def test_a_batch_does_not_wait_for_a_camera_that_never_delivered() -> None:
    cameras = _Cameras(_lane("a"))
    cameras.batcher.set_bindings([_lane("a"), _lane("b")])
    cameras.put(_lane("a"))
    assert cameras.take() == ["a"]


def test_a_batch_does_not_wait_for_a_camera_that_a_reload_removed() -> None:
    cameras = _Cameras(_lane("a"), _lane("b"))
    cameras.batcher.set_bindings([_lane("a")])
    cameras.put(_lane("a"))
    assert cameras.take() == ["a"]


def test_a_batch_does_not_wait_for_a_camera_whose_rate_gives_no_frame_in_time() -> None:
    cameras = _Cameras(_lane("a"), _lane("slow", rate_hz=0.5))  # at the earliest in 1.5 s, the delay is 1 s
    cameras.put(_lane("a"))
    assert cameras.take() == ["a"]


def test_a_batch_waits_for_a_slow_camera_whose_frame_is_due() -> None:
    cameras = _Cameras(_lane("a"), _lane("slow", rate_hz=0.5))
    cameras.now_ns += 1_500_000_000
    cameras.put(_lane("a"))
    helper = threading.Timer(0.05, cameras.put, [_lane("slow", rate_hz=0.5)])
    helper.start()
    assert cameras.take() == ["a", "slow"]
    helper.join()


class _File(Binding):
    """A file whose camera has as many frames in flight as it may."""

    @property
    def has_room(self) -> bool:
        return False


def test_a_batch_waits_for_more_frames_of_a_file_only_while_it_has_room() -> None:
    file, full = _lane("file", is_live=False), _File("full", "inspect", is_live=False, priority=1, rate_hz=None)
    cameras = _Cameras(file)
    cameras.put(file)

    def fill() -> None:
        for _ in range(7):
            cameras.put(file)

    helper = threading.Timer(0.05, fill)
    helper.start()
    assert cameras.take() == ["file"] * 8
    helper.join()
    cameras = _Cameras(full)
    cameras.put(full)
    assert cameras.take() == ["full"]


def test_a_call_ends_the_wait_for_frames_and_loses_none() -> None:
    batcher = Batcher[Binding](lambda request: None, min_share=0.05)
    helper = threading.Timer(0.05, batcher.call)
    helper.start()
    assert batcher.take(1, 0, 60) == []
    helper.join()
    batcher.call()
    batcher.put(_lane("a"), _ticket("a", 0))
    assert _order(batcher.take(1, 0, 60)) == [("a", 0)]


def test_without_frames_the_batch_is_empty() -> None:
    assert Batcher[Binding](lambda request: None, min_share=0.05).take(4, 0, 0.01) == []


def test_closing_returns_the_waiting_requests_and_wakes_the_worker() -> None:
    batcher = Batcher[Binding](lambda request: None, min_share=0.05)
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
    cameras = _Cameras(_lane("a"), _lane("b"))
    cameras.put(_lane("a"))
    helper = threading.Timer(0.05, cameras.batcher.close)
    helper.start()
    with pytest.raises(ChannelClosed):
        cameras.take()
    helper.join()
    with pytest.raises(ChannelClosed):
        cameras.take()


def test_a_closed_batcher_refuses_frames() -> None:
    batcher = Batcher[Binding](lambda request: None, min_share=0.05)
    batcher.put(_lane("a"), _ticket("a", 0))
    assert _order(batcher.close()) == [("a", 0)]
    with pytest.raises(ChannelClosed):
        batcher.put(_lane("a"), _ticket("a", 1))
    with pytest.raises(ChannelClosed):
        batcher.take(1, 0, 0)
