"""A stream far below its frame rate is reported; a healthy one never is."""

from __future__ import annotations

import pytest

from agent.cameras.frame_rate import FrameRateMonitor, LowFrameRate

_SECOND_NS = 1_000_000_000


def _first_low_rate(
    rate_hz: float, seconds: float, announced: float | None, ratio: float = 0.2
) -> tuple[float, float] | None:
    """Second and rate at which the low rate was reported; None if it never was."""
    monitor = FrameRateMonitor(ratio)
    monitor.open(0, announced)
    for index in range(1, round(rate_hz * seconds) + 1):
        now_ns = round(index / rate_hz * _SECOND_NS)
        low = monitor.add_frame(now_ns)
        if low is not None:
            assert low.is_announced
            assert low.expected_fps == announced
            return now_ns / _SECOND_NS, low.fps
    return None


def _frames(
    monitor: FrameRateMonitor, rate_hz: float, *, first_s: float, last_s: float
) -> tuple[float, LowFrameRate] | None:
    """Second and result of the first low rate reported between the two moments; None if there is none."""
    for index in range(round((last_s - first_s) * rate_hz)):
        now_s = first_s + index / rate_hz
        low = monitor.add_frame(round(now_s * _SECOND_NS))
        if low is not None:
            return now_s, low
    return None


@pytest.mark.parametrize("rate_hz", [0.5, 1.0, 4.0, 4.9])
def test_less_than_a_fifth_is_reported_after_ten_seconds(rate_hz: float) -> None:
    low = _first_low_rate(rate_hz, 60.0, 25.0)
    assert low is not None
    assert 10.0 <= low[0] <= 12.0
    assert low[1] == pytest.approx(rate_hz, abs=0.11)


@pytest.mark.parametrize("rate_hz", [5.2, 12.0, 25.0, 50.0])
def test_a_fifth_and_more_is_enough(rate_hz: float) -> None:
    assert _first_low_rate(rate_hz, 60.0, 25.0) is None


@pytest.mark.parametrize("announced", [None, 0.0, 90000.0])
def test_a_slow_camera_without_a_plausible_announced_rate_is_left_alone(announced: float | None) -> None:
    assert _first_low_rate(0.5, 600.0, announced) is None


@pytest.mark.parametrize("announced", [None, 90000.0])
def test_a_camera_without_an_announced_rate_is_held_to_the_one_it_kept_for_a_minute(announced: float | None) -> None:
    monitor = FrameRateMonitor(0.2)
    monitor.open(0, announced)
    assert _frames(monitor, 25.0, first_s=0.0, last_s=75.0) is None
    low = _frames(monitor, 1.0, first_s=75.0, last_s=200.0)
    assert low is not None
    assert low[0] <= 75.0 + 15.0
    assert low[1].expected_fps == pytest.approx(25.0, rel=0.02)
    assert not low[1].is_announced


def test_the_learned_rate_outlives_the_connection() -> None:
    monitor = FrameRateMonitor(0.2)
    monitor.open(0, None)
    _frames(monitor, 25.0, first_s=0.0, last_s=75.0)
    monitor.open(100 * _SECOND_NS, None)
    low = _frames(monitor, 1.0, first_s=100.0, last_s=200.0)
    assert low is not None
    assert low[0] <= 112.0


def test_a_slow_first_minute_does_not_become_the_learned_rate() -> None:
    monitor = FrameRateMonitor(0.2)
    monitor.open(0, None)
    assert _frames(monitor, 1.0, first_s=0.0, last_s=90.0) is None
    assert _frames(monitor, 25.0, first_s=90.0, last_s=180.0) is None
    assert _frames(monitor, 1.0, first_s=180.0, last_s=300.0) is not None


def test_a_burst_at_the_start_does_not_become_the_learned_rate() -> None:
    monitor = FrameRateMonitor(0.2)
    monitor.open(0, None)
    assert _frames(monitor, 500.0, first_s=0.0, last_s=9.0) is None
    assert _frames(monitor, 10.0, first_s=9.0, last_s=300.0) is None


def test_a_permanently_slower_camera_is_left_alone_after_a_few_reconnects() -> None:
    monitor = FrameRateMonitor(0.2)
    monitor.open(0, None)
    _frames(monitor, 30.0, first_s=0.0, last_s=75.0)
    openings, now_s = 0, 75.0
    while (low := _frames(monitor, 0.5, first_s=now_s, last_s=now_s + 300.0)) is not None:
        openings += 1
        now_s = low[0] + 2.0
        monitor.open(round(now_s * _SECOND_NS), None)
    assert 1 <= openings <= 6


def test_a_recovered_camera_is_held_to_its_old_rate_again() -> None:
    monitor = FrameRateMonitor(0.2)
    monitor.open(0, None)
    _frames(monitor, 30.0, first_s=0.0, last_s=75.0)
    assert _frames(monitor, 1.0, first_s=75.0, last_s=100.0) is not None
    monitor.open(100 * _SECOND_NS, None)
    assert _frames(monitor, 30.0, first_s=100.0, last_s=180.0) is None
    low = _frames(monitor, 5.0, first_s=180.0, last_s=240.0)
    assert low is not None
    assert low[1].expected_fps == pytest.approx(30.0, rel=0.02)


def test_a_ratio_of_zero_disables_the_monitor() -> None:
    assert _first_low_rate(0.5, 60.0, 25.0, ratio=0.0) is None


def test_a_healthy_stream_that_slows_down_is_reported_within_fifteen_seconds() -> None:
    monitor = FrameRateMonitor(0.2)
    monitor.open(0, 25.0)
    for index in range(25 * 30):
        assert monitor.add_frame(index * _SECOND_NS // 25) is None
    for second in range(30, 46):
        if monitor.add_frame(second * _SECOND_NS) is not None:
            return
    pytest.fail("never reported")


def test_a_new_connection_has_ten_seconds_of_its_own() -> None:
    monitor = FrameRateMonitor(0.2)
    monitor.open(0, 25.0)
    low = [monitor.add_frame(second * _SECOND_NS) for second in range(1, 12)]
    assert low[-1] is not None
    monitor.open(20 * _SECOND_NS, 25.0)
    assert monitor.add_frame(21 * _SECOND_NS) is None


def test_a_wrong_announced_rate_costs_two_connections_and_then_the_held_rate_counts() -> None:
    monitor = FrameRateMonitor(0.2)
    for connection in range(2):
        monitor.open(connection * 100 * _SECOND_NS, 25.0)
        low = _frames(monitor, 4.0, first_s=connection * 100.0, last_s=connection * 100.0 + 60.0)
        assert low is not None
        assert low[1].is_announced
    monitor.open(200 * _SECOND_NS, 25.0)
    assert _frames(monitor, 4.0, first_s=200.0, last_s=400.0) is None
    later = _frames(monitor, 0.5, first_s=400.0, last_s=500.0)
    assert later is not None
    assert later[1].expected_fps == pytest.approx(4.0, abs=0.2)
    assert not later[1].is_announced
