from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from agent.config.model import AgentConfig, ModelConfig
from agent.config.sections.sources import SourceConfig
from agent.inference.pipeline import Parts, Pipeline
from agent.runtime.clock import SystemClock
from agent.runtime.errors import ReloadAbandoned, StageFailed
from agent.runtime.records import Classification, StateChange
from engines import EngineLost, EngineUnavailable, InferenceFailed, ModelPackage
from engines.base import Images, Scores
from tests.fixtures.parts import BrightnessEngine, ScriptedSource, plain_package

_LABELS = ("zero", "one", "two", "three")


def _config(
    cameras: Mapping[str, Mapping[str, object]], models: Mapping[str, Mapping[str, object]] | None = None
) -> AgentConfig:
    return AgentConfig.model_validate(
        {
            "version": 1,
            "models": models or {"m": {"package": "x"}},
            "cameras": {
                name: {"source": {"type": "pattern", "seed": index}, **camera}
                for index, (name, camera) in enumerate(cameras.items())
            },
        }
    )


class _Bench:
    """A pipeline over scripted sources, and everything that it emitted."""

    def __init__(
        self,
        config: AgentConfig,
        sources: list[ScriptedSource],
        open_engine: Callable[[str, ModelConfig, ModelPackage], BrightnessEngine],
    ) -> None:
        self.emitted: list[Classification | StateChange] = []
        self.sources = sources
        queue = iter(sources)

        def make_source(config: SourceConfig) -> ScriptedSource:
            return next(queue)

        self.pipeline = Pipeline(
            config,
            {key: plain_package(*_LABELS) for key in config.models},
            Parts(lambda key, config, package, building: open_engine(key, config, package), make_source),
            clock=SystemClock(),
            emit=self.emitted.append,
        )

    def start(self) -> None:
        self.pipeline.start_workers()
        for worker in self.pipeline.workers.values():
            assert worker.wait_ready(5)
        self.pipeline.start_cameras()

    def wait(self, condition: Callable[[], bool], deadline_s: float = 10.0) -> None:
        deadline = time.monotonic() + deadline_s
        while not condition():
            self.pipeline.check()
            self.pipeline.tick()
            assert time.monotonic() < deadline, f"gave up waiting; {self.pipeline.statistics()}"
            time.sleep(0.005)

    def run_to_end(self) -> None:
        with self.pipeline:
            self.start()
            self.wait(lambda: self.pipeline.is_done)
        self.check_books()

    def check_books(self) -> None:
        for camera in self.pipeline.statistics().cameras:
            counts = camera.counts
            assert counts.captured == counts.classified + sum(counts.dropped.values()) + counts.in_flight, counts
            assert counts.in_flight == 0
            for one in counts.classifiers.values():
                assert one.offered == one.classified + one.skipped + sum(one.dropped.values()), counts

    def results(self, camera: str, classifier: str = "m") -> list[Classification]:
        return [
            item
            for item in self.emitted
            if isinstance(item, Classification) and (item.camera, item.classifier) == (camera, classifier)
        ]

    def states(self, camera: str, classifier: str = "m") -> list[str | None]:
        return [
            item.label
            for item in self.emitted
            if isinstance(item, StateChange) and (item.camera, item.classifier) == (camera, classifier)
        ]


def _brightness(key: str, config: ModelConfig, package: ModelPackage) -> BrightnessEngine:
    return BrightnessEngine(len(_LABELS), max_batch=config.batching.engine_batch)


def test_every_frame_of_a_file_is_classified_once_and_in_order() -> None:
    script: list[int | str] = [0, 1, 2, 3] * 25
    bench = _Bench(
        _config({"file": {"classify": [{"model": "m"}]}}), [ScriptedSource(script, is_live=False)], _brightness
    )
    bench.run_to_end()
    results = bench.results("file")
    assert [result.frame_index for result in results] == list(range(100))
    assert [result.top[0].index for result in results] == script
    counts = bench.pipeline.statistics().cameras[0].counts
    assert (counts.captured, counts.classified, dict(counts.dropped)) == (100, 100, {})


def test_sources_open_while_an_engine_loads_and_no_frame_is_lost() -> None:
    may_load = threading.Event()

    def slow_engine(key: str, config: ModelConfig, package: ModelPackage) -> BrightnessEngine:
        assert may_load.wait(10)
        return _brightness(key, config, package)

    config = _config({"file": {"classify": [{"model": "m"}]}, "live": {"classify": [{"model": "m"}]}})
    file, live = ScriptedSource([0, 1, 2], is_live=False), ScriptedSource([1], is_live=True, period_s=0.002)
    file.kind, live.kind = "file", "rtsp"
    bench = _Bench(config, [file, live], slow_engine)
    with bench.pipeline:
        bench.pipeline.start_workers()
        bench.pipeline.open_cameras()
        bench.wait(lambda: file.opened == 1 and live.statistics().delivered > 3)
        assert [camera.counts.captured for camera in bench.pipeline.statistics().cameras] == [0, 0]
        may_load.set()
        assert all(worker.wait_ready(5) for worker in bench.pipeline.workers.values())
        bench.pipeline.start_cameras()
        bench.wait(lambda: len(bench.results("file")) == 3 and len(bench.results("live")) > 0)
    assert [result.frame_index for result in bench.results("file")] == [0, 1, 2]
    assert (file.opened, live.opened) == (1, 1)
    bench.check_books()


def test_four_cameras_share_one_model_through_its_batcher() -> None:
    gate = threading.Event()
    engines: list[BrightnessEngine] = []

    def hold(batch: Images) -> None:
        gate.wait(5)

    def open_engine(key: str, config: ModelConfig, package: ModelPackage) -> BrightnessEngine:
        engines.append(BrightnessEngine(4, on_infer=hold))
        return engines[0]

    cameras = {f"c{index}": {"classify": [{"model": "m"}]} for index in range(4)}
    sources = [ScriptedSource([index], is_live=True, period_s=0.002) for index in range(4)]
    bench = _Bench(_config(cameras), sources, open_engine)
    with bench.pipeline:
        bench.start()
        bench.wait(lambda: bench.pipeline.workers["m"].statistics().waiting == 4)
        gate.set()
        bench.wait(lambda: all(len(bench.results(camera)) >= 5 for camera in cameras))
    assert len(engines) == 1
    assert max(engines[0].batches) == 4
    for index, camera in enumerate(cameras):
        assert {result.top[0].index for result in bench.results(camera)} == {index}
    bench.check_books()


@pytest.mark.parametrize(("batching", "largest"), [({}, 1), ({"max_size": 3}, 3)], ids=["by default", "asked for"])
def test_frames_go_one_by_one_if_batches_gain_nothing_and_no_size_is_configured(
    batching: dict[str, int], largest: int
) -> None:
    gate = threading.Event()

    def hold(batch: Images) -> None:
        gate.wait(5)

    engine = BrightnessEngine(4, on_infer=hold)
    engine.info = replace(engine.info, gains_by_batches=False)
    cameras = {f"c{index}": {"classify": [{"model": "m"}]} for index in range(4)}
    sources = [ScriptedSource([index], is_live=True, period_s=0.002) for index in range(4)]
    config = _config(cameras, {"m": {"package": "x", "batching": batching}})
    bench = _Bench(config, sources, lambda key, config, package: engine)
    with bench.pipeline:
        bench.start()
        bench.wait(lambda: bench.pipeline.workers["m"].statistics().waiting == 4)
        gate.set()
        bench.wait(lambda: all(len(bench.results(camera)) >= 5 for camera in cameras))
    assert max(engine.batches) == largest
    bench.check_books()


@pytest.mark.parametrize(("size", "ahead"), [(1, 3), (4, 8)])
def test_a_file_is_read_no_further_ahead_than_the_engine_takes_frames(size: int, ahead: int) -> None:
    gate = threading.Event()
    engines: list[BrightnessEngine] = []

    def hold(batch: Images) -> None:
        gate.wait(5)

    def open_engine(key: str, config: ModelConfig, package: ModelPackage) -> BrightnessEngine:
        engines.append(BrightnessEngine(4, max_batch=config.batching.engine_batch, on_infer=hold))
        return engines[0]

    config = _config(
        {"front": {"classify": [{"model": "m"}]}}, {"m": {"package": "x", "batching": {"max_size": size}}}
    )
    bench = _Bench(config, [ScriptedSource([1] * 40, is_live=False)], open_engine)
    with bench.pipeline:
        bench.start()
        bench.wait(lambda: bench.pipeline.statistics().cameras[0].counts.in_flight == ahead)
        time.sleep(0.05)  # it would be read further within this time
        assert bench.pipeline.statistics().cameras[0].counts.in_flight == ahead
        gate.set()
        bench.wait(lambda: bench.pipeline.is_done)
    assert max(engines[0].batches) == size
    assert len(bench.results("front")) == 40
    bench.check_books()


def test_two_models_classify_one_camera() -> None:
    config = _config(
        {"cam": {"classify": [{"model": "a"}, {"model": "b"}]}}, {"a": {"package": "x"}, "b": {"package": "x"}}
    )
    bench = _Bench(config, [ScriptedSource([0, 1, 2], is_live=False)], _brightness)
    bench.run_to_end()
    assert [result.frame_index for result in bench.results("cam", "a")] == [0, 1, 2]
    assert [result.frame_index for result in bench.results("cam", "b")] == [0, 1, 2]
    assert bench.pipeline.statistics().cameras[0].counts.classified == 3


@pytest.mark.parametrize("second_model", ["m", "n"])
def test_a_cascade_runs_its_second_step_only_behind_an_open_gate(second_model: str) -> None:
    models: dict[str, dict[str, object]] = {"m": {"package": "x"}, "n": {"package": "x"}}
    config = _config(
        {
            "cam": {
                "classify": [
                    {"model": "m", "name": "first"},
                    {"model": second_model, "name": "second", "when": {"classifier": "first", "labels": ["two"]}},
                ]
            }
        },
        models,
    )
    bench = _Bench(config, [ScriptedSource([0, 2, 1, 2, 2, 3] * 10, is_live=False)], _brightness)
    bench.run_to_end()
    assert [result.frame_index % 6 for result in bench.results("cam", "second")] == [1, 3, 4] * 10
    one = bench.pipeline.statistics().cameras[0].counts.classifiers["second"]
    assert (one.offered, one.classified, one.skipped) == (60, 30, 30)


class _Constant(BrightnessEngine):
    """Gives the same probabilities for every image, in an array that the next call overwrites."""

    def __init__(self, *row: float) -> None:
        super().__init__(len(row))
        self._row, self._memory = np.array(row, np.float32), np.empty((4, len(row)), np.float32)

    def infer(self, batch: Images) -> Scores:
        self._memory[:] = np.nan
        self._memory[: len(batch)] = self._row
        return self._memory[: len(batch)]


def test_an_ensemble_decides_by_the_mean_of_its_models_with_one_weight_each() -> None:
    rows = {"a": (0.6, 0.4, 0.0, 0.0), "b": (0.2, 0.8, 0.0, 0.0), "c": (0.1, 0.0, 0.9, 0.0)}
    config = _config(
        {
            "cam": {
                "classify": [
                    {"model": "c", "mean_with": "b"},
                    {"model": "b", "mean_with": "a"},
                    {"model": "a"},
                ]
            }
        },
        {key: {"package": "x"} for key in rows},
    )
    bench = _Bench(config, [ScriptedSource([0] * 20, is_live=False)], lambda key, *_: _Constant(*rows[key]))
    bench.run_to_end()
    for key, label, confidence in (("a", "zero", 0.6), ("b", "one", 0.6), ("c", "one", 0.4)):
        results = bench.results("cam", key)
        assert [result.frame_index for result in results] == list(range(20))
        assert {result.top[0].label for result in results} == {label}
        assert [result.top[0].confidence for result in results] == pytest.approx([confidence] * 20, abs=1e-6)
    bench.check_books()


def test_what_the_first_model_of_an_ensemble_does_not_answer_the_second_does_not_see() -> None:
    config = _config(
        {"cam": {"classify": [{"model": "a"}, {"model": "b", "mean_with": "a"}]}},
        {"a": {"package": "x"}, "b": {"package": "x"}},
    )
    rows = {"a": (np.nan, 0.5, 0.5, 0.0), "b": (0.9, 0.1, 0.0, 0.0)}
    bench = _Bench(config, [ScriptedSource([0] * 5, is_live=False)], lambda key, *_: _Constant(*rows[key]))
    bench.run_to_end()
    assert bench.results("cam", "b") == []
    assert bench.pipeline.statistics().cameras[0].counts.dropped == {"not_finite": 5}
    bench.check_books()


def test_a_region_of_interest_is_what_the_model_sees() -> None:
    left_and_right = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)
    left_and_right[:, SIDE_PX // 2 :] = 3

    class _Halves(ScriptedSource):
        def read(self):  # type: ignore[no-untyped-def]  # the base has the types
            capture = super().read()
            if capture is not None:
                capture.image[:] = left_and_right
            return capture

    config = _config(
        {
            "cam": {
                "classify": [
                    {"model": "m", "name": "left", "roi": [0, 0, 0.5, 1]},
                    {"model": "m", "name": "right", "roi": [0.5, 0, 1, 1]},
                ]
            }
        }
    )
    bench = _Bench(config, [_Halves([0], is_live=False)], _brightness)
    bench.run_to_end()
    assert bench.results("cam", "left")[0].top[0].label == "zero"
    assert bench.results("cam", "right")[0].top[0].label == "three"


SIDE_PX = 8


def test_an_engine_slower_than_the_camera_sees_the_newest_frame() -> None:
    def slow(batch: Images) -> None:
        time.sleep(0.05)

    bench = _Bench(
        _config({"cam": {"classify": [{"model": "m"}]}}),
        [ScriptedSource([1], is_live=True, period_s=0.005)],
        lambda key, config, package: BrightnessEngine(4, on_infer=slow),
    )
    with bench.pipeline:
        bench.start()
        bench.wait(lambda: len(bench.results("cam")) >= 5)
    counts = bench.pipeline.statistics().cameras[0].counts
    assert counts.dropped["superseded"] > 5
    # A frame never waits longer than the call that was running when it came.
    assert all(result.times.queue_ms < 500 for result in bench.results("cam"))
    bench.check_books()


def test_stage_times_add_up_to_the_total() -> None:
    bench = _Bench(
        _config({"cam": {"classify": [{"model": "m"}]}}), [ScriptedSource([1] * 20, is_live=False)], _brightness
    )
    bench.run_to_end()
    for result in bench.results("cam"):
        measured_ms = (result.decided_at_ns - result.captured_at_ns) / 1e6
        assert abs(result.times.total_ms - measured_ms) < 0.001


def test_a_lost_camera_comes_back_and_reports_both() -> None:
    source = ScriptedSource([1, "stalled", 2], is_live=True, period_s=0.01)
    bench = _Bench(_config({"cam": {"classify": [{"model": "m"}]}}), [source], _brightness)
    with bench.pipeline:
        bench.start()
        bench.wait(lambda: bench.pipeline.statistics().cameras[0].state == "lost")
        assert bench.pipeline.statistics().cameras[0].error == "the scripted source is stalled"
        bench.wait(lambda: any(result.top[0].label == "two" for result in bench.results("cam")))
        statistics = bench.pipeline.statistics().cameras[0]
    assert (statistics.state, statistics.error, statistics.reconnects) == ("connected", None, 1)
    assert source.opened == 2


def test_an_absent_camera_does_not_stop_the_others() -> None:
    config = _config({"absent": {"classify": [{"model": "m"}]}, "there": {"classify": [{"model": "m"}]}})
    sources = [
        ScriptedSource(["unavailable"] * 99, is_live=True, period_s=0.01),
        ScriptedSource([3], is_live=True, period_s=0.01),
    ]
    bench = _Bench(config, sources, _brightness)
    with bench.pipeline:
        bench.start()
        bench.wait(lambda: len(bench.results("there")) >= 5)
        assert bench.pipeline.statistics().cameras[0].state == "connecting"


def test_a_file_that_cannot_be_opened_ends_its_camera_with_the_reason() -> None:
    bench = _Bench(
        _config({"cam": {"classify": [{"model": "m"}]}}), [ScriptedSource(["unavailable"], is_live=False)], _brightness
    )
    bench.run_to_end()
    statistics = bench.pipeline.statistics().cameras[0]
    assert (statistics.state, statistics.error) == ("ended", "the scripted source cannot be opened")


def test_a_failed_call_drops_its_frames_and_the_next_one_is_answered() -> None:
    calls = 0

    def fail_once(batch: Images) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise InferenceFailed("a passing fault")

    bench = _Bench(
        _config({"cam": {"rate_hz": 100, "classify": [{"model": "m"}]}}),
        [ScriptedSource([1] * 10, is_live=False)],
        lambda key, config, package: BrightnessEngine(4, on_infer=fail_once),
    )
    bench.run_to_end()
    counts = bench.pipeline.statistics().cameras[0].counts
    assert counts.dropped["failed"] >= 1
    assert counts.classified + counts.dropped["failed"] == 10


def test_an_engine_that_keeps_failing_is_reloaded_once_and_then_given_up() -> None:
    opened = 0

    def fail(batch: Images) -> None:
        raise InferenceFailed("out of memory")

    def open_engine(key: str, config: ModelConfig, package: ModelPackage) -> BrightnessEngine:
        nonlocal opened
        opened += 1
        return BrightnessEngine(4, on_infer=fail)

    bench = _Bench(
        _config({"cam": {"classify": [{"model": "m"}]}}),
        [ScriptedSource([1], is_live=True, period_s=0.01)],
        open_engine,
    )
    with bench.pipeline:
        bench.start()
        with pytest.raises(InferenceFailed, match="out of memory"):
            bench.wait(lambda: False)
    assert opened == 2
    bench.check_books()


def test_a_lost_device_ends_the_pipeline_at_once() -> None:
    opened = 0

    def lose(batch: Images) -> None:
        raise EngineLost("an illegal address")

    def open_engine(key: str, config: ModelConfig, package: ModelPackage) -> BrightnessEngine:
        nonlocal opened
        opened += 1
        return BrightnessEngine(4, on_infer=lose)

    bench = _Bench(
        _config({"cam": {"classify": [{"model": "m"}]}}),
        [ScriptedSource([1], is_live=True, period_s=0.01)],
        open_engine,
    )
    with bench.pipeline:
        bench.start()
        with pytest.raises(EngineLost, match="illegal address"):
            bench.wait(lambda: False)
    assert opened == 1


def test_wait_ready_raises_the_error_of_an_engine_that_cannot_be_loaded() -> None:
    def refuse(key: str, config: ModelConfig, package: ModelPackage) -> BrightnessEngine:
        raise EngineUnavailable("there is no such device")

    bench = _Bench(_config({"cam": {"classify": [{"model": "m"}]}}), [ScriptedSource([1], is_live=True)], refuse)
    with bench.pipeline:
        bench.pipeline.start_workers()
        with pytest.raises(EngineUnavailable, match="no such device"):
            bench.pipeline.workers["m"].wait_ready(5)


def test_scores_that_are_not_finite_are_never_published() -> None:
    class _Broken(BrightnessEngine):
        def infer(self, batch: Images):  # type: ignore[no-untyped-def]  # the base has the types
            scores = super().infer(batch)
            scores[0, 1] = np.nan
            return scores

    bench = _Bench(
        _config({"cam": {"classify": [{"model": "m"}]}}, {"m": {"package": "x", "batching": {"max_size": 1}}}),
        [ScriptedSource([1] * 5, is_live=False)],
        lambda key, config, package: _Broken(4, max_batch=1),
    )
    bench.run_to_end()
    assert bench.results("cam") == []
    assert bench.pipeline.statistics().cameras[0].counts.dropped == {"not_finite": 5}


def test_a_bug_in_a_camera_is_raised_and_not_taken_for_an_end() -> None:
    class _Faulty(ScriptedSource):
        def read(self):  # type: ignore[no-untyped-def]  # the base has the types
            raise KeyError("planted")

    bench = _Bench(_config({"cam": {"classify": [{"model": "m"}]}}), [_Faulty([1], is_live=False)], _brightness)
    with bench.pipeline:
        bench.start()
        with pytest.raises(StageFailed, match="planted"):
            bench.wait(lambda: False)


def test_the_first_state_of_every_classifier_is_unknown() -> None:
    bench = _Bench(
        _config({"cam": {"classify": [{"model": "m"}]}}), [ScriptedSource([2] * 6, is_live=False)], _brightness
    )
    bench.run_to_end()
    assert bench.states("cam") == ["unknown", "two"]


def test_the_governors_ratio_is_obeyed_and_counted() -> None:
    bench = _Bench(
        _config({"cam": {"classify": [{"model": "m"}]}}),
        [ScriptedSource([1], is_live=True, period_s=0.002)],
        _brightness,
    )
    with bench.pipeline:
        bench.pipeline.set_ratio(0.25)
        bench.start()
        bench.wait(lambda: bench.pipeline.statistics().cameras[0].counts.captured >= 100)
    counts = bench.pipeline.statistics().cameras[0].counts
    assert counts.dropped["governor"] / counts.captured == pytest.approx(0.75, abs=0.05)


def test_a_pipeline_without_an_enabled_camera_does_not_end() -> None:
    camera = {"classify": [{"model": "m"}]}
    bench = _Bench(_config({"cam": {**camera, "enabled": False}}), [ScriptedSource([1], is_live=False)], _brightness)
    with bench.pipeline:
        bench.start()
        assert not bench.pipeline.is_done
        bench.pipeline.apply(_config({"cam": camera}), {"m": bench.pipeline.workers["m"].package})
        bench.wait(lambda: bench.pipeline.is_done)
    assert len(bench.results("cam")) == 1


def test_a_camera_added_while_inference_is_paused_is_paused() -> None:
    cameras = {name: {"classify": [{"model": "m"}]} for name in ("cam", "late")}
    sources = [ScriptedSource([1], is_live=True, period_s=0.002) for _ in cameras]
    bench = _Bench(_config({"cam": cameras["cam"]}), sources, _brightness)
    with bench.pipeline:
        bench.pipeline.set_ratio(0.0)
        bench.start()
        bench.pipeline.apply(_config(cameras), {"m": bench.pipeline.workers["m"].package})
        bench.wait(lambda: bench.pipeline.cameras["late"].counters.counts().captured >= 20)
    counts = bench.pipeline.cameras["late"].counters.counts()
    assert counts.dropped == {"governor": counts.captured}


def test_a_reload_in_progress_at_stop_starts_nothing_more() -> None:
    is_asked, release = threading.Event(), threading.Event()

    def open_engine(key: str, config: ModelConfig, package: ModelPackage) -> BrightnessEngine:
        if key == "n":
            is_asked.set()
            release.wait(30)
        return _brightness(key, config, package)

    before = {"cam": {"classify": [{"model": "m"}]}}
    after = _config({**before, "late": {"classify": [{"model": "n"}]}}, {key: {"package": "x"} for key in "mn"})
    sources = [ScriptedSource([1], is_live=True, period_s=0.002) for _ in range(2)]
    bench = _Bench(_config(before), sources, open_engine)
    with bench.pipeline, ThreadPoolExecutor(1) as pool:
        bench.start()
        packages = {"m": bench.pipeline.workers["m"].package, "n": plain_package(*_LABELS)}
        change = pool.submit(bench.pipeline.apply, after, packages)
        assert is_asked.wait(5)
        bench.pipeline.stop()
        release.set()
        with pytest.raises(ReloadAbandoned):
            change.result(10)
    assert [source.opened for source in sources] == [1, 0]
    assert set(bench.pipeline.workers) == {"m"}


def test_stopping_is_quick_while_an_engine_is_busy() -> None:
    release = threading.Event()

    class _Hung(BrightnessEngine):
        def interrupt(self) -> None:
            release.set()

    def hang(batch: Images) -> None:
        release.wait(30)
        raise InferenceFailed("interrupted")

    bench = _Bench(
        _config({"cam": {"classify": [{"model": "m"}]}}),
        [ScriptedSource([1], is_live=True, period_s=0.01)],
        lambda key, config, package: _Hung(4, on_infer=hang),
    )
    with bench.pipeline:
        bench.start()
        bench.wait(lambda: bench.pipeline.workers["m"].statistics().busy_s is not None)
        began = time.monotonic()
        assert bench.pipeline.stop() == []
        assert time.monotonic() - began < 5
    bench.check_books()
