"""The judge of a soak finds what is wrong and nothing else."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.config.broker_address import BrokerAddress
from agent.mqtt.client import NETWORK_CAP_S
from agent.mqtt.settings import MqttSettings
from scripts.soak_harness.faults import FAULTS, RECOVERS_WITHIN_S, Draw
from scripts.soak_harness.report import Drill, Report, page
from scripts.soak_harness.verdict import (
    Frames,
    Sample,
    availability,
    frames_by_kind,
    frames_problem,
    growth_of,
    sequence_problems,
    unbalanced,
)

_MIB = 2**20
_RECORDED = Path(__file__).parents[1] / "fixtures" / "soak_memory.json"
"""By name rows of seconds, process, resident kB, descriptors and threads, of real agents on a busy machine. Those that
leak lost 1 kB a frame; with faults there were ten, one of which killed the agent."""


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


def _recorded(name: str) -> list[Sample]:
    rows = json.loads(_RECORDED.read_text(encoding="utf-8"))[name]
    return [Sample(at, pid, rss * 1024, fds, threads) for at, pid, rss, fds, threads in rows]


@pytest.mark.parametrize("name", ["healthy", "healthy, with faults"])
def test_a_recorded_healthy_agent_is_not_accused(name: str) -> None:
    assert _problems(_recorded(name)) == []


@pytest.mark.parametrize("name", ["leaks", "leaks, with faults"])
def test_a_recorded_leak_of_a_kilobyte_a_frame_is_caught_in_five_minutes(name: str) -> None:
    problems = _problems(_recorded(name))
    assert problems
    assert all("grew by" in problem for problem in problems)


def test_a_jump_in_memory_is_no_leak() -> None:
    samples = _samples(minutes=5.0)
    jumped = [replace(one, rss_bytes=one.rss_bytes + (8 * _MIB if one.at > 220 else 0)) for one in samples]
    assert _problems(jumped) == []


def test_a_process_that_takes_long_to_start_is_judged_from_its_first_result() -> None:
    starting = [
        Sample(at, 7, round(min(20 + 4 * at, 240) * _MIB), 20, 9) for at in (index / 2 for index in range(160))
    ]
    assert len(_problems(starting)) == 1
    assert [problem for one in growth_of(starting, heard=[56.0, 57.0]) for problem in one.problems] == []


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
    assert availability([0.1, 0.2, 1.5, 3.9, 9.0], (0.0, 4.0)) == 0.75
    assert availability([0.1, 0.2, 1.5, 3.9, 9.0], (0.0, 4.0), without=[(2.2, 2.5)]) == 1.0
    assert availability([], (0.0, 4.0), without=[(0.0, 4.0)]) == 1.0


def _books(session: int, classified: int, **dropped: int) -> dict[str, Any]:
    return {"session": session, "cameras": {"cam": {"classified": classified, "dropped": dropped}}}


def test_frames_are_counted_to_the_fault_during_which_they_came_or_were_lost() -> None:
    healths = [
        (0.0, _books(1, 100)),
        (10.0, _books(1, 200, superseded=1, rate=50)),
        (20.0, _books(1, 300, superseded=4, rate=90)),
        (30.0, _books(2, 5)),
        (40.0, _books(2, 105)),
    ]
    found = frames_by_kind(healths, [((12.0, 15.0), "disk"), ((14.0, 16.0), "clock")])
    during, others = Frames(103, 3), Frames(201, 1)
    assert found == {"clock": (during, others), "disk": (during, others), "none": (others, during)}


def test_frames_that_a_fault_costs_are_caught_and_those_that_the_machine_costs_are_not() -> None:
    assert frames_problem("disk", Frames(2000, 12), others=Frames(4000, 0)) is None
    assert "13 of 2000 frames" in (frames_problem("disk", Frames(2000, 13), others=Frames(4000, 0)) or "")
    assert frames_problem("disk", Frames(2000, 60), others=Frames(4000, 60)) is None
    assert frames_problem("disk", Frames(2000, 90), others=Frames(4000, 60)) is not None


def test_the_page_shows_what_was_drawn_and_what_broke() -> None:
    drills = [
        Drill(
            at_s=20.0 * number,
            name="disk is slow",
            row="F22",
            kind="disk",
            lasted_s=5.0,
            recovered_s=recovered_s,
            recovers_within_s=30.0,
            took_hold=True,
            span=(0.0, 1.0),
        )
        for number, recovered_s in enumerate((0.1, 0.3, 7.5))
    ]
    report = Report(
        seed=1,
        seconds=1800.0,
        drills=drills,
        growth=growth_of(_samples(minutes=2.0)),
        results={"cam": 9000},
        events={"cam": 70},
        availability={"cam": 0.97},
        spared={"cam": 0.999},
        frames={"disk": Frames(2000, 1)},
    )
    text = "\n".join(page(report))
    assert text.startswith("**Every promise held.** 30 minutes, 3 faults.")
    assert "| F22 | disk is slow | 3 | 5 to 5 | 0.3 | 7.5 | 30 |" in text
    assert "| `cam` | 9000 | 70 | 97.0 % | 99.9 % |" in text
    assert "| disk | 2000 | 1 | 99.95 % |" in text
    broken = replace(report, drills=[replace(drills[0], recovered_s=None)], problems=["it never came back"])
    text = "\n".join(page(broken))
    assert text.startswith("**1 promise broken.**")
    assert "- it never came back" in text
    assert "| F22 | disk is slow | 1 | 5 to 5 | - | never | 30 |" in text


def test_every_fault_is_drawn_before_one_comes_again_and_a_seed_repeats_a_run() -> None:
    draw = Draw(5)
    first = [draw.next() for _ in FAULTS]
    assert {fault.name for fault, _ in first} == {fault.name for fault in FAULTS}
    again = Draw(5)
    assert [again.next() for _ in FAULTS] == first
    ends = [fault.ends_agent or fault.may_end_agent for fault, _ in first]
    assert ends == sorted(ends, reverse=True), "the rest of a round is one life of the agent"


def test_the_longest_wait_for_a_broker_leaves_time_to_connect_before_the_recovery_is_due() -> None:
    settings = MqttSettings(address=BrokerAddress("broker", 1883), client_id="a")
    assert NETWORK_CAP_S + settings.connect_timeout_s < RECOVERS_WITHIN_S
