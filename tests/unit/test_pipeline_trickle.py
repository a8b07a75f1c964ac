"""A stream that comes in drops is given up; a healthy one never is."""

from __future__ import annotations

import pytest

from agent.pipeline.trickle import TrickleWatch

_SECOND_NS = 1_000_000_000


def _fps_told(
    rate_hz: float, seconds: float, announced: float | None, ratio: float = 0.2
) -> tuple[float, float] | None:
    """Second and rate at which it was told, None where it never was."""
    watch = TrickleWatch(ratio)
    watch.open(0, announced)
    for index in range(1, round(rate_hz * seconds) + 1):
        now_ns = round(index / rate_hz * _SECOND_NS)
        told = watch.frame(now_ns)
        if told is not None:
            return now_ns / _SECOND_NS, told
    return None


@pytest.mark.parametrize("rate_hz", [0.5, 1.0, 4.0, 4.9])
def test_less_than_a_fifth_is_told_after_ten_seconds(rate_hz: float) -> None:
    told = _fps_told(rate_hz, 60.0, 25.0)
    assert told is not None
    assert 10.0 <= told[0] <= 12.0
    assert told[1] == pytest.approx(rate_hz, abs=0.11)


@pytest.mark.parametrize("rate_hz", [5.2, 12.0, 25.0, 50.0])
def test_a_fifth_and_more_is_enough(rate_hz: float) -> None:
    assert _fps_told(rate_hz, 60.0, 25.0) is None


@pytest.mark.parametrize("announced", [None, 0.0, 90000.0])
def test_without_a_believable_announcement_nothing_is_told(announced: float | None) -> None:
    assert _fps_told(0.5, 60.0, announced) is None


def test_it_can_be_switched_off() -> None:
    assert _fps_told(0.5, 60.0, 25.0, ratio=0.0) is None


def test_a_healthy_stream_that_begins_to_trickle_is_told_within_fifteen_seconds() -> None:
    watch = TrickleWatch(0.2)
    watch.open(0, 25.0)
    for index in range(25 * 30):
        assert watch.frame(index * _SECOND_NS // 25) is None
    for second in range(30, 46):
        if watch.frame(second * _SECOND_NS) is not None:
            return
    pytest.fail("never told")


def test_a_new_connection_gets_its_own_ten_seconds() -> None:
    watch = TrickleWatch(0.2)
    watch.open(0, 25.0)
    told = [watch.frame(second * _SECOND_NS) for second in range(1, 12)]
    assert told[-1] is not None
    watch.open(20 * _SECOND_NS, 25.0)
    assert watch.frame(21 * _SECOND_NS) is None
