"""Carries out commands on the running agent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from agent.cameras.camera import Camera
from agent.cameras.jpeg import jpeg_from_image
from agent.cameras.triggers import TriggerEnd, TriggerRefused
from agent.commands.contract import Answer, CommandRefused, Details, require_known
from agent.commands.explanation import explain_camera
from agent.commands.overrides import Overrides, change_kept, load_overrides
from agent.commands.requests import Benchmark, Capture, Explain, Selftest, Set, Snapshot
from agent.config.labels import exit_problem, stated_thresholds
from agent.config.loader import LoadedConfig
from agent.config.model import AgentConfig, ClassifierConfig
from agent.config.overridden import overridden
from agent.inference.engine_slot import LoadedEngine
from agent.inference.pipeline import Pipeline
from agent.inference.worker import Worker
from agent.mqtt.base import Packet
from agent.mqtt.messages import utc_text
from agent.mqtt.topics import Topics
from agent.runtime.errors import AgentError
from agent.runtime.statistics import percentiles
from engines import EngineError, GoldenResult, Images, Resizer, Scores, StrictDocument, golden_input, golden_result

_TASK_S = 30.0
_BENCHMARK_S = 5.0
_SELFTEST_S = 20.0
"""For all models together: the other commands wait meanwhile."""
_MAX_GOLDEN = 1000
"""Golden images of one model in one self-test."""
_CHUNK_S = 0.02
"""Maximum time for which a benchmark holds the engine between two batches."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HandlerParts:
    """What commands act on. ``base`` returns the configuration of the file without overrides.

    ``adjust`` and ``reload`` apply a changed one, see ``Reloader``; ``rebirth`` sends every retained message again.
    """

    pipeline: Pipeline
    topics: Topics
    state_dir: Path
    base: Callable[[], LoadedConfig]
    publish: Callable[[Packet], None]
    adjust: Callable[[LoadedConfig], None]
    reload: Callable[[], Literal["unchanged", "restarting", "applied", "waiting"]]
    rebirth: Callable[[], None]


class CommandHandlers:
    """See CommandHandler. Used by the thread ``commands`` only."""

    def __init__(self, parts: HandlerParts) -> None:
        self._parts = parts
        self._now = Overrides()
        self._document: StrictDocument | None = None
        self._changes(parts.base())

    def snapshot(self, request: Snapshot) -> Details:
        """See CommandHandler."""
        camera = self._camera(request.camera, "no_frame")
        frame = camera.newest_frame()
        if frame is None:
            raise CommandRefused("no_frame", f"camera {request.camera} has not delivered a frame yet")
        content, width, height = jpeg_from_image(frame.image, max_width=request.max_width, quality=request.quality)
        topic = self._parts.topics.snapshot(request.camera)
        self._parts.publish(Packet(topic, content, 1, content_type="image/jpeg"))
        age_s = round((time.monotonic_ns() - frame.captured_at_ns) / 1e9, 3)
        return {
            "topic": topic,
            "frame": frame.index,
            "age_s": age_s,
            "width": width,
            "height": height,
            "bytes": len(content),
        }

    def capture(self, request: Capture, answer: Answer) -> None:
        """See CommandHandler."""
        camera = self._camera(request.camera, "disabled")
        try:
            camera.trigger(request.id, lambda ended: answer(_captured(request.camera, ended)))
        except TriggerRefused as exc:
            raise CommandRefused(exc.reason, exc.message) from exc

    def set(self, request: Set) -> Details:
        """See CommandHandler."""
        base = self._parts.base()
        changed = self._changes(base).with_change(request, base.config)
        self._check_thresholds(request, changed.applied_to(base.config))
        self._parts.adjust(replace(base, config=changed.applied_to(base.config)))
        self._now = changed
        if request.keep:
            change_kept(
                self._parts.state_dir, lambda kept: kept.current(base.config)[0].with_change(request, base.config)
            )
        camera = changed.applied_to(base.config).cameras[request.camera]
        return {
            "camera": request.camera,
            "enabled": camera.enabled,
            "rate_hz": camera.rate_hz,
            "classifiers": {one.key: self._thresholds(one) for one in camera.classify},
            "kept": request.keep,
        }

    def _check_thresholds(self, request: Set, config: AgentConfig) -> None:
        """Refuse a change of a label that the package does not have, or that leaves an `exit` above its `enter`."""
        uses = {one.key: one for one in config.cameras[request.camera].classify}
        use = uses.get(request.classifier or "")
        if use is None:  # nothing but the camera's rate, or a classifier that is off
            return
        worker = self._parts.pipeline.workers.get(use.model)
        stated = None if worker is None else stated_thresholds({use.model: worker.package}).get(use.model)
        if request.label is not None:
            if worker is None:
                raise CommandRefused("no_model", f"model {use.model} is not loaded, because its cameras are disabled")
            if stated is None:
                text = f"model {use.model} chooses one label; leave label out, enter and exit hold for all of them"
                raise CommandRefused("invalid", text)
            require_known(dict.fromkeys(worker.package.labels), request.label, "label")
        for label in use.decide.labels:
            if stated is not None and (problem := exit_problem(use.decide, label, stated)) is not None:
                raise CommandRefused("invalid", problem)

    def _thresholds(self, use: ClassifierConfig) -> Details:
        """The thresholds of a classifier, and of the labels of one that finds several."""
        details: Details = {"enter": use.decide.enter, "exit": use.decide.exit}
        worker = self._parts.pipeline.workers.get(use.model)
        stated = None if worker is None else stated_thresholds({use.model: worker.package}).get(use.model)
        if worker is None or stated is None:
            return details
        rules = {label: use.decide.rule(label, stated=stated.get(label)) for label in worker.package.labels}
        return {**details, "labels": {label: {"enter": one.enter, "exit": one.exit} for label, one in rules.items()}}

    def reload(self) -> Details:
        """See CommandHandler."""
        details: Details = {"outcome": self._parts.reload()}
        overrides = [*self._overrides(self._parts.base())]
        return {**details, "overrides": [*overrides]} if overrides else details

    def rebirth(self) -> Details:
        """See CommandHandler."""
        self._parts.rebirth()
        return {}

    def selftest(self, request: Selftest) -> Details:
        """See CommandHandler."""
        workers = self._workers(request.model)
        return {key: selftested(worker, _SELFTEST_S / len(workers)) for key, worker in workers.items()}

    def benchmark(self, request: Benchmark) -> Details:
        """See CommandHandler."""
        details: Details = {}
        for key, worker in self._workers(request.model).items():
            times: list[float] = []
            engine = ""
            end = time.monotonic() + _BENCHMARK_S
            while len(times) < request.runs and time.monotonic() < end:
                wanted = request.runs - len(times)
                engine, some = _on_engine_thread(worker, lambda loaded, wanted=wanted: _timed(loaded, wanted))  # type: ignore[misc]  # bound now
                times += some
            details[key] = {"engine": engine, **benchmark_figures(times)}
        return details

    def explain(self, request: Explain) -> Details:
        """See CommandHandler."""
        base = self._parts.base()
        require_known(base.config.cameras, request.camera, "camera")
        config = self._changes(base).applied_to(base.config).cameras[request.camera]
        details = explain_camera(request.camera, config, self._parts.pipeline)
        start = f"cameras.{request.camera}."
        return {**details, "overrides": [text for text in self._overrides(base) if text.startswith(start)]}

    def _camera(self, name: str, reason: str) -> Camera:
        """A camera that runs.

        Raises:
            CommandRefused: there is none of that name, or it is disabled, for ``reason``.
        """
        pipeline = self._parts.pipeline
        if (camera := pipeline.cameras.get(name)) is None:
            require_known(self._parts.base().config.cameras, name, "camera")
            raise CommandRefused(reason, f"camera {name} is disabled")
        return camera

    def _changes(self, base: LoadedConfig) -> Overrides:
        """The overrides in force. After the file was read again, only the kept ones."""
        if base.document is not self._document:
            self._document = base.document
            current, _ = load_overrides(self._parts.state_dir).current(base.config)
            self._now, _ = current.fitting(base.config)
        return self._now

    def _overrides(self, base: LoadedConfig) -> Iterator[str]:
        """What commands have changed, and what the file says there."""
        changed = replace(base, config=self._changes(base).applied_to(base.config))
        return (one.text() for one in overridden(changed))

    def _workers(self, model: str | None) -> Mapping[str, Worker]:
        workers = self._parts.pipeline.workers
        if model is None:
            return workers
        require_known(workers, model, "model")
        return {model: workers[model]}


def _captured(camera: str, ended: TriggerEnd) -> Details | CommandRefused:
    """The details of a `capture` reply, or why it failed."""
    if ended.reason is not None or ended.frame is None:
        return CommandRefused(ended.reason or "no_frame", ended.text)
    return {
        "camera": camera,
        "frame": ended.frame.index,
        "captured_at": utc_text(ended.frame.captured_at_utc_ns),
        "image_fault": ended.frame.image_fault,
        "labels": {
            name: {"label": best.label, "confidence": round(best.confidence, 6)}
            for name, best in ended.answers.items()
        },
        "dropped": {**ended.dropped},
    }


def benchmark_figures(times_ms: Sequence[float]) -> Details:
    """The details of a `benchmark` reply, in milliseconds."""
    p50, p99, longest = (round(one, 3) for one in percentiles(times_ms, (50, 99, 100)))
    return {"runs": len(times_ms), "p50_ms": p50, "p99_ms": p99, "max_ms": longest}


def selftested(worker: Worker, max_s: float) -> Details:
    """The details of a `selftest` reply for one model.

    Images are read and scaled here, on the thread of the commands. The thread that serves runs the engine on one of
    them at a time, and takes the next frames in between. No image is begun after ``max_s`` seconds.
    """
    package, resizer = worker.package, Resizer(worker.package.input)
    results: list[GoldenResult] = []
    served = worker.statistics().served
    engine = "" if served is None else served.engine
    end = time.monotonic() + max_s
    for golden in package.golden[:_MAX_GOLDEN]:
        if time.monotonic() >= end:
            break
        engine, scores = _on_engine_thread(worker, partial(_inferred, golden_input(package, golden, resizer)))
        results.append(golden_result(package, golden, scores, engine=engine))
    return {
        "engine": engine,
        "images": len(results),
        "of": len(package.golden),
        "wrong": [
            {
                "image": one.path.name,
                "expected": one.expected,
                "got": one.got,
                "confidence": round(one.confidence, 4),
            }
            for one in results
            if not one.is_right
        ],
    }


def _inferred(images: Images, loaded: LoadedEngine) -> tuple[str, Scores]:
    return loaded.info.name, loaded.engine.infer(images)


def _timed(loaded: LoadedEngine, wanted: int) -> tuple[str, list[float]]:
    """Time single calls, in ms, for ``_CHUNK_S``; at least one."""
    times: list[float] = []
    end = time.monotonic() + _CHUNK_S
    while len(times) < wanted and (not times or time.monotonic() < end):
        began_ns = time.monotonic_ns()
        loaded.engine.infer(loaded.batch[:1])
        times.append((time.monotonic_ns() - began_ns) / 1e6)
    return loaded.info.name, times


def _on_engine_thread(worker: Worker, work: Callable[[LoadedEngine], T]) -> T:
    """Run ``work`` on the thread that owns the engine.

    Raises:
        CommandRefused: the engine was busy for too long.
        AgentError, EngineError: what ``work`` raised.
    """
    done = threading.Event()
    answers: list[T] = []
    errors: list[AgentError | EngineError] = []

    def task(loaded: LoadedEngine) -> None:
        try:
            answers.append(work(loaded))
        except (AgentError, EngineError) as exc:
            errors.append(exc)
        finally:
            done.set()

    worker.run_between_batches(task)
    if not done.wait(_TASK_S):
        raise CommandRefused("busy", f"{worker.key}: engine busy, no free slot within {_TASK_S:g} s")
    if errors:
        raise errors[0]
    return answers[0]
