"""Explains why a camera publishes results or none, and why its classifiers have decided a label or none."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from agent.cameras.camera import CameraStatistics
from agent.cameras.frame_counters import ClassifierCounts
from agent.commands.contract import Details
from agent.config.model import CameraConfig
from agent.config.sections.decide import STALE
from agent.inference.decisions.decision import Decision
from agent.inference.decisions.standing import why
from agent.inference.pipeline import Pipeline
from agent.inference.worker import WorkerStatistics
from agent.runtime.records import Standing

_LATE_S = 5.0
_MAX_LABELS = 64
"""Labels of one classifier whose figures are given, those nearest to a change first."""


def explain_camera(name: str, config: CameraConfig, pipeline: Pipeline) -> Details:
    """The explanation of the camera ``name``, which has ``config`` and may be disabled, as things are now."""
    camera = pipeline.cameras.get(name)
    return explanation(
        config,
        None if camera is None else camera.statistics(),
        {key: worker.statistics() for key, worker in pipeline.workers.items()},
        pipeline.decisions(name),
        rate_ratio=1.0 if camera is None else camera.pacer.ratio,
        now_ns=time.monotonic_ns(),
    )


def explanation(
    config: CameraConfig,
    camera: CameraStatistics | None,
    workers: Mapping[str, WorkerStatistics],
    decisions: Mapping[str, Decision],
    *,
    rate_ratio: float,
    now_ns: int,
) -> Details:
    """The counters, and ``findings``: what keeps the camera from publishing more results, the first cause first, and
    why a classifier has decided no label.

    ``camera`` is None if it is disabled; ``rate_ratio`` is the share of its rate that the governor permits, ``now_ns``
    is monotonic.
    """
    findings = list(_findings(config, camera, workers, rate_ratio))
    if camera is not None:
        findings += _of_decisions(config, decisions, now_ns)
    if camera is None:
        return {"state": "disabled", "findings": [*findings]}
    return {
        "state": camera.state,
        "fps": round(camera.fps, 2),
        "rate_hz": config.rate_hz,
        "rate_ratio": round(rate_ratio, 3),
        "captured": camera.counts.captured,
        "classified": camera.counts.classified,
        "dropped": {**camera.counts.dropped},
        "in_flight": camera.counts.in_flight,
        "last_frame_age_s": None if camera.last_frame_age_s is None else round(camera.last_frame_age_s, 3),
        "image_fault": camera.image_fault,
        "error": camera.error,
        "classifiers": {
            name: {
                "offered": counts.offered,
                "classified": counts.classified,
                "skipped": counts.skipped,
                "dropped": {**counts.dropped},
                **(_of_decision(decisions[name], now_ns) if name in decisions else {}),
            }
            for name, counts in camera.counts.classifiers.items()
            if name in {use.key for use in config.classify}
        },
        "findings": [*findings] or ["no problem found: results are published, and every classifier has decided"],
    }


def _findings(
    config: CameraConfig,
    camera: CameraStatistics | None,
    workers: Mapping[str, WorkerStatistics],
    rate_ratio: float,
) -> Iterator[str]:
    if camera is None:
        yield "the camera is disabled"
        return
    if camera.state != "connected":
        yield f"the camera is {camera.state}" + (f": {camera.error}" if camera.error else "")
    if camera.counts.captured == 0:
        yield "the camera has not delivered a frame yet"
    elif camera.state == "connected" and (camera.last_frame_age_s or 0.0) > _LATE_S:
        yield f"the last frame is {camera.last_frame_age_s:.0f} s old"
    if camera.image_fault is not None:
        yield f"its frames are {camera.image_fault}; results have that image_fault"
    if rate_ratio <= 0.0:
        yield "the governor has paused inference: the board is too hot"
    elif rate_ratio < 1.0:
        yield f"the governor permits {rate_ratio:.0%} of the rate: the board is warm"
    for reason, count in sorted(camera.counts.dropped.items(), key=lambda item: -item[1]):
        yield f"{count} of {camera.counts.captured} frames were dropped: {reason}"
    for use in config.classify:
        yield from _of_classifier(use.key, camera.counts.classifiers.get(use.key), workers.get(use.model))


def _of_classifier(name: str, counts: ClassifierCounts | None, worker: WorkerStatistics | None) -> Iterator[str]:
    if worker is None or worker.served is None:
        yield f"the model of {name} is not loaded yet"
        return
    if worker.busy_s is not None and worker.busy_s > 1.0:
        yield f"the engine of {name} has been running one batch for {worker.busy_s:.1f} s"
    if worker.failures:
        yield f"the engine of {name} has failed {worker.failures} times"
    if counts is None:
        return
    if counts.offered and counts.skipped == counts.offered:
        yield f"the gate (when) of {name} was closed for all of its {counts.offered} frames"
    elif counts.offered and not counts.classified:
        yield f"{name} was offered {counts.offered} frames and has classified none"


def _of_decisions(config: CameraConfig, decisions: Mapping[str, Decision], now_ns: int) -> Iterator[str]:
    """Why there is no label, for each classifier without one."""
    for use in config.classify:
        decision = decisions.get(use.key)
        if decision is not None and decision.label in {use.decide.unknown, STALE}:
            yield f"{use.key} is {decision.label}: {_why(decision, now_ns)}"


def _of_decision(decision: Decision, now_ns: int) -> Details:
    standings = decision.standings()[:_MAX_LABELS]
    return {
        "label": decision.label,
        "labels": [*decision.labels],
        "why": _why(decision, now_ns),
        "decision": [_figures(one) for one in standings if one.candidate is not None],
    }


def _why(decision: Decision, now_ns: int) -> str:
    if decision.label != STALE:
        return why(decision.standing())
    silent_s = decision.silent_s(now_ns)
    return f"no result for {silent_s:.1f} s, but stale_after_s is {decision.stale_after_s:g}; see the other findings"


def _figures(standing: Standing) -> Details:
    """The newest result of one label against its rule."""
    return {
        "label": standing.candidate,
        "confidence": round(standing.confidence, 4),
        "is_decided": standing.is_decided,
        "exit" if standing.is_decided else "enter": standing.threshold,
        "votes": round(standing.votes, 3),
        "needed": standing.needed,
        "window": standing.window,
        "unit": "seconds" if standing.is_timed else "results",
        "next_best": None if standing.runner_up is None else standing.runner_up[0],
    }
