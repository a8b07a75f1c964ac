"""Counts and durations of one model's inference requests, with the meaning that Triton gives them.

Source: Triton Inference Server, docs/protocol/extension_statistics.md and docs/user_guide/metrics.md.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum


class FailureReason(str, Enum):
    """Why a request failed: refused or expired, cancelled by its client, failed by the engine, anything else."""

    REJECTED = "REJECTED"
    CANCELED = "CANCELED"
    BACKEND = "BACKEND"
    OTHER = "OTHER"


@dataclass(frozen=True, slots=True)
class CallTimes:
    """Nanoseconds of one request. ``queue`` is its own; the others are those of the engine call that it was part of.

    ``compute_input``: copying images into the batch. ``compute_output``: from the engine's return to the answer.
    """

    queue_ns: int
    compute_input_ns: int
    compute_infer_ns: int
    compute_output_ns: int


@dataclass(frozen=True, slots=True)
class Duration:
    """How often something was done, and how long that took in all."""

    count: int = 0
    ns: int = 0


@dataclass(slots=True)
class _Sum:
    """A Duration that grows: a request adds to eight of them."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        self.count += 1
        self.ns += ns

    @property
    def total(self) -> Duration:
        return Duration(self.count, self.ns)


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """Snapshot of one model since the start of the agent, over all its engines.

    ``inference_count`` counts images of successful requests, ``execution_count`` the engine calls that held some;
    frames of cameras count in neither. ``fail`` counts failed requests; ``failures`` has them by reason.
    ``last_inference_ms`` is UTC, 0 before the first. ``calls`` has compute_input, compute_infer and compute_output by
    the number of images that requests had in the call.
    """

    waiting: int = 0
    inference_count: int = 0
    execution_count: int = 0
    last_inference_ms: int = 0
    success: Duration = Duration()
    fail: Duration = Duration()
    queue: Duration = Duration()
    compute_input: Duration = Duration()
    compute_infer: Duration = Duration()
    compute_output: Duration = Duration()
    failures: Mapping[FailureReason, int] = field(default_factory=dict)
    calls: Mapping[int, tuple[Duration, Duration, Duration]] = field(default_factory=dict)


class RequestStatistics:
    """The counters of one model. From any thread."""

    def __init__(self, *, utc_ns: Callable[[], int] = time.time_ns) -> None:
        self._utc_ns = utc_ns
        self._lock = threading.Lock()
        self._inferences = self._executions = self._last_ms = 0
        self._success, self._fail, self._queue = _Sum(), _Sum(), _Sum()
        self._compute = _Sum(), _Sum(), _Sum()
        self._failures = dict.fromkeys(FailureReason, 0)
        self._calls: dict[int, tuple[_Sum, _Sum, _Sum]] = {}

    def succeeded(self, images: int, times: CallTimes, total_ns: int) -> None:
        """Count a request of ``images`` that was answered ``total_ns`` after it came."""
        with self._lock:
            self._inferences += images
            self._last_ms = self._utc_ns() // 1_000_000
            self._success.add(total_ns)
            self._queue.add(times.queue_ns)
            _add(self._compute, times)

    def executed(self, images: int, times: CallTimes) -> None:
        """Count an engine call that held ``images`` of requests that were answered."""
        with self._lock:
            self._executions += 1
            sums = self._calls.get(images)
            if sums is None:
                sums = self._calls[images] = _Sum(), _Sum(), _Sum()
            _add(sums, times)

    def failed(self, reason: FailureReason, total_ns: int = 0) -> None:
        """Count a request that was not answered; ``total_ns`` after it came."""
        with self._lock:
            self._failures[reason] += 1
            self._fail.add(total_ns)

    def snapshot(self, *, waiting: int = 0) -> ModelStatistics:
        """All counters at one moment; ``waiting`` is passed on."""
        with self._lock:
            return ModelStatistics(
                waiting=waiting,
                inference_count=self._inferences,
                execution_count=self._executions,
                last_inference_ms=self._last_ms,
                success=self._success.total,
                fail=self._fail.total,
                queue=self._queue.total,
                compute_input=self._compute[0].total,
                compute_infer=self._compute[1].total,
                compute_output=self._compute[2].total,
                failures=dict(self._failures),
                calls={size: (a.total, b.total, c.total) for size, (a, b, c) in sorted(self._calls.items())},
            )


def _add(sums: tuple[_Sum, _Sum, _Sum], times: CallTimes) -> None:
    sums[0].add(times.compute_input_ns)
    sums[1].add(times.compute_infer_ns)
    sums[2].add(times.compute_output_ns)
