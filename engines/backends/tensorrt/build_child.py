"""The child process that builds a plan: ``python -m engines.backends.tensorrt.build_child``.

See ``engines.sandbox.serve`` for the protocol.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from engines.backends.tensorrt.builder import BuilderRefused, PlanBuilder
from engines.backends.tensorrt.cuda import CudaDevice
from engines.backends.tensorrt.job import BuildJob, job_from_dict
from engines.backends.tensorrt.library import library, log_of
from engines.errors import EngineError
from engines.sandbox.serve import Parent, serve_parent
from engines.store.files import content_hash, read_owned_with_checksum, write_atomic, write_with_checksum
from engines.store.owned import EntryDamaged

_SAY_EVERY_S = 0.5


def main() -> int:
    """Build; on a failure print the reason to standard error and return 1."""
    parent = serve_parent()
    try:
        result = _build(job_from_dict(parent.job), parent)
    except (BuilderRefused, EngineError) as exc:
        print(exc, file=sys.stderr)  # noqa: T201 the answer
        return 1
    parent.say({"result": result})
    return 0


def _build(job: BuildJob, parent: Parent) -> dict[str, object]:
    graph = Path(job.graph).read_bytes()
    if content_hash(graph) != job.graph_sha256:
        raise BuilderRefused(
            f"{Path(job.graph).name} is not the requested graph: the file was changed in the meantime"
        )
    # First the device: TensorRT 8.6 crashes without one.
    device = CudaDevice(job.device_id, library=job.cuda_library)
    trt = library()
    say = _Speaker(parent)
    with device.current():
        built = PlanBuilder(trt, log_of(trt), job, say).build(graph, _read_timing(Path(job.timing_cache)))
    say("saving", None)
    if built.timing_cache:
        write_with_checksum(Path(job.timing_cache), built.timing_cache)
    write_atomic(Path(job.target), built.plan)
    device.close()
    return {
        "sha256": content_hash(built.plan),
        "bytes": len(built.plan),
        "notes": list(built.notes),
        "on_dla": built.on_dla,
        "on_gpu": list(built.on_gpu),
        "tensorrt": str(trt.__version__),
    }


class _Speaker:
    """Reports a new phase at once and its progress a few times per second; thread-safe."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self._lock = threading.Lock()
        self._phase = ""
        self._due_s = 0.0

    def __call__(self, phase: str, ratio: float | None) -> None:
        with self._lock:
            now_s = time.monotonic()
            if phase == self._phase and now_s < self._due_s:
                return
            self._phase, self._due_s = phase, now_s + _SAY_EVERY_S
            self._parent.say({"phase": phase, "ratio": ratio})


def _read_timing(path: Path) -> bytes:
    """Return the timing cache of earlier builds if it is intact and ours, else nothing."""
    try:
        return read_owned_with_checksum(path) or b""
    except (OSError, EntryDamaged):
        return b""


if __name__ == "__main__":
    sys.exit(main())
