from __future__ import annotations

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
    frames = [counters.open(_FRAME, ["a"]) for _ in range(2)]
    for frame in frames[:done]:
        counters.classified(frame, "a")
    assert counters.wait_for_room(2, 0.01) is bool(done)
