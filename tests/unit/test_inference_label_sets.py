"""A model that finds several labels: each comes and goes by its own rule."""

from __future__ import annotations

import numpy as np
import pytest

from agent.config.sections.decide import DecideConfig
from agent.inference.decisions.classifications import found_labels, top_scores
from agent.inference.decisions.decision import LabelSetDecision
from agent.inference.decisions.standing import why
from agent.runtime.records import Classification, Score, ServedModel, StageTimes, StateChange

LABELS = ("helmet", "goggles", "vest")
_SERVED = ServedModel("m", "m", "1", "0" * 64, "ort-cpu", "fp32", degraded=False)
_SECOND = 1_000_000_000


def _result(at_ns: int, scores: tuple[float, ...]) -> Classification:
    best = max(range(len(scores)), key=scores.__getitem__)
    return Classification(
        camera="front",
        classifier="ppe",
        served=_SERVED,
        frame_index=0,
        captured_at_ns=at_ns,
        captured_at_utc_ns=0,
        decided_at_ns=at_ns,
        top=(Score(best, LABELS[best], scores[best]),),
        margin=0.0,
        batch=1,
        times=StageTimes(0, 0, 0, 0, 0),
    )


class _Stream:
    """Feeds a decision one result per second."""

    def __init__(self, stated: dict[str, float] | None = None, **config: object) -> None:
        decide = DecideConfig.model_validate(config)
        self.now_ns = 0
        self.decision = LabelSetDecision(
            "front", "ppe", decide, labels=LABELS, stated=stated or {}, now_ns=0, utc_ns=0
        )

    def feed(self, *scores: float) -> StateChange | None:
        self.now_ns += _SECOND
        result = _result(self.now_ns, scores)
        row = np.array(scores, np.float32)
        return self.decision.update(result, now_ns=self.now_ns, utc_ns=self.now_ns, scores=row)

    def sets(self, *results: tuple[float, ...]) -> list[tuple[str, ...]]:
        return [(self.feed(*scores), self.decision.labels)[1] for scores in results]


def _moves(change: StateChange | None) -> list[tuple[str | None, str | None]]:
    assert change is not None
    return [(move.from_label, move.to_label) for move in change.moves]


def test_each_label_has_its_own_thresholds_and_votes() -> None:
    rules = {"helmet": {"enter": 0.3, "votes": 1}, "vest": {"enter": 0.9, "exit": 0.8}}
    stream = _Stream(votes=2, window=3, labels=rules)
    assert stream.sets((0.4, 0.8, 0.85), (0.4, 0.8, 0.95), (0.4, 0.1, 0.95)) == [
        ("helmet",),
        ("helmet", "goggles"),
        ("helmet", "goggles", "vest"),
    ]
    assert stream.sets((0.4, 0.1, 0.81), (0.4, 0.1, 0.79), (0.4, 0.1, 0.79)) == [
        ("helmet", "vest"),
        ("helmet", "vest"),
        ("helmet",),
    ]


def test_one_result_may_bring_several_events_and_one_state() -> None:
    stream = _Stream(votes=1, window=1)
    assert _moves(stream.feed(0.9, 0.9, 0.1)) == [(None, "helmet"), (None, "goggles")]
    change = stream.feed(0.1, 0.8, 0.9)
    assert _moves(change) == [("helmet", None), (None, "vest")]
    assert change is not None
    assert (change.label, change.labels, change.reason) == (None, ("goggles", "vest"), "votes")
    assert [move.confidence for move in change.moves] == pytest.approx([0.1, 0.9])
    assert change.confidence == pytest.approx(0.8), "the lowest of the decided labels"


def test_the_set_is_unknown_until_enough_results_came_and_may_then_be_empty() -> None:
    stream = _Stream(votes=2, window=3)
    assert stream.feed(0.1, 0.1, 0.1) is None
    assert stream.decision.label == "unknown"
    change = stream.feed(0.1, 0.1, 0.1)
    assert change is not None
    assert (change.label, change.labels, change.moves) == (None, (), ())


def test_without_results_every_label_goes_and_the_state_is_stale() -> None:
    stream = _Stream(votes=1, window=1, stale_after_s=10)
    stream.feed(0.9, 0.9, 0.1)
    assert stream.decision.tick(now_ns=stream.now_ns + 9 * _SECOND, utc_ns=0) is None
    change = stream.decision.tick(now_ns=stream.now_ns + 10 * _SECOND, utc_ns=0)
    assert _moves(change) == [("helmet", "stale"), ("goggles", "stale")]
    assert change is not None
    assert (change.label, change.labels, change.reason) == ("stale", (), "stale")


def test_after_stale_one_poor_result_is_unknown_and_not_an_empty_set() -> None:
    stream = _Stream(votes=2, window=2, stale_after_s=10)
    stream.sets((0.9, 0.1, 0.1), (0.9, 0.1, 0.1))
    stream.decision.tick(now_ns=stream.now_ns + 10 * _SECOND, utc_ns=0)
    change = stream.feed(0.9, 0.1, 0.1)
    assert _moves(change) == [("stale", "unknown")]
    assert _moves(stream.feed(0.9, 0.1, 0.1)) == [(None, "helmet")]


def test_a_label_between_exit_and_enter_stays_and_does_not_come() -> None:
    stream = _Stream(votes=1, window=1, enter=0.7, exit=0.5)
    assert stream.sets((0.6, 0.1, 0.1), (0.7, 0.6, 0.1), (0.5, 0.6, 0.1), (0.49, 0.6, 0.1)) == [
        (),
        ("helmet",),
        ("helmet",),
        (),
    ]


def test_a_threshold_of_the_package_counts_unless_the_file_has_one() -> None:
    stated = {"helmet": 0.3, "goggles": 0.3}
    stream = _Stream(stated, votes=1, window=1, labels={"goggles": {"enter": 0.9}})
    assert stream.sets((0.35, 0.35, 0.65), (0.2, 0.95, 0.75)) == [("helmet",), ("goggles", "vest")]
    assert stream.decision.enters.tolist() == pytest.approx([0.3, 0.9, 0.7])


def test_new_rules_end_every_label_with_an_event() -> None:
    stream = _Stream(votes=1, window=1)
    stream.feed(0.9, 0.9, 0.1)
    after = LabelSetDecision(
        "front", "ppe", DecideConfig(), labels=LABELS, stated={}, now_ns=0, utc_ns=0, before=stream.decision
    )
    assert _moves(after.initial()) == [("helmet", "unknown"), ("goggles", "unknown")]


def test_labels_hold_for_seconds_at_any_rate() -> None:
    stream = _Stream(hold_s=3, labels={"vest": {"hold_s": 1}})
    assert stream.sets(*[(0.9, 0.1, 0.9)] * 4) == [(), ("vest",), ("vest",), ("helmet", "vest")]


def test_the_standing_is_about_the_best_label_that_is_missing() -> None:
    stream = _Stream(votes=2, window=3)
    stream.sets((0.9, 0.4, 0.1), (0.9, 0.4, 0.1))
    standing = stream.decision.standing()
    assert (standing.candidate, standing.labels) == ("goggles", ("helmet",))
    assert why(standing).startswith("goggles: confidence 0.40 is below enter 0.7; 0 of 3 votes, 2 needed")
    assert [one.candidate for one in stream.decision.standings()] == ["goggles", "vest", "helmet"]
    assert "is not below exit 0.5, so it stays; 2 of 3 votes" in why(stream.decision.standings()[2])


@pytest.mark.parametrize("top_k", [1, 2])
def test_a_result_has_every_label_that_reaches_its_enter(top_k: int) -> None:
    row = np.array([0.35, 0.2, 0.8], np.float32)
    top, _ = top_scores(row, LABELS, top_k)
    ranked, found = found_labels(row, LABELS, np.array([0.3, 0.3, 0.9], np.float32), top)
    assert found == ("helmet",)
    assert [score.label for score in ranked] == ["vest", "helmet"]
