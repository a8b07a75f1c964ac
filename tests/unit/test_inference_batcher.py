from __future__ import annotations

import functools
import threading
import time

import numpy as np
import pytest

from agent.cameras.frame_counters import Ticket
from agent.inference.batcher import Inbox, Job, Lane
from agent.runtime.channel import ChannelClosed
from agent.runtime.records import Frame

_IMAGE = np.zeros((2, 2, 3), np.uint8)


def _ticket(camera: str, index: int) -> Ticket:
    return Ticket(Frame(camera, index, _IMAGE, 0, 0, 0.0), 1)


@functools.cache
def _lane(camera: str, *, is_live: bool = True, priority: int = 1) -> Lane:
    return Lane(camera, "inspect", is_live, priority)


def _order(batch: list[Job[Lane]]) -> list[tuple[str, int]]:
    return [(job.lane.camera, job.ticket.frame.index) for job in batch]


def test_the_newest_frame_of_a_live_camera_wins() -> None:
    superseded: list[Job[Lane]] = []
    inbox = Inbox[Lane](superseded.append)
    for index in range(4):
        inbox.put(_lane("a"), _ticket("a", index))
    assert _order(inbox.take(8, 0, 0)) == [("a", 3)]
    assert _order(superseded) == [("a", 0), ("a", 1), ("a", 2)]


def test_no_frame_of_a_file_is_dropped() -> None:
    superseded: list[Job[Lane]] = []
    inbox = Inbox[Lane](superseded.append)
    for index in range(6):
        inbox.put(_lane("f", is_live=False), _ticket("f", index))
    assert _order(inbox.take(4, 0, 0)) == [("f", 0), ("f", 1), ("f", 2), ("f", 3)]
    assert _order(inbox.take(4, 0, 0)) == [("f", 4), ("f", 5)]
    assert superseded == []


def test_a_batch_takes_one_frame_of_each_camera_in_order_of_arrival() -> None:
    inbox = Inbox[Lane](lambda job: None)
    for camera in ("b", "a", "c"):
        inbox.put(_lane(camera), _ticket(camera, 0))
    assert _order(inbox.take(8, 0, 0)) == [("b", 0), ("a", 0), ("c", 0)]


def test_a_higher_priority_is_served_first() -> None:
    inbox = Inbox[Lane](lambda job: None)
    inbox.put(_lane("common", priority=5), _ticket("common", 0))
    inbox.put(_lane("urgent", priority=1), _ticket("urgent", 0))
    assert _order(inbox.take(1, 0, 0)) == [("urgent", 0)]
    assert _order(inbox.take(1, 0, 0)) == [("common", 0)]


def test_without_a_delay_a_lone_frame_goes_at_once() -> None:
    inbox = Inbox[Lane](lambda job: None)
    inbox.put(_lane("a"), _ticket("a", 0))
    began = time.monotonic()
    assert len(inbox.take(8, 0, 10)) == 1
    assert time.monotonic() - began < 5


def test_a_full_batch_does_not_wait_for_the_delay() -> None:
    inbox = Inbox[Lane](lambda job: None)
    for camera in ("a", "b"):
        inbox.put(_lane(camera), _ticket(camera, 0))
    began = time.monotonic()
    assert len(inbox.take(2, 60, 10)) == 2
    assert time.monotonic() - began < 30


def test_a_frame_waits_for_company_until_its_delay() -> None:
    inbox = Inbox[Lane](lambda job: None)
    inbox.put(_lane("a"), _ticket("a", 0))
    helper = threading.Timer(0.05, lambda: inbox.put(_lane("b"), _ticket("b", 0)))
    helper.start()
    assert _order(inbox.take(2, 60, 10)) == [("a", 0), ("b", 0)]
    helper.join()


def test_a_lone_frame_leaves_after_its_delay() -> None:
    inbox = Inbox[Lane](lambda job: None)
    inbox.put(_lane("a"), _ticket("a", 0))
    began = time.monotonic()
    assert len(inbox.take(2, 0.05, 10)) == 1
    assert time.monotonic() - began >= 0.04


def test_nothing_to_do_is_an_empty_batch() -> None:
    assert Inbox[Lane](lambda job: None).take(4, 0, 0.01) == []


def test_closing_gives_back_what_waited_and_wakes_the_worker() -> None:
    inbox = Inbox[Lane](lambda job: None)
    outcome: list[str] = []

    def work() -> None:
        try:
            inbox.take(4, 0, 60)
        except ChannelClosed:
            outcome.append("closed")

    worker = threading.Thread(target=work)
    worker.start()
    assert inbox.close() == []
    worker.join(5)
    assert outcome == ["closed"]


def test_a_worker_that_gathers_a_batch_is_told_of_the_end_like_any_other() -> None:
    inbox = Inbox[Lane](lambda job: None)
    inbox.put(_lane("a"), _ticket("a", 0))
    helper = threading.Timer(0.05, inbox.close)
    helper.start()
    with pytest.raises(ChannelClosed):
        inbox.take(4, 60, 10)
    helper.join()
    with pytest.raises(ChannelClosed):
        inbox.take(4, 60, 10)


def test_a_closed_inbox_refuses_frames() -> None:
    inbox = Inbox[Lane](lambda job: None)
    inbox.put(_lane("a"), _ticket("a", 0))
    assert _order(inbox.close()) == [("a", 0)]
    with pytest.raises(ChannelClosed):
        inbox.put(_lane("a"), _ticket("a", 1))
    with pytest.raises(ChannelClosed):
        inbox.take(1, 0, 0)
