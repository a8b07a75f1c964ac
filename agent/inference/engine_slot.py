"""The engine of one model: loaded, used and closed on one thread, and replaced without losing a frame.

        ┌──────────── reload ────────────┐
        ▼                                │
    loading ───────► serving ◄──────► replacing
        │               │   the next engine loads on its own thread;
        │               │   it takes over between batches
        ├───────────────┼────────────────────┐
        ▼               ▼                    ▼
     failed   the last engine raised      closed   by `close`

A remote engine whose server fails is loaded again without it, so a local engine serves; `return_requested` brings it
back as a replacement.

A CUDA context belongs to a thread, so an engine never changes threads: the serving thread hands the batcher over to
the thread of the next engine.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial

import numpy as np

from agent.config.model import BatchingConfig
from agent.runtime.clock import Clock
from agent.runtime.logs import get_logger
from agent.runtime.records import Image, ServedModel, StageTimes
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
    Resizer,
    ServerFailed,
)

log = get_logger(__name__)

_TIMES_KEPT = 100_000
_POLL_S = 0.5
_STABLE_AFTER_NS = 600 * 1_000_000_000
"""A second series of failures within this time ends the process: reloading the engine did not help."""
_LARGE_BATCH_DELAY_S = 0.05
"""How long a frame waits for those of other cameras to make batches large: half a period at 10 Hz."""

OpenEngine = Callable[[Building], Engine]
"""Opens the engine on the thread that calls it, see ``engines.open_engine``."""


class SlotState(str, Enum):
    """See the diagram at the top of this module."""

    LOADING = "loading"
    SERVING = "serving"
    REPLACING = "replacing"
    FAILED = "failed"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """An engine and its buffers; replaced together."""

    engine: Engine
    info: EngineInfo
    """The engine's own info, updated when a replacement was tried and rejected."""
    served: ServedModel
    resizer: Resizer
    batch: Image
    """``(max_batch, H, W, 3)`` uint8 BGR, overwritten for each call."""

    @property
    def runs_as(self) -> tuple[str, str]:
        """Engine and precision: engines that agree in both are the same to a subscriber."""
        return self.info.name, self.info.precision

    def batching(self, config: BatchingConfig, *, cameras: int) -> tuple[int, float]:
        """The maximum size of the next batch, and how long its first frame may wait for others, in seconds.

        With more than one of ``cameras``, their frames wait for each other, up to the engine's batch size.
        """
        delay_s = config.max_delay_ms / 1e3
        if cameras > 1:
            return min(len(self.batch), max(cameras, config.max_size or 1)), max(delay_s, _LARGE_BATCH_DELAY_S)
        return len(self.batch) if config.max_size or self.info.gains_by_batches else 1, delay_s


def load(engine: Engine, *, key: str, package: ModelPackage, max_size: int) -> LoadedEngine:
    """Allocate the buffers for ``engine``; a batch has ``max_size`` rows, or fewer if the engine takes fewer."""
    info, spec = engine.info, package.input
    return LoadedEngine(
        engine=engine,
        info=info,
        served=ServedModel(
            key=key,
            name=package.name,
            version=package.version,
            sha256=package.sha256,
            engine=info.name,
            precision=info.precision,
            degraded=info.degraded is not None,
        ),
        resizer=Resizer(spec),
        batch=np.empty((min(max_size, info.max_batch), spec.height, spec.width, 3), np.uint8),
    )


@dataclass(slots=True)
class Progress:
    """Counters over all engines of a slot; written by the serving thread, read by any."""

    batches: int = 0
    frames: int = 0
    failures: int = 0
    failures_in_a_row: int = 0
    reloads: int = 0
    busy_since_ns: int | None = None
    building: BuildProgress | None = None
    changes: int = 0
    last_change: str | None = None
    times: deque[tuple[StageTimes, int]] = field(default_factory=lambda: deque(maxlen=_TIMES_KEPT))


@dataclass(slots=True)
class _Candidate:
    """One engine on its way into the slot.

    ``even_if_same``: take over even if engine and precision are those of the current one (a new model, for example).
    ``is_return``: the requested engine, which was away, or none. ``failed_server``: why the remote engine was lost.
    """

    open_engine: OpenEngine
    is_replacement: bool = False
    even_if_same: bool = False
    is_return: bool = False
    failed_server: str | None = None
    is_loaded: bool = False
    may_serve: threading.Event = field(default_factory=threading.Event)


class Lease:
    """The right to run the engine, held by the thread that opened it."""

    __slots__ = ("_candidate", "_slot")

    def __init__(self, slot: EngineSlot, candidate: _Candidate) -> None:
        self._slot = slot
        self._candidate = candidate

    @property
    def loaded(self) -> LoadedEngine:
        """The engine to serve with; read it again before each batch."""
        loaded = self._slot.loaded
        if loaded is None:
            raise RuntimeError("a lease was used before its engine was loaded")
        return loaded

    @property
    def is_over(self) -> bool:
        """A replacement is loaded and waits: return from ``serve`` without touching frames or decisions again."""
        return self._slot.has_waiting_replacement


class EngineSlot:
    """Holds one engine at a time and the threads that open them.

    ``serve`` runs on the engine's thread and returns when its lease is over or the batcher is closed; ``load``
    allocates buffers there. ``on_end`` is called once, after the last engine. ``replace``, ``close``, ``loaded`` and
    ``state`` are for any thread.
    """

    def __init__(
        self,
        key: str,
        open_engine: OpenEngine,
        *,
        load: Callable[[Engine], LoadedEngine],
        serve: Callable[[Lease], None],
        on_reload: Callable[[], None],
        on_end: Callable[[], None],
        clock: Clock,
    ) -> None:
        self.key = key
        self.progress = Progress()
        self._load = load
        self._serve = serve
        self._on_reload = on_reload
        self._on_end = on_end
        self._clock = clock
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._has_ended = False
        self._is_closing = False
        self._loaded: LoadedEngine | None = None
        self._serving = _Candidate(open_engine)
        self._next: _Candidate | None = None
        self._threads = [(StageThread(f"worker-{key}", partial(self._main, self._serving)), self._serving)]

    def start(self) -> None:
        """Start to load the first engine."""
        self._threads[0][0].start()

    def replace(self, open_engine: OpenEngine, *, even_if_same: bool = True) -> bool:
        """Load a second engine beside the serving one, and let it take over between two batches.

        If loading fails by any exception but EngineLost, the current engine stays and its info has the reason; without
        ``even_if_same`` it also stays if the second one has the same engine and precision. Returns False, and does
        nothing, before the first engine serves, after the end, and during a replacement.
        """
        return self._begin(_Candidate(open_engine, is_replacement=True, even_if_same=even_if_same))

    def return_requested(self, open_engine: OpenEngine) -> bool:
        """Like ``replace``, with the requested engine, which is away, or none; a failure changes nothing."""
        return self._begin(_Candidate(open_engine, is_replacement=True, is_return=True))

    def _begin(self, candidate: _Candidate) -> bool:
        with self._lock:
            if self._loaded is None or self._is_closing or self._has_ended or self._next is not None:
                return False
            self._next = candidate
            work, give_up = partial(self._main, candidate), partial(self._give_up, candidate)
            thread = StageThread(f"worker-{self.key}-next", work, on_failure=give_up)
            # Ended threads go, except failed ones: `failure` reads them.
            kept = (one for one in self._threads if one[0].is_alive or _ends_slot(*one))
            self._threads = [*kept, (thread, candidate)]
        thread.start()
        return True

    def close(self) -> None:
        """Cancel a build; the owner ends ``serve`` by closing the batcher."""
        self._is_closing = True

    def join(self, timeout_s: float) -> bool:
        """Wait for the threads; False if one is still inside an engine after ``timeout_s``."""
        deadline_s = time.monotonic() + timeout_s
        return all(thread.join(max(deadline_s - time.monotonic(), 0.0)) for thread, _ in tuple(self._threads))

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until the first engine is loaded; False if ``timeout_s`` passed first.

        Raises:
            EngineError: it could not be loaded; also for an exception of another family, which is its cause.
        """
        if not self._ready.wait(timeout_s):
            return False
        # Race: the thread sets the flag a moment before StageThread stores its failure, so join it first.
        failure = self.failure if self._has_ended and self.join(_POLL_S) else None
        if failure is None:
            return True
        if isinstance(failure, EngineError):
            raise failure
        raise EngineError(
            f"the engine of model {self.key} could not be loaded because of a bug: {type(failure).__name__}: "
            f"{failure}. Please report it, with the log",
            model=self.key,
        ) from failure

    @property
    def state(self) -> SlotState:
        """The state in the diagram above."""
        if self.failure is not None:
            return SlotState.FAILED
        if self._has_ended or self._is_closing:
            return SlotState.CLOSED
        if self._next is not None:
            return SlotState.REPLACING
        return SlotState.LOADING if self._loaded is None else SlotState.SERVING

    @property
    def failure(self) -> Exception | None:
        """The exception that ended one of the threads; None while all is well.

        Not that of a replacement that never served: the current engine serves on.
        """
        return next((thread.failure for thread, candidate in self._threads if _ends_slot(thread, candidate)), None)

    @property
    def loaded(self) -> LoadedEngine | None:
        """The serving engine; None until the first is loaded."""
        return self._loaded

    @property
    def has_waiting_replacement(self) -> bool:
        """A loaded replacement waits for the serving thread to hand over."""
        candidate = self._next
        return candidate is not None and candidate.is_loaded

    def _main(self, candidate: _Candidate) -> None:
        try:
            self._serve_until_closed(candidate)
        finally:
            if self._serving is candidate:  # no other thread has taken over
                self._has_ended = True
                self._on_end()
                self._ready.set()

    def _serve_until_closed(self, candidate: _Candidate) -> None:
        """Load and serve; reload an engine that keeps failing, and give up if it fails again within ten minutes."""
        while True:
            loaded_ns = self._clock.monotonic_ns()
            try:
                with candidate.open_engine(self._building(candidate)) as engine:
                    self.progress.building = None
                    if self._take_over(candidate, self._load(engine)):
                        self._serve_while_leased(candidate)
                    return
            except BuildCancelled:
                log.info("engine.build_cancelled", model=self.key)
                return
            except EngineLost:  # the device is gone: no other engine in this process can use it
                raise
            except EngineError as exc:
                if candidate.is_replacement:
                    self._keep_current(exc.message)
                    return
                if not isinstance(exc, InferenceFailed):
                    raise
                if isinstance(exc, ServerFailed):  # not counted as a reload: servers come and go for months
                    self._leave_server(candidate, exc)
                    continue
                if self._clock.monotonic_ns() - loaded_ns < _STABLE_AFTER_NS and self.progress.reloads:
                    raise
                self.progress.reloads += 1
                self._note_reload(exc)

    def _leave_server(self, candidate: _Candidate, error: ServerFailed) -> None:
        """Load again, without the server: a local engine serves until it comes back."""
        candidate.failed_server = str(error.fields.get("reason", error.message))
        self._note_reload(error)

    def _note_reload(self, error: InferenceFailed) -> None:
        self.progress.failures_in_a_row = 0
        self._on_reload()
        log.warning("engine.reload_started", model=self.key, error=error.message)

    def _serve_while_leased(self, candidate: _Candidate) -> None:
        self._ready.set()
        loaded = self._loaded
        if loaded is not None and loaded.info.pending is not None:
            # `auto` started with the best engine available at once; build the better one beside it.
            self.replace(candidate.open_engine, even_if_same=False)
        self._serve(Lease(self, candidate))
        waiting = self._next
        if waiting is not None and waiting.is_loaded and not self._is_closing:
            # In this order: otherwise `_main` of this thread could still see itself serving, and report the end.
            self._serving = waiting
            waiting.may_serve.set()

    def _building(self, candidate: _Candidate) -> Building:
        """The first engine must serve at once; a build that takes minutes is left to its replacement."""
        return Building(
            defer=not candidate.is_replacement,
            on_progress=self._note_build,
            is_cancelled=lambda: self._is_closing,
            failed_server=candidate.failed_server,
            requested_only=candidate.is_replacement and candidate.is_return,
        )

    def _note_build(self, progress: BuildProgress) -> None:
        self.progress.building = progress

    def _take_over(self, candidate: _Candidate, loaded: LoadedEngine) -> bool:
        """Become the serving engine once the current thread hands over; False if not needed any more."""
        before = self._loaded
        if before is None or not candidate.is_replacement:
            with self._lock:
                self._loaded = loaded
            if before is not None and loaded.runs_as != before.runs_as:
                self._note_change(f"{before.info.name} was replaced by {loaded.info.name}: {loaded.info.degraded}")
            return True
        if not candidate.even_if_same and loaded.runs_as == before.runs_as:
            # The better engine could not be opened; the info of this second attempt has the reason.
            reasons = [one.reason for one in loaded.info.rejected if one.engine == before.info.pending]
            self._update_info(
                loaded.info,
                f"{before.info.name} stays: {'; '.join(reasons) or 'the replacement is the same engine'}",
            )
            return False
        candidate.is_loaded = True
        # Poll: a serving thread that fails or is stopped ends without handing over.
        while not candidate.may_serve.wait(_POLL_S):
            if self._has_ended:
                return False
        with self._lock:
            self._loaded = loaded
            # No longer a replacement: if it fails from now on, it is reloaded like a first engine.
            candidate.is_replacement, self._next = False, None
        self._note_change(f"{before.info.name} was replaced by {loaded.info.name}")
        return True

    def _give_up(self, candidate: _Candidate, error: Exception) -> None:
        """A bug ended the thread of a replacement; `_main` has handled it if the replacement served already."""
        if candidate.is_replacement and not isinstance(error, EngineLost):
            log.error("engine.replacement_failed", model=self.key, error=f"{type(error).__name__}: {error}")
            self._keep_current(f"the replacement failed because of a bug: {type(error).__name__}: {error}")

    def _keep_current(self, reason: str) -> None:
        self.progress.building = None
        loaded = self._loaded
        if loaded is not None:
            self._update_info(replace(loaded.info, pending=None), f"{loaded.info.name} stays: {reason}")

    def _update_info(self, info: EngineInfo, change: str) -> None:
        """Keep the engine, and update its info: why a better engine is not used."""
        with self._lock:
            if self._loaded is not None:
                served = replace(self._loaded.served, degraded=info.degraded is not None)
                self._loaded = replace(self._loaded, info=info, served=served)
            self._next = None
        if change != self.progress.last_change:  # else one more attempt to reach a server, with the same end
            self._note_change(change)

    def _note_change(self, text: str) -> None:
        self.progress.last_change = text
        self.progress.changes += 1
        log.info("engine.changed", model=self.key, change=text, frames=self.progress.frames)


def _ends_slot(thread: StageThread, candidate: _Candidate) -> bool:
    """Whether the exception that ended ``thread`` is one that the agent must not survive."""
    failure = thread.failure
    return failure is not None and (not candidate.is_replacement or isinstance(failure, EngineLost))
