"""Compares the records of a soak with the promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scripts.soak_harness.report import MIN_AVAILABILITY, Report
from scripts.soak_harness.stage import CANARY, RESULTS, Stage
from scripts.soak_harness.verdict import (
    Sample,
    Span,
    availability,
    frames_by_kind,
    frames_problem,
    growth_of,
    sequence_problems,
    unbalanced,
)

STOPS_WITHIN_S = 5.0
_STAYS_UP_MIN_S = 60.0
"""With fewer undisturbed seconds the share is not judged."""
_MUST_SPARE_FRAMES = frozenset({"broker", "disk", "clock", "configuration"})
_WAITED_S = 2.0
_SECONDS_AROUND = 1.0
"""Margin at both ends of a fault: half a second cannot count as a second with a result."""


def judge(stage: Stage, samples: Sequence[Sample], leaks: set[str], report: Report, span: Span) -> None:
    """Fill the report; ``leaks``: places where the sampler found the password."""
    report.starts = len(stage.agent.exits)
    heard = sorted(one.at for topic in RESULTS.values() for one in stage.subscriber.messages(topic))
    report.growth = growth_of(samples, heard)
    for growth in report.growth:
        report.problems.extend(growth.problems)
    _judge_delivery(stage, report, span)
    _judge_counters(stage, report)
    _judge_log(stage, leaks, report)
    _judge_drills(report)
    if report.stop_s > STOPS_WITHIN_S:
        report.problems.append(f"stopping took {report.stop_s:.1f} s, {STOPS_WITHIN_S:g} are allowed")
    if stage.agent.exits and stage.agent.exits[-1][1] != 0:
        report.problems.append(f"the last exit code was {stage.agent.exits[-1][1]}")


def _judge_drills(report: Report) -> None:
    for drill in report.drills:
        if not drill.took_hold:
            report.problems.append(f"at {drill.at_s:.0f} s, {drill.name}: the fault had no effect")
        if drill.recovered_s is None:
            report.problems.append(
                f"at {drill.at_s:.0f} s, {drill.name}: no results of both cameras within {drill.recovers_within_s:g} s"
            )


def _judge_delivery(stage: Stage, report: Report, span: Span) -> None:
    has_faults = bool(report.drills)
    for camera, topic in RESULTS.items():
        results = [(one.at, one.json) for one in stage.subscriber.messages(topic)]
        # Results are a stream at QoS 0: without a broker they are gone.
        report.problems.extend(sequence_problems(topic, results, lambda _, __: has_faults))
        topic_of_events = topic.replace("/result", "/event")
        events = [(one.at, one.json) for one in stage.subscriber.messages(topic_of_events)]
        report.problems.extend(sequence_problems(topic_of_events, events, report.was_deaf_between))
        times, kept_away = [at for at, _ in results], _kept_away(report, camera)
        report.results[camera], report.events[camera] = len(results), len(events)
        report.availability[camera] = round(availability(times, span), 4)
        report.spared[camera] = spared = round(availability(times, span, kept_away), 4)
        undisturbed_s = span[1] - span[0] - sum(last - first for first, last in kept_away)
        if spared < MIN_AVAILABILITY and undisturbed_s > _STAYS_UP_MIN_S:
            report.problems.append(
                f"camera {camera}: results in {100 * spared:.1f} % of the seconds without a fault of it, "
                f"{100 * MIN_AVAILABILITY:g} % are promised"
            )


def _kept_away(report: Report, camera: str) -> list[Span]:
    """Spans in which results of this camera could not be made or received."""
    return [
        *report.deaf,
        *(
            (drill.span[0] - _SECONDS_AROUND, drill.span[1] + _SECONDS_AROUND)
            for drill in report.drills
            if camera in drill.touches or drill.ended_agent or drill.kind == "broker"
        ),
    ]


def _judge_counters(stage: Stage, report: Report) -> None:
    healths: list[tuple[float, Any]] = [(one.at, one.json) for one in stage.subscriber.messages("edge/dut/health")]
    report.healths = len(healths)
    for _, health in healths:
        report.problems.extend(unbalanced(health))
    # A message that waited for the broker arrives right after the recovery.
    faults = [((drill.span[0], drill.span[1] + _WAITED_S), drill.kind) for drill in report.drills]
    by_kind = frames_by_kind(healths, faults)
    report.frames = {kind: frames for kind, (frames, _) in by_kind.items()}
    for kind in sorted(_MUST_SPARE_FRAMES & by_kind.keys()):
        problem = frames_problem(kind, *by_kind[kind])
        if problem is not None:
            report.problems.append(problem)


def _judge_log(stage: Stage, leaks: set[str], report: Report) -> None:
    log = stage.log()
    report.log_bytes = len(log)
    if "Traceback" in log:
        report.problems.append(f"a traceback in the log: ...{log[log.index('Traceback') :][:500]}")
    places = [*sorted(leaks), *(["log"] if CANARY in log else [])]
    if any(CANARY.encode() in message.payload for message in stage.subscriber.messages()):
        places.append("message")
    report.problems.extend(f"the password was found in: {place}" for place in places)
