"""The process in which a plan is built: ``python -m engines.backends.tensorrt.build_child``, a job on standard input.

Speaks JSON lines, see ``engines.building``. It dies with its parent, is the first that the kernel ends when memory
runs out, and leaves the CPU to those who serve.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from pathlib import Path

from engines.atomic import write_atomically
from engines.backends.tensorrt.builder import BuilderRefused, PlanBuilder
from engines.backends.tensorrt.cuda import CudaDevice
from engines.backends.tensorrt.job import BuildJob, job_from_dict
from engines.backends.tensorrt.library import library, log_of
from engines.building import bind_to_parent, own_up
from engines.cache_reading import EntryDamaged, open_folder, read_checked
from engines.errors import EngineError

_SAY_EVERY_S = 0.5
_DIGEST_BYTES = 32


def main() -> int:
    """Build, and end with the reason on standard error where that fails."""
    bind_to_parent()
    own_up()
    job = job_from_dict(json.loads(sys.stdin.readline()))
    try:
        result = _build(job)
    except (BuilderRefused, EngineError) as exc:
        print(exc, file=sys.stderr)  # noqa: T201 the answer
        return 1
    print(json.dumps({"result": result}), flush=True)  # noqa: T201 the answer
    return 0


def _build(job: BuildJob) -> dict[str, object]:
    graph = Path(job.graph).read_bytes()
    if hashlib.sha256(graph).hexdigest() != job.graph_sha256:
        raise BuilderRefused(f"{Path(job.graph).name} is not the graph that was asked for: it was changed meanwhile")
    # The device must answer before anything of TensorRT is made.
    device = CudaDevice(job.device_id, library=job.cuda_library)
    trt = library()
    say = _Speaker()
    with device.current():
        built = PlanBuilder(trt, log_of(trt), job, say).build(graph, _read_timing(Path(job.timing_cache)))
    say("saving", None)
    if built.timing_cache:
        _write_timing(Path(job.timing_cache), built.timing_cache)
    write_atomically(Path(job.target), built.plan)
    device.close()
    return {
        "sha256": hashlib.sha256(built.plan).hexdigest(),
        "bytes": len(built.plan),
        "notes": list(built.notes),
        "tensorrt": str(trt.__version__),
    }


class _Speaker:
    """Reports a phase at once and its progress a few times a second; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phase = ""
        self._due_s = 0.0

    def __call__(self, phase: str, ratio: float | None) -> None:
        with self._lock:
            now_s = time.monotonic()
            if phase == self._phase and now_s < self._due_s:
                return
            self._phase, self._due_s = phase, now_s + _SAY_EVERY_S
            print(json.dumps({"phase": phase, "ratio": ratio}), flush=True)  # noqa: T201 the answer


def _read_timing(path: Path) -> bytes:
    """The timing cache of earlier builds where it is intact and ours, else nothing."""
    try:
        with open_folder(path.parent) as folder:
            data = read_checked(folder, path.name)
    except (OSError, EntryDamaged):
        return b""
    digest, content = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    return content if hashlib.sha256(content).digest() == digest else b""


def _write_timing(path: Path, content: bytes) -> None:
    write_atomically(path, hashlib.sha256(content).digest() + content)


if __name__ == "__main__":
    sys.exit(main())
