"""The child process in which one engine is measured: ``python -m agent.tools.benchmark.measure.child``.

It reads one JSON request per line from standard input and answers each with one line. Images do not cross the
pipe: batches are made here from the package's own images. The process ends when its input ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO, cast

from agent.tools.benchmark.measure.accuracy import accuracy_of
from agent.tools.benchmark.measure.bare import BareSession
from agent.tools.benchmark.measure.blocks import BlockRequest, ImageFeed, StageTimes, run_block
from agent.tools.benchmark.measure.target import BARE, Target
from engines import (
    Building,
    BuildProgress,
    Engine,
    EngineError,
    EngineInfo,
    EngineOptions,
    ImageRejected,
    Images,
    ModelPackage,
    Prober,
    Scores,
    image_set_of,
    load_package,
    open_candidate,
)

_STATUS = Path("/proc/self/status")
_MAX_IMAGES = 64
"""Kept in memory at the model's size for the batches: 64 of 224 x 224 are 9 MiB."""

Answer = dict[str, object]


@dataclass(frozen=True, slots=True)
class _Opened:
    """What is measured: an engine or the bare session."""

    package: ModelPackage
    infer: Callable[[Images], Scores]
    max_batch: int
    feed: ImageFeed
    stage_times: StageTimes | None


def main() -> int:
    """Serve requests until the input ends."""
    requests, answers = _private_pipes()
    first = next(requests, None)
    if first is None:
        return 0
    try:
        with contextlib.ExitStack() as resources:
            opened, answer = _open(first, resources, answers)
            _send(answers, answer)
            for request in requests:
                _send(answers, _handle(opened, request))
    except (EngineError, ImageRejected) as exc:
        _send(answers, _failure(exc))
        return 1
    return 0


def _private_pipes() -> tuple[Iterator[Answer], TextIO]:
    """Requests and answers. What a library prints goes to standard error and cannot mix with the answers."""
    # Not engines.serve_parent, which takes one job and lowers the priority: it would change what is measured.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return (cast("Answer", json.loads(line)) for line in sys.stdin), answers


def _open(request: Mapping[str, object], resources: contextlib.ExitStack, answers: TextIO) -> tuple[_Opened, Answer]:
    target = Target(**cast("dict[str, Any]", request["target"]))
    package = load_package(Path(str(request["package"])), max_bytes=int(str(request["max_file_mib"])) << 20)
    options = EngineOptions(
        cache_dir=Path(str(request["cache"])),
        engine=target.engine,
        precision=target.precision,
        strict=True,
        max_batch=int(str(request["max_batch"])),
        options=cast("dict[str, object]", request["options"]),
        building=Building(on_progress=lambda progress: _send(answers, _progress(progress))),
        sandbox=None,  # this process is the sandbox already: if it dies, the report says so
    )
    images = image_set_of(package)
    resident_before = _resident_bytes()
    began_ns = time.perf_counter_ns()
    if target.kind == BARE:
        bare = BareSession(package, options)
        infer, max_batch, facts, stages = bare.infer, bare.max_batch, _bare_facts(bare, target), None
    else:
        engine = resources.enter_context(open_candidate(package, options, target.engine, Prober()))
        infer, max_batch, facts, stages = engine.infer, engine.info.max_batch, _facts(engine.info), _stages_of(engine)
    opened_ms = (time.perf_counter_ns() - began_ns) / 1e6
    answer: Answer = {
        "event": "opened",
        "opened_ms": opened_ms,
        "images": images.source,
        "resident_before_bytes": resident_before,
        "resident_bytes": _resident_bytes(),
        **facts,
    }
    feed = ImageFeed(images.batch[:_MAX_IMAGES], max_batch)
    return _Opened(package, infer, max_batch, feed, stages), answer


def _facts(info: EngineInfo) -> Answer:
    """What really runs, as the engine reports it."""
    return {
        "name": info.name,
        "precision": info.precision,
        "device": info.device,
        "max_batch": info.max_batch,
        "placement": dict(info.placement),
        "versions": dict(info.versions),
        "degraded": info.degraded,
        "load_ms": info.load_ms,
        "accuracy_check": None if info.accuracy is None else dict(info.accuracy),
        "kept_layers": list(info.kept_layers),
        "details": dict(info.details),
    }


def _bare_facts(bare: BareSession, target: Target) -> Answer:
    return {
        "name": BARE,
        "precision": target.precision,
        "device": bare.provider,
        "max_batch": bare.max_batch,
        "placement": {},
        "versions": dict(bare.versions),
        "degraded": None,
        "load_ms": 0.0,
        "accuracy_check": None,
        "kept_layers": [],
        "details": {},
    }


def _stages_of(engine: Engine) -> StageTimes | None:
    """The engine's own timing of its last call, in ms: ``enqueue``, ``h2d``, ``compute``, ``d2h``."""
    found = getattr(engine, "stage_times_ms", None)
    return cast("StageTimes", found) if callable(found) else None


def _handle(opened: _Opened, request: Mapping[str, object]) -> Answer:
    if request["do"] == "measure":
        values = cast("dict[str, int]", request["block"])
        values = {**values, "batch": min(values["batch"], opened.max_batch)}
        block = run_block(opened.infer, opened.feed, BlockRequest(**values), opened.stage_times)
        return {"event": "measured", **asdict(block), "peak_bytes": _peak_bytes(), "resident_bytes": _resident_bytes()}
    if request["do"] == "accuracy":
        accuracy = accuracy_of(opened.infer, opened.max_batch, opened.package, Path(str(request["folder"])))
        return {"event": "accuracy", **asdict(accuracy)}
    raise ValueError(f"unknown request {request['do']!r}")


def _failure(error: EngineError | ImageRejected) -> Answer:
    return {
        "event": "failed",
        "reason": str(error.fields.get("reason", error.message)),
        "remedy": str(error.fields.get("remedy", "see the reason")),
        "exit_code": error.exit_code,
    }


def _progress(progress: BuildProgress) -> Answer:
    return {"event": "progress", "phase": progress.phase, "elapsed_s": progress.elapsed_s}


def _send(answers: TextIO, answer: Mapping[str, object]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _resident_bytes() -> int:
    """Memory in use at the moment. Source: proc(5), VmRSS."""
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
