"""Results, states and events."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, Protocol, TypeVar

from pydantic.dataclasses import dataclass

from agent.mqtt.messages.base import (
    PUBLIC,
    Amount,
    BuiltOnce,
    ClockState,
    Count,
    Duration,
    Instant,
    Message,
    Share,
    utc_text,
)
from agent.runtime.records import Classification, Move, Score, ServedModel, StageTimes, Standing, StateChange

M = TypeVar("M")

_MAX_ROUNDED_SHARE = 1.0001
"""Rounding of float32 may leave a probability slightly above 1."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Model(BuiltOnce):
    """The model package that classified the frame."""

    name: str
    """Name of the package."""
    version: str
    """Version of the package."""
    sha256: str
    """SHA-256 of the model file."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Engine(BuiltOnce):
    """The engine that ran the model."""

    name: str
    """The engine that ran."""
    precision: str
    """Precision: fp32, fp16 or int8."""
    degraded: bool
    """True if less runs than was configured; `runtime` says what is missing."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class TopClass(BuiltOnce):
    """One class and its probability."""

    label: str
    """Name of the class."""
    index: Count
    """Index of the class in the model's output."""
    confidence: Share
    """Probability, 0 to 1."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Latencies(BuiltOnce):
    """Time of one frame in each stage, in milliseconds; `total` is the sum of the others."""

    capture: Duration
    """Fetching and decoding the frame, ms."""
    queue: Duration
    """Waiting for the worker, ms."""
    preprocess: Duration
    """Cropping and resizing, ms."""
    infer: Duration
    """Running the engine, ms."""
    decide: Duration
    """From the scores to the label, ms."""
    total: Duration
    """From the start of the capture to the decision, ms."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class ImageFile(BuiltOnce):
    """The file that a frame was read from."""

    file: str
    """Name of the file, below the folder that is read."""
    sha256: str
    """SHA-256 of its bytes."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class DecisionNow(BuiltOnce):
    """Where the decision stands with this result; thresholds and needed votes are in `runtime`."""

    label: str | None
    """The decided label, `unknown` or `stale`; null while a decision about several labels holds."""
    candidate: str | None
    """The label that the result speaks for; of several labels, the best one that is not decided."""
    confidence: Share
    """Its confidence in this result, 0 to 1."""
    votes: Amount
    """Results in the window that vote for it; with `hold_s` the seconds for which it has held."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Result(Message):
    """The result of one classifier for one frame."""

    schema: Literal["result/1"] = "result/1"
    """Name and version of the schema."""
    seq: Count
    """Number of the message on this topic in this session, from 0 without gaps: a gap is a lost message."""
    frame: Count
    """Number of the frame among all frames that the camera delivered in this session."""
    captured_at: Instant
    """When the frame was captured, UTC."""
    clock: ClockState
    """Whether the device's clock was synchronised when the message was written."""
    camera: str
    """Name of the camera."""
    classifier: str
    """Name of the classifier."""
    model: Model
    """The model that classified the frame."""
    engine: Engine
    """The engine that ran the model."""
    label: str
    """Label of the best class."""
    index: Count
    """Index of the best class."""
    confidence: Share
    """Probability of the best class, 0 to 1."""
    margin: Share
    """Difference between the two highest probabilities."""
    top_k: tuple[TopClass, ...]
    """The best classes, highest confidence first; also every label of `labels`."""
    batch: Count
    """Frames in the same engine call, this one included."""
    latency_ms: Latencies
    """Time in each stage."""
    image_fault: str | None = None
    """What is wrong with the frame: black, frozen, covered or blurred; null if nothing is."""
    source: ImageFile | None = None
    """The image file of the frame; null for cameras and videos."""
    labels: tuple[str, ...] | None = None
    """Every label whose confidence reaches its `enter`; null for a model that chooses one label."""
    decision: DecisionNow | None = None
    """Where the decision stands with this result; null if other rules were put in force meanwhile."""
    trigger: str | None = None
    """Id of what asked for the frame: of the command `capture`, or `gpio-N`; null if nothing did."""
    features: tuple[float, ...] | None = None
    """Up to 32 numbers made from the frame's embedding; null without `features: true`, or if it is not finite."""
    historical: bool = False
    """True if sent late, after an interruption."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class State(Message):
    """What one classifier has decided: sent on change, and repeated to show that it still holds."""

    schema: Literal["state/1"] = "state/1"
    """Name and version of the schema."""
    seq: Count
    """Number of the message on this topic in this session, from 0 without gaps; retained messages keep it."""
    at: Instant
    """When the state was decided or repeated, UTC."""
    clock: ClockState
    """Whether the device's clock was synchronised when the message was written."""
    camera: str
    """Name of the camera."""
    classifier: str
    """Name of the classifier."""
    label: str | None
    """The decided label; `unknown`: results confirm none; `stale`: no results; null: `labels` are decided."""
    labels: tuple[str, ...]
    """The decided labels: of a model that finds several all of them, else the one in `label`; empty without one."""
    since: Instant
    """Since when the state holds, UTC."""
    confidence: Share
    """Confidence of the newest result that confirmed the label, 0 to 1; of several labels the lowest."""
    votes: Amount
    """Results in the window that vote for the label, with `hold_s` seconds; of several labels the lowest."""
    window: Amount
    """Number of newest results that vote, with `hold_s` seconds."""
    reason: str
    """Why the state holds or changed."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Evidence(BuiltOnce):
    """The result that changed the label."""

    frame: Count
    """Index of the frame."""
    captured_at: Instant
    """When the frame was captured, UTC."""
    model: Model
    """The model that classified the frame."""
    engine: Engine
    """The engine that ran the model."""
    top_k: tuple[TopClass, ...]
    """The best classes, highest confidence first."""
    margin: Share
    """Difference between the two highest probabilities."""
    latency_ms: Latencies
    """Time in each stage."""
    source: ImageFile | None = None
    """The image file of the frame; null for cameras and videos."""
    trigger: str | None = None
    """Id of what asked for the frame: of the command `capture`, or `gpio-N`; null if nothing did."""


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Event(Message):
    """A label that comes or goes. Delivered at least once; device, session, topic and seq identify it."""

    schema: Literal["event/1"] = "event/1"
    """Name and version of the schema."""
    seq: Count
    """Number of the message on this topic in this session, from 0 without gaps: a gap is a lost message."""
    at: Instant
    """When the label changed, UTC."""
    clock: ClockState
    """Whether the device's clock was synchronised when the message was written."""
    camera: str
    """Name of the camera."""
    classifier: str
    """Name of the classifier."""
    from_label: str | None
    """The previous label, `unknown` or `stale`; null where one of several labels comes."""
    to_label: str | None
    """The new label, `unknown` or `stale`; null where one of several labels goes."""
    labels: tuple[str, ...]
    """All labels that are decided now."""
    confidence: Share
    """Confidence of the newest result that voted for the change, 0 to 1; 0 without one."""
    votes: Amount
    """Results in the window that vote for the change, with `hold_s` seconds."""
    window: Amount
    """Number of newest results that vote, with `hold_s` seconds."""
    reason: str
    """Why the label changed."""
    evidence: Evidence | None
    """The result that changed the label; null if the label changed for lack of results or by other rules."""
    historical: bool = False
    """True if sent late, after an interruption."""


def result_from_classification(
    classification: Classification, *, device: str, session: int, seq: int, clock_state: ClockState
) -> Result:
    """The message for one classification.

    Raises:
        pydantic.ValidationError: a confidence is outside 0 to 1, or a time is negative or not a number.
    """
    make = trusted if is_plausible(classification) else validated
    best = classification.top[0]
    model, engine = _served(classification.served)
    return make(
        Result,
        schema="result/1",
        device=device,
        session=session,
        seq=seq,
        frame=classification.frame_index,
        captured_at=utc_text(classification.captured_at_utc_ns),
        clock=clock_state,
        camera=classification.camera,
        classifier=classification.classifier,
        model=model,
        engine=engine,
        label=best.label,
        index=best.index,
        confidence=share(best.confidence),
        margin=share(classification.margin),
        top_k=_top_k(classification.top, make),
        batch=classification.batch,
        latency_ms=_latencies(classification.times, make),
        image_fault=classification.image_fault,
        source=source_of(classification, make),
        labels=classification.found,
        decision=None if classification.standing is None else _decision(classification.standing, make),
        trigger=classification.trigger,
        features=classification.features,
        historical=False,
    )


def state_from_state_change(
    change: StateChange, *, device: str, session: int, seq: int, at_utc_ns: int, clock_state: ClockState
) -> State:
    """The retained message for a label that begins, or still holds, at ``at_utc_ns``."""
    return State(
        device=device,
        session=session,
        seq=seq,
        at=utc_text(at_utc_ns),
        clock=clock_state,
        camera=change.camera,
        classifier=change.classifier,
        label=change.label,
        labels=change.labels,
        since=utc_text(change.since_utc_ns),
        confidence=share(change.confidence),
        votes=figure(change.votes),
        window=figure(change.window),
        reason=change.reason,
    )


def event_from_move(
    move: Move, change: StateChange, *, device: str, session: int, seq: int, at_utc_ns: int, clock_state: ClockState
) -> Event:
    """The message for ``move``, one of the moves of ``change``."""
    return Event(
        device=device,
        session=session,
        seq=seq,
        at=utc_text(at_utc_ns),
        clock=clock_state,
        camera=change.camera,
        classifier=change.classifier,
        from_label=move.from_label,
        to_label=move.to_label,
        labels=change.labels,
        confidence=share(move.confidence),
        votes=figure(move.votes),
        window=figure(change.window),
        reason=change.reason,
        evidence=None if change.evidence is None else _evidence(change.evidence),
    )


def _evidence(classification: Classification) -> Evidence:
    model, engine = _served(classification.served)
    return Evidence(
        frame=classification.frame_index,
        captured_at=utc_text(classification.captured_at_utc_ns),
        model=model,
        engine=engine,
        top_k=_top_k(classification.top, validated),
        margin=share(classification.margin),
        latency_ms=_latencies(classification.times, validated),
        source=source_of(classification, validated),
        trigger=classification.trigger,
    )


def source_of(classification: Classification, make: Make) -> ImageFile | None:
    """The image file of the frame; None for cameras and videos."""
    origin = classification.origin
    return None if origin is None else make(ImageFile, file=origin.file, sha256=origin.sha256)


@lru_cache(maxsize=64)
def _served(served: ServedModel) -> tuple[Model, Engine]:
    model = Model(name=served.name, version=served.version, sha256=served.sha256)
    return model, Engine(name=served.engine, precision=served.precision, degraded=served.degraded)


def _top_k(top: tuple[Score, ...], make: Make) -> tuple[TopClass, ...]:
    return tuple(
        make(TopClass, label=score.label, index=score.index, confidence=share(score.confidence)) for score in top
    )


def _decision(standing: Standing, make: Make) -> DecisionNow:
    return make(
        DecisionNow,
        label=standing.label,
        candidate=standing.candidate,
        confidence=share(standing.confidence),
        votes=figure(standing.votes),
    )


def figure(value: float) -> float:
    """Votes as they are, seconds with three decimals."""
    return round(value, 3)


def _latencies(times: StageTimes, make: Make) -> Latencies:
    return make(
        Latencies,
        capture=round(times.capture_ms, 4),
        queue=round(times.queue_ms, 4),
        preprocess=round(times.preprocess_ms, 4),
        infer=round(times.infer_ms, 4),
        decide=round(times.decide_ms, 4),
        total=round(times.total_ms, 4),
    )


class Make(Protocol):
    """Makes an instance of a message or a part of one: ``trusted`` or ``validated``."""

    def __call__(self, kind: type[M], /, **fields: object) -> M: ...


def validated(kind: type[M], /, **fields: object) -> M:
    """An instance made with validation."""
    return kind(**fields)


def trusted(kind: type[M], /, **fields: object) -> M:
    """An instance made without validation: a result takes 9 instead of 15 us on a 2-core x86."""
    made = object.__new__(kind)
    made.__dict__.update(fields)
    return made


def is_plausible(classification: Classification) -> bool:
    """Whether the computed values fit the schema; all others come from validated records."""
    times = classification.times
    return (
        0.0 <= classification.margin < _MAX_ROUNDED_SHARE
        and all(0.0 <= score.confidence < _MAX_ROUNDED_SHARE for score in classification.top)
        and times.capture_ms >= 0.0
        and times.queue_ms >= 0.0
        and times.preprocess_ms >= 0.0
        and times.infer_ms >= 0.0
        and times.decide_ms >= 0.0
        and times.total_ms < math.inf
    )


def share(value: float) -> float:
    """``value`` with six decimals, a value slightly above 1 as 1; NaN stays NaN."""
    rounded = round(value, 6)
    return 1.0 if 1.0 < value < _MAX_ROUNDED_SHARE else rounded
