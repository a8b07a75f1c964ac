from __future__ import annotations

import random

import pytest

from agent.cameras.pacing import Pacer

_SECOND = 1_000_000_000


@pytest.mark.parametrize(("camera_hz", "rate_hz"), [(30, 15), (30, 10), (29.97, 15), (25, 7), (60, 30), (30, 30)])
def test_a_live_camera_keeps_its_rate_despite_jitter(camera_hz: float, rate_hz: float) -> None:
    chance = random.Random(1)
    pacer = Pacer(rate_hz)
    taken = sum(
        pacer.accepts(round((index / camera_hz + chance.uniform(-0.002, 0.002)) * _SECOND) + _SECOND)
        for index in range(round(60 * camera_hz))
    )
    assert taken == pytest.approx(60 * rate_hz, rel=0.02)


def test_a_camera_slower_than_its_rate_loses_nothing() -> None:
    pacer = Pacer(30)
    assert all(pacer.accepts(index * _SECOND // 10) for index in range(100))


def test_no_burst_of_frames_follows_a_gap() -> None:
    pacer = Pacer(10)
    pacer.accepts(0)
    burst = [pacer.accepts(10 * _SECOND + index * _SECOND // 100) for index in range(10)]
    assert sum(burst) <= 2


@pytest.mark.parametrize("rate_hz", [None, 20.0])
def test_a_ratio_of_zero_accepts_no_frame(rate_hz: float | None) -> None:
    pacer = Pacer(rate_hz)
    pacer.ratio = 0.0
    assert not any(pacer.accepts(index * _SECOND) for index in range(10))
    assert pacer.wait_s(0) > 0


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.5, 0.75, 1.0])
def test_the_ratio_lowers_a_camera_without_a_rate(ratio: float) -> None:
    pacer = Pacer(None)
    pacer.ratio = ratio
    taken = sum(pacer.accepts(index * _SECOND // 30) for index in range(3000))
    assert taken == pytest.approx(3000 * ratio, rel=0.02)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 1.0])
def test_the_ratio_lowers_the_rate_of_a_camera(ratio: float) -> None:
    pacer = Pacer(20)
    pacer.ratio = ratio
    taken = sum(pacer.accepts(index * _SECOND // 60) for index in range(3600))
    assert taken == pytest.approx(60 * 20 * ratio, rel=0.02)


def test_a_file_is_read_at_its_rate() -> None:
    pacer = Pacer(15)
    now_ns, frames = 0, 0
    while now_ns < 10 * _SECOND:
        wait_s = pacer.wait_s(now_ns)
        if wait_s <= 0:
            frames += 1
            now_ns += 1_000_000  # reading it
        else:
            now_ns += round(wait_s * _SECOND)
    assert frames == pytest.approx(150, abs=2)


def test_a_file_without_a_rate_never_waits() -> None:
    pacer = Pacer(None)
    assert [pacer.wait_s(0) for _ in range(5)] == [0.0] * 5


@pytest.mark.parametrize("is_file", [True, False])
def test_a_higher_rate_applies_at_once_after_any_lower_rate(*, is_file: bool) -> None:
    pacer = Pacer(0.001)

    def accepts(now_ns: int) -> bool:
        return pacer.wait_s(now_ns) == 0.0 if is_file else pacer.accepts(now_ns)

    assert accepts(0)
    assert not accepts(_SECOND)
    pacer.rate_hz = 10.0
    assert sum(accepts(_SECOND + step * _SECOND // 100) for step in range(101)) in {9, 10}
    pacer.ratio = 1e-6
    assert sum(accepts(3 * _SECOND + step * _SECOND // 10) for step in range(1, 10)) == 1
    pacer.ratio = 1.0
    assert sum(accepts(4 * _SECOND + step * _SECOND // 100) for step in range(101)) in {9, 10}


@pytest.mark.parametrize("rate_hz", [5e-324, 1e-300, 1e-9])
def test_the_lowest_rates_accept_one_frame_and_wait(rate_hz: float) -> None:
    pacer = Pacer(rate_hz)
    pacer.ratio = 0.1
    assert [pacer.accepts(index * _SECOND) for index in range(5)] == [True, False, False, False, False]
    assert pacer.wait_s(5 * _SECOND) == 0.5
