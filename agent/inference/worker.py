"""One model: a thread that alone owns the engine, and takes frames from its inbox to decided labels.

Another engine takes over without a frame lost: a successor opens it on a thread of its own (a CUDA context belongs to
a thread) while this one goes on serving; between two batches the serving thread leaves, and the successor begins.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from agent.cameras.frame_counters import CameraAccount, Drop
from agent.config.model import ClassifierConfig, ModelConfig
from agent.inference.batcher import Inbox, Job, Lane
from agent.inference.classifications import classification, crop
from agent.inference.decisions import Decision, top_scores
from agent.inference.engine_slot import OpenEngine, Progress, Serving, Shift, equipped
from agent.runtime.channel import ChannelClosed
from agent.runtime.clock import Clock
from agent.runtime.heartbeat import Heartbeat
from agent.runtime.logs import get_logger
from agent.runtime.records import Classification, ServedModel, StageTimes, StateChange
from agent.runtime.threads import StageThread
from engines import (
    BuildCancelled,
    Building,
    BuildProgress,
    Engine,
    EngineError,
    EngineInfo,
    EngineLost,
    InferenceFailed,
    ModelPackage,
)
from engines.base import Scores

log = get_logger(__name__)

_TICK_S = 0.5
_FAILURES_BEFORE_RELOAD = 3
_STABLE_AFTER_NS = 600 * 1_000_000_000
"""A second series of failures within this time ends the process: loading the engine again did not help."""
_ERRAND_WITHIN_S = 30.0
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
    """One worker at one moment; ``busy_s`` is the age of the running call of the engine, None between calls.

    ``building`` is the build that runs at the moment. ``changes`` counts how often the engine, or what is known of it,
    became another after the first one; ``last_change`` says what happened.
    """

    model: str
    served: ServedModel | None
    info: EngineInfo | None
    batches: int
    frames: int
    failures: int
    waiting: int
    busy_s: float | None
    building: BuildProgress | None = None
    changes: int = 0
    last_change: str | None = None


Emit = Callable[[Classification | StateChange], None]


class Worker:
    """Serves one model for all cameras that ask for it.

    An engine is opened, used and closed on one thread. ``emit`` is called on the one that serves and must not wait.
    """

    def __init__(
        self,
        key: str,
        config: ModelConfig,
        package: ModelPackage,
        open_engine: OpenEngine,
        *,
        clock: Clock,
        emit: Emit,
    ) -> None:
        self.key = key
        self.config = config
        self.package = package
        self.inbox: Inbox[Station] = Inbox(self._on_superseded)
        self.heartbeat = Heartbeat(f"model {key}")
        self._clock = clock
        self._emit = emit
        self._stations: tuple[Station, ...] = ()
        self._greeted: tuple[Station, ...] = ()
        self._ready = threading.Event()
        self._has_ended = False
        self._is_stopping = False
        self._serving: Serving | None = None
        self._errands: deque[Callable[[Serving], None]] = deque()
        self._swap = threading.Lock()
        self._progress = Progress()
        self._shift = Shift(open_engine)
        self._next: Shift | None = None
        self._threads = [StageThread(f"worker-{key}", partial(self._main, self._shift))]

    def start(self, stations: Sequence[Station]) -> None:
        """Load the engine and begin to serve ``stations``."""
        self._stations = tuple(stations)
        self._threads[0].start()

    def replace_engine(self, open_engine: OpenEngine, *, is_forced: bool = True) -> bool:
        """Open another engine beside the one that serves, and let it take over between two batches.

        From any thread, once the worker is ready. Where opening it fails the present engine goes on; without
        ``is_forced`` also where it is the same engine again. False where a replacement is under way already.
        """
        serving = self._serving
        if serving is None or self._is_stopping or self._has_ended or self._next is not None:
            return False
        self._next = Shift(open_engine, is_successor=True, is_forced=is_forced)
        thread = StageThread(f"worker-{self.key}-next", partial(self._main, self._next))
        self._threads = [*(one for one in self._threads if one.is_alive or one.failure), thread]
        thread.start()
        return True

    def run_errand(self, errand: Callable[[Serving], None]) -> None:
        """Have ``errand`` called soon, between two batches, on the thread that owns the engine. From any thread.

        It handles its own errors, and every frame that comes meanwhile waits for it.
        """
        self._errands.append(errand)

    def set_stations(self, stations: Sequence[Station]) -> None:
        """Serve these from now on. Frames that wait for one which is left out are still answered."""
        self._stations = tuple(stations)

    @property
    def failure(self) -> Exception | None:
        """What ended one of the worker's threads."""
        return next((thread.failure for thread in self._threads if thread.failure is not None), None)

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
        """Refuse further frames; what waits is booked as dropped, a build is ended, a running call may end itself."""
        self._is_stopping = True
        for job in self.inbox.close():
            self._drop(job, Drop.STOPPING)

    def join(self, timeout_s: float) -> bool:
        """Wait for the threads; False when one is still inside an engine after ``timeout_s``."""
        deadline_s = time.monotonic() + timeout_s
        return all(thread.join(max(deadline_s - time.monotonic(), 0.0)) for thread in tuple(self._threads))

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
            info=None if serving is None else serving.info,
            batches=progress.batches,
            frames=progress.frames,
            failures=progress.failures,
            waiting=self.inbox.waiting,
            busy_s=None if since_ns is None else (time.monotonic_ns() - since_ns) / 1e9,
            building=progress.building,
            changes=progress.changes,
            last_change=progress.last_change,
        )

    def _main(self, shift: Shift) -> None:
        try:
            self._serve_until_closed(shift)
        finally:
            if self._shift is shift:  # it was not relieved
                self.heartbeat.rest()
                self._has_ended = True
                self._ready.set()
                for job in self.inbox.close():
                    self._drop(job, Drop.STOPPING)

    def _serve_until_closed(self, shift: Shift) -> None:
        """Serve; load the engine anew when it keeps failing, and give up when that does not last."""
        while True:
            loaded_ns = self._clock.monotonic_ns()
            try:
                with shift.open_engine(self._building(shift)) as engine:
                    self._progress.building = None
                    if self._take_place(shift, self._equipped(engine)):
                        self._serve(shift)
                    return
            except BuildCancelled:
                log.info("engine.build_stopped", model=self.key)
                return
            except EngineLost:
                raise
            except EngineError as exc:
                if shift.is_successor:
                    self._go_on_as_before(exc)
                    return
                if not isinstance(exc, InferenceFailed):
                    raise
                if self._clock.monotonic_ns() - loaded_ns < _STABLE_AFTER_NS and self._progress.reloads:
                    raise
                self._progress.reloads += 1
                self._progress.failures_in_a_row = 0
                self.heartbeat.rest()  # loading takes what it takes, as at the start
                log.warning("engine.reloading", model=self.key, error=exc.message)

    def _building(self, shift: Shift) -> Building:
        """The first engine is to serve at once: what takes minutes is left to a successor."""
        return Building(
            defer=not shift.is_successor, on_progress=self._note_build, is_cancelled=lambda: self._is_stopping
        )

    def _note_build(self, progress: BuildProgress) -> None:
        self._progress.building = progress

    def _take_place(self, shift: Shift, serving: Serving) -> bool:
        """Become the one that serves, once the one before has left; False where that is not to be."""
        before = self._serving
        if before is None or not shift.is_successor:
            with self._swap:
                self._serving = serving
            return True
        if not shift.is_forced and serving.runs_as == before.runs_as:
            # What was hoped for did not come, and the info of this second try says why.
            reasons = [one.reason for one in serving.info.rejected if one.engine == before.info.pending]
            self._learn(serving.info, f"{before.info.name} goes on: {'; '.join(reasons) or 'it is the same again'}")
            return False
        shift.is_ready = True
        while not shift.admitted.wait(_TICK_S):
            if self._has_ended:
                return False
        with self._swap:
            self._serving = serving
        shift.is_successor, self._next = False, None
        self._note_change(f"{before.info.name} gave way to {serving.info.name}")
        return True

    def _go_on_as_before(self, error: EngineError) -> None:
        self._progress.building = None
        serving = self._serving
        if serving is not None:
            self._learn(replace(serving.info, pending=None), f"{serving.info.name} goes on: {error.message}")

    def _learn(self, info: EngineInfo, text: str) -> None:
        """The engine stays, and more is known of those that it stands in for."""
        with self._swap:
            if self._serving is not None:
                served = replace(self._serving.served, degraded=info.degraded is not None)
                self._serving = replace(self._serving, info=info, served=served)
        self._next = None
        self._note_change(text)

    def _note_change(self, text: str) -> None:
        self._progress.last_change = text
        self._progress.changes += 1
        log.info("engine.changed", model=self.key, change=text, frames=self._progress.frames)

    def _equipped(self, engine: Engine) -> Serving:
        batching = self.config.batching
        most = batching.most if batching.max_size or engine.info.gains_by_batches else 1
        return equipped(engine, key=self.key, package=self.package, max_size=most)

    def _serve(self, shift: Shift) -> None:
        """Serve until the inbox is closed or a successor is ready."""
        self._ready.set()
        if self._serving is not None and self._serving.info.pending is not None:
            self.replace_engine(shift.open_engine, is_forced=False)
        max_delay_s = self.config.batching.max_delay_ms / 1e3
        next_tick_ns = 0
        while True:
            serving, successor = self._serving, self._next
            if serving is None or (successor is not None and successor.is_ready):
                self._relieve(successor)
                return
            self._greet()
            while self._errands:
                self.heartbeat.beat(_ERRAND_WITHIN_S)
                self._errands.popleft()(serving)
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

    def _relieve(self, successor: Shift | None) -> None:
        """Let the successor in: from here on this thread touches neither the inbox nor the stations."""
        if successor is not None:
            self._shift = successor
            successor.admitted.set()

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

    def _classify(self, jobs: list[Job[Station]], serving: Serving) -> None:
        taken_ns = time.monotonic_ns()
        for row, job in zip(serving.batch, jobs, strict=False):
            serving.resizer.fill(crop(job.ticket.frame.image, job.lane.config.roi), row)
        resized_ns = time.monotonic_ns()
        scores = self._infer(jobs, serving)
        if scores is None:
            return
        stamps = (taken_ns, resized_ns, time.monotonic_ns())
        self._progress.batches += 1
        for job, row in zip(jobs, scores, strict=True):
            self._decide(job, row, len(jobs), stamps, serving.served)

    def _infer(self, jobs: list[Job[Station]], serving: Serving) -> Scores | None:
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
                self._drop(job, Drop.STOPPING if self._is_stopping else Drop.FAILED)
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
        # argmax takes NaN and infinity for the greatest of all, so that the best one speaks for the whole row.
        if not math.isfinite(top[0].confidence):
            self._drop(job, Drop.NOT_FINITE)
            return
        decided_ns = time.monotonic_ns()
        result = classification(job, top, margin, batch_size, (*stamps, decided_ns), served)
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
