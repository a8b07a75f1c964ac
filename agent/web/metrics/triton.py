"""The metrics ``nv_inference``, which have Triton's names and meaning.

Source: Triton Inference Server, docs/user_guide/metrics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from agent.inference.requests.statistics import ModelStatistics
from agent.web.metrics.family import Family, Sample, Seen

_SERVED = ("model", "version")
_VERSION = "1"


def _nv(value: Callable[[ModelStatistics], float]) -> Callable[[Seen], Iterator[Sample]]:
    def samples(seen: Seen) -> Iterator[Sample]:
        yield from (((name, _VERSION), value(one)) for name, one in seen.served.items())

    return samples


def _nv_failures(seen: Seen) -> Iterator[Sample]:
    for name, one in seen.served.items():
        yield from (((name, _VERSION, reason.value), count) for reason, count in one.failures.items())


TRITON_FAMILIES: tuple[Family, ...] = (
    Family(
        "nv_inference_request_success",
        "untyped",
        "Number of successful inference requests, all batch sizes",
        _SERVED,
        _nv(lambda one: one.success.count),
    ),
    Family(
        "nv_inference_request_failure",
        "untyped",
        "Number of failed inference requests, all batch sizes",
        (*_SERVED, "reason"),
        _nv_failures,
    ),
    Family(
        "nv_inference_count",
        "untyped",
        "Number of inferences performed (does not include cached requests)",
        _SERVED,
        _nv(lambda one: one.inference_count),
    ),
    Family(
        "nv_inference_exec_count",
        "untyped",
        "Number of model executions performed (does not include cached requests)",
        _SERVED,
        _nv(lambda one: one.execution_count),
    ),
    Family(
        "nv_inference_pending_request_count",
        "untyped",
        "Instantaneous number of pending requests awaiting execution per-model.",
        _SERVED,
        _nv(lambda one: one.waiting),
    ),
    Family(
        "nv_inference_request_duration_us",
        "untyped",
        "Cumulative inference request duration in microseconds (includes cached requests)",
        _SERVED,
        _nv(lambda one: one.success.ns // 1000),
    ),
    Family(
        "nv_inference_queue_duration_us",
        "untyped",
        "Cumulative inference queuing duration in microseconds (includes cached requests)",
        _SERVED,
        _nv(lambda one: one.queue.ns // 1000),
    ),
    Family(
        "nv_inference_compute_input_duration_us",
        "untyped",
        "Cumulative compute input duration in microseconds (does not include cached requests)",
        _SERVED,
        _nv(lambda one: one.compute_input.ns // 1000),
    ),
    Family(
        "nv_inference_compute_infer_duration_us",
        "untyped",
        "Cumulative compute inference duration in microseconds (does not include cached requests)",
        _SERVED,
        _nv(lambda one: one.compute_infer.ns // 1000),
    ),
    Family(
        "nv_inference_compute_output_duration_us",
        "untyped",
        "Cumulative inference compute output duration in microseconds (does not include cached requests)",
        _SERVED,
        _nv(lambda one: one.compute_output.ns // 1000),
    ),
)
