from __future__ import annotations

import pytest

from agent.inference.supervision import HangMonitor
from agent.inference.worker import WorkerStatistics
from agent.runtime.errors import StageFailed
from agent.runtime.records import ServedModel


def _worker(busy_s: float | None) -> WorkerStatistics:
    return WorkerStatistics("m", None, None, 0, 0, 0, 0, busy_s)


def test_a_call_within_its_deadline_is_left_alone() -> None:
    monitor, interrupts = HangMonitor(), [0]
    monitor.add_call("m", 30.0)
    monitor.check(_worker(1.9), lambda: interrupts.append(1))
    monitor.check(_worker(None), lambda: interrupts.append(1))
    assert interrupts == [0]


def test_a_hung_call_is_interrupted_once_and_then_ends_the_process() -> None:
    monitor, interrupts = HangMonitor(), []
    monitor.add_call("m", 30.0)
    for busy_s in (2.1, 3.0, 6.9):
        monitor.check(_worker(busy_s), lambda: interrupts.append(1))
    assert interrupts == [1]
    with pytest.raises(StageFailed, match=r"in one call for 8 s, but the limit is 2 s"):
        monitor.check(_worker(7.6), lambda: interrupts.append(1))


def test_after_an_interrupted_call_the_next_one_has_its_full_time() -> None:
    monitor, interrupts = HangMonitor(), []
    monitor.add_call("m", 30.0)
    monitor.check(_worker(2.5), lambda: interrupts.append(1))
    monitor.check(_worker(0.5), lambda: interrupts.append(1))
    monitor.check(_worker(2.5), lambda: interrupts.append(1))
    assert interrupts == [1, 1]


def test_a_slow_model_has_ten_times_its_slowest_call() -> None:
    monitor = HangMonitor()
    monitor.add_call("m", 800.0)
    monitor.add_call("m", 100.0)
    assert monitor.deadline_s("m") == pytest.approx(8.0)


def test_a_first_call_may_take_longer() -> None:
    assert HangMonitor(first_call_s=30.0).deadline_s("m") == 30.0


def test_a_new_engine_under_the_same_key_has_the_time_of_a_first_call() -> None:
    monitor, interrupts = HangMonitor(first_call_s=30.0), []
    for engine in ("tensorrt", "ort-cpu"):
        served = ServedModel("m", "m", "1.0.0", "0", engine, "fp32", degraded=False)
        monitor.check(WorkerStatistics("m", served, None, 0, 0, 0, 0, None), lambda: None)
        monitor.check(WorkerStatistics("m", served, None, 0, 0, 0, 0, 20.0), lambda: interrupts.append(1))
        monitor.add_call("m", 30.0)
    assert interrupts == []
