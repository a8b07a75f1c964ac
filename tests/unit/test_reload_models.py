"""Models that programs load and unload while others, and the same one, are in use."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.config.loader import load_config
from agent.inference.pipeline import Parts, Pipeline
from agent.reload import Reloader, load_packages
from agent.runtime.clock import SystemClock
from agent.web.served_models import BadInput, LoadFailed, ModelControl, NotReady, ServedModels
from engines import EngineUnavailable
from tests.fixtures.agent_process import write_config
from tests.fixtures.parts import BrightnessEngine, ScriptedSource

_IMAGES = np.zeros((1, 120, 160, 3), np.uint8)


class _Engines:
    """Opens engines, unless ``broken`` names the model."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.broken = ""

    def __call__(self, key: str, *_: object) -> BrightnessEngine:
        if key == self.broken:
            raise EngineUnavailable(f"model {key} does not pass its golden images")
        self.opened.append(key)
        return BrightnessEngine(5)


@contextmanager
def _serving(directory: Path) -> Iterator[tuple[ServedModels, _Engines, Reloader]]:
    model = {"package": "demo", "serve": True}
    config: dict[str, Any] = {
        "models": {name: dict(model) for name in ("watched", "other", "seen")},
        "cameras": {"front": {"source": {"type": "pattern"}, "classify": [{"model": "seen"}]}},
        "serve": {"http": "127.0.0.1:8000", "allow_load": True},
    }
    loaded = load_config(write_config(directory, config))
    packages, engines = load_packages(loaded), _Engines()
    parts = Parts(engines, lambda _: ScriptedSource([], is_live=True))
    pipeline = Pipeline(loaded.config, packages, parts, clock=SystemClock(), emit=lambda _: None)
    reloader = Reloader(loaded, packages, pipeline, on_applied=lambda *_: None, expect_cameras=lambda _: None)
    with pipeline:
        pipeline.start_workers()
        assert all(worker.wait_ready(5.0) for worker in pipeline.workers.values())
        yield ServedModels(pipeline, ModelControl(reloader.load_model, reloader.unload_model)), engines, reloader


def test_loading_and_unloading_fails_no_request_of_another_model(tmp_path: Path) -> None:
    with _serving(tmp_path) as (models, engines, _):
        stop = threading.Event()
        failures: list[BaseException] = []
        answered: list[None] = []

        def send() -> None:
            while not stop.is_set():
                error = models.get("watched").submit(_IMAGES).exception(5.0)
                if error is None:
                    answered.append(None)
                else:
                    failures.append(error)

        client = threading.Thread(target=send, name="client")
        client.start()
        try:
            for _ in range(5):
                models.unload("other")
                with pytest.raises(NotReady):
                    models.get("other")
                models.load("other")
                assert models.get("other").submit(_IMAGES).result(5.0).scores.shape == (1, 5)
        finally:
            stop.set()
            client.join(10.0)
        assert failures == []
        assert len(answered) > 5
        assert engines.opened.count("other") == 6


def test_a_model_that_cannot_be_loaded_again_stays_unloaded_and_the_others_serve(tmp_path: Path) -> None:
    with _serving(tmp_path) as (models, engines, _):
        models.unload("other")
        engines.broken = "other"
        with pytest.raises(LoadFailed, match="failed to load 'other': model other does not pass its golden images"):
            models.load("other")
        assert {entry.name: entry.state for entry in models.index()} == {
            "watched": "READY",
            "other": "UNAVAILABLE",
            "seen": "READY",
        }
        assert models.get("watched").submit(_IMAGES).exception(5.0) is None


def test_a_model_of_a_camera_is_not_unloaded(tmp_path: Path) -> None:
    with _serving(tmp_path) as (models, _, _):
        with pytest.raises(BadInput, match="model seen was to be unloaded, but an enabled camera uses it"):
            models.unload("seen")
        assert models.get("seen").is_ready


def test_a_reload_of_the_file_loads_what_was_unloaded(tmp_path: Path) -> None:
    with _serving(tmp_path) as (models, _, reloader):
        models.unload("other")
        assert reloader.reload_now() == "applied"
        assert models.get("other").is_ready
