"""All cameras and workers of one configuration, and the frames' ways between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType

from agent.clock import Clock
from agent.config.model import AgentConfig, CameraConfig, ClassifierConfig, ModelConfig
from agent.config.sources import SourceConfig
from agent.errors import StageFailed
from agent.pipeline.accounting import CameraAccount
from agent.pipeline.camera import Camera, CameraStatistics, Route
from agent.pipeline.decide import Decision
from agent.pipeline.inbox import Lane
from agent.pipeline.worker import Dependent, Emit, Station, Worker, WorkerStatistics
from agent.service.heartbeat import Heartbeat
from agent.service.logs import get_logger
from agent.sources.base import Source
from engines import Engine, ModelPackage

log = get_logger(__name__)

_CAMERA_STOP_S = 1.5
_WORKER_STOP_S = 1.5


@dataclass(frozen=True, slots=True)
class PipelineStatistics:
    """Everything the parts know at one moment."""

    cameras: tuple[CameraStatistics, ...]
    workers: tuple[WorkerStatistics, ...]


@dataclass(frozen=True, slots=True)
class Parts:
    """How the pipeline gets what it runs on; the tests put their own here.

    ``open_engine`` is called on the worker's thread, ``make_source`` on the caller's.
    """

    open_engine: Callable[[str, ModelConfig, ModelPackage], Engine]
    make_source: Callable[[SourceConfig], Source]


class Pipeline:
    """Owns the camera threads and the worker threads.

    ``emit`` receives every classification and every change of state, on the workers' threads, and must not wait.
    """

    def __init__(
        self,
        config: AgentConfig,
        packages: Mapping[str, ModelPackage],
        parts: Parts,
        *,
        clock: Clock,
        emit: Emit,
        on_camera_change: Callable[[str], None] | None = None,
    ) -> None:
        self._clock = clock
        self._workers = {
            key: Worker(
                key,
                config.models[key],
                package,
                partial(parts.open_engine, key, config.models[key], package),
                clock=clock,
                emit=emit,
            )
            for key, package in packages.items()
        }
        self._stations: dict[str, list[Station]] = {key: [] for key in self._workers}
        self._cameras = {
            name: self._build_camera(name, camera, parts, on_camera_change)
            for name, camera in config.cameras.items()
            if camera.enabled
        }

    @property
    def workers(self) -> Mapping[str, Worker]:
        """By the model's key."""
        return self._workers

    @property
    def cameras(self) -> Mapping[str, Camera]:
        """By name."""
        return self._cameras

    @property
    def hearts(self) -> tuple[Heartbeat, ...]:
        """The signs of life of every thread."""
        cameras = tuple(camera.heartbeat for camera in self._cameras.values())
        return (*cameras, *(worker.heartbeat for worker in self._workers.values()))

    def start_workers(self) -> None:
        """Begin to load every engine, all at once."""
        for key, worker in self._workers.items():
            worker.start(self._stations[key])

    def start_cameras(self) -> None:
        """Begin to read; call it when the workers are ready."""
        for camera in self._cameras.values():
            camera.start()

    def check(self) -> None:
        """Raise what ended a thread.

        Raises:
            StageFailed: a stage thread ended by an exception, which is the cause.
            EngineError: an engine failed for good.
        """
        for camera in self._cameras.values():
            if camera.failure is not None:
                raise StageFailed(
                    f"camera {camera.name} stopped by a fault of the program: {camera.failure!r}. "
                    "Please report it with the log",
                    camera=camera.name,
                ) from camera.failure
        for worker in self._workers.values():
            if worker.failure is not None:
                raise worker.failure

    @property
    def is_done(self) -> bool:
        """Every source was a file or folder, and all of their frames are decided."""
        return all(camera.is_done for camera in self._cameras.values())

    def set_ratios(self, ratios: Mapping[str, float]) -> None:
        """Set the share of its rate, 0 to 1, that each named camera is granted."""
        for name, ratio in ratios.items():
            self._cameras[name].pacer.ratio = ratio

    def asked_hz(self) -> dict[str, tuple[float, int]]:
        """For each camera the frames a second that it would have classified, and its priority."""
        return {
            name: (camera.config.rate_hz or camera.statistics().fps or 1.0, camera.config.priority)
            for name, camera in self._cameras.items()
        }

    def frames_decided(self) -> int:
        """Frames that all models together have answered so far."""
        return sum(worker.statistics().frames for worker in self._workers.values())

    def stop(self) -> list[str]:
        """Stop cameras, then workers; the names of the threads that were still busy at their deadline."""
        for camera in self._cameras.values():
            camera.stop()
        late = _join({f"camera {name}": camera.join for name, camera in self._cameras.items()}, _CAMERA_STOP_S)
        for worker in self._workers.values():
            worker.stop()
        late += _join({f"worker {key}": worker.join for key, worker in self._workers.items()}, _WORKER_STOP_S)
        return late

    def statistics(self) -> PipelineStatistics:
        """From any thread."""
        return PipelineStatistics(
            cameras=tuple(camera.statistics() for camera in self._cameras.values()),
            workers=tuple(worker.statistics() for worker in self._workers.values()),
        )

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in self.stop():
            log.warning("stop.cut_off", thread=name)

    def _build_camera(
        self, name: str, config: CameraConfig, parts: Parts, on_change: Callable[[str], None] | None
    ) -> Camera:
        source = parts.make_source(config.source)
        account = CameraAccount(name, tuple(classifier.key for classifier in config.classify))
        lanes = {
            classifier.key: Lane(name, classifier.key, source.is_live, config.priority)
            for classifier in config.classify
        }
        for classifier in config.classify:
            station = Station(
                lane=lanes[classifier.key],
                config=classifier,
                account=account,
                decision=Decision(
                    name,
                    classifier.key,
                    classifier.decide,
                    now_ns=self._clock.monotonic_ns(),
                    utc_ns=self._clock.utc_ns(),
                ),
                dependents=self._dependents(classifier, config, lanes),
            )
            self._stations[classifier.model].append(station)
        routes = [
            Route(lanes[classifier.key], self._workers[classifier.model].inbox)
            for classifier in config.classify
            if classifier.when is None
        ]
        return Camera(name, config, source, account, routes, clock=self._clock, on_change=on_change)

    def _dependents(
        self, gate: ClassifierConfig, config: CameraConfig, lanes: Mapping[str, Lane]
    ) -> tuple[Dependent, ...]:
        return tuple(
            Dependent(
                lanes[classifier.key],
                self._workers[classifier.model].inbox,
                frozenset(classifier.when.labels),
            )
            for classifier in config.classify
            if classifier.when is not None and classifier.when.classifier == gate.key
        )


class RateMeter:
    """Frames a second that a pipeline answers, between two calls. Used by one thread."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._last = time.monotonic(), pipeline.frames_decided()
        self._rate_hz = 0.0

    def rate_hz(self) -> float:
        """The rate since the last call; calls closer than a tenth of a second share one answer."""
        now_s, frames = time.monotonic(), self._pipeline.frames_decided()
        elapsed_s = now_s - self._last[0]
        if elapsed_s >= 0.1:
            self._rate_hz = (frames - self._last[1]) / elapsed_s
            self._last = now_s, frames
        return self._rate_hz


def _join(joins: Mapping[str, Callable[[float], bool]], patience_s: float) -> list[str]:
    deadline = time.monotonic() + patience_s
    return [name for name, join in joins.items() if not join(max(deadline - time.monotonic(), 0.0))]
