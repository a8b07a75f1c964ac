"""`explain` never says that nothing is wrong while a classifier has decided no label."""

from __future__ import annotations

from typing import Any

import pytest

from agent.cameras.camera import CameraStatistics
from agent.cameras.frame_counters import CameraCounts, ClassifierCounts
from agent.commands.explanation import explanation
from agent.config.model import CameraConfig
from agent.config.sections.decide import DecideConfig
from agent.inference.decisions.decision import Decision, LabelDecision
from agent.inference.worker import WorkerStatistics
from agent.runtime.records import Classification, Score, ServedModel, StageTimes

_SERVED = ServedModel("m", "m", "1", "0" * 64, "ort-cpu", "fp32", degraded=False)
_SECOND = 1_000_000_000


def _decision(*confidences: float, **config: object) -> Decision:
    decide = DecideConfig.model_validate(config)
    decision = LabelDecision("front", "inspect", decide, now_ns=0, utc_ns=0)
    for number, confidence in enumerate(confidences, 1):
        result = Classification(
            camera="front",
            classifier="inspect",
            served=_SERVED,
            frame_index=number,
            captured_at_ns=number * _SECOND,
            captured_at_utc_ns=0,
            decided_at_ns=number * _SECOND,
            top=(Score(0, "dent", confidence), Score(1, "ok", 0.05)),
            margin=0.1,
            batch=1,
            times=StageTimes(0, 0, 0, 0, 0),
        )
        decision.update(result, now_ns=number * _SECOND, utc_ns=0)
    return decision


def _explained(decision: Decision, *, now_s: int = 6) -> dict[str, Any]:
    config = CameraConfig.model_validate({"source": {"type": "pattern"}, "classify": [{"model": "inspect"}]})
    one = ClassifierCounts(offered=6, classified=6, skipped=0, dropped={}, in_flight=0)
    counts = CameraCounts(captured=6, classified=6, dropped={}, in_flight=0, classifiers={"inspect": one})
    camera = CameraStatistics(
        name="front",
        state="connected",
        fps=1.0,
        reconnects=0,
        last_frame_age_s=0.1,
        image_fault=None,
        error=None,
        counts=counts,
        skipped={},
    )
    worker = WorkerStatistics("inspect", _SERVED, None, 6, 6, 0, 0, None)
    details: dict[str, Any] = explanation(
        config, camera, {"inspect": worker}, {"inspect": decision}, rate_ratio=1.0, now_ns=now_s * _SECOND
    )
    return details


def test_a_confidence_below_enter_is_reported_with_its_votes_and_the_next_best() -> None:
    details = _explained(_decision(0.9, 0.9, 0.4, 0.4, 0.4, 0.4, votes=3, window=5))
    (finding,) = details["findings"]
    assert finding == (
        "inspect is unknown: dent: confidence 0.40 is below enter 0.7; 1 of 5 votes, 3 needed; next best ok 0.05; "
        "clearer images or a lower enter would change this"
    )
    shown = details["classifiers"]["inspect"]
    assert (shown["label"], shown["labels"], shown["why"]) == ("unknown", [], finding.partition(": ")[2])
    assert shown["decision"] == [
        {
            "label": "dent",
            "confidence": 0.4,
            "is_decided": False,
            "enter": 0.7,
            "votes": 1,
            "needed": 3,
            "window": 5,
            "unit": "results",
            "next_best": "ok",
        }
    ]


@pytest.mark.parametrize(
    ("decision", "now_s", "words"),
    [
        (_decision(), 1, "inspect is unknown: no result yet"),
        (_decision(0.9, 0.9), 2, "dent: confidence 0.90 reaches enter 0.7; 2 of 5 votes, 3 needed; next best ok 0.05"),
        (_decision(0.9, 0.9), 2, "; 1 more such result decides"),
        (_decision(0.9, 0.9, hold_s=3), 2, "held for 1.0 s, 3 s needed; next best ok 0.05; 2.0 s more of it decide"),
    ],
)  # fmt: skip
def test_a_label_that_is_not_decided_yet_says_what_is_missing(decision: Decision, now_s: int, words: str) -> None:
    (finding,) = _explained(decision, now_s=now_s)["findings"]
    assert words in str(finding)


def test_without_results_the_silence_is_reported_and_not_the_last_confidence() -> None:
    decision = _decision(0.9, 0.9, 0.9)
    decision.tick(now_ns=14 * _SECOND, utc_ns=0)
    (finding,) = _explained(decision, now_s=15)["findings"]
    assert finding == "inspect is stale: no result for 12.0 s, but stale_after_s is 10; see the other findings"


def test_a_decided_label_has_no_finding_and_says_why_it_stays() -> None:
    details = _explained(_decision(0.9, 0.9, 0.9, 0.6))
    assert details["findings"] == ["no problem found: results are published, and every classifier has decided"]
    shown = details["classifiers"]["inspect"]
    assert shown["why"].startswith("dent: confidence 0.60 is not below exit 0.5, so it stays; 4 of 5 votes")
