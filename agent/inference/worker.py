"""One model: batches, resizes, infers and decides, on the thread that owns the engine.

Frames of cameras come first. Requests of programs join them where the engine gains by batches, and else have calls of
their own between those of the frames.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat

from agent.cameras.frame_counters import Drop
from agent.config.model import ModelConfig
from agent.inference.batcher import Batcher
from agent.inference.binding import ClassifierBinding, Emit
from agent.inference.decisions.classifications import (
    classification,
    crop,
    found_labels,
    mean_scores,
    top_binary,
    top_scores,
)
from agent.inference.engine_return import EngineReturn
from agent.inference.engine_slot import EngineSlot, Lease, LoadedEngine, OpenEngine, SlotState, load
from agent.inference.fair_queue import Request
from agent.inference.features import published_features
from agent.inference.requests.queue import EngineFailed, InferenceRequest, RequestLimits, RequestQueue, RequestShare
from agent.inference.requests.statistics import RequestStatistics
from agent.runtime.channel import ChannelClosed
from agent.runtime.clock import Clock
from agent.runtime.heartbeat import Heartbeat
from agent.runtime.logs import get_logger
from agent.runtime.records import Image, Score, ServedModel, StageTimes, planes_or_image
from engines import (
    BuildProgress,
    Engine,
    EngineInfo,
    EngineLost,
    InferenceFailed,
    ModelPackage,
    Scores,
    Task,
    features_of,
)

log = get_logger(__name__)

_LOOK_S = 0.5
_FAILURES_BEFORE_RELOAD = 3
_TASK_DEADLINE_S = 30.0
_PASS_DEADLINE_S = 10.0
"""One pass of the loop, without the engine's call, takes milliseconds; after this long the thread is stuck."""


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """Snapshot of one worker; ``busy_s`` is the age of the engine's running call, None between calls.

    ``building`` is the build in progress. ``changes`` counts engine swaps and info updates since startup;
    ``last_change`` describes the last one.
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


class Worker:
    """Serves one model for all cameras that use it: batches, inference, decisions.

    The engine slot owns the engine and its thread. ``emit`` is called on that thread and must not wait.
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
        request_statistics: RequestStatistics | None = None,
        request_limits: RequestLimits | None = None,
    ) -> None:
        """``request_statistics`` and ``request_limits`` are those of programs' requests; None takes new ones."""
        self.key = key
        self.config = config
        self.package = package
        self.batcher: Batcher[ClassifierBinding] = Batcher(
            self._on_superseded, min_share=config.batching.min_share_ratio
        )
        self.requests = RequestQueue(
            key,
            request_statistics or RequestStatistics(),
            limits=request_limits or RequestLimits(),
            wake=self.batcher.call,
        )
        self._share = RequestShare()
        self.heartbeat = Heartbeat(f"model {key}")
        self.wants_large_batches = False
        """Wait for frames of other cameras: saves energy, costs latency. Set from any thread."""
        self._clock = clock
        self._emit = emit
        self._bindings: tuple[ClassifierBinding, ...] = ()
        self._announced: tuple[int, tuple[ClassifierBinding, ...]] = 0, ()
        self._is_stopping = False
        self._tasks: deque[Callable[[LoadedEngine], None]] = deque()
        self._slot = EngineSlot(
            key,
            open_engine,
            load=self._load,
            serve=self._serve,
            on_reload=self.heartbeat.rest,  # loading takes as long as at the start
            on_end=self._end,
            clock=clock,
        )
        self._progress = self._slot.progress
        self._return = EngineReturn(self._slot, open_engine, clock=clock)

    def start(self, bindings: Sequence[ClassifierBinding]) -> None:
        """Load the engine and start to serve ``bindings``."""
        self.set_bindings(bindings)
        self._slot.start()

    def replace_engine(self, open_engine: OpenEngine, *, even_if_same: bool = True) -> bool:
        """See EngineSlot.replace."""
        return self._slot.replace(open_engine, even_if_same=even_if_same)

    def tick(self) -> None:
        """Try to bring a remote engine back. Called a few times a second, by one thread."""
        self._return.tick()

    def run_between_batches(self, task: Callable[[LoadedEngine], None]) -> None:
        """Call ``task`` soon on the thread that owns the engine. From any thread.

        ``task`` must handle its own errors, and take no longer than a batch: frames wait until it returns. One task
        runs between two batches.
        """
        self._tasks.append(task)
        self.batcher.call()

    def set_bindings(self, bindings: Sequence[ClassifierBinding]) -> None:
        """Serve ``bindings`` from now on. Frames that already wait for a removed binding are still classified."""
        self._bindings = tuple(bindings)
        self.batcher.set_bindings(self._bindings)

    @property
    def state(self) -> SlotState:
        """The state of the engine slot, see EngineSlot."""
        return self._slot.state

    @property
    def failure(self) -> Exception | None:
        """The exception that ended one of the worker's threads; None while all is well."""
        return self._slot.failure

    @property
    def is_busy(self) -> bool:
        """Frames or requests wait, or a call of the engine runs."""
        return self.batcher.waiting > 0 or self.requests.waiting > 0 or self._progress.busy_since_ns is not None

    @property
    def loaded(self) -> LoadedEngine | None:
        """The serving engine; None until the first is loaded."""
        return self._slot.loaded

    def wait_ready(self, timeout_s: float) -> bool:
        """See EngineSlot.wait_ready."""
        return self._slot.wait_ready(timeout_s)

    def stop(self) -> None:
        """Refuse further frames, drop those that wait, and cancel a build; a running call may finish."""
        self._is_stopping = True  # first: a call that fails because of the stop counts as stopping, not as failed
        self._slot.close()
        self._drop_waiting()

    def join(self, timeout_s: float) -> bool:
        """Wait for the threads; False if one is still inside an engine after ``timeout_s``."""
        return self._slot.join(timeout_s)

    def interrupt(self) -> None:
        """From any thread: end a hanging call of the engine, if its library can be interrupted."""
        loaded = self._slot.loaded
        if loaded is not None:
            loaded.engine.interrupt()

    def take_times(self) -> list[tuple[StageTimes, int]]:
        """The stage times and batch sizes of the frames decided since the last call."""
        times = self._progress.times
        return [times.popleft() for _ in range(len(times))]

    def statistics(self) -> WorkerStatistics:
        """From any thread."""
        progress, loaded = self._progress, self._slot.loaded
        since_ns = progress.busy_since_ns
        return WorkerStatistics(
            model=self.key,
            served=None if loaded is None else loaded.served,
            info=None if loaded is None else loaded.info,
            batches=progress.batches,
            frames=progress.frames,
            failures=progress.failures,
            waiting=self.batcher.waiting,
            busy_s=None if since_ns is None else (time.monotonic_ns() - since_ns) / 1e9,
            building=progress.building,
            changes=progress.changes,
            last_change=progress.last_change,
        )

    def _load(self, engine: Engine) -> LoadedEngine:
        return load(engine, key=self.key, package=self.package, max_size=self.config.batching.engine_batch)

    def _end(self) -> None:
        self.heartbeat.rest()
        self._drop_waiting()

    def _drop_waiting(self) -> None:
        self.requests.close()
        for request in self.batcher.close():
            self._drop(request, Drop.STOPPING)

    def _serve(self, lease: Lease) -> None:
        """Serve until the batcher is closed or a replacement waits."""
        while not lease.is_over:
            loaded = lease.loaded
            if self._tasks:
                self._run_task(self._tasks.popleft(), loaded)
            cameras = len({binding.camera for binding in self._bindings})
            max_size, max_delay_s = loaded.batching(
                self.config.batching, cameras=cameras if self.wants_large_batches else 1
            )
            self._announce_batch_size(max_size)
            one_each = cameras > 1 and not loaded.info.gains_by_batches
            self.heartbeat.beat(max_delay_s + _PASS_DEADLINE_S)
            first_size = self.requests.first_size()
            if self._share.is_due(first_size):
                max_size = len(loaded.batch) - first_size if loaded.info.gains_by_batches else 0
            try:
                frames = self._take_frames(max_size, max_delay_s, one_each=one_each, is_waiting=first_size == 0)
            except ChannelClosed:
                return
            requests = self._take_requests(len(frames), loaded)
            if frames or requests:
                self._run(frames, requests, loaded)

    def _announce_batch_size(self, size: int) -> None:
        """Let files be read as far ahead as a call takes frames."""
        if self._announced != (size, self._bindings):
            self._announced = size, self._bindings
            for binding in self._bindings:
                binding.counters.set_batch_size(self.key, size)

    def _take_frames(
        self, max_size: int, max_delay_s: float, *, one_each: bool, is_waiting: bool
    ) -> list[Request[ClassifierBinding]]:
        """The frames of the next call. ``is_waiting``: nothing else is to be done, so wait for them."""
        may_wait = is_waiting and not self._tasks
        return self.batcher.take(
            max_size, max_delay_s if may_wait else 0.0, _LOOK_S if may_wait else 0.0, one_each=one_each
        )

    def _take_requests(self, frames: int, loaded: LoadedEngine) -> list[InferenceRequest]:
        """The requests of the next call, which holds so many ``frames``."""
        if not self.requests.waiting:
            return []
        size = len(loaded.batch)
        if loaded.info.gains_by_batches:
            return self.requests.take(size - frames, max_requests=size, largest=size)
        # One request a call: on this engine a second one would only delay the first, and the frames.
        return [] if frames else self.requests.take(size, max_requests=1, largest=size)

    def _run(
        self, frames: list[Request[ClassifierBinding]], requests: list[InferenceRequest], loaded: LoadedEngine
    ) -> None:
        images = sum(len(request.images) for request in requests)
        try:
            self._classify(frames, requests, images, loaded)
        finally:
            self._share.count(
                len(frames),
                images,
                min_share=self.requests.limits.min_share,
                first_size=self.requests.first_size(),
            )
            for request in requests:  # those that an exception left without an answer
                self.requests.fail(request, EngineFailed(f"the engine of model {self.key} failed", model=self.key))

    def _run_task(self, task: Callable[[LoadedEngine], None], loaded: LoadedEngine) -> None:
        self.heartbeat.beat(_TASK_DEADLINE_S)
        # A task calls the engine, so HangMonitor interrupts it like a batch.
        self._progress.busy_since_ns = time.monotonic_ns()
        try:
            task(loaded)
        finally:
            self._progress.busy_since_ns = None

    def _classify(
        self,
        frames: list[Request[ClassifierBinding]],
        requests: list[InferenceRequest],
        images: int,
        loaded: LoadedEngine,
    ) -> None:
        taken_ns = time.monotonic_ns()
        for row, request in zip(loaded.batch, frames, strict=False):
            frame = planes_or_image(request.in_flight.frame.picture)
            loaded.resizer.fill(crop(frame, request.binding.config.roi), row)
        size = len(frames)
        for one in requests:
            loaded.batch[size : size + len(one.images)] = one.images
            size += len(one.images)
        filled_ns = time.monotonic_ns()
        scores = self._infer(frames, requests, loaded.batch[: len(frames) + images], loaded)
        if scores is None:
            return
        features = None if not self.package.gives_features else features_of(loaded.engine)
        numbers: Iterable[tuple[float, ...] | None] = repeat(None)
        if features is not None:
            numbers = published_features(features[: len(frames)])
        stamps = (taken_ns, filled_ns, time.monotonic_ns())
        if requests:
            self.requests.answer(requests, scores, stamps, first=len(frames))
        self._progress.batches += bool(frames)
        for request, row, of_row in zip(frames, scores, numbers, strict=False):
            self._decide(request, row, len(scores), stamps, loaded.served, of_row)

    def _infer(
        self,
        frames: list[Request[ClassifierBinding]],
        requests: list[InferenceRequest],
        batch: Image,
        loaded: LoadedEngine,
    ) -> Scores | None:
        """The scores of ``batch``; None if the engine failed: then frames are dropped, and requests failed.

        Raises:
            InferenceFailed: it failed several times in a row.
        """
        progress = self._progress
        # HangMonitor gives the call its own deadline, so the heartbeat's does not apply.
        self.heartbeat.rest()
        progress.busy_since_ns = time.monotonic_ns()
        try:
            scores = loaded.engine.infer(batch)
        except InferenceFailed as exc:
            progress.failures += 1
            progress.failures_in_a_row += 1
            for request in frames:
                self._drop(request, Drop.STOPPING if self._is_stopping else Drop.FAILED)
            for one in requests:
                self.requests.fail(one, EngineFailed(exc.message, model=self.key))
            if progress.failures_in_a_row >= _FAILURES_BEFORE_RELOAD or isinstance(exc, EngineLost):
                raise
            log.warning("inference.failed", model=self.key, error=exc.message, in_a_row=progress.failures_in_a_row)
            return None
        finally:
            progress.busy_since_ns = None
            self.heartbeat.beat(_PASS_DEADLINE_S)
        progress.failures_in_a_row = 0
        return scores

    def _decide(
        self,
        request: Request[ClassifierBinding],
        row: Scores,
        batch_size: int,
        stamps: tuple[int, int, int],
        served: ServedModel,
        features: tuple[float, ...] | None,
    ) -> None:
        binding = request.binding
        row = mean_scores(request, row)
        top, margin = self._best(row, binding.config.decide.top_k)
        # argmax treats NaN as the greatest value, so checking the best score covers the whole row.
        if not math.isfinite(top[0].confidence):
            self._drop(request, Drop.NOT_FINITE)
            return
        found = None
        if (enters := binding.decision.enters) is not None:
            top, found = found_labels(row, self.package.labels, enters, top)
        decided_ns = time.monotonic_ns()
        result = classification(request, top, margin, batch_size, (*stamps, decided_ns), served, found, features)
        binding.decide(result, row, clock=self._clock, emit=self._emit)
        if request.in_flight.trigger is not None:
            request.in_flight.trigger.answered(binding.classifier, top[0])
        self._progress.frames += 1
        self._progress.times.append((result.times, batch_size))
        self._pass_on(binding, request, {top[0].label} if found is None else set(found))
        binding.counters.classified(request.in_flight, request.binding.classifier)

    def _best(self, row: Scores, top_k: int) -> tuple[tuple[Score, ...], float]:
        labels, output = self.package.labels, self.package.output
        if output.task is Task.BINARY:
            return top_binary(row, labels, output.thresholds[0], top_k)
        return top_scores(row, labels, top_k)

    def _pass_on(self, binding: ClassifierBinding, request: Request[ClassifierBinding], labels: set[str]) -> None:
        """Offer the frame to the classifiers that follow this one; it shows ``labels``.

        Call it before this result is counted: a frame with no pending classifier would be closed.
        """
        for dependent in binding.dependents:
            if dependent.labels is not None and labels.isdisjoint(dependent.labels):
                binding.counters.skip(dependent.binding.classifier)
                continue
            binding.counters.offer(request.in_flight, dependent.binding.classifier)
            try:
                dependent.batcher.put(dependent.binding, request.in_flight)
            except ChannelClosed:
                binding.counters.dropped(request.in_flight, dependent.binding.classifier, Drop.STOPPING)

    def _on_superseded(self, request: Request[ClassifierBinding]) -> None:
        self._drop(request, Drop.SUPERSEDED)

    def _drop(self, request: Request[ClassifierBinding], reason: Drop) -> None:
        request.binding.counters.dropped(request.in_flight, request.binding.classifier, reason)
