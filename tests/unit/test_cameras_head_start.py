"""A camera's source opens while the engines load, and nothing leaves the camera before they are ready."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from agent.cameras.camera import Camera
from agent.cameras.frame_counters import FrameCounters
from agent.cameras.head_start import EARLY_S, HeadStart
from agent.cameras.sources.base import Capture
from agent.config.model import CameraConfig
from agent.runtime.clock import SystemClock
from agent.runtime.errors import SourceLost, SourceUnavailable
from agent.runtime.heartbeat import Heartbeat
from tests.fixtures.deadlines import wait_until
from tests.fixtures.parts import ScriptedSource


class _Clock(SystemClock):
    """Stands still until a test moves it."""

    now_ns = 0

    def monotonic_ns(self) -> int:
        return self.now_ns


class _Heartbeat(Heartbeat):
    """Calls ``on_rest`` when its stage begins to wait."""

    on_rest: Callable[[], None]

    def rest(self) -> None:
        super().rest()
        self.on_rest()


class _Source(ScriptedSource):
    """Calls ``on_read`` with the number of the read, counts closes."""

    on_read: Callable[[int], None]
    reads = 0
    closed = 0

    def read(self) -> Capture | None:
        self.reads += 1
        self.on_read(self.reads)
        return super().read()

    def close(self) -> None:
        self.closed += 1


class _Bench:
    def __init__(self, source: _Source) -> None:
        self.clock, self.source, self.heartbeat = _Clock(), source, _Heartbeat("camera")
        self.head_start = HeadStart(source, self.heartbeat, clock=self.clock)
        self.heartbeat.on_rest = self.head_start.begin


def _brightness(capture: Capture | None) -> int | None:
    return None if capture is None else int(capture.image[0, 0, 0])


def test_a_live_source_is_read_until_the_begin_and_its_first_frame_is_the_newest() -> None:
    bench = _Bench(_Source([10, 20, 30, 40], is_live=True))
    bench.source.on_read = lambda number: bench.head_start.begin() if number == 3 else None
    bench.head_start.open()
    assert _brightness(bench.head_start.take()) == 30
    assert bench.head_start.take() is None
    assert (bench.source.opened, bench.source.closed) == (1, 0)


def test_a_live_source_that_waits_for_a_build_is_closed_and_opened_again() -> None:
    bench = _Bench(_Source([10], is_live=True))

    def one_second_later(_: int) -> None:
        bench.clock.now_ns += 10**9

    bench.source.on_read = one_second_later
    bench.head_start.open()
    assert bench.source.reads == EARLY_S
    assert (bench.source.opened, bench.source.closed) == (2, 1)
    assert bench.head_start.take() is None
    assert bench.heartbeat.overdue_s() == 0.0


def test_a_file_stays_open_and_no_frame_of_it_is_lost() -> None:
    bench = _Bench(_Source([10, 20], is_live=False))
    bench.head_start.open()
    assert (bench.source.opened, bench.source.closed, bench.source.reads) == (1, 0, 0)


@pytest.mark.parametrize(("step", "kind"), [("unavailable", SourceUnavailable), ("stalled", SourceLost)])
def test_a_source_that_fails_early_is_closed_and_asked_once(step: str, kind: type[Exception]) -> None:
    bench = _Bench(_Source([step, 10], is_live=True))
    bench.source.on_read = lambda _: None
    with pytest.raises(kind):
        bench.head_start.open()
    assert bench.source.closed == 1
    assert bench.source.opened == (0 if kind is SourceUnavailable else 1)


def test_after_the_begin_a_source_is_just_opened() -> None:
    bench = _Bench(_Source([10], is_live=True))
    bench.head_start.begin()
    bench.head_start.open()
    assert (bench.source.opened, bench.source.reads) == (1, 0)


def _camera(source: ScriptedSource, changes: list[str]) -> Camera:
    config = CameraConfig.model_validate({"source": {"type": "pattern"}, "classify": [{"model": "m"}]})
    return Camera("belt", config, source, FrameCounters("belt", ()), clock=SystemClock(), on_change=changes.append)


def test_nothing_leaves_a_camera_that_was_opened_early_until_it_starts() -> None:
    changes: list[str] = []
    camera = _camera(source := ScriptedSource([10], is_live=True, period_s=0.001), changes)
    camera.open_early()
    wait_until(lambda: source.statistics().delivered > 3, within_s=10.0)
    statistics = camera.statistics()
    assert (statistics.state, statistics.counts.captured, changes) == ("connecting", 0, [])
    camera.start()
    wait_until(lambda: camera.statistics().counts.captured > 0, within_s=10.0)
    assert (camera.statistics().state, changes) == ("connected", ["belt"])
    camera.stop()
    assert camera.join(10.0)


@pytest.mark.parametrize("is_live", [True, False])
def test_a_camera_that_was_opened_early_stops_without_a_start(is_live: bool) -> None:
    changes: list[str] = []
    camera = _camera(source := ScriptedSource([10], is_live=is_live, period_s=0.001), changes)
    camera.open_early()
    wait_until(lambda: source.opened == 1, within_s=10.0)
    began_s = time.monotonic()
    camera.stop()
    assert camera.join(10.0)
    assert time.monotonic() - began_s < 5.0
    assert (changes, camera.failure) == ([], None)
