"""The inference requests of programs that wait for one model's engine, and what they are owed beside cameras.

    submit ──► waiting ──► running ──► answered
                  │           └──────► failed by the engine
                  ├──► cancelled by its client (`Future.cancel`)
                  ├──► expired: its deadline passed
                  └──► refused: the queue was closed

Requests are served in the order of their priority, and in that of their arrival within one. A request is never split:
all its images are in one engine call, together with frames of cameras and other requests if they fit.
"""

from __future__ import annotations

import math
import threading
import time
from bisect import insort
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

from agent.inference.requests.statistics import CallTimes, FailureReason, RequestStatistics
from agent.runtime.errors import AgentError
from engines import Images, Scores

DEFAULT_PRIORITY = 5
"""Of a request without one, or with 0, which stands for the default in the protocol."""
MAX_PRIORITY = 9
_USUAL_CALL_NS = 50_000_000
"""Assumed for the first estimate of a wait, before a call was measured."""


class RequestRefused(AgentError):
    """Base of what a program's request may fail by; ``reason`` is how it is counted."""

    reason = FailureReason.OTHER


class QueueFull(RequestRefused):
    """Too many requests wait; ``retry_after_s`` (at least 1) is when there may be room."""

    reason = FailureReason.REJECTED

    def __init__(self, message: str, *, retry_after_s: int, **fields: object) -> None:
        super().__init__(message, retry_after_s=retry_after_s, **fields)
        self.retry_after_s = retry_after_s


class DeadlinePassed(RequestRefused):
    """The request's time was over before an engine was free for it."""

    reason = FailureReason.REJECTED


class NotReady(RequestRefused):
    """The model is being loaded, was unloaded, or the agent stops."""

    reason = FailureReason.REJECTED


class EngineFailed(RequestRefused):
    """The engine could not compute the request."""

    reason = FailureReason.BACKEND


@dataclass(frozen=True, slots=True)
class Answer:
    """The scores of a request's images, ``(N, classes)`` float32, owned by the receiver."""

    scores: Scores
    times: CallTimes


@dataclass(order=True, slots=True)
class InferenceRequest:
    """Images of one request, ``(N, H, W, 3)`` uint8 BGR at the model's size; read only, kept until the answer."""

    priority: int
    number: int
    images: Images = field(compare=False)
    future: Future[Answer] = field(compare=False)
    arrived_ns: int = field(compare=False)
    deadline_ns: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Most waiting requests, the longest wait, and the share of images that requests keep beside busy cameras."""

    max_waiting: int = 64
    timeout_s: float = 10.0
    min_share: float = 0.2


class RequestQueue:
    """Requests for one model. ``submit`` and ``expire`` from any thread, ``take`` on the worker's.

    ``wake`` is called after each arrival and must not wait.
    """

    def __init__(
        self,
        model: str,
        statistics: RequestStatistics,
        *,
        limits: RequestLimits,
        wake: Callable[[], None],
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.limits = limits
        """Replaced as a whole by a reload."""
        self.statistics = statistics
        self._model = model
        self._wake = wake
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._waiting: list[InferenceRequest] = []
        self._number = 0
        self._is_closed = False
        self._call_ns = _USUAL_CALL_NS

    @property
    def waiting(self) -> int:
        """Number of waiting requests."""
        return len(self._waiting)

    def submit(
        self,
        images: Images,
        *,
        priority: int = 0,
        timeout_s: float | None = None,
        future: Future[Answer] | None = None,
    ) -> Future[Answer]:
        """Queue ``images``, ``(N, H, W, 3)`` uint8 BGR at the model's size; the caller does not change them any more.

        ``priority`` 1 is served first, 9 last, 0 is the default. ``timeout_s`` can only shorten the configured one.
        Cancelling the future takes the request out, unless it already runs. The future fails with RequestRefused.
        ``future`` is one of the caller's, returned again: what it prepares before the call does not keep the
        interpreter from the worker, which this call wakes last of all.

        Raises:
            QueueFull: as many requests wait as may.
            NotReady: the queue was closed.
        """
        now_ns, limits = self._now_ns(), self.limits
        wait_s = limits.timeout_s if timeout_s is None else min(timeout_s, limits.timeout_s)
        if future is None:
            future = Future()
        with self._lock:
            self._refuse_if_closed()
            if len(self._waiting) >= limits.max_waiting:
                self.statistics.failed(FailureReason.REJECTED)
                raise self._full(limits.max_waiting)
            self._number += 1
            request = InferenceRequest(
                priority or DEFAULT_PRIORITY, self._number, images, future, now_ns, now_ns + round(wait_s * 1e9)
            )
            insort(self._waiting, request)
        future.add_done_callback(partial(self._on_done, request))
        self._wake()
        return future

    def first_size(self) -> int:
        """Number of images of the request that is next; 0 if none waits."""
        with self._lock:
            return len(self._waiting[0].images) if self._waiting else 0

    def take(self, room: int, *, max_requests: int, largest: int) -> list[InferenceRequest]:
        """The next requests that together have at most ``room`` images, in order; they count as running from now on.

        A request of more than ``largest`` images, which no call can hold, fails: the engine was replaced by one with
        smaller batches.
        """
        self.expire()
        self._refuse_large(largest)
        taken: list[InferenceRequest] = []
        while len(taken) < max_requests and (request := self._next(room)) is not None:
            if request.future.set_running_or_notify_cancel():
                room -= len(request.images)
                taken.append(request)
        return taken

    def answer(
        self, requests: Sequence[InferenceRequest], scores: Scores, stamps: tuple[int, int, int], *, first: int = 0
    ) -> None:
        """Answer ``requests``, whose images are the rows of ``scores`` from ``first`` on.

        ``stamps`` are monotonic times: taken from the queue, images copied, inferred. A request with a score that is
        no finite number fails.
        """
        taken_ns, copied_ns, inferred_ns = stamps
        self._call_ns = (7 * self._call_ns + (inferred_ns - taken_ns)) // 8
        answers: list[tuple[InferenceRequest, Answer]] = []
        for request in requests:
            rows = scores[first : first + len(request.images)]
            first += len(request.images)
            if not math.isfinite(float(rows.sum())):
                self.fail(request, EngineFailed(f"model {self._model} gave scores that are no numbers for this input"))
                continue
            done_ns = self._now_ns()
            times = CallTimes(
                taken_ns - request.arrived_ns, copied_ns - taken_ns, inferred_ns - copied_ns, done_ns - inferred_ns
            )
            self.statistics.succeeded(len(rows), times, done_ns - request.arrived_ns)
            answers.append((request, Answer(rows, times)))
        if answers:
            self.statistics.executed(sum(len(one.scores) for _, one in answers), answers[-1][1].times)
        # Last: a client that asks for statistics after its answer finds it counted.
        for request, answer in answers:
            request.future.set_result(answer)

    def fail(self, request: InferenceRequest, error: RequestRefused) -> None:
        """End a request that waits or runs by ``error``; no effect on one that has ended."""
        if not request.future.done():
            self.statistics.failed(error.reason, self._now_ns() - request.arrived_ns)
            request.future.set_exception(error)

    def expire(self) -> None:
        """Fail the requests whose deadline has passed. Call it a few times a second: the engine may hang."""
        now_ns = self._now_ns()
        with self._lock:
            late = [request for request in self._waiting if request.deadline_ns <= now_ns]
            if late:
                self._waiting = [request for request in self._waiting if request.deadline_ns > now_ns]
        for request in late:
            waited_ms = (now_ns - request.arrived_ns) / 1e6
            self._refuse(
                request,
                DeadlinePassed(
                    f"Request timeout expired: it waited {waited_ms:.0f} ms for model {self._model}, but its time was "
                    f"{(request.deadline_ns - request.arrived_ns) / 1e6:.0f} ms",
                    model=self._model,
                ),
            )

    def close(self) -> None:
        """Refuse further requests and those that wait. Harmless when called twice."""
        with self._lock:
            self._is_closed = True
            rest, self._waiting = self._waiting, []
        for request in rest:
            self._refuse(request, self._closed())

    def _refuse_large(self, largest: int) -> None:
        with self._lock:
            large = [request for request in self._waiting if len(request.images) > largest]
            if large:
                self._waiting = [request for request in self._waiting if len(request.images) <= largest]
        for request in large:
            text = (
                f"the request has {len(request.images)} images, but the engine of model {self._model} now takes "
                f"{largest} in a call; send fewer in a request"
            )
            self._refuse(request, NotReady(text, model=self._model))

    def _next(self, room: int) -> InferenceRequest | None:
        with self._lock:
            if not self._waiting or len(self._waiting[0].images) > room:
                return None
            return self._waiting.pop(0)

    def _refuse(self, request: InferenceRequest, error: RequestRefused) -> None:
        """Fail a request that was taken out of the queue, unless its client cancelled it just now."""
        if request.future.set_running_or_notify_cancel():
            self.fail(request, error)

    def _on_done(self, request: InferenceRequest, future: Future[Answer]) -> None:
        if not future.cancelled():
            return
        with self._lock:
            if request in self._waiting:
                self._waiting.remove(request)
        self.statistics.failed(FailureReason.CANCELED, self._now_ns() - request.arrived_ns)

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise self._closed()

    def _closed(self) -> NotReady:
        return NotReady(
            f"model {self._model} is not ready: it was unloaded, or the agent stops; try again later",
            model=self._model,
        )

    def _full(self, limit: int) -> QueueFull:
        return QueueFull(
            f"{limit} requests wait for model {self._model}, but no more may; send fewer at a time",
            retry_after_s=max(1, math.ceil(limit * self._call_ns / 1e9)),
            model=self._model,
        )


class RequestShare:
    """Decides between frames of cameras and requests; used by one worker's thread.

    Frames come first. While both wait, requests are owed ``min_share`` of all images, and get what they are owed
    before the next frames. A claim to one request is kept while none waits, so that one that comes later does not have
    to earn it first; more is not saved up.
    """

    def __init__(self) -> None:
        self._owed = 0.0

    def is_due(self, first_size: int) -> bool:
        """Whether a waiting request of ``first_size`` images goes before the frames."""
        return 0 < first_size <= self._owed

    def count(self, frames: int, images: int, *, min_share: float, first_size: int) -> None:
        """Count an engine call; ``first_size``: images of the request that waits, 0 without one."""
        self._owed += frames * min_share / (1.0 - min_share)
        self._owed = max(0.0, min(self._owed, float(max(first_size, 1))) - images)
