"""The compact result: what changes from frame to frame; the rest is in the topic and in ``runtime``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from agent.mqtt.messages.base import (
    PUBLIC,
    Amount,
    AnyMessage,
    BuiltOnce,
    ClockState,
    Count,
    Duration,
    Instant,
    Share,
    utc_text,
)
from agent.mqtt.messages.results import (
    ImageFile,
    Make,
    TopClass,
    figure,
    is_plausible,
    share,
    source_of,
    trusted,
    validated,
)
from agent.runtime.records import Classification, StageTimes

STAGES = ("capture", "queue", "preprocess", "infer", "decide")
"""The stages in ``stages_ms``, in their order."""

_SHA_DIGITS = 8
_SPARSE = ConfigDict(**{**PUBLIC, "json_schema_serialization_defaults_required": False})
"""Fields with a default are left out while they have it."""


@dataclass(frozen=True, kw_only=True, config=_SPARSE)
class CompactDecision(BuiltOnce):
    """Where the decision stands with this result; thresholds and needed votes are in `runtime`."""

    label: str | None = None
    """The decided label, `unknown` or `stale`; left out while a decision about several labels holds."""
    candidate: str | None = None
    """The label that the result speaks for; left out if it is the result's `label`."""
    confidence: Share | None = None
    """The candidate's confidence in this result, 0 to 1; left out with `candidate`."""
    votes: Amount
    """Results in the window that vote for the candidate; with `hold_s` the seconds for which it has held."""


def _require_schema(schema: dict[str, Any]) -> None:
    schema["required"].insert(0, "schema")  # it has a default, and is sent all the same


@dataclass(frozen=True, kw_only=True, config=ConfigDict(**_SPARSE, json_schema_extra=_require_schema))
class CompactResult(AnyMessage):
    """The result of one classifier for one frame: device, camera and classifier are in the topic.

    `runtime` has what is equal in every result: the model, its labels, the engine, the rules of the decision.
    """

    schema: Literal["result-compact/1"] = "result-compact/1"
    """Name and version of the schema."""
    session: Count
    """Number of this start of the agent on the device: each start adds one."""
    seq: Count
    """Number of the message on this topic in this session, from 0 without gaps: a gap is a lost message."""
    frame: Count
    """Number of the frame among all frames that the camera delivered in this session."""
    captured_at: Instant
    """When the frame was captured, UTC."""
    label: str
    """Label of the best class."""
    confidence: Share
    """Probability of the best class, 0 to 1."""
    margin: Share
    """Difference between the two highest probabilities."""
    ran: tuple[str, str, str]
    """What classified the frame: the first 8 digits of the model's `sha256`, the engine, the precision."""
    stages_ms: tuple[Duration, Duration, Duration, Duration, Duration]
    """Time in each stage, ms: capture, queue, preprocess, infer, decide."""
    decision: CompactDecision | None = None
    """Where the decision stands with this result; left out if other rules were put in force meanwhile."""
    labels: dict[str, Share] | None = None
    """Every label whose confidence reaches its `enter`, with its confidence; left out if the model chooses one."""
    next_best: TopClass | None = None
    """The class after the best; left out while the best one is the decided label, or the model finds several."""
    batch: Count = 1
    """Frames in the same engine call, this one included; left out if 1."""
    clock: ClockState = "synced"
    """Whether the device's clock was synchronised when the message was written; left out if it was."""
    degraded: bool = False
    """True if less runs than was configured; `runtime` says what is missing; left out if false."""
    image_fault: str | None = None
    """What is wrong with the frame: black, frozen, covered or blurred; left out if nothing is."""
    source: ImageFile | None = None
    """The image file of the frame; left out for cameras and videos."""
    trigger: str | None = None
    """Id of what asked for the frame: of the command `capture`, or `gpio-N`; left out if nothing did."""
    features: tuple[float, ...] | None = None
    """Up to 32 numbers made from the frame's embedding; left out without `features: true`, or if it is not finite."""

    def sent(self) -> dict[str, object]:
        """The fields that are sent: without those that have their default."""
        fields = _without_defaults(self)
        if self.decision is not None:
            fields["decision"] = _without_defaults(self.decision)
        return {"schema": self.schema, **fields}


def compact_from_classification(
    classification: Classification, *, session: int, seq: int, clock_state: ClockState
) -> CompactResult:
    """The compact message for one classification; its topic names device, camera and classifier.

    Raises:
        pydantic.ValidationError: a confidence is outside 0 to 1, or a time is negative or not a number.
    """
    make = trusted if is_plausible(classification) else validated
    best, served = classification.top[0], classification.served
    is_sure = classification.standing is not None and classification.standing.label == best.label
    has_next = classification.found is None and not is_sure and len(classification.top) > 1
    return make(
        CompactResult,
        schema="result-compact/1",
        session=session,
        seq=seq,
        frame=classification.frame_index,
        captured_at=utc_text(classification.captured_at_utc_ns),
        label=best.label,
        confidence=share(best.confidence),
        margin=round(share(classification.margin), 4),
        ran=(served.sha256[:_SHA_DIGITS], served.engine, served.precision),
        stages_ms=_stages_ms(classification.times),
        decision=_decision(classification, make),
        labels=_labels(classification),
        next_best=_next_best(classification, make) if has_next else None,
        batch=classification.batch,
        clock=clock_state,
        degraded=served.degraded,
        image_fault=classification.image_fault,
        source=source_of(classification, make),
        trigger=classification.trigger,
        features=classification.features,
    )


def _decision(classification: Classification, make: Make) -> CompactDecision | None:
    standing = classification.standing
    if standing is None:
        return None
    is_own = standing.candidate in {None, classification.top[0].label}
    return make(
        CompactDecision,
        label=standing.label,
        candidate=None if is_own else standing.candidate,
        confidence=None if is_own else share(standing.confidence),
        votes=figure(standing.votes),
    )


def _labels(classification: Classification) -> dict[str, float] | None:
    if classification.found is None:
        return None
    known = {score.label: share(score.confidence) for score in classification.top}
    return {label: known[label] for label in classification.found}


def _next_best(classification: Classification, make: Make) -> TopClass:
    score = classification.top[1]
    return make(TopClass, label=score.label, index=score.index, confidence=share(score.confidence))


def _stages_ms(times: StageTimes) -> tuple[float, float, float, float, float]:
    """Hundredths of a millisecond: finer than the clocks of the stages are worth."""
    return (
        round(times.capture_ms, 2),
        round(times.queue_ms, 2),
        round(times.preprocess_ms, 2),
        round(times.infer_ms, 2),
        round(times.decide_ms, 2),
    )


def _without_defaults(message: CompactResult | CompactDecision) -> dict[str, object]:
    defaults = type(message).__dataclass_fields__
    return {name: value for name, value in vars(message).items() if value != defaults[name].default}
