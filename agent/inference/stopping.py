"""Stops cameras and workers within their deadlines, and names the threads that missed them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from agent.cameras.camera import Camera
from agent.inference.worker import Worker

_CAMERA_STOP_S = 1.5
_CALL_ENDS_S = 0.5
_WORKER_STOP_S = 1.0
_DRAIN_S = 2.0
_DRAIN_POLL_S = 0.01


def stop_cameras(cameras: Mapping[str, Camera]) -> list[str]:
    """Stop them all at once; returns the names of the threads that missed the deadline."""
    for camera in cameras.values():
        camera.stop()
    return _join({f"camera {name}": camera.join for name, camera in cameras.items()}, _CAMERA_STOP_S)


def stop_workers(workers: Mapping[str, Worker]) -> list[str]:
    """Stop them all at once; returns the names of the threads that missed the deadline."""
    for worker in workers.values():
        worker.stop()
    return _join_workers(workers)


def drain_workers(workers: Mapping[str, Worker]) -> list[str]:
    """As ``stop_workers``, after they have finished their frames, including those passed on through a gate."""
    deadline = time.monotonic() + _DRAIN_S
    while any(worker.is_busy for worker in workers.values()) and time.monotonic() < deadline:
        time.sleep(_DRAIN_POLL_S)
    return stop_workers(workers)


def _join_workers(workers: Mapping[str, Worker]) -> list[str]:
    """Wait for stopped workers; interrupt a call that does not end soon."""
    joins = {f"worker {key}": worker.join for key, worker in workers.items()}
    if _join(joins, _CALL_ENDS_S):
        for worker in workers.values():
            worker.interrupt()
    return _join(joins, _WORKER_STOP_S)


def _join(joins: Mapping[str, Callable[[float], bool]], patience_s: float) -> list[str]:
    deadline = time.monotonic() + patience_s
    return [name for name, join in joins.items() if not join(max(deadline - time.monotonic(), 0.0))]
