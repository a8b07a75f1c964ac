"""All cameras and workers of one configuration, and the frames' ways between them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from types import TracebackType

from agent.cameras.camera import Camera, CameraStatistics
from agent.cameras.frame_counters import CameraAccount
from agent.cameras.sources.base import Source
from agent.config.model import AgentConfig, CameraConfig, ModelConfig
from agent.config.sources import SourceConfig
from agent.inference.rate_sharing import share_ratio
from agent.inference.routing import CameraPlan, plan_camera
from agent.inference.worker import Emit, Station, Worker, WorkerStatistics
from agent.runtime.clock import Clock
from agent.runtime.errors import ReloadAbandoned, StageFailed
from agent.runtime.heartbeat import Heartbeat
from agent.runtime.logs import get_logger
from engines import Building, Engine, ModelPackage

log = get_logger(__name__)

_CAMERA_STOP_S = 1.5
_CALL_ENDS_S = 0.5
_WORKER_STOP_S = 1.0
_LOAD_POLL_S = 0.1
_DRAIN_S = 2.0
_DRAIN_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class PipelineStatistics:
    """Everything the parts know at one moment."""

    cameras: tuple[CameraStatistics, ...]
    workers: tuple[WorkerStatistics, ...]


@dataclass(frozen=True, slots=True)
class Parts:
    """How the pipeline gets what it runs on; the tests put their own here.

    ``open_engine`` is called on a thread of the worker's, ``make_source`` on the caller's.
    """

    open_engine: Callable[[str, ModelConfig, ModelPackage, Building], Engine]
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
        self._parts = parts
        self._clock = clock
        self._emit = emit
        self._on_camera_change = on_camera_change
        self._config = config
        self._ratio = 1.0
        self._sharing = threading.Lock()
        self._changing = threading.Lock()
        self._is_stopped = False
        self._arriving: Mapping[str, Worker] = {}
        self._workers = {key: self._make_worker(key, config, package) for key, package in packages.items()}
        self._cameras: dict[str, Camera] = {}
        self._plans: dict[str, CameraPlan] = {}
        for name, camera in _enabled(config).items():
            self._cameras[name] = self._make_camera(name, camera)
            self._route(name, camera, self._workers)

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
            worker.start(self._stations_of(key))

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
        """Every source was a file or folder, and all of their frames are decided; never without any camera."""
        return bool(self._cameras) and all(camera.is_done for camera in self._cameras.values())

    def apply(
        self,
        config: AgentConfig,
        packages: Mapping[str, ModelPackage],
        *,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Go over to another configuration; only what changed is stopped or started.

        New and changed models are loaded first, while the old ones serve on; then the cameras are led to them, so that
        cameras that stay lose no frame. When anything fails, or ``is_cancelled`` while models are loaded (which takes
        minutes where an engine is built), all is as it was.

        Raises:
            EngineError: a new model cannot be served.
            ReloadAbandoned: it was cancelled.
        """
        fresh = {
            key: self._make_worker(key, config, package)
            for key, package in packages.items()
            if key not in self._workers
            or config.models[key] != self._config.models[key]
            or package != self._workers[key].package
        }
        with ExitStack() as undo:
            undo.callback(_stop_workers, fresh)
            self._load(fresh, is_cancelled)
            wanted = _enabled(config)
            going = self._going(wanted)
            _stop_cameras(going)
            with self._changing:
                # From here on `stop` finds what is new; before, it could not, so nothing new may come after it.
                if self._is_stopped:
                    raise ReloadAbandoned("the agent stops, so another configuration was not put in force any more")
                workers = {key: fresh.get(key) or self._workers[key] for key in packages}
                retired = {key: worker for key, worker in self._workers.items() if workers.get(key) is not worker}
                self._config = config
                made = self._change_cameras(wanted, going, workers)
                self._workers = workers
            undo.pop_all()
        for key, worker in workers.items():
            worker.set_stations(self._stations_of(key))
        with self._sharing:
            self._share_ratio()
        _stop_workers(retired)
        with self._changing:
            if not self._is_stopped:
                for camera in made:
                    camera.start()

    def _load(self, fresh: Mapping[str, Worker], is_cancelled: Callable[[], bool]) -> None:
        """Start workers that serve nothing yet, and wait until each has its engine."""
        self._arriving = fresh
        try:
            for worker in fresh.values():
                worker.start(())
            for key, worker in fresh.items():
                while not worker.wait_ready(_LOAD_POLL_S) or is_cancelled():
                    if is_cancelled():
                        raise ReloadAbandoned(
                            f"the agent stops while model {key} is loaded for another configuration; the one before "
                            "was in force to the end, the next start takes the file as it is",
                            model=key,
                        )
        finally:
            self._arriving = {}

    def _going(self, wanted: Mapping[str, CameraConfig]) -> dict[str, Camera]:
        """The cameras that are not wanted any more, or with another source."""
        return {
            name: camera
            for name, camera in self._cameras.items()
            if name not in wanted or _needs_new_source(camera.config, wanted[name])
        }

    def _change_cameras(
        self, wanted: Mapping[str, CameraConfig], going: Mapping[str, Camera], workers: Mapping[str, Worker]
    ) -> list[Camera]:
        """Forget the cameras that are ``going``, lead the others anew; the new ones, not started."""
        # New dictionaries take the place of the old ones: other threads walk through them at any time.
        cameras = {name: camera for name, camera in self._cameras.items() if name not in going}
        self._plans = {name: plan for name, plan in self._plans.items() if name not in going}
        made = []
        for name, config in wanted.items():
            if name not in cameras:
                cameras[name] = self._make_camera(name, config)
                made.append(cameras[name])
            else:
                cameras[name].config = config
                cameras[name].pacer.rate_hz = config.rate_hz
        self._cameras = cameras
        for name, config in wanted.items():
            self._route(name, config, workers)
        return made

    def set_ratio(self, ratio: float) -> None:
        """Grant all cameras together this share, 0 to 1, of the frames that they ask for; 0 pauses. From any thread.

        It holds for cameras that come later, too.
        """
        with self._sharing:
            self._ratio = ratio
            self._share_ratio()

    def _share_ratio(self) -> None:
        cameras = self._cameras
        asked = {
            name: (camera.config.rate_hz or camera.statistics().fps or 1.0, camera.config.priority)
            for name, camera in cameras.items()
        }
        for name, share in share_ratio(self._ratio, asked).items():
            cameras[name].pacer.ratio = share

    def frames_decided(self) -> int:
        """Frames that all models together have answered so far."""
        return sum(worker.statistics().frames for worker in self._workers.values())

    def stop(self) -> list[str]:
        """Stop cameras, then workers; the names of the threads that were still busy at their deadline."""
        with self._changing:
            self._is_stopped = True
        for camera in self._cameras.values():
            camera.stop()
        late = _join({f"camera {name}": camera.join for name, camera in self._cameras.items()}, _CAMERA_STOP_S)
        for worker in self._workers.values():
            worker.stop()
        return late + _join_workers(self._workers)

    def statistics(self) -> PipelineStatistics:
        """From any thread."""
        return PipelineStatistics(
            cameras=tuple(camera.statistics() for camera in self._cameras.values()),
            workers=self.worker_statistics(),
        )

    def worker_statistics(self) -> tuple[WorkerStatistics, ...]:
        """The workers alone, for whoever looks ten times a second; from any thread."""
        return tuple(worker.statistics() for worker in self._workers.values())

    def arriving_statistics(self) -> tuple[WorkerStatistics, ...]:
        """The workers that are loading for another configuration; from any thread."""
        return tuple(worker.statistics() for worker in self._arriving.values())

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in self.stop():
            log.warning("stop.cut_off", thread=name)

    def _make_worker(self, key: str, config: AgentConfig, package: ModelPackage) -> Worker:
        open_engine = partial(self._parts.open_engine, key, config.models[key], package)
        return Worker(key, config.models[key], package, open_engine, clock=self._clock, emit=self._emit)

    def _make_camera(self, name: str, config: CameraConfig) -> Camera:
        account = CameraAccount(name, tuple(classifier.key for classifier in config.classify))
        source = self._parts.make_source(config.source)
        return Camera(name, config, source, account, clock=self._clock, on_change=self._on_camera_change)

    def _route(self, name: str, config: CameraConfig, workers: Mapping[str, Worker]) -> None:
        """Lead the camera's frames to ``workers`` from now on; its decisions go on where they can."""
        camera = self._cameras[name]
        before = self._plans.get(name)
        camera.account.set_classifiers(tuple(classifier.key for classifier in config.classify))
        plan = plan_camera(
            name,
            config,
            camera.account,
            workers,
            is_live=camera.source.is_live,
            clock=self._clock,
            kept=None if before is None else before.stations,
        )
        self._plans = {**self._plans, name: plan}
        camera.set_routes(plan.routes)

    def _stations_of(self, model: str) -> list[Station]:
        return [
            station
            for plan in self._plans.values()
            for station in plan.stations.values()
            if station.config.model == model
        ]


def _enabled(config: AgentConfig) -> dict[str, CameraConfig]:
    return {name: camera for name, camera in config.cameras.items() if camera.enabled}


def _needs_new_source(old: CameraConfig, new: CameraConfig) -> bool:
    """Whether something changed that only a camera made anew takes up."""
    taken_up = {"rate_hz", "classify", "priority"}
    return old.model_dump(exclude=taken_up) != new.model_dump(exclude=taken_up)


def _is_at_work(worker: Worker) -> bool:
    statistics = worker.statistics()
    return statistics.waiting > 0 or statistics.busy_s is not None


def _stop_cameras(cameras: Mapping[str, Camera]) -> None:
    for camera in cameras.values():
        camera.stop()
    for name in _join({name: camera.join for name, camera in cameras.items()}, _CAMERA_STOP_S):
        log.warning("stop.cut_off", thread=f"camera {name}")


def _stop_workers(workers: Mapping[str, Worker]) -> None:
    """Let them answer what they have, also what one of them passes on to another, then stop them."""
    deadline = time.monotonic() + _DRAIN_S
    while any(_is_at_work(worker) for worker in workers.values()) and time.monotonic() < deadline:
        time.sleep(_DRAIN_POLL_S)
    for worker in workers.values():
        worker.stop()
    for name in _join_workers(workers):
        log.warning("stop.cut_off", thread=name)


def _join_workers(workers: Mapping[str, Worker]) -> list[str]:
    """Wait for workers that were told to stop; a call that does not end by itself is interrupted."""
    joins = {f"worker {key}": worker.join for key, worker in workers.items()}
    if _join(joins, _CALL_ENDS_S):
        for worker in workers.values():
            worker.interrupt()
    return _join(joins, _WORKER_STOP_S)


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
            # A model that was replaced took its count with it.
            self._rate_hz = max(frames - self._last[1], 0) / elapsed_s
            self._last = now_s, frames
        return self._rate_hz


def _join(joins: Mapping[str, Callable[[float], bool]], patience_s: float) -> list[str]:
    deadline = time.monotonic() + patience_s
    return [name for name, join in joins.items() if not join(max(deadline - time.monotonic(), 0.0))]
