"""The models that programs may use, for every face of the server: HTTP, gRPC, metrics.

A face finds a model by name, decodes images, submits a request and waits for its future. Everything here may be called
from any thread. What a request may fail by:

    RequestRefused            counted as
    ├── UnknownModel          no model of that name or version is served (not counted)
    ├── BadInput              the request does not fit the model (not counted)
    ├── NotAllowed            `serve.allow_load` is false (not counted)
    ├── LoadFailed            the model could not be loaded; the one before still serves (not counted)
    ├── NotReady              REJECTED: being loaded, unloaded, or the agent stops
    ├── QueueFull             REJECTED: too many requests wait; has ``retry_after_s``
    ├── DeadlinePassed        REJECTED: no engine was free in time
    └── EngineFailed          BACKEND: the engine could not compute it
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

import numpy as np

from agent.config.model import ModelConfig
from agent.inference.engine_slot import LoadedEngine
from agent.inference.pipeline import Pipeline
from agent.inference.requests.queue import (
    MAX_PRIORITY,
    Answer,
    DeadlinePassed,
    EngineFailed,
    NotReady,
    QueueFull,
    RequestRefused,
)
from agent.inference.requests.statistics import Duration, FailureReason, ModelStatistics
from agent.inference.worker import Worker
from agent.runtime.errors import AgentError, UsageError
from engines import EngineError, ImageRejected, Images, ModelPackage, Resizer, decode_image

__all__ = [
    "VERSION",
    "Answer",
    "BadInput",
    "DeadlinePassed",
    "Duration",
    "EngineFailed",
    "FailureReason",
    "IndexEntry",
    "LoadFailed",
    "ModelControl",
    "ModelStatistics",
    "NotAllowed",
    "NotReady",
    "QueueFull",
    "RequestRefused",
    "ServedModel",
    "ServedModels",
    "UnknownModel",
]

VERSION = "1"
"""Of every model in the protocol: one version is served at a time, and clients read it as a whole number. The version
of the package is ``ServedModel.package.version``."""

State = Literal["READY", "LOADING", "UNAVAILABLE"]


class UnknownModel(RequestRefused):
    """No model of that name or version is served."""


class BadInput(RequestRefused):
    """A request does not fit the protocol or the model."""


class NotAllowed(RequestRefused):
    """Loading and unloading by clients is not allowed, or not for this model."""


class LoadFailed(RequestRefused):
    """The model could not be loaded."""


@dataclass(frozen=True, slots=True)
class ModelControl:
    """Loads and unloads a model on the caller's thread, which may take minutes; raise AgentError or EngineError."""

    load: Callable[[str], None]
    unload: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One model in the repository index; ``reason`` is empty for a model that is ready."""

    name: str
    version: str
    state: State
    reason: str


class ServedModel:
    """One model that is ready, or was a moment ago; keep it for one request only."""

    def __init__(self, name: str, worker: Worker, pipeline: Pipeline, resizers: _Resizers) -> None:
        self.name = name
        self.version = VERSION
        self.package: ModelPackage = worker.package
        self._worker = worker
        self._pipeline = pipeline
        self._resizers = resizers

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the scores; a binary model has one more than scores."""
        return self.package.labels

    @property
    def classes(self) -> int:
        """Number of scores per image."""
        return self.package.signature.classes

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of an image."""
        return self.package.input.height, self.package.input.width

    @property
    def config(self) -> ModelConfig:
        """Its entry in the configuration."""
        return self._worker.config

    @property
    def loaded(self) -> LoadedEngine | None:
        """The engine that serves it; None while it is loaded for the first time."""
        return self._worker.loaded

    @property
    def max_batch(self) -> int:
        """Most images of one request: those of one call of its engine."""
        loaded = self._worker.loaded
        return self.config.batching.engine_batch if loaded is None else len(loaded.batch)

    @property
    def is_ready(self) -> bool:
        """Whether requests are answered now."""
        return _state_of(self._worker)[0] == "READY"

    def submit(
        self,
        images: Images,
        *,
        priority: int = 0,
        timeout_s: float | None = None,
        future: Future[Answer] | None = None,
    ) -> Future[Answer]:
        """Queue ``images``, ``(N, H, W, 3)`` uint8 BGR at the model's size, which nobody changes until the answer.

        Cancel the future when the client goes; it fails with a RequestRefused. ``priority`` 1 is served first, 9 last,
        0 is the default; ``timeout_s`` can only shorten what `serve.timeout_ms` allows. ``future``: see
        RequestQueue.submit.

        Raises:
            BadInput: the images or the priority do not fit.
            QueueFull, NotReady: see above.
        """
        self._check(images, priority)
        if not self.is_ready:
            self._worker.requests.statistics.failed(FailureReason.REJECTED)
            raise NotReady(f"model {self.name} is not ready: {_state_of(self._worker)[1]}; try again later")
        try:
            return self._worker.requests.submit(images, priority=priority, timeout_s=timeout_s, future=future)
        except NotReady:
            # Replaced by a reload between the look-up and now: the new worker serves it.
            successor = self._pipeline.workers.get(self.name)
            if successor is None or successor is self._worker or successor.package.input != self.package.input:
                raise
            return successor.requests.submit(images, priority=priority, timeout_s=timeout_s, future=future)

    def decode(self, data: bytes | memoryview) -> Images:
        """An encoded image (JPEG, PNG, WebP ...) of any size, resized as the package says: ``(H, W, 3)`` uint8 BGR.

        Takes milliseconds: not on an event loop.

        Raises:
            BadInput: it is no image, damaged, or too large.
        """
        max_pixels = self._pipeline.config.serve.max_image_mpx * 1_000_000
        try:
            image = decode_image(bytes(data), name="the image", max_pixels=max_pixels, remedy=". Send it again")
        except ImageRejected as exc:
            raise BadInput(exc.message, model=self.name) from exc
        height, width = self.input_size
        out = np.empty((height, width, 3), np.uint8)
        self._resizers.of(self.name, self.package).fill(image, out)
        return out

    def statistics(self) -> ModelStatistics:
        """The counters since the start of the agent."""
        return self._pipeline.request_statistics(self.name)

    def _check(self, images: Images, priority: int) -> None:
        height, width = self.input_size
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (height, width, 3):
            raise BadInput(
                f"the images are {images.dtype} {list(images.shape)}, but model {self.name} takes uint8 "
                f"[N, {height}, {width}, 3]; resize them, or send `encoded` images",
                model=self.name,
            )
        if not 1 <= len(images) <= self.max_batch:
            raise BadInput(
                f"the request has {len(images)} images, but the batch size of model {self.name} is 1 to "
                f"{self.max_batch}; split it",
                model=self.name,
            )
        if not 0 <= priority <= MAX_PRIORITY:
            raise BadInput(f"the priority is {priority}, but it must be 0 to {MAX_PRIORITY}", model=self.name)


class ServedModels:
    """All models with ``serve: true`` of the configuration in force. Without ``control`` nothing can be loaded."""

    def __init__(self, pipeline: Pipeline, control: ModelControl | None = None) -> None:
        self._pipeline = pipeline
        self._control = control
        self._resizers = _Resizers()

    @property
    def names(self) -> tuple[str, ...]:
        """The models of the configuration, loaded or not."""
        return self._pipeline.config.served_models

    @property
    def is_ready(self) -> bool:
        """Whether all models that are not unloaded are ready; False if there is none."""
        states = [entry.state for entry in self.index()]
        return "READY" in states and "LOADING" not in states

    def get(self, name: str, version: str = "") -> ServedModel:
        """The model ``name``; an empty ``version`` is the one that is served.

        Raises:
            UnknownModel: there is none of that name or version.
            NotReady: it was unloaded.
        """
        worker = self._pipeline.workers.get(self.check(name, version))
        if worker is None:
            raise NotReady(f"model {name} is not ready: it is unloaded; load it first", model=name)
        return ServedModel(name, worker, self._pipeline, self._resizers)

    def check(self, name: str, version: str = "") -> str:
        """The ``name`` of a model of the configuration, loaded or not.

        Raises:
            UnknownModel: there is none of that name or version.
        """
        if name not in self.names or version not in {"", VERSION}:
            which = f"'{name}'" if version in {"", VERSION} else f"'{name}' version {version}"
            raise UnknownModel(f"Request for unknown model: {which} is not found", model=name)
        return name

    def statistics(self, name: str) -> ModelStatistics:
        """The counters of one model since the start of the agent, loaded or not."""
        return self._pipeline.request_statistics(name)

    def index(self) -> list[IndexEntry]:
        """Every model of the configuration that is served, loaded or not."""
        return [self._entry(name) for name in self.names]

    def load(self, name: str) -> None:
        """Read the package again and serve it; the one before serves until then, and stays if that fails. Minutes.

        Raises:
            UnknownModel, NotAllowed, LoadFailed: see above.
        """
        self._change("load", name)

    def unload(self, name: str) -> None:
        """Stop to serve it, and free its engine.

        Raises:
            UnknownModel, NotAllowed, LoadFailed: see above.
            BadInput: an enabled camera uses it.
        """
        self._change("unload", name)

    def _change(self, action: Literal["load", "unload"], name: str) -> None:
        if self._control is None or not self._pipeline.config.serve.allow_load:
            raise NotAllowed(
                "explicit model load / unload is not allowed; write allow_load: true under `serve` to allow it"
            )
        if name not in self.names:
            raise UnknownModel(f"failed to {action} '{name}', no such model is in the configuration", model=name)
        change = self._control.load if action == "load" else self._control.unload
        try:
            change(name)
        except UsageError as exc:
            raise BadInput(exc.message, model=name) from exc
        except (AgentError, EngineError) as exc:
            raise LoadFailed(f"failed to {action} '{name}': {exc.message}", model=name) from exc

    def _entry(self, name: str) -> IndexEntry:
        worker = self._pipeline.workers.get(name)
        if worker is None:
            return IndexEntry(name, VERSION, "UNAVAILABLE", "unloaded")
        return IndexEntry(name, VERSION, *_state_of(worker))


class _Resizers:
    """A resizer for each thread and model: they are not thread-safe, and keep scratch images."""

    def __init__(self) -> None:
        self._local = threading.local()

    def of(self, model: str, package: ModelPackage) -> Resizer:
        """The resizer of this thread for the ``package`` of ``model``."""
        known: dict[str, tuple[ModelPackage, Resizer]] = self._local.__dict__.setdefault("known", {})
        found = known.get(model)
        if found is None or found[0] is not package:
            found = known[model] = package, Resizer(package.input)
        return found[1]


def _state_of(worker: Worker) -> tuple[State, str]:
    if worker.failure is not None:
        return "UNAVAILABLE", "its engine failed"
    state = worker.state.value
    if state == "closed":
        return "UNAVAILABLE", "it was unloaded, or the agent stops"
    return ("LOADING", "loading") if worker.loaded is None else ("READY", "")
