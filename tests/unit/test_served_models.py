"""The facade over served models: requests beside cameras, refusals, load and unload, a reload under traffic."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from agent.config.model import AgentConfig
from agent.inference.pipeline import Parts, Pipeline
from agent.runtime.clock import SystemClock
from agent.web.served_models import (
    BadInput,
    DeadlinePassed,
    EngineFailed,
    LoadFailed,
    ModelControl,
    NotAllowed,
    NotReady,
    QueueFull,
    ServedModels,
    UnknownModel,
)
from engines import EngineUnavailable, Images, InferenceFailed
from tests.fixtures.deadlines import wait_until
from tests.fixtures.parts import SIDE, BrightnessEngine, ScriptedSource, plain_image, plain_package

_PACKAGE = plain_package("ok", "dent", "scratch")


def _config(*, cameras: bool = False, serve: dict[str, Any] | None = None) -> AgentConfig:
    camera = {"source": {"type": "pattern"}, "classify": [{"model": "inspect"}]}
    return AgentConfig.model_validate(
        {
            "version": 1,
            "models": {"inspect": {"package": "x", "serve": True}, "hidden": {"package": "x"}},
            "cameras": {"front": camera} if cameras else {},
            "serve": {"http": "127.0.0.1:8000", **(serve or {})},
        }
    )


class _Records:
    def __init__(self) -> None:
        self.labels: list[str] = []

    def __call__(self, record: Any) -> None:
        if hasattr(record, "top"):
            self.labels.append(record.top[0].label)


@contextmanager
def _serving(
    engine: BrightnessEngine | None, config: AgentConfig | None = None, *, source: ScriptedSource | None = None
) -> Iterator[tuple[Pipeline, _Records]]:
    records = _Records()
    parts = Parts(lambda *_: engine or BrightnessEngine(3), lambda _: source or ScriptedSource([], is_live=True))
    pipeline = Pipeline(
        config or _config(cameras=source is not None),
        {"inspect": _PACKAGE},
        parts,
        clock=SystemClock(),
        emit=records,
    )
    with pipeline:
        pipeline.start_workers()
        assert pipeline.workers["inspect"].wait_ready(5.0)
        pipeline.start_cameras()
        yield pipeline, records


def _batch(*values: int) -> Images:
    return np.stack([plain_image(value) for value in values])


def test_a_request_is_answered_with_scores_and_times_and_counted() -> None:
    engine = BrightnessEngine(3)
    with _serving(engine) as (pipeline, _):
        model = ServedModels(pipeline).get("inspect", "1")
        assert (model.input_size, model.classes, model.labels) == ((SIDE, SIDE), 3, ("ok", "dent", "scratch"))
        assert model.is_ready
        answer = model.submit(_batch(2, 0)).result(5.0)
        assert answer.scores.argmax(axis=1).tolist() == [2, 0]
        assert answer.times.queue_ns > 0
        wait_until(lambda: model.statistics().execution_count == 1)
        statistics = model.statistics()
    assert (statistics.success.count, statistics.inference_count) == (1, 2)
    assert engine.batches == [2]


def test_requests_join_the_batches_of_cameras_and_every_frame_is_still_counted() -> None:
    """A file of 40 frames on an engine that gains by batches, beside 40 requests."""
    seen: list[int] = []
    engine = BrightnessEngine(3, on_infer=lambda batch: seen.append(len(batch)))
    source = ScriptedSource([1] * 40, is_live=False, period_s=0.001)
    with _serving(engine, source=source) as (pipeline, records):
        model = ServedModels(pipeline).get("inspect")
        for _ in range(20):
            answers = [model.submit(_batch(2)), model.submit(_batch(0))]
            assert [int(one.result(5.0).scores.argmax()) for one in answers] == [2, 0]
        wait_until(lambda: pipeline.is_done)
        (camera,) = pipeline.statistics().cameras
    assert records.labels == ["dent"] * 40
    assert (camera.counts.captured, camera.counts.classified, sum(camera.counts.dropped.values())) == (40, 40, 0)
    assert sum(seen) == 80


def test_on_an_engine_that_gains_nothing_by_batches_requests_have_calls_of_their_own() -> None:
    """A file of frames of brightness 1 never runs out of frames; still every request of brightness 2 is answered."""
    calls: list[set[int]] = []
    engine = BrightnessEngine(3, on_infer=lambda batch: calls.append(set(batch[:, 0, 0, 0].tolist())))
    engine.info = replace(engine.info, gains_by_batches=False)
    source = ScriptedSource([1] * 300, is_live=False)
    with _serving(engine, source=source) as (pipeline, records):
        model = ServedModels(pipeline).get("inspect")
        futures = [model.submit(_batch(2, 2)) for _ in range(10)]
        assert all(future.result(5.0).scores.argmax(axis=1).tolist() == [2, 2] for future in futures)
        wait_until(lambda: pipeline.is_done)
    assert records.labels == ["dent"] * 300
    assert calls.count({2}) == 10
    assert {frozenset(call) for call in calls} == {frozenset({1}), frozenset({2})}


def test_a_failed_engine_call_fails_its_requests_with_the_reason() -> None:
    def fail(_: Images) -> None:
        raise InferenceFailed("the library is out of memory")

    with _serving(BrightnessEngine(3, on_infer=fail)) as (pipeline, _):
        model = ServedModels(pipeline).get("inspect")
        error = model.submit(_batch(1)).exception(5.0)
        assert isinstance(error, EngineFailed)
        assert error.message == "the library is out of memory"


def test_an_exception_of_the_engine_leaves_no_request_without_an_answer() -> None:
    def crash(_: Images) -> None:
        raise RuntimeError("a bug")

    with _serving(BrightnessEngine(3, on_infer=crash)) as (pipeline, _):
        model = ServedModels(pipeline).get("inspect")
        assert isinstance(model.submit(_batch(1)).exception(5.0), EngineFailed)
        wait_until(lambda: pipeline.workers["inspect"].failure is not None)
        with pytest.raises(NotReady, match="its engine failed"):
            model.submit(_batch(1))


def test_a_hanging_engine_neither_keeps_waiting_requests_for_ever_nor_more_than_may_wait() -> None:
    release, entered = threading.Event(), threading.Event()

    def hang(_: Images) -> None:
        entered.set()
        release.wait(10.0)

    with _serving(BrightnessEngine(3, on_infer=hang), _config(serve={"max_waiting": 1})) as (pipeline, _):
        model = ServedModels(pipeline).get("inspect")
        running = model.submit(_batch(1))
        assert entered.wait(5.0)
        waiting = model.submit(_batch(1), timeout_s=0.001)
        with pytest.raises(QueueFull):
            model.submit(_batch(1))

        def has_ended() -> bool:
            pipeline.tick()
            return waiting.done()

        wait_until(has_ended)
        assert isinstance(waiting.exception(0), DeadlinePassed)
        release.set()
        assert running.result(5.0).scores.shape == (1, 3)


@pytest.mark.parametrize(
    ("images", "priority", "message"),
    [
        (np.zeros((1, SIDE, SIDE + 1, 3), np.uint8), 0, r"uint8 \[1, 8, 9, 3\], but model inspect takes"),
        (np.zeros((1, SIDE, SIDE, 3), np.float32), 0, "float32"),
        (np.zeros((SIDE, SIDE, 3), np.uint8), 0, r"\[8, 8, 3\]"),
        (np.zeros((0, SIDE, SIDE, 3), np.uint8), 0, "0 images, but the batch size"),
        (np.zeros((5, SIDE, SIDE, 3), np.uint8), 0, "5 images, but the batch size of model inspect is 1 to 4"),
        (np.zeros((1, SIDE, SIDE, 3), np.uint8), 10, "priority is 10"),
        (np.zeros((1, SIDE, SIDE, 3), np.uint8), -1, "priority is -1"),
    ],
)
def test_images_that_do_not_fit_are_refused(images: Any, priority: int, message: str) -> None:
    with _serving(BrightnessEngine(3)) as (pipeline, _), pytest.raises(BadInput, match=message):
        ServedModels(pipeline).get("inspect").submit(images, priority=priority)


@pytest.mark.parametrize("name", ["hidden", "nothing", "../inspect", ""])
def test_only_served_models_are_found(name: str) -> None:
    with _serving(BrightnessEngine(3)) as (pipeline, _):
        models = ServedModels(pipeline)
        with pytest.raises(UnknownModel, match="is not found"):
            models.get(name)
        with pytest.raises(UnknownModel, match="version 2 is not found"):
            models.get("inspect", "2")
        assert [entry.name for entry in models.index()] == ["inspect"]


def test_an_encoded_image_is_resized_as_the_package_says_and_a_damaged_one_is_refused() -> None:
    with _serving(BrightnessEngine(3)) as (pipeline, _):
        model = ServedModels(pipeline).get("inspect")
        _, data = cv2.imencode(".png", plain_image(2, side=40))
        assert model.decode(data.tobytes()).tolist() == plain_image(2).tolist()
        for bad in (b"", b"\x89PNG\r\n", data.tobytes()[:-30]):
            with pytest.raises(BadInput, match="the image"):
                model.decode(bad)
        _, large = cv2.imencode(".png", np.zeros((4001, 4000, 3), np.uint8))
        with pytest.raises(BadInput, match="16004000 pixels, but the limit is 16000000"):
            model.decode(large.tobytes())


def test_requests_under_reloads_never_fail() -> None:
    """A new package of the same size takes over 20 times while a client sends without pause."""
    with _serving(None) as (pipeline, _):
        models, stop, failures = ServedModels(pipeline), threading.Event(), []

        def send() -> None:
            while not stop.is_set():
                error = models.get("inspect").submit(_batch(1)).exception(5.0)
                if error is not None:
                    failures.append(error)

        client = threading.Thread(target=send, name="client")
        client.start()
        try:
            for number in range(20):
                pipeline.apply(_config(), {"inspect": plain_package("ok", "dent", str(number))})
        finally:
            stop.set()
            client.join(10.0)
        assert failures == []
        assert models.get("inspect").statistics().success.count > 20


def test_load_and_unload_need_permission_and_a_known_model() -> None:
    calls: list[str] = []
    control = ModelControl(lambda name: calls.append(f"load {name}"), lambda name: calls.append(f"unload {name}"))
    with _serving(BrightnessEngine(3)) as (pipeline, _):
        with pytest.raises(NotAllowed, match="allow_load: true"):
            ServedModels(pipeline, control).load("inspect")
        with pytest.raises(NotAllowed):
            ServedModels(pipeline, control).unload("inspect")
    with _serving(BrightnessEngine(3), _config(serve={"allow_load": True})) as (pipeline, _):
        models = ServedModels(pipeline, control)
        with pytest.raises(UnknownModel):
            models.load("../../etc")
        models.load("inspect")
        models.unload("inspect")

        def fail(_: str) -> None:
            raise EngineUnavailable("there is no GPU")

        with pytest.raises(LoadFailed, match="there is no GPU"):
            ServedModels(pipeline, ModelControl(fail, fail)).load("inspect")
    assert calls == ["load inspect", "unload inspect"]


def test_an_unloaded_model_is_listed_and_not_ready() -> None:
    with _serving(BrightnessEngine(3)) as (pipeline, _):
        models = ServedModels(pipeline)
        was_ready = models.is_ready
        pipeline.apply(_config(), {})
        assert [(entry.state, entry.reason) for entry in models.index()] == [("UNAVAILABLE", "unloaded")]
        assert (was_ready, models.is_ready) == (True, False)
        with pytest.raises(NotReady, match="is unloaded"):
            models.get("inspect")
