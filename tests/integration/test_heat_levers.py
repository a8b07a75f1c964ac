"""Larger batches and cheaper engines: engaged by the governor, and released again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent.config.model import AgentConfig, BatchingConfig, ModelConfig
from agent.config.sections.sources import SourceConfig
from agent.inference.engine_opening import EngineOpener
from agent.inference.engine_slot import load
from agent.inference.heat_levers import CoolerEngines, LargeBatches
from agent.inference.pipeline import Parts, Pipeline
from agent.inference.worker import Worker
from agent.runtime.clock import SystemClock
from engines import (
    Building,
    Engine,
    EngineOptions,
    EngineUnavailable,
    ModelPackage,
    Precision,
    load_package,
    open_engine,
)
from engines.select.prepared import open_prepared, prepared_precisions
from tests.fixtures.colour_packages import write_colour_package
from tests.fixtures.deadlines import wait_until
from tests.fixtures.parts import BrightnessEngine, ScriptedSource, plain_package

_LABELS = ("zero", "one", "two", "three")


def _engine(precision: Precision = "fp32") -> BrightnessEngine:
    engine = BrightnessEngine(len(_LABELS))
    engine.info = replace(engine.info, name="ort-cpu", precision=precision)
    return engine


class ScriptedOpener(EngineOpener):
    """Opens an engine of the requested precision, and never builds."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.refused: set[str] = set()

    def open(self, key: str, config: ModelConfig, package: ModelPackage, building: Building) -> Engine:
        return _engine()

    def open_prepared(self, worker: Worker, precision: Precision, building: Building) -> Engine:
        self.asked.append(precision)
        if precision in self.refused:
            raise EngineUnavailable(f"{precision} does not fit any more", engine="ort-cpu")
        return _engine(precision)


@contextmanager
def running(opener: EngineOpener, cameras: int = 2, *, is_strict: bool = False) -> Iterator[Pipeline]:
    def make_source(config: SourceConfig) -> ScriptedSource:
        return ScriptedSource([1], is_live=True, period_s=0.02)

    config = AgentConfig.model_validate(
        {
            "version": 1,
            "models": {"m": {"package": "x", "strict": is_strict}},
            "cameras": {
                f"cam{number}": {"source": {"type": "pattern"}, "classify": [{"model": "m"}]}
                for number in range(cameras)
            },
        }
    )
    pipeline = Pipeline(
        config,
        {"m": plain_package(*_LABELS)},
        Parts(opener.open, make_source),
        clock=SystemClock(),
        emit=lambda _: None,
    )
    with pipeline:
        pipeline.start_workers()
        assert pipeline.workers["m"].wait_ready(10)
        pipeline.start_cameras()
        yield pipeline
        pipeline.check()


def precision_of(pipeline: Pipeline) -> str:
    info = pipeline.workers["m"].statistics().info
    assert info is not None
    return info.precision


def prepared_in(cache: Path, precision: str) -> None:
    (cache / "precision").mkdir(exist_ok=True)
    (cache / "precision" / f"brightness-1.0.0-{precision}-abc.onnx").write_bytes(b"x")


def test_a_model_switches_to_a_prepared_engine_and_back(tmp_path: Path) -> None:
    prepared_in(tmp_path, "int8")
    opener = ScriptedOpener()
    with running(opener) as pipeline:
        lever = CoolerEngines(pipeline, opener, cache_dir=tmp_path)
        assert lever.is_available
        lever.engage(1.0)
        wait_until(lambda: precision_of(pipeline) == "int8")
        lever.engage(1.0)  # asked again with each reading
        lever.release()
        wait_until(lambda: precision_of(pipeline) == "fp32")
        lever.release()
    assert opener.asked == ["int8"]


def test_nothing_is_opened_if_nothing_is_prepared(tmp_path: Path) -> None:
    opener = ScriptedOpener()
    with running(opener) as pipeline:
        lever = CoolerEngines(pipeline, opener, cache_dir=tmp_path)
        assert not lever.is_available
        lever.engage(1.0)
        assert pipeline.workers["m"].statistics().changes == 0
        lever.release()
    assert opener.asked == []


def test_a_strict_model_keeps_its_engine(tmp_path: Path) -> None:
    prepared_in(tmp_path, "int8")
    opener = ScriptedOpener()
    with running(opener, is_strict=True) as pipeline:
        CoolerEngines(pipeline, opener, cache_dir=tmp_path).engage(1.0)
        assert pipeline.workers["m"].statistics().changes == 0
    assert opener.asked == []


def test_a_prepared_engine_that_cannot_be_opened_leaves_the_current_one(tmp_path: Path) -> None:
    prepared_in(tmp_path, "int8")
    opener = ScriptedOpener()
    opener.refused.add("int8")
    with running(opener) as pipeline:
        CoolerEngines(pipeline, opener, cache_dir=tmp_path).engage(1.0)
        wait_until(lambda: pipeline.workers["m"].statistics().changes == 1)
        assert precision_of(pipeline) == "fp32"
        frames = pipeline.frames_decided()
        wait_until(lambda: pipeline.frames_decided() > frames)


def test_batches_are_larger_while_engaged_and_as_before_after_release() -> None:
    sizes: list[int] = []
    held = threading.Event()
    engine = BrightnessEngine(len(_LABELS), on_infer=lambda batch: sizes.append(len(batch)))
    engine.info = replace(engine.info, gains_by_batches=False)

    class OneEngine(ScriptedOpener):
        def open(self, key: str, config: ModelConfig, package: ModelPackage, building: Building) -> Engine:
            return engine

    with running(OneEngine(), cameras=3) as pipeline:
        lever = LargeBatches(pipeline)
        assert lever.is_available
        wait_until(lambda: len(sizes) > 10)
        assert set(sizes) == {1}
        lever.engage(1.0)
        wait_until(lambda: 3 in sizes)
        lever.release()
        held.wait(0.2)
        sizes.clear()
        wait_until(lambda: len(sizes) > 10)
        assert set(sizes) == {1}


def test_large_batches_are_not_available_with_a_single_camera() -> None:
    with running(ScriptedOpener(), cameras=1) as pipeline:
        assert not LargeBatches(pipeline).is_available


def test_a_single_camera_never_waits_for_others() -> None:
    serving = load(_engine(), key="m", package=plain_package(*_LABELS), max_size=4)
    assert serving.batching(BatchingConfig(), cameras=1) == (4, 0.0)
    assert serving.batching(BatchingConfig(), cameras=3) == (3, 0.05)
    assert serving.batching(BatchingConfig(max_delay_ms=200.0), cameras=9) == (4, 0.2)


def test_a_prepared_precision_is_opened_with_its_certificate_and_without_a_build(tmp_path: Path) -> None:
    package = load_package(write_colour_package(tmp_path))
    options = EngineOptions(cache_dir=tmp_path / "cache", engine="ort-cpu")
    with open_engine(package, options) as engine:
        usual = engine.info
    assert prepared_precisions(package, options.cache_dir, usual) == ()
    int8 = replace(options, precision="int8")
    with open_engine(package, int8) as engine:
        assert engine.info.precision == "int8"
    assert prepared_precisions(package, options.cache_dir, usual) == ("int8",)
    with open_prepared(package, int8) as engine:
        assert (engine.info.name, engine.info.precision) == ("ort-cpu", "int8")
        assert engine.info.accuracy is not None


def test_a_precision_that_changes_the_answers_is_refused(tmp_path: Path) -> None:
    package = load_package(write_colour_package(tmp_path))
    package = replace(package, calibration=())
    options = EngineOptions(cache_dir=tmp_path / "cache", engine="ort-cpu", precision="int8")
    with pytest.raises(
        EngineUnavailable, match=r"ort-cpu in int8 cannot take over without a build: .*Build it: agent build"
    ):
        open_prepared(package, options)
