"""A label without results becomes `unknown` in time, whatever its worker does; and long work lets frames through."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import pytest

from agent.commands.handlers import selftested
from agent.config.model import AgentConfig, ModelConfig
from agent.inference.engine_slot import LoadedEngine
from agent.inference.pipeline import Parts, Pipeline
from agent.runtime.clock import SystemClock
from agent.runtime.records import Classification, StateChange
from engines import GoldenImage, InferenceFailed, ModelPackage
from engines.base import Images
from tests.fixtures.deadlines import wait_until
from tests.fixtures.parts import BrightnessEngine, ScriptedSource, plain_image, plain_package

OpenEngine = Callable[[], BrightnessEngine]


class _Bench:
    """One live camera whose frames are `one`, and what its pipeline emitted."""

    def __init__(self, open_engine: OpenEngine, package: ModelPackage, *, stale_after_s: float) -> None:
        decide = {"votes": 1, "window": 1, "stale_after_s": stale_after_s}
        config = AgentConfig.model_validate(
            {
                "version": 1,
                "models": {"m": {"package": "x", "batching": {"max_size": 1}}},
                "cameras": {"c": {"source": {"type": "pattern"}, "classify": [{"model": "m", "decide": decide}]}},
            }
        )

        def make(key: str, config: ModelConfig, package: ModelPackage, building: object) -> BrightnessEngine:
            return open_engine()

        self.emitted: list[Classification | StateChange] = []
        parts = Parts(make, lambda config: ScriptedSource([1], is_live=True, period_s=0.002))
        self.pipeline = Pipeline(config, {"m": package}, parts, clock=SystemClock(), emit=self.emitted.append)

    def states(self) -> list[tuple[str | None, str]]:
        self.pipeline.check()
        self.pipeline.tick()
        return [(item.label, item.reason) for item in self.emitted if isinstance(item, StateChange)]


@contextmanager
def _running(
    open_engine: OpenEngine, *, stale_after_s: float = 0.2, package: ModelPackage | None = None
) -> Iterator[_Bench]:
    bench = _Bench(open_engine, package or plain_package("zero", "one"), stale_after_s=stale_after_s)
    with bench.pipeline:
        bench.pipeline.start_workers()
        assert bench.pipeline.workers["m"].wait_ready(5)
        bench.pipeline.start_cameras()
        yield bench


def test_a_label_becomes_stale_while_the_engines_call_hangs() -> None:
    hang, go_on = threading.Event(), threading.Event()

    def infer(batch: Images) -> None:
        if hang.is_set():
            go_on.wait(10)

    with _running(lambda: BrightnessEngine(2, on_infer=infer)) as bench:
        wait_until(lambda: bench.states()[-1:] == [("one", "votes")])
        hang.set()
        wait_until(lambda: bench.states()[-1] == ("stale", "stale"))
        assert bench.pipeline.workers["m"].statistics().busy_s is not None, "the call hangs still"
        hang.clear()
        go_on.set()
        wait_until(lambda: bench.states()[-1] == ("one", "votes"))


def test_a_label_becomes_stale_while_a_failed_engine_is_opened_again() -> None:
    fail, reopening, go_on = threading.Event(), threading.Event(), threading.Event()

    def infer(batch: Images) -> None:
        if fail.is_set():
            raise InferenceFailed("the library failed")

    def open_engine() -> BrightnessEngine:
        if fail.is_set():
            reopening.set()
            assert go_on.wait(10)
            fail.clear()
        return BrightnessEngine(2, on_infer=infer)

    with _running(open_engine) as bench:
        wait_until(lambda: bench.states()[-1:] == [("one", "votes")])
        fail.set()
        assert reopening.wait(5)
        wait_until(lambda: bench.states()[-1] == ("stale", "stale"))
        go_on.set()
        wait_until(lambda: bench.states()[-1] == ("one", "votes"))


def test_the_first_state_comes_before_every_result() -> None:
    with _running(lambda: BrightnessEngine(2), stale_after_s=10.0) as bench:
        wait_until(lambda: len(bench.emitted) > 3)
    first = bench.emitted[0]
    assert isinstance(first, StateChange)
    assert (first.label, first.reason) == ("unknown", "start")


def test_frames_are_classified_between_two_tasks() -> None:
    order: list[str] = []
    go_on = threading.Event()

    def infer(batch: Images) -> None:
        go_on.wait(10)
        order.append("frame")

    def task(loaded: LoadedEngine) -> None:
        order.append("task")
        wait_until(lambda: bench.pipeline.workers["m"].batcher.waiting > 0)

    with _running(lambda: BrightnessEngine(2, on_infer=infer), stale_after_s=10.0) as bench:
        worker = bench.pipeline.workers["m"]
        wait_until(lambda: worker.statistics().busy_s is not None)
        for _ in range(5):
            worker.run_between_batches(task)
        go_on.set()
        wait_until(lambda: order.count("task") == 5 and order[-1] == "frame")
    assert order[:11] == ["frame", "task"] * 5 + ["frame"]


def _with_golden(folder: Path, count: int) -> ModelPackage:
    package = plain_package("zero", "one")
    for index in range(count):
        cv2.imwrite(str(folder / f"{index}.png"), plain_image(index % 2, 64))
    golden = tuple(GoldenImage(path=folder / f"{index}.png", label="one") for index in range(count))
    return replace(package, golden=golden)


def test_a_selftest_says_how_many_images_it_checked_and_which_were_wrong(tmp_path: Path) -> None:
    with _running(lambda: BrightnessEngine(2), package=_with_golden(tmp_path, 6)) as bench:
        details = selftested(bench.pipeline.workers["m"], 20.0)
        assert (details["engine"], details["images"], details["of"]) == ("brightness", 6, 6)
        wrong = details["wrong"]
        assert isinstance(wrong, list)
        assert [one["image"] for one in wrong if isinstance(one, dict)] == ["0.png", "2.png", "4.png"]
        assert selftested(bench.pipeline.workers["m"], 0.0) == {**details, "images": 0, "wrong": []}


def test_a_selftest_that_fails_leaves_the_worker_serving(tmp_path: Path) -> None:
    fail_on = threading.Event()

    def infer(batch: Images) -> None:
        if fail_on.is_set():
            fail_on.clear()
            raise InferenceFailed("the library failed")

    with _running(lambda: BrightnessEngine(2, on_infer=infer), package=_with_golden(tmp_path, 1)) as bench:
        worker = bench.pipeline.workers["m"]

        def failing(loaded: LoadedEngine) -> None:
            fail_on.set()
            with pytest.raises(InferenceFailed):
                loaded.engine.infer(loaded.batch[:1])

        worker.run_between_batches(failing)
        before = worker.statistics().frames
        wait_until(lambda: worker.statistics().frames > before + 3)
        assert worker.failure is None
