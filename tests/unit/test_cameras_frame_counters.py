from __future__ import annotations

import numpy as np
import pytest

from agent.cameras.frame_counters import CameraAccount, CameraCounts, Drop
from agent.runtime.records import Frame

_FRAME = Frame("front", 0, np.zeros((2, 2, 3), np.uint8), 0, 0, 0.0)


def _sums_up(counts: CameraCounts) -> bool:
    of_camera = counts.captured == counts.classified + sum(counts.dropped.values()) + counts.in_flight
    of_classifiers = all(
        tally.offered == tally.classified + tally.skipped + sum(tally.dropped.values()) + tally.in_flight
        for tally in counts.classifiers.values()
    )
    return of_camera and of_classifiers


def test_a_frame_is_in_flight_until_every_classifier_has_answered() -> None:
    account = CameraAccount("front", ("a", "b"))
    ticket = account.open(_FRAME, ["a", "b"])
    account.classified(ticket, "a")
    assert account.counts().in_flight == 1
    account.dropped(ticket, "b", Drop.SUPERSEDED)
    counts = account.counts()
    assert (counts.captured, counts.classified, dict(counts.dropped), counts.in_flight) == (1, 1, {}, 0)
    assert dict(counts.classifiers["b"].dropped) == {"superseded": 1}
    assert _sums_up(counts)


def test_a_frame_that_nobody_answered_is_dropped_for_its_first_reason() -> None:
    account = CameraAccount("front", ("a", "b"))
    ticket = account.open(_FRAME, ["a", "b"])
    account.dropped(ticket, "a", Drop.FAILED)
    assert account.counts().in_flight == 1
    account.dropped(ticket, "b", Drop.SUPERSEDED)
    assert dict(account.counts().dropped) == {"failed": 1}
    assert _sums_up(account.counts())


def test_a_frame_that_is_passed_on_stays_open_until_the_classifier_behind_has_answered() -> None:
    account = CameraAccount("front", ("a", "b"))
    ticket = account.open(_FRAME, ["a"])
    account.offer(ticket, "b")
    account.classified(ticket, "a")
    assert account.counts().in_flight == 1
    account.classified(ticket, "b")
    assert account.counts().in_flight == 0


def test_a_refused_frame_and_a_closed_gate_are_booked() -> None:
    account = CameraAccount("front", ("a", "b"))
    account.refuse(Drop.RATE)
    account.skip("b")
    counts = account.counts()
    assert (counts.captured, dict(counts.dropped)) == (1, {"rate": 1})
    assert counts.classifiers["b"].skipped == 1
    assert _sums_up(counts)


@pytest.mark.parametrize("done", [0, 1])
def test_a_reader_waits_for_room(done: int) -> None:
    account = CameraAccount("front", ("a",))
    tickets = [account.open(_FRAME, ["a"]) for _ in range(2)]
    for ticket in tickets[:done]:
        account.classified(ticket, "a")
    assert account.wait_for_room(2, 0.01) is bool(done)
