"""The judge of a soak finds what is wrong and nothing else."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from scripts.soak_harness.faults import FAULTS, Draw
from scripts.soak_harness.soak import Report
from scripts.soak_harness.verdict import Sample, availability, growth_of, sequence_problems, unbalanced

_MIB = 2**20


def _samples(
    *, minutes: float, mib_a_hour: float = 0.0, fds: float = 0.0, threads: float = 0.0, pid: int = 7
) -> list[Sample]:
    """A process read twice a second: steep for ten seconds, then with ``mib_a_hour``; noise as of an allocator."""
    chance = random.Random(3)
    count = round(minutes * 120)
    return [
        Sample(
            at=index / 2,
            pid=pid,
            rss_bytes=round((120 + min(index, 20) * 2 + mib_a_hour * index / 7200 + chance.uniform(-0.2, 0.2)) * _MIB),
            fds=20 + round(fds * index / count),
            threads=9 + round(threads * index / count),
        )
        for index in range(count)
    ]


def _problems(samples: list[Sample]) -> list[str]:
    return [problem for growth in growth_of(samples) for problem in growth.problems]


@pytest.mark.parametrize("minutes", [0.5, 5.0, 60.0])
def test_a_process_that_only_starts_up_is_not_accused(minutes: float) -> None:
    assert _problems(_samples(minutes=minutes)) == []


def test_a_kilobyte_a_frame_is_caught_in_ten_minutes() -> None:
    thirty_frames_a_second = 30 * 1024 * 3600 / _MIB
    (problem,) = _problems(_samples(minutes=10.0, mib_a_hour=thirty_frames_a_second))
    assert "grew by" in problem


def test_a_process_that_gives_its_memory_back_at_its_end_hides_no_leak() -> None:
    samples = _samples(minutes=10.0, mib_a_hour=105.0)
    ending = [Sample(at=600.0 + index / 2, pid=7, rss_bytes=_MIB, fds=3, threads=1) for index in range(2)]
    assert len(_problems([*samples, *ending])) == 1


def test_descriptors_and_threads_that_grow_are_caught() -> None:
    problems = _problems(_samples(minutes=5.0, fds=16.0, threads=12.0))
    assert [word in problems[index] for index, word in enumerate(("descriptors", "threads"))] == [True, True]


def test_a_broker_that_was_away_in_the_middle_is_no_leak() -> None:
    samples = _samples(minutes=2.0)
    away = [replace(one, fds=one.fds - 3) if 50 < index < 200 else one for index, one in enumerate(samples)]
    assert _problems(away) == []


def test_a_process_that_was_just_started_is_not_judged() -> None:
    assert growth_of(_samples(minutes=0.15)) == []


def _health(**changes: Any) -> dict[str, Any]:
    camera = {"captured": 10, "classified": 7, "dropped": {"rate": 2}, "in_flight": 1, **changes}
    books = {"offered": 8, "classified": 7, "skipped": 0, "dropped": {}, "in_flight": 1}
    return {"session": 1, "cameras": {"cam": camera}, "classifiers": {"cam": {"inspect": books}}}


def test_books_that_do_not_add_up_are_caught() -> None:
    assert list(unbalanced(_health())) == []
    assert len(list(unbalanced(_health(captured=11)))) == 1
    broken = _health()
    broken["classifiers"]["cam"]["inspect"]["offered"] = 9
    assert len(list(unbalanced(broken))) == 1


def _numbered(*numbers: int, session: int = 1, **more: Any) -> list[tuple[float, dict[str, Any]]]:
    return [(float(number), {"session": session, "seq": number, **more}) for number in numbers]


def test_holes_doubles_and_steps_back_are_caught() -> None:
    def told(messages: list[tuple[float, dict[str, Any]]], *, may_miss: bool) -> int:
        return len(list(sequence_problems("t", messages, lambda _, __: may_miss)))

    assert told(_numbered(0, 1, 2, 3), may_miss=False) == 0
    assert told(_numbered(0, 1, 3), may_miss=False) == 1
    assert told(_numbered(0, 1, 3), may_miss=True) == 0
    assert told(_numbered(0, 1, 1, 2), may_miss=True) == 1
    assert told(_numbered(0, 2, 1), may_miss=True) == 1
    assert told(_numbered(0, 1, 2) + _numbered(0, 1, session=2), may_miss=False) == 0
    assert told(_numbered(0, 1) + _numbered(1, historical=True) + _numbered(2), may_miss=False) == 0


def test_a_hole_is_excused_only_while_the_subscriber_was_without_a_broker() -> None:
    report = Report(seed=0, seconds=1.0, deaf=[(3.5, 4.5)])
    assert list(sequence_problems("t", _numbered(3, 5), report.was_deaf_between)) == []
    assert len(list(sequence_problems("t", _numbered(1, 3, 4), report.was_deaf_between))) == 1


def test_availability_counts_seconds_with_a_result() -> None:
    assert availability([0.1, 0.2, 1.5, 3.9, 9.0], 0.0, 4.0) == 0.75


def test_every_fault_is_drawn_before_one_comes_again_and_a_seed_repeats_a_run() -> None:
    draw = Draw(5)
    first = [draw.next() for _ in FAULTS]
    assert {fault.name for fault, _ in first} == {fault.name for fault in FAULTS}
    again = Draw(5)
    assert [again.next() for _ in FAULTS] == first
