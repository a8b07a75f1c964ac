from __future__ import annotations

import threading

import numpy as np
import pytest

from agent.cameras.frame_counters import CameraCounts, Drop, FrameCounters
from agent.runtime.records import Frame

_FRAME = Frame("front", 0, np.zeros((2, 2, 3), np.uint8), 0, 0, 0.0)


def _sums_up(counts: CameraCounts) -> bool:
    of_camera = counts.captured == counts.classified + sum(counts.dropped.values()) + counts.in_flight
    of_classifiers = all(
        one.offered == one.classified + one.skipped + sum(one.dropped.values()) + one.in_flight
        for one in counts.classifiers.values()
    )
    return of_camera and of_classifiers


def test_a_frame_is_in_flight_until_every_classifier_has_answered() -> None:
    counters = FrameCounters("front", ("a", "b"))
    frame = counters.open(_FRAME, ["a", "b"])
    counters.classified(frame, "a")
    assert counters.counts().in_flight == 1
    counters.dropped(frame, "b", Drop.SUPERSEDED)
    counts = counters.counts()
    assert (counts.captured, counts.classified, dict(counts.dropped), counts.in_flight) == (1, 1, {}, 0)
    assert dict(counts.classifiers["b"].dropped) == {"superseded": 1}
    assert _sums_up(counts)


def test_a_frame_that_no_classifier_answered_is_dropped_for_its_first_reason() -> None:
    counters = FrameCounters("front", ("a", "b"))
    frame = counters.open(_FRAME, ["a", "b"])
    counters.dropped(frame, "a", Drop.FAILED)
    assert counters.counts().in_flight == 1
    counters.dropped(frame, "b", Drop.SUPERSEDED)
    assert dict(counters.counts().dropped) == {"failed": 1}
    assert _sums_up(counters.counts())


def test_a_frame_passed_through_a_gate_is_in_flight_until_the_second_classifier_answered() -> None:
    counters = FrameCounters("front", ("a", "b"))
    frame = counters.open(_FRAME, ["a"])
    counters.offer(frame, "b")
    counters.classified(frame, "a")
    assert counters.counts().in_flight == 1
    counters.classified(frame, "b")
    assert counters.counts().in_flight == 0


def test_a_refused_frame_and_a_closed_gate_are_counted() -> None:
    counters = FrameCounters("front", ("a", "b"))
    counters.refuse(Drop.RATE)
    counters.skip("b")
    counts = counters.counts()
    assert (counts.captured, dict(counts.dropped)) == (1, {"rate": 1})
    assert counts.classifiers["b"].skipped == 1
    assert _sums_up(counts)


@pytest.mark.parametrize("done", [0, 1])
def test_a_reader_waits_for_room(done: int) -> None:
    counters = FrameCounters("front", ("a",))
    frames = [counters.open(_FRAME, ["a"]) for _ in range(3)]
    for frame in frames[:done]:
        counters.classified(frame, "a")
    assert counters.wait_for_room(0.01) is bool(done)


@pytest.mark.parametrize(
    ("classifiers", "sizes", "room"),
    [
        (1, {}, 3),
        (3, {}, 5),
        (9, {}, 8),
        (1, {"m": 1}, 3),
        (1, {"m": 2}, 4),
        (1, {"m": 1, "n": 4}, 8),
        (1, {"m": 16}, 8),
    ],
)
def test_a_file_is_read_as_far_ahead_as_its_models_need(classifiers: int, sizes: dict[str, int], room: int) -> None:
    names = tuple(f"c{n}" for n in range(classifiers))
    counters = FrameCounters("front", names)
    for model, size in sizes.items():
        counters.set_batch_size(model, size)
    opened = 0
    while counters.has_room:
        counters.open(_FRAME, names)
        opened += 1
    assert opened == room


def test_a_reader_that_waits_goes_on_when_batches_grow() -> None:
    counters = FrameCounters("front", ("a",))
    for _ in range(3):
        counters.open(_FRAME, ["a"])
    growing = threading.Timer(0.05, counters.set_batch_size, ("m", 4))
    growing.start()
    assert counters.wait_for_room(5.0)
    growing.join()
