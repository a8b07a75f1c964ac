from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from agent.config.sections.decide import DecideConfig
from agent.inference.decisions.classifications import top_binary, top_scores
from agent.inference.decisions.decision import LabelDecision
from agent.runtime.records import Classification, Score, ServedModel, StageTimes, StateChange

_SERVED = ServedModel("m", "m", "1", "0" * 64, "ort-cpu", "fp32", degraded=False)
_SECOND = 1_000_000_000


def _result(label: str, confidence: float) -> Classification:
    return Classification(
        camera="front",
        classifier="inspect",
        served=_SERVED,
        frame_index=0,
        captured_at_ns=0,
        captured_at_utc_ns=0,
        decided_at_ns=0,
        top=(Score(0, label, confidence),),
        margin=confidence,
        batch=1,
        times=StageTimes(0, 0, 0, 0, 0),
    )


class _Stream:
    """Feeds a decision one result per second and keeps the state changes."""

    def __init__(self, **config: object) -> None:
        self.decision = LabelDecision("front", "inspect", DecideConfig.model_validate(config), now_ns=0, utc_ns=0)
        self.now_ns = 0

    def feed(self, label: str, confidence: float = 0.9) -> StateChange | None:
        self.now_ns += _SECOND
        result = replace(_result(label, confidence), captured_at_ns=self.now_ns)
        return self.decision.update(result, now_ns=self.now_ns, utc_ns=self.now_ns)

    def labels(self, *results: str) -> list[str | None]:
        return [(self.feed(label), self.decision.label)[1] for label in results]


def test_a_label_needs_its_votes_inside_the_window() -> None:
    stream = _Stream(votes=3, window=5)
    assert stream.labels("ok", "ok", "dent", "ok") == ["unknown", "unknown", "unknown", "ok"]


def test_a_single_outlier_does_not_change_the_label() -> None:
    stream = _Stream(votes=3, window=5)
    stream.labels("ok", "ok", "ok")
    assert stream.labels("dent", "ok", "dent", "ok", "ok") == ["ok"] * 5


def test_a_result_below_enter_does_not_vote_for_a_new_label() -> None:
    stream = _Stream(votes=1, window=1, enter=0.7, exit=0.5)
    assert stream.feed("ok", 0.69) is None
    assert stream.decision.label == "unknown"


def test_the_decided_label_is_confirmed_down_to_exit() -> None:
    stream = _Stream(votes=2, window=3, enter=0.7, exit=0.5)
    stream.labels("ok", "ok")
    for _ in range(10):
        stream.feed("ok", 0.5)
    assert stream.decision.label == "ok"
    stream.feed("ok", 0.49)
    change = stream.feed("ok", 0.49)
    assert change is not None
    assert (change.label, change.moves[0].from_label, change.reason) == ("unknown", "ok", "unconfirmed")


def test_one_vote_in_a_wide_window_does_not_flap() -> None:
    stream = _Stream(votes=1, window=5)
    assert stream.labels("ok", "dent", "dent", "ok", "ok") == ["ok", "dent", "dent", "ok", "ok"]


def test_a_change_has_the_previous_label_and_its_evidence() -> None:
    stream = _Stream(votes=1, window=1)
    change = stream.feed("ok", 0.8)
    assert change is not None
    assert change.evidence is not None
    assert (change.moves[0].from_label, change.label, change.reason, change.votes) == ("unknown", "ok", "votes", 1)
    assert change.confidence == 0.8
    assert change.since_utc_ns == stream.now_ns


def test_a_label_without_results_goes_stale() -> None:
    stream = _Stream(votes=1, window=1, stale_after_s=10)
    stream.feed("ok")
    assert stream.decision.tick(now_ns=stream.now_ns + 9 * _SECOND, utc_ns=0) is None
    change = stream.decision.tick(now_ns=stream.now_ns + 10 * _SECOND, utc_ns=77)
    assert change is not None
    assert (change.label, change.moves[0].from_label, change.reason, change.evidence) == ("stale", "ok", "stale", None)


def test_results_that_confirm_nothing_are_unknown_and_no_results_are_stale() -> None:
    stream = _Stream(votes=2, window=3, stale_after_s=10)
    assert stream.decision.tick(now_ns=9 * _SECOND, utc_ns=0) is None
    silent = stream.decision.tick(now_ns=10 * _SECOND, utc_ns=0)
    assert silent is not None
    assert (silent.label, silent.moves[0].from_label) == ("stale", "unknown"), "no result since the start"
    assert stream.decision.tick(now_ns=20 * _SECOND, utc_ns=0) is None
    first = stream.feed("ok", 0.4)
    assert first is not None
    assert (first.label, first.moves[0].from_label, first.reason) == ("unknown", "stale", "resumed")


def test_seconds_with_a_window_forgive_single_other_results() -> None:
    stream = _Stream(hold_s=3, window_s=5)
    assert stream.labels("ok", "ok", "dent", "ok", "ok") == ["unknown", "unknown", "unknown", "unknown", "ok"]
    strict = _Stream(hold_s=3)
    assert strict.labels("ok", "ok", "dent", "ok", "ok", "ok", "ok")[-2:] == ["unknown", "ok"]


def test_a_label_ends_after_hold_s_without_confirmation() -> None:
    stream = _Stream(hold_s=2)
    stream.labels("ok", "ok", "ok")
    change = None
    for number in range(3):
        assert change is None, f"result {number} is within the two seconds"
        change = stream.feed("ok", 0.1)
    assert change is not None
    assert (change.label, change.reason, change.is_timed, change.window) == ("unknown", "unconfirmed", True, 2.0)


def test_a_different_label_takes_over_after_hold_s_without_unknown_between() -> None:
    stream = _Stream(hold_s=2)
    assert stream.labels("ok", "ok", "ok", "dent", "dent", "dent")[2:] == ["ok", "ok", "ok", "dent"]


def test_a_label_that_went_stale_comes_back_with_its_votes() -> None:
    stream = _Stream(votes=2, window=3)
    stream.labels("ok", "ok")
    stream.decision.tick(now_ns=stream.now_ns + 60 * _SECOND, utc_ns=0)
    assert stream.labels("ok", "ok") == ["unknown", "ok"]


def test_an_unchanged_label_is_repeated_once_a_minute() -> None:
    stream = _Stream(votes=1, window=1, stale_after_s=86400)
    stream.feed("ok")
    since = stream.now_ns
    repeats = [
        change
        for second in range(1, 181)
        if (change := stream.decision.tick(now_ns=since + second * _SECOND, utc_ns=0)) is not None
    ]
    assert [(change.label, change.moves, change.reason) for change in repeats] == [("ok", (), "heartbeat")] * 3
    assert {change.since_utc_ns for change in repeats} == {since}


def test_the_initial_state_replaces_that_of_an_earlier_session() -> None:
    change = _Stream().decision.initial()
    assert (change.label, change.moves, change.reason) == ("unknown", (), "start")


def test_equal_scores_go_to_the_lower_index() -> None:
    row = np.array([0.1, 0.4, 0.4, 0.1], np.float32)
    top, margin = top_scores(row, ["a", "b", "c", "d"], 3)
    assert [score.label for score in top] == ["b", "c", "a"]
    assert margin == 0.0


@pytest.mark.parametrize("top_k", [1, 2, 3, 100])
def test_top_scores_agree_with_a_full_sort(top_k: int) -> None:
    row = np.random.default_rng(top_k).random(17, np.float32)
    labels = [str(index) for index in range(17)]
    top, margin = top_scores(row, labels, top_k)
    order = np.argsort(-row, kind="stable")
    assert [score.index for score in top] == order[: min(top_k, 17)].tolist()
    assert [score.label for score in top] == [labels[index] for index in order[: min(top_k, 17)]]
    assert margin == pytest.approx(row[order[0]] - row[order[1]])


def test_top_scores_leaves_the_scores_unchanged() -> None:
    row = np.array([0.2, 0.8], np.float32)
    top_scores(row, ["a", "b"], 2)
    assert row.tolist() == pytest.approx([0.2, 0.8])


def test_a_model_with_one_class_has_its_confidence_as_margin() -> None:
    top, margin = top_scores(np.array([0.25], np.float32), ["only"], 3)
    assert [score.label for score in top] == ["only"]
    assert margin == 0.25


@pytest.mark.parametrize(
    ("score", "threshold", "label", "confidence"),
    [(0.9, 0.5, "defect", 0.9), (0.02, 0.5, "ok", 0.98), (0.3, 0.25, "defect", 0.3), (0.6, 0.7, "ok", 0.4)],
)
def test_a_binary_model_decides_at_its_threshold(
    score: float, threshold: float, label: str, confidence: float
) -> None:
    top, margin = top_binary(np.array([score], np.float32), ["defect", "ok"], threshold, 2)
    assert top[0].label == label
    assert top[0].confidence == pytest.approx(confidence)
    assert {one.label for one in top} == {"defect", "ok"}
    assert margin == pytest.approx(abs(2 * score - 1), abs=1e-6)
    assert len(top_binary(np.array([score], np.float32), ["defect", "ok"], threshold, 1)[0]) == 1


def test_a_binary_score_that_is_no_number_stays_none() -> None:
    top, _ = top_binary(np.array([np.nan], np.float32), ["defect", "ok"], 0.5, 2)
    assert np.isnan(top[0].confidence)


def test_new_rules_end_the_old_label_with_a_change() -> None:
    stream = _Stream(votes=1, window=1)
    stream.feed("dent")
    after = LabelDecision(
        "front", "inspect", DecideConfig(votes=2, window=3), now_ns=0, utc_ns=0, before=stream.decision
    )
    first = after.initial()
    assert (first.moves[0].from_label, first.label, first.reason) == ("dent", "unknown", "start")
    assert after.initial().moves == ()


def test_two_workers_may_feed_one_decision_during_a_replacement() -> None:
    stream = _Stream(votes=20, window=50)

    def feed(label: str) -> None:
        for _ in range(10_000):
            stream.feed(label)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(feed, label) for label in ("ok", "dent")]:
                done.result()
    finally:
        sys.setswitchinterval(before)
    assert stream.decision.label in {"ok", "dent", "unknown"}
