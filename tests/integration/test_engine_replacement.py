"""An engine built in the background takes over between two batches: no frame is lost, the counters stay exact."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from agent.config.model import AgentConfig, ModelConfig
from agent.config.sections.sources import SourceConfig
from agent.inference.pipeline import Parts, Pipeline
from agent.inference.worker import Worker
from agent.runtime.clock import SystemClock
from agent.runtime.records import Classification, StateChange
from engines import (
    BuildCancelled,
    BuildFailed,
    Building,
    BuildProgress,
    Engine,
    EngineLost,
    InferenceFailed,
    ModelPackage,
    OutOfMemory,
    Rejection,
)
from engines.base import Images
from tests.fixtures.deadlines import wait_until
from tests.fixtures.parts import BrightnessEngine, ScriptedSource, plain_package

_FPS = 30.0
_LABELS = ("zero", "one", "two", "three")

Open = Callable[[Building], Engine]


def _engine(name: str, *, pending: str | None = None, on_infer: Callable[[Images], None] | None = None) -> Engine:
    engine = BrightnessEngine(len(_LABELS), on_infer=on_infer)
    engine.info = replace(engine.info, name=name, requested="auto", pending=pending)
    return engine


class _Bench:
    def __init__(self, open_engine: Open, source: ScriptedSource) -> None:
        self.emitted: list[Classification | StateChange] = []

        def opened(key: str, config: ModelConfig, package: ModelPackage, building: Building) -> Engine:
            return open_engine(building)

        def make_source(config: SourceConfig) -> ScriptedSource:
            return source

        config = AgentConfig.model_validate(
            {
                "version": 1,
                "models": {"m": {"package": "x"}},
                "cameras": {"cam": {"source": {"type": "pattern"}, "classify": [{"model": "m"}]}},
            }
        )
        self.pipeline = Pipeline(
            config,
            {"m": plain_package(*_LABELS)},
            Parts(opened, make_source),
            clock=SystemClock(),
            emit=self.emitted.append,
        )

    @property
    def worker(self) -> Worker:
        return self.pipeline.workers["m"]

    @property
    def results(self) -> list[Classification]:
        return [item for item in self.emitted if isinstance(item, Classification)]

    @property
    def engines(self) -> list[str]:
        """The engines of the results, in order, each change once."""
        names: list[str] = []
        for result in self.results:
            if not names or names[-1] != result.served.engine:
                names.append(result.served.engine)
        return names

    @contextmanager
    def running(self) -> Iterator[None]:
        with self.pipeline:
            self.pipeline.start_workers()
            assert self.worker.wait_ready(10)
            self.pipeline.start_cameras()
            yield
            self.pipeline.check()
        self.check_books()

    def check_books(self) -> None:
        (camera,) = self.pipeline.statistics().cameras
        counts = camera.counts
        assert counts.captured == counts.classified + sum(counts.dropped.values())
        assert counts.in_flight == 0
        assert counts.classified == len(self.results)


def _file(frames: int) -> ScriptedSource:
    """A source that waits instead of dropping frames, at 30 frames per second."""
    return ScriptedSource([index % 4 for index in range(frames)], is_live=False, period_s=1 / _FPS)


def _camera() -> ScriptedSource:
    return ScriptedSource([1], is_live=True, period_s=1 / _FPS)


def test_a_slow_build_takes_over_under_load_without_losing_a_frame() -> None:
    threads: dict[str, int] = {}

    def open_engine(building: Building) -> Engine:
        if building.defer:
            return _engine("ort-cpu", pending="tensorrt", on_infer=lambda _: _note(threads, "ort-cpu"))
        for step in range(10):
            building.on_progress(
                BuildProgress(
                    engine="tensorrt", model="m", phase="building", elapsed_s=step / 10, done_ratio=step / 10
                )
            )
            time.sleep(0.05)
        return _engine("tensorrt", on_infer=lambda _: _note(threads, "tensorrt"))

    frames = 60
    bench = _Bench(open_engine, _file(frames))
    with bench.running():
        wait_until(lambda: bench.worker.statistics().building is not None)
        wait_until(lambda: bench.pipeline.is_done)
    assert [result.frame_index for result in bench.results] == list(range(frames))
    assert [result.top[0].index for result in bench.results] == [index % 4 for index in range(frames)]
    assert bench.engines == ["ort-cpu", "tensorrt"]
    statistics = bench.worker.statistics()
    assert (statistics.changes, statistics.last_change) == (1, "ort-cpu was replaced by tensorrt")
    assert statistics.building is None
    assert len(set(threads.values())) == 2, "both engines ran on one thread, a CUDA context cannot"


def _note(threads: dict[str, int], name: str) -> None:
    threads[name] = threading.get_ident()


def test_every_frame_of_a_live_camera_is_counted_across_the_change() -> None:
    built = threading.Event()

    def open_engine(building: Building) -> Engine:
        if building.defer:
            return _engine("ort-cpu", pending="tensorrt")
        assert built.wait(10)
        return _engine("tensorrt")

    bench = _Bench(open_engine, _camera())
    with bench.running():
        wait_until(lambda: len(bench.results) >= 10)
        built.set()
        wait_until(lambda: bench.engines == ["ort-cpu", "tensorrt"])
    indices = [result.frame_index for result in bench.results]
    assert indices == sorted(set(indices))


def test_the_replacement_takes_over_without_any_frame() -> None:
    def open_engine(building: Building) -> Engine:
        return _engine("ort-cpu", pending="tensorrt") if building.defer else _engine("tensorrt")

    bench = _Bench(open_engine, ScriptedSource([1], is_live=True, period_s=3600))
    with bench.running():
        wait_until(lambda: bench.worker.statistics().changes == 1)
        info = bench.worker.statistics().info
        assert info is not None
        assert info.name == "tensorrt"


@pytest.mark.parametrize("error", [BuildFailed("no tactic"), OutOfMemory("too little memory"), InferenceFailed("NaN")])
def test_an_engine_that_cannot_be_opened_leaves_the_current_one_serving(error: Exception) -> None:
    closed: list[Engine] = []

    def open_engine(building: Building) -> Engine:
        if not building.defer:
            raise error
        closed.append(_engine("ort-cpu", pending="tensorrt"))
        return closed[0]

    bench = _Bench(open_engine, _camera())
    with bench.running():
        wait_until(lambda: bench.worker.statistics().changes == 1)
        before = len(bench.results)
        wait_until(lambda: len(bench.results) >= before + 3)
        assert str(error) in str(bench.worker.statistics().last_change)
        info = bench.worker.statistics().info
        assert info is not None
        assert info.pending is None
    assert bench.engines == ["ort-cpu"]
    assert len(closed) == 1


def test_the_same_engine_again_is_not_swapped_in_but_its_info_is_kept() -> None:
    opened: list[BrightnessEngine] = []
    why = Rejection("tensorrt", "its build failed", "see the log")

    def open_engine(building: Building) -> Engine:
        engine = BrightnessEngine(len(_LABELS))
        engine.info = replace(
            engine.info, name="ort-cpu", pending="tensorrt" if building.defer else None, rejected=(why,)
        )
        opened.append(engine)
        return engine

    bench = _Bench(open_engine, _camera())
    with bench.running():
        wait_until(lambda: bench.worker.statistics().changes == 1)
        wait_until(lambda: opened[1].is_closed)
        assert not opened[0].is_closed
        info = bench.worker.statistics().info
        assert info is not None
        assert (info.pending, info.rejected) == (None, (why,))
        wait_until(lambda: len(bench.results) >= 3)


def test_a_device_lost_while_a_replacement_loads_ends_the_worker() -> None:
    def open_engine(building: Building) -> Engine:
        if building.defer:
            return _engine("ort-cuda", pending="tensorrt")
        raise EngineLost("an illegal address")

    bench = _Bench(open_engine, _camera())
    with bench.pipeline:
        bench.pipeline.start_workers()
        wait_until(lambda: bench.worker.failure is not None)
        with pytest.raises(EngineLost, match="illegal address"):
            bench.pipeline.check()


def test_stopping_ends_a_build_and_waits_for_it() -> None:
    began = threading.Event()

    def open_engine(building: Building) -> Engine:
        if building.defer:
            return _engine("ort-cpu", pending="tensorrt")
        began.set()
        while not building.is_cancelled():
            time.sleep(0.005)
        raise BuildCancelled("stopped")

    bench = _Bench(open_engine, _camera())
    with bench.running():
        assert began.wait(10)
    assert bench.worker.join(0)


def test_stopping_while_the_first_engine_is_built_is_not_a_failure() -> None:
    began = threading.Event()

    def open_engine(building: Building) -> Engine:
        began.set()
        while not building.is_cancelled():
            time.sleep(0.005)
        raise BuildCancelled("stopped")

    bench = _Bench(open_engine, _camera())
    with bench.pipeline:
        bench.pipeline.start_workers()
        assert began.wait(10)
        assert not bench.worker.wait_ready(0)
    assert bench.worker.failure is None


def test_a_replacement_that_fails_later_is_reloaded_like_any_engine() -> None:
    opened: list[str] = []
    seen = threading.Event()

    def fail(batch: Images) -> None:
        raise InferenceFailed("a kernel failed")

    def open_engine(building: Building) -> Engine:
        opened.append("deferring" if building.defer else "building")
        if len(opened) == 2:
            assert seen.wait(10)
            return _engine("tensorrt", on_infer=fail)
        return _engine("ort-cpu", pending="tensorrt") if len(opened) == 1 else _engine("tensorrt")

    bench = _Bench(open_engine, _camera())
    with bench.running():
        wait_until(lambda: bench.results)
        seen.set()
        wait_until(lambda: bench.engines == ["ort-cpu", "tensorrt"])
    assert opened == ["deferring", "building", "deferring"]
    assert bench.pipeline.statistics().cameras[0].counts.dropped["failed"] == 3


def test_any_engine_can_be_replaced_on_request_one_at_a_time() -> None:
    bench = _Bench(lambda building: _engine("first"), _camera())
    gate = threading.Event()

    def slow(building: Building) -> Engine:
        assert gate.wait(10)
        return _engine("first")

    assert not bench.worker.replace_engine(slow), "there was nothing to replace yet"
    with bench.running():
        wait_until(lambda: bench.results)
        assert bench.worker.replace_engine(slow)
        assert not bench.worker.replace_engine(slow)
        gate.set()
        wait_until(lambda: bench.worker.statistics().changes == 1)
        assert bench.worker.replace_engine(lambda building: _engine("third"))
        wait_until(lambda: bench.engines == ["first", "third"])
    assert not bench.worker.replace_engine(slow), "it was stopped"
