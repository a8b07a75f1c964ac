"""A stream that comes in drops is given up; a healthy one never is."""

from __future__ import annotations

import pytest

from agent.cameras.frame_rate import FrameRateMonitor, LowFrameRate

_SECOND_NS = 1_000_000_000


def _fps_told(
    rate_hz: float, seconds: float, announced: float | None, ratio: float = 0.2
) -> tuple[float, float] | None:
    """Second and rate at which it was told, None where it never was."""
    watch = FrameRateMonitor(ratio)
    watch.open(0, announced)
    for index in range(1, round(rate_hz * seconds) + 1):
        now_ns = round(index / rate_hz * _SECOND_NS)
        told = watch.add_frame(now_ns)
        if told is not None:
            assert told.is_announced
            assert told.expected_fps == announced
            return now_ns / _SECOND_NS, told.fps
    return None


def _frames(
    watch: FrameRateMonitor, rate_hz: float, *, first_s: float, last_s: float
) -> tuple[float, LowFrameRate] | None:
    """Second and verdict of the first complaint between the two moments; None where there is none."""
    for index in range(round((last_s - first_s) * rate_hz)):
        now_s = first_s + index / rate_hz
        told = watch.add_frame(round(now_s * _SECOND_NS))
        if told is not None:
            return now_s, told
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
def test_a_slow_camera_without_a_believable_announcement_is_left_alone(announced: float | None) -> None:
    assert _fps_told(0.5, 600.0, announced) is None


@pytest.mark.parametrize("announced", [None, 90000.0])
def test_a_camera_that_names_no_rate_is_held_to_the_one_that_it_kept_for_a_minute(announced: float | None) -> None:
    watch = FrameRateMonitor(0.2)
    watch.open(0, announced)
    assert _frames(watch, 25.0, first_s=0.0, last_s=75.0) is None
    told = _frames(watch, 1.0, first_s=75.0, last_s=200.0)
    assert told is not None
    assert told[0] <= 75.0 + 15.0
    assert told[1].expected_fps == pytest.approx(25.0, rel=0.02)
    assert not told[1].is_announced


def test_the_usual_rate_outlives_the_connection() -> None:
    watch = FrameRateMonitor(0.2)
    watch.open(0, None)
    _frames(watch, 25.0, first_s=0.0, last_s=75.0)
    watch.open(100 * _SECOND_NS, None)
    told = _frames(watch, 1.0, first_s=100.0, last_s=200.0)
    assert told is not None
    assert told[0] <= 112.0


def test_a_minute_of_drops_at_the_start_does_not_become_the_usual_rate() -> None:
    watch = FrameRateMonitor(0.2)
    watch.open(0, None)
    assert _frames(watch, 1.0, first_s=0.0, last_s=90.0) is None
    assert _frames(watch, 25.0, first_s=90.0, last_s=180.0) is None
    assert _frames(watch, 1.0, first_s=180.0, last_s=300.0) is not None


def test_a_burst_at_the_start_does_not_become_the_usual_rate() -> None:
    watch = FrameRateMonitor(0.2)
    watch.open(0, None)
    assert _frames(watch, 500.0, first_s=0.0, last_s=9.0) is None
    assert _frames(watch, 10.0, first_s=9.0, last_s=300.0) is None


def test_a_camera_that_became_slower_for_good_is_left_alone_after_a_few_openings() -> None:
    watch = FrameRateMonitor(0.2)
    watch.open(0, None)
    _frames(watch, 30.0, first_s=0.0, last_s=75.0)
    openings, now_s = 0, 75.0
    while (told := _frames(watch, 0.5, first_s=now_s, last_s=now_s + 300.0)) is not None:
        openings += 1
        now_s = told[0] + 2.0
        watch.open(round(now_s * _SECOND_NS), None)
    assert 1 <= openings <= 6


def test_a_camera_that_recovered_is_held_to_its_old_rate_again() -> None:
    watch = FrameRateMonitor(0.2)
    watch.open(0, None)
    _frames(watch, 30.0, first_s=0.0, last_s=75.0)
    assert _frames(watch, 1.0, first_s=75.0, last_s=100.0) is not None
    watch.open(100 * _SECOND_NS, None)
    assert _frames(watch, 30.0, first_s=100.0, last_s=180.0) is None
    told = _frames(watch, 5.0, first_s=180.0, last_s=240.0)
    assert told is not None
    assert told[1].expected_fps == pytest.approx(30.0, rel=0.02)


def test_it_can_be_switched_off() -> None:
    assert _fps_told(0.5, 60.0, 25.0, ratio=0.0) is None


def test_a_healthy_stream_that_begins_to_trickle_is_told_within_fifteen_seconds() -> None:
    watch = FrameRateMonitor(0.2)
    watch.open(0, 25.0)
    for index in range(25 * 30):
        assert watch.add_frame(index * _SECOND_NS // 25) is None
    for second in range(30, 46):
        if watch.add_frame(second * _SECOND_NS) is not None:
            return
    pytest.fail("never told")


def test_a_new_connection_gets_its_own_ten_seconds() -> None:
    watch = FrameRateMonitor(0.2)
    watch.open(0, 25.0)
    told = [watch.add_frame(second * _SECOND_NS) for second in range(1, 12)]
    assert told[-1] is not None
    watch.open(20 * _SECOND_NS, 25.0)
    assert watch.add_frame(21 * _SECOND_NS) is None
