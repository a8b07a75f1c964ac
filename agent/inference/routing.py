"""From a configuration to bindings and routes: which classifier of which camera is served by which worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from agent.cameras.camera import Route
from agent.cameras.frame_counters import FrameCounters
from agent.config.model import CameraConfig, ClassifierConfig
from agent.config.sections.decide import DecideConfig
from agent.inference.binding import ClassifierBinding, Dependent
from agent.inference.decisions.decision import Decision, LabelDecision, LabelSetDecision
from agent.inference.worker import Worker
from agent.runtime.clock import Clock
from engines import ModelPackage, Task


@dataclass(frozen=True, slots=True)
class CameraPlan:
    """One camera's bindings by classifier, and the routes to those that follow no other."""

    bindings: Mapping[str, ClassifierBinding]
    routes: tuple[Route, ...]


def plan_camera(
    name: str,
    config: CameraConfig,
    counters: FrameCounters,
    workers: Mapping[str, Worker],
    *,
    is_live: bool,
    clock: Clock,
    kept: Mapping[str, ClassifierBinding] | None = None,
) -> CameraPlan:
    """The bindings of one camera. Decisions of ``kept`` continue if the classifier's model and rules are the same.

    Gates and means form no cycle: the configuration loader refuses cycles.
    """
    by_key = {classifier.key: classifier for classifier in config.classify}
    bindings: dict[str, ClassifierBinding] = {}

    def binding_of(key: str) -> ClassifierBinding:
        # Recursive, because bindings are immutable: the dependents must exist first.
        if key not in bindings:
            classifier = by_key[key]
            behind = [one for one in config.classify if one.follows == key]
            bindings[key] = ClassifierBinding(
                camera=name,
                classifier=key,
                is_live=is_live,
                priority=config.priority,
                rate_hz=config.rate_hz,
                config=classifier,
                counters=counters,
                decision=_decision(name, classifier, (kept or {}).get(key), workers[classifier.model].package, clock),
                dependents=tuple(
                    Dependent(
                        binding_of(one.key),
                        workers[one.model].batcher,
                        None if one.when is None else frozenset(one.when.labels),
                    )
                    for one in behind
                ),
            )
        return bindings[key]

    routes = tuple(
        Route(classifier.key, partial(workers[classifier.model].batcher.put, binding_of(classifier.key)))
        for classifier in config.classify
        if classifier.follows is None
    )
    return CameraPlan(bindings, routes)


def _decision(
    camera: str, classifier: ClassifierConfig, kept: ClassifierBinding | None, package: ModelPackage, clock: Clock
) -> Decision:
    is_same = kept is not None and _what_decides(kept.config) == _what_decides(classifier)
    if kept is not None and is_same and kept.decision.fits(package):
        return kept.decision
    before = None if kept is None else kept.decision
    key, decide, now_ns, utc_ns = classifier.key, classifier.decide, clock.monotonic_ns(), clock.utc_ns()
    if package.output.task is not Task.MULTI_LABEL:
        return LabelDecision(camera, key, decide, now_ns=now_ns, utc_ns=utc_ns, before=before)
    return LabelSetDecision(
        camera,
        key,
        decide,
        labels=package.labels,
        stated=dict(package.output.stated),
        now_ns=now_ns,
        utc_ns=utc_ns,
        before=before,
    )


def _what_decides(classifier: ClassifierConfig) -> tuple[str, str | None, DecideConfig]:
    return classifier.model, classifier.mean_with, classifier.decide
