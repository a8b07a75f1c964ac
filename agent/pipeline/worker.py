"""One model: a thread that alone owns the engine, and takes frames from its inbox to decided labels."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from agent.channel import ChannelClosed
from agent.clock import Clock
from agent.config.model import ClassifierConfig, ModelConfig
from agent.pipeline.accounting import CameraAccount, Drop
from agent.pipeline.decide import Decision, top_scores
from agent.pipeline.inbox import Inbox, Job, Lane
from agent.records import Classification, Image, Score, ServedModel, StageTimes, StateChange
from agent.service.heartbeat import Heartbeat
from agent.service.logs import get_logger
from agent.stage import StageThread
from engines import Engine, EngineInfo, EngineLost, InferenceFailed, ModelPackage
from engines.base import Scores
from engines.resize import Resizer

log = get_logger(__name__)

_TICK_S = 0.5
_FAILURES_BEFORE_RELOAD = 3
_STABLE_AFTER_NS = 600 * 1_000_000_000
"""A second series of failures within this time ends the process: loading the engine again did not help."""
_TIMES_KEPT = 100_000
_PASS_WITHIN_S = 10.0
"""A pass through the loop without the engine's call takes milliseconds; this much means that the thread is stuck."""


@dataclass(frozen=True, slots=True)
class Dependent:
    """A classifier behind this one in a cascade: frames with one of ``labels`` go on to ``inbox``."""

    station: Station
    inbox: Inbox[Station]
    labels: frozenset[str]


@dataclass(frozen=True, slots=True, eq=False)
class Station(Lane):
    """One classifier of one camera, served by one worker. A new configuration makes a new one."""

    config: ClassifierConfig
    account: CameraAccount
    decision: Decision
    dependents: tuple[Dependent, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """One worker at one moment; ``busy_s`` is the age of the running call of the engine, None between calls."""

    model: str
    served: ServedModel | None
    info: EngineInfo | None
    batches: int
    frames: int
    failures: int
    waiting: int
    busy_s: float | None


@dataclass(slots=True)
class _Progress:
    batches: int = 0
    frames: int = 0
    failures: int = 0
    failures_in_a_row: int = 0
    reloads: int = 0
    busy_since_ns: int | None = None
    times: deque[tuple[StageTimes, int]] = field(default_factory=lambda: deque(maxlen=_TIMES_KEPT))


@dataclass(frozen=True, slots=True)
class _Serving:
    """A loaded engine with the buffers that belong to it; replaced as a whole when the engine is."""

    engine: Engine
    served: ServedModel
    resizer: Resizer
    batch: Image
    """``(max_batch, H, W, 3)`` uint8 BGR, written anew for each call."""


Emit = Callable[[Classification | StateChange], None]


class Worker:
    """Serves one model for all cameras that ask for it.

    The engine is opened, used and closed on the worker's own thread. ``emit`` is called on that thread and must not
    wait.
    """

    def __init__(
        self,
        key: str,
        config: ModelConfig,
        package: ModelPackage,
        open_engine: Callable[[], Engine],
        *,
        clock: Clock,
        emit: Emit,
    ) -> None:
        self.key = key
        self.config = config
        self.package = package
        self.inbox: Inbox[Station] = Inbox(self._on_superseded)
        self.heartbeat = Heartbeat(f"model {key}")
        self._open_engine = open_engine
        self._clock = clock
        self._emit = emit
        self._stations: tuple[Station, ...] = ()
        self._greeted: tuple[Station, ...] = ()
        self._ready = threading.Event()
        self._has_ended = False
        self._serving: _Serving | None = None
        self._progress = _Progress()
        self._thread = StageThread(f"worker-{key}", self._main)

    def start(self, stations: Sequence[Station]) -> None:
        """Load the engine and begin to serve ``stations``."""
        self._stations = tuple(stations)
        self._thread.start()

    def set_stations(self, stations: Sequence[Station]) -> None:
        """Serve these from now on. Frames that wait for one which is left out are still answered."""
        self._stations = tuple(stations)

    @property
    def failure(self) -> Exception | None:
        """What ended the worker's thread."""
        return self._thread.failure

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until the engine is loaded; False when ``timeout_s`` passed first.

        Raises:
            EngineError: the engine could not be loaded.
        """
        if not self._ready.wait(timeout_s):
            return False
        # The flag is set by a thread that ends too, a moment before its failure can be read.
        if self._has_ended and self.join(_TICK_S) and self.failure is not None:
            raise self.failure
        return True

    def stop(self) -> None:
        """Refuse further frames; what waits is booked as dropped."""
        for job in self.inbox.close():
            self._drop(job, Drop.STOPPING)
        if self._progress.busy_since_ns is not None:
            self.interrupt()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; False when it is still inside the engine after ``timeout_s``."""
        return self._thread.join(timeout_s)

    def interrupt(self) -> None:
        """From any thread: end a call of the engine that hangs, where the library can be interrupted."""
        serving = self._serving
        if serving is not None:
            serving.engine.interrupt()

    def take_times(self) -> list[tuple[StageTimes, int]]:
        """The stage times and batch sizes of the frames decided since the last call."""
        times = self._progress.times
        return [times.popleft() for _ in range(len(times))]

    def statistics(self) -> WorkerStatistics:
        """From any thread."""
        progress, serving = self._progress, self._serving
        since_ns = progress.busy_since_ns
        return WorkerStatistics(
            model=self.key,
            served=None if serving is None else serving.served,
            info=None if serving is None else serving.engine.info,
            batches=progress.batches,
            frames=progress.frames,
            failures=progress.failures,
            waiting=self.inbox.waiting,
            busy_s=None if since_ns is None else (time.monotonic_ns() - since_ns) / 1e9,
        )

    def _main(self) -> None:
        try:
            self._serve_until_closed()
        finally:
            self.heartbeat.rest()
            self._has_ended = True
            self._ready.set()
            for job in self.inbox.close():
                self._drop(job, Drop.STOPPING)

    def _serve_until_closed(self) -> None:
        """Serve; load the engine anew when it keeps failing, and give up when that does not last."""
        while True:
            loaded_ns = self._clock.monotonic_ns()
            try:
                with self._open_engine() as engine:
                    self._serving = self._equip(engine)
                    self._serve(self._serving)
                    return
            except EngineLost:
                raise
            except InferenceFailed as exc:
                if self._clock.monotonic_ns() - loaded_ns < _STABLE_AFTER_NS and self._progress.reloads:
                    raise
                self._progress.reloads += 1
                self._progress.failures_in_a_row = 0
                log.warning("engine.reloading", model=self.key, error=exc.message)

    def _equip(self, engine: Engine) -> _Serving:
        info, spec = engine.info, self.package.input
        rows = min(self.config.batching.max_size, info.max_batch)
        return _Serving(
            engine=engine,
            served=ServedModel(
                key=self.key,
                name=self.package.name,
                version=self.package.version,
                sha256=self.package.sha256,
                engine=info.name,
                precision=info.precision,
                degraded=info.degraded is not None,
            ),
            resizer=Resizer(spec),
            batch=np.empty((rows, spec.height, spec.width, 3), np.uint8),
        )

    def _serve(self, serving: _Serving) -> None:
        self._ready.set()
        max_delay_s = self.config.batching.max_delay_ms / 1e3
        next_tick_ns = 0
        while True:
            self._greet()
            self.heartbeat.beat(max_delay_s + _PASS_WITHIN_S)
            try:
                jobs = self.inbox.take(len(serving.batch), max_delay_s, _TICK_S)
            except ChannelClosed:
                return
            if jobs:
                self._classify(jobs, serving)
            now_ns = self._clock.monotonic_ns()
            if now_ns >= next_tick_ns:
                next_tick_ns = now_ns + int(_TICK_S * 1e9)
                self._tick(now_ns)

    def _greet(self) -> None:
        """Say the first word on stations that are new, and forget those that are gone."""
        stations = self._stations
        if stations is self._greeted:
            return
        for station in stations:
            if station not in self._greeted:
                self._emit(station.decision.initial())
        for station in self._greeted:
            if station not in stations:
                self.inbox.forget(station)
        self._greeted = stations

    def _classify(self, jobs: list[Job[Station]], serving: _Serving) -> None:
        taken_ns = time.monotonic_ns()
        for row, job in zip(serving.batch, jobs, strict=False):
            serving.resizer.fill(_crop(job.ticket.frame.image, job.lane.config.roi), row)
        resized_ns = time.monotonic_ns()
        scores = self._infer(jobs, serving)
        if scores is None:
            return
        stamps = (taken_ns, resized_ns, time.monotonic_ns())
        self._progress.batches += 1
        for job, row in zip(jobs, scores, strict=True):
            if np.isfinite(row.sum()):
                self._decide(job, row, len(jobs), stamps, serving.served)
            else:
                self._drop(job, Drop.NOT_FINITE)

    def _infer(self, jobs: list[Job[Station]], serving: _Serving) -> Scores | None:
        """The scores of ``jobs``; None when the engine failed, which has been booked.

        Raises:
            InferenceFailed: it failed several times in a row.
        """
        progress = self._progress
        # The call has its own deadline, which is watched from outside.
        self.heartbeat.rest()
        progress.busy_since_ns = time.monotonic_ns()
        try:
            scores = serving.engine.infer(serving.batch[: len(jobs)])
        except InferenceFailed as exc:
            progress.failures += 1
            progress.failures_in_a_row += 1
            for job in jobs:
                self._drop(job, Drop.FAILED)
            if progress.failures_in_a_row >= _FAILURES_BEFORE_RELOAD or isinstance(exc, EngineLost):
                raise
            log.warning("inference.failed", model=self.key, error=exc.message, in_a_row=progress.failures_in_a_row)
            return None
        finally:
            progress.busy_since_ns = None
            self.heartbeat.beat(_PASS_WITHIN_S)
        progress.failures_in_a_row = 0
        return scores

    def _decide(
        self, job: Job[Station], row: Scores, batch_size: int, stamps: tuple[int, int, int], served: ServedModel
    ) -> None:
        station = job.lane
        top, margin = top_scores(row, self.package.labels, station.config.decide.top_k)
        decided_ns = time.monotonic_ns()
        result = _classification(job, top, margin, batch_size, (*stamps, decided_ns), served)
        self._emit(result)
        change = station.decision.update(result, now_ns=decided_ns, utc_ns=self._clock.utc_ns())
        if change is not None:
            self._emit(change)
        self._progress.frames += 1
        self._progress.times.append((result.times, batch_size))
        self._pass_on(station, job, top[0].label)
        station.account.classified(job.ticket, job.lane.classifier)

    def _pass_on(self, station: Station, job: Job[Station], label: str) -> None:
        """Offer the frame to the classifiers behind this one, before this one's answer is booked."""
        for dependent in station.dependents:
            if label not in dependent.labels:
                station.account.skip(dependent.station.classifier)
                continue
            station.account.offer(job.ticket, dependent.station.classifier)
            try:
                dependent.inbox.put(dependent.station, job.ticket)
            except ChannelClosed:
                station.account.dropped(job.ticket, dependent.station.classifier, Drop.STOPPING)

    def _tick(self, now_ns: int) -> None:
        for station in self._stations:
            change = station.decision.tick(now_ns=now_ns, utc_ns=self._clock.utc_ns())
            if change is not None:
                self._emit(change)

    def _on_superseded(self, job: Job[Station]) -> None:
        self._drop(job, Drop.SUPERSEDED)

    def _drop(self, job: Job[Station], reason: Drop) -> None:
        job.lane.account.dropped(job.ticket, job.lane.classifier, reason)


def _classification(
    job: Job[Station],
    top: tuple[Score, ...],
    margin: float,
    batch_size: int,
    stamps: tuple[int, int, int, int],
    served: ServedModel,
) -> Classification:
    """The record of one answer; ``stamps`` are taken, resized, inferred and decided, so that the stages add up."""
    frame = job.ticket.frame
    taken_ns, resized_ns, inferred_ns, decided_ns = stamps
    in_hand_ns = frame.captured_at_ns + round(frame.capture_ms * 1e6)
    return Classification(
        camera=job.lane.camera,
        classifier=job.lane.classifier,
        served=served,
        frame_index=frame.index,
        captured_at_ns=frame.captured_at_ns,
        captured_at_utc_ns=frame.captured_at_utc_ns,
        decided_at_ns=decided_ns,
        top=top,
        margin=margin,
        batch=batch_size,
        times=StageTimes(
            capture_ms=frame.capture_ms,
            queue_ms=(taken_ns - in_hand_ns) / 1e6,
            preprocess_ms=(resized_ns - taken_ns) / 1e6,
            infer_ms=(inferred_ns - resized_ns) / 1e6,
            decide_ms=(decided_ns - inferred_ns) / 1e6,
        ),
        mark=frame.mark,
    )


def _crop(image: Image, roi: tuple[float, float, float, float]) -> Image:
    """The region of interest as a view, at least one pixel in each direction."""
    if roi == (0.0, 0.0, 1.0, 1.0):
        return image
    height, width = image.shape[:2]
    x0, y0 = min(int(roi[0] * width), width - 1), min(int(roi[1] * height), height - 1)
    x1, y1 = max(round(roi[2] * width), x0 + 1), max(round(roi[3] * height), y0 + 1)
    return image[y0:y1, x0:x1]
