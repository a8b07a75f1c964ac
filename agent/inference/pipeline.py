"""All cameras and workers of one configuration, and the routes between them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from types import TracebackType

from agent.cameras.camera import Camera, CameraStatistics
from agent.cameras.frame_counters import FrameCounters
from agent.cameras.sources.base import Source
from agent.config.model import AgentConfig, CameraConfig, ModelConfig
from agent.config.sections.sources import SourceConfig
from agent.inference.binding import ClassifierBinding, Emit
from agent.inference.decisions.decision import Decision
from agent.inference.rate_sharing import share_ratio
from agent.inference.requests.queue import RequestLimits
from agent.inference.requests.statistics import ModelStatistics, RequestStatistics
from agent.inference.routing import CameraPlan, plan_camera
from agent.inference.stopping import drain_workers, stop_cameras, stop_workers
from agent.inference.worker import Worker, WorkerStatistics
from agent.runtime.clock import Clock
from agent.runtime.errors import ReloadAbandoned, StageFailed
from agent.runtime.heartbeat import Heartbeat
from agent.runtime.logs import get_logger
from engines import Building, Engine, ModelPackage

log = get_logger(__name__)

_LOAD_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class PipelineStatistics:
    """Snapshot of all cameras and workers."""

    cameras: tuple[CameraStatistics, ...]
    workers: tuple[WorkerStatistics, ...]


@dataclass(frozen=True, slots=True)
class Parts:
    """Factories for engines and sources; tests pass their own.

    ``open_engine`` is called on a worker's thread, ``make_source`` on the caller's.
    """

    open_engine: Callable[[str, ModelConfig, ModelPackage, Building], Engine]
    make_source: Callable[[SourceConfig], Source]


class Pipeline:
    """Owns the camera threads and the worker threads.

    ``emit`` receives every classification and every state change, on the workers' threads and in ``tick``, and must
    not wait.
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
        self._parts = parts
        self._clock = clock
        self._emit = emit
        self._on_camera_change = on_camera_change
        self._config = config
        self._ratio = 1.0
        self._ratio_lock = threading.Lock()
        self._change_lock = threading.Lock()
        self._is_stopped = False
        self._loading: Mapping[str, Worker] = {}
        self._request_statistics: dict[str, RequestStatistics] = {}
        self._workers = {key: self._make_worker(key, config, package) for key, package in packages.items()}
        self._cameras: dict[str, Camera] = {}
        self._plans: dict[str, CameraPlan] = {}
        for name, camera in _enabled(config).items():
            self._cameras[name] = self._make_camera(name, camera)
            self._route(name, camera, self._workers)

    @property
    def config(self) -> AgentConfig:
        """The configuration that its cameras and workers have."""
        return self._config

    @property
    def workers(self) -> Mapping[str, Worker]:
        """The workers by model key."""
        return self._workers

    @property
    def cameras(self) -> Mapping[str, Camera]:
        """The cameras by name."""
        return self._cameras

    @property
    def heartbeats(self) -> tuple[Heartbeat, ...]:
        """The heartbeats of all threads."""
        cameras = tuple(camera.heartbeat for camera in self._cameras.values())
        return (*cameras, *(worker.heartbeat for worker in self._workers.values()))

    def start_workers(self) -> None:
        """Start to load all engines in parallel."""
        for key, worker in self._workers.items():
            worker.start(self._bindings_of(key))

    def open_cameras(self) -> None:
        """Start to open the sources, which takes a second or more with a network camera, while the engines load."""
        for camera in self._cameras.values():
            camera.open_early()

    def start_cameras(self) -> None:
        """Start to read; call it once the workers are ready."""
        for camera in self._cameras.values():
            camera.start()

    def check(self) -> None:
        """Raise the exception that ended a thread, if any.

        Raises:
            StageFailed: a camera thread ended by an exception, which is the cause.
            EngineError: an engine failed for good.
        """
        for camera in self._cameras.values():
            if (failure := camera.failure) is not None:
                raise StageFailed(
                    f"camera {camera.name} stopped because of a bug: {type(failure).__name__}: {failure}. Please "
                    "report it, with the log",
                    camera=camera.name,
                ) from failure
        for worker in self._workers.values():
            if worker.failure is not None:
                raise worker.failure

    def tick(self) -> None:
        """Emit the first states of new classifiers, end labels that went stale, and requests and triggers that were
        not answered in time, and bring remote engines back.

        Call it a few times a second. It never waits for an engine: a label must end in time while its worker hangs,
        reloads or is busy.
        """
        for worker in self._workers.values():
            worker.tick()
            worker.requests.expire()
        for plan in self._plans.values():
            for binding in plan.bindings.values():
                binding.check_time(clock=self._clock, emit=self._emit)
        for camera in self._cameras.values():
            camera.triggers.expire()

    @property
    def is_done(self) -> bool:
        """All sources have ended and all frames are classified or dropped; False without any camera."""
        return bool(self._cameras) and all(camera.is_done for camera in self._cameras.values())

    def apply(
        self,
        config: AgentConfig,
        packages: Mapping[str, ModelPackage],
        *,
        reopen: Collection[str] = (),
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Switch to a new configuration; only what changed is stopped or started.

        New and changed models are loaded first, while the old ones serve; then the cameras are routed to them, so
        cameras that stay lose no frame. Cameras of ``reopen`` are closed and created again, for example because their
        password file changed. If a model cannot be loaded, or ``is_cancelled`` becomes true meanwhile (a build takes
        minutes), the old configuration stays active.

        Raises:
            EngineError: a new model cannot be served.
            ReloadAbandoned: it was cancelled.
        """
        new_workers = self._make_changed_workers(config, packages)
        with ExitStack() as undo:
            undo.callback(_retire, new_workers)
            self._load(new_workers, is_cancelled)
            wanted = _enabled(config)
            closing = self._cameras_to_close(wanted, reopen)
            _report(stop_cameras(closing))
            with self._change_lock:
                # Race with `stop`, which only sees cameras and workers that are stored below: after a stop, nothing
                # new may be stored, or its threads would never be stopped.
                if self._is_stopped:
                    raise ReloadAbandoned("the agent is stopping, so the new configuration was not applied")
                workers = {key: new_workers.get(key) or self._workers[key] for key in packages}
                retired = {key: worker for key, worker in self._workers.items() if workers.get(key) is not worker}
                self._config = config
                added = self._change_cameras(wanted, closing, workers)
                self._workers = workers
            undo.pop_all()
        for key, worker in workers.items():
            worker.set_bindings(self._bindings_of(key))
            worker.requests.limits = _request_limits(config)
        with self._ratio_lock:
            self._share_ratio()
        _retire(retired)
        with self._change_lock:
            if not self._is_stopped:
                for camera in added:
                    camera.start()

    def _make_changed_workers(self, config: AgentConfig, packages: Mapping[str, ModelPackage]) -> dict[str, Worker]:
        """Workers, not started, for the models that are new or changed."""
        return {
            key: self._make_worker(key, config, package)
            for key, package in packages.items()
            if key not in self._workers
            or _needs_new_worker(self._config.models[key], config.models[key])
            or package != self._workers[key].package
        }

    def _load(self, new_workers: Mapping[str, Worker], is_cancelled: Callable[[], bool]) -> None:
        """Start workers without bindings, and wait until each has loaded its engine."""
        self._loading = new_workers
        try:
            for worker in new_workers.values():
                worker.start(())
            for key, worker in new_workers.items():
                while not worker.wait_ready(_LOAD_POLL_S) or is_cancelled():
                    if is_cancelled():
                        raise ReloadAbandoned(
                            f"the agent is stopping while model {key} is loaded for a new configuration; the old one "
                            "stays active until the end; the next start reads the new file",
                            model=key,
                        )
        finally:
            self._loading = {}

    def _cameras_to_close(self, wanted: Mapping[str, CameraConfig], reopen: Collection[str]) -> dict[str, Camera]:
        """The cameras that are removed, or need a new source."""
        return {
            name: camera
            for name, camera in self._cameras.items()
            if name not in wanted or name in reopen or _needs_new_camera(camera.config, wanted[name])
        }

    def _change_cameras(
        self, wanted: Mapping[str, CameraConfig], closing: Mapping[str, Camera], workers: Mapping[str, Worker]
    ) -> list[Camera]:
        """Remove the cameras that are ``closing`` and route all others; returns the added ones, not started."""
        # Replace the dictionaries instead of changing them: other threads iterate over them at any time.
        cameras = {name: camera for name, camera in self._cameras.items() if name not in closing}
        self._plans = {name: plan for name, plan in self._plans.items() if name not in closing}
        added = []
        for name, config in wanted.items():
            if name not in cameras:
                cameras[name] = self._make_camera(name, config)
                added.append(cameras[name])
            else:
                cameras[name].config = config
                cameras[name].pacer.rate_hz = config.rate_hz
        self._cameras = cameras
        for name, config in wanted.items():
            self._route(name, config, workers)
        return added

    def set_ratio(self, ratio: float) -> None:
        """Grant all cameras together this share, 0 to 1, of the rates they ask for; 0 pauses. From any thread.

        It also applies to cameras that a reload adds later.
        """
        with self._ratio_lock:
            self._ratio = ratio
            self._share_ratio()

    def _share_ratio(self) -> None:
        cameras = self._cameras
        # A camera without a rate asks for all that it delivers, and for 1 Hz until its first frames are measured.
        asked = {
            name: (camera.config.rate_hz or camera.statistics().fps or 1.0, camera.config.priority)
            for name, camera in cameras.items()
            if camera.config.trigger is None
        }
        for name, camera in cameras.items():
            if name not in asked:
                # It has no rate to share: what was asked for is classified, unless all is paused.
                camera.pacer.ratio = 0.0 if self._ratio <= 0.0 else 1.0
        for name, share in share_ratio(self._ratio, asked).items():
            cameras[name].pacer.ratio = share

    def decisions(self, camera: str) -> Mapping[str, Decision]:
        """What is decided for one camera, by classifier; empty without such a camera. From any thread."""
        plan = self._plans.get(camera)
        return {} if plan is None else {key: binding.decision for key, binding in plan.bindings.items()}

    def frames_decided(self) -> int:
        """Frames that all models together have classified so far."""
        return sum(worker.statistics().frames for worker in self._workers.values())

    def stop(self) -> list[str]:
        """Stop cameras, then workers; returns the names of the threads that missed their deadline."""
        with self._change_lock:
            self._is_stopped = True
        # Cameras first: a stopped worker would count their last frames as dropped.
        return stop_cameras(self._cameras) + stop_workers(self._workers)

    def statistics(self) -> PipelineStatistics:
        """From any thread."""
        return PipelineStatistics(
            cameras=tuple(camera.statistics() for camera in self._cameras.values()),
            workers=self.worker_statistics(),
        )

    def request_statistics(self, model: str) -> ModelStatistics:
        """The requests of programs for ``model``, over all its workers since the start. From any thread."""
        worker, statistics = self._workers.get(model), self._request_statistics.get(model)
        if statistics is None:
            return ModelStatistics()
        return statistics.snapshot(waiting=0 if worker is None else worker.requests.waiting)

    def worker_statistics(self) -> tuple[WorkerStatistics, ...]:
        """The workers alone: cheap enough for ten calls a second. From any thread."""
        return tuple(worker.statistics() for worker in self._workers.values())

    def loading_statistics(self) -> tuple[WorkerStatistics, ...]:
        """The workers that are loading for a new configuration. From any thread."""
        return tuple(worker.statistics() for worker in self._loading.values())

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _report(self.stop())

    def _make_worker(self, key: str, config: AgentConfig, package: ModelPackage) -> Worker:
        open_engine = partial(self._parts.open_engine, key, config.models[key], package)
        return Worker(
            key,
            config.models[key],
            package,
            open_engine,
            clock=self._clock,
            emit=self._emit,
            request_statistics=self._request_statistics.setdefault(key, RequestStatistics()),
            request_limits=_request_limits(config),
        )

    def _make_camera(self, name: str, config: CameraConfig) -> Camera:
        counters = FrameCounters(name, tuple(classifier.key for classifier in config.classify))
        source = self._parts.make_source(config.source)
        return Camera(name, config, source, counters, clock=self._clock, on_change=self._on_camera_change)

    def _route(self, name: str, config: CameraConfig, workers: Mapping[str, Worker]) -> None:
        """Route the camera's frames to ``workers`` from now on; unchanged classifiers keep their decisions."""
        camera = self._cameras[name]
        before = self._plans.get(name)
        camera.counters.set_classifiers(tuple(classifier.key for classifier in config.classify))
        plan = plan_camera(
            name,
            config,
            camera.counters,
            workers,
            is_live=camera.source.is_live,
            clock=self._clock,
            kept=None if before is None else before.bindings,
        )
        self._plans = {**self._plans, name: plan}
        camera.set_routes(plan.routes)

    def _bindings_of(self, model: str) -> list[ClassifierBinding]:
        return [
            binding
            for plan in self._plans.values()
            for binding in plan.bindings.values()
            if binding.config.model == model
        ]


def _enabled(config: AgentConfig) -> dict[str, CameraConfig]:
    return {name: camera for name, camera in config.cameras.items() if camera.enabled}


def _needs_new_camera(old: CameraConfig, new: CameraConfig) -> bool:
    """Whether something changed that a running camera cannot apply."""
    applied_live = {"rate_hz", "classify", "priority"}
    return old.model_dump(exclude=applied_live) != new.model_dump(exclude=applied_live)


def _needs_new_worker(old: ModelConfig, new: ModelConfig) -> bool:
    return old.model_copy(update={"serve": new.serve}) != new


def _request_limits(config: AgentConfig) -> RequestLimits:
    serve = config.serve
    return RequestLimits(serve.max_waiting, serve.timeout_ms / 1e3, serve.min_share_ratio)


def _retire(workers: Mapping[str, Worker]) -> None:
    _report(drain_workers(workers))


def _report(late: Iterable[str]) -> None:
    for name in late:
        log.warning("stop.cut_off", thread=name)


class RateMeter:
    """Frames per second that a pipeline classifies between two calls. Used by one thread."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._last = time.monotonic(), pipeline.frames_decided()
        self._rate_hz = 0.0

    def rate_hz(self) -> float:
        """The rate since the last call; calls within a tenth of a second return the same value."""
        now_s, frames = time.monotonic(), self._pipeline.frames_decided()
        elapsed_s = now_s - self._last[0]
        if elapsed_s >= 0.1:
            # The total may fall: a replaced model takes its count with it.
            self._rate_hz = max(frames - self._last[1], 0) / elapsed_s
            self._last = now_s, frames
        return self._rate_hz
