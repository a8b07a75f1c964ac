"""Seconds stay seconds at any frame rate, and both kinds of votes agree with a plain count of what they were given."""

from __future__ import annotations

from collections import Counter

from hypothesis import example, given
from hypothesis import strategies as st

from agent.config.sections.decide import DecideConfig
from agent.inference.decisions.decision import LabelDecision
from agent.inference.decisions.votes import CountedVotes, Key, TimedVotes
from agent.runtime.records import Classification, Score, ServedModel, StageTimes

_SERVED = ServedModel("m", "m", "1", "0" * 64, "ort-cpu", "fp32", degraded=False)
_MS = 1_000_000
_KEYS: st.SearchStrategy[Key] = st.sampled_from(["ok", "dent", None])


def _decided_after_s(intervals_ms: list[int], *, hold_s: float, stale_after_s: float = 10.0) -> tuple[float, float]:
    """Seconds until `dent` is decided, and the last interval before that; the results come at these intervals."""
    config = DecideConfig(hold_s=hold_s, stale_after_s=stale_after_s)
    decision = LabelDecision("front", "inspect", config, now_ns=0, utc_ns=0)
    at_ns = start_ns = 5_000 * _MS
    for interval_ms in [0, *intervals_ms]:
        at_ns += interval_ms * _MS
        if decision.update(_dent(at_ns), now_ns=at_ns, utc_ns=0) is not None and decision.label == "dent":
            return (at_ns - start_ns) / 1e9, interval_ms / 1e3
    raise AssertionError(f"not decided in {(at_ns - start_ns) / 1e9} s")


def _dent(at_ns: int) -> Classification:
    return Classification(
        camera="front",
        classifier="inspect",
        served=_SERVED,
        frame_index=0,
        captured_at_ns=at_ns,
        captured_at_utc_ns=0,
        decided_at_ns=at_ns,
        top=(Score(0, "dent", 0.9),),
        margin=0.9,
        batch=1,
        times=StageTimes(0, 0, 0, 0, 0),
    )


@given(st.lists(st.integers(1, 1500), min_size=1, max_size=60), st.integers(1, 40))
@example([250] * 40, 30)
@example([1000] * 40, 30)
@example([33] * 200, 30)
def test_a_label_is_decided_once_it_held_for_hold_s_within_one_frame(intervals_ms: list[int], tenths: int) -> None:
    hold_s = tenths / 10
    took_s, last_s = _decided_after_s([*intervals_ms, *[700] * 60], hold_s=hold_s)
    assert hold_s <= took_s < hold_s + last_s + 1e-9


@given(st.lists(st.tuples(_KEYS, st.integers(0, 900)), max_size=60), st.integers(1, 5000), st.integers(0, 5000))
def test_timed_votes_are_the_time_from_each_result_to_the_next(
    results: list[tuple[Key, int]], needed_ms: int, more_ms: int
) -> None:
    window_ns = (needed_ms + more_ms) * _MS
    votes = TimedVotes(needed_ms * _MS, window_ns, gap_ns=1000 * _MS)
    at_ns, runs = 0, list[tuple[int, Key]]()
    for key, interval_ms in results:
        at_ns += interval_ms * _MS
        votes.add(key, at_ns)
        runs.append((at_ns, key))
        held: Counter[Key] = Counter()
        for (began_ns, voted), ended_ns in zip(runs, [began for began, _ in runs[1:]], strict=False):
            held[voted] += max(0, ended_ns - max(began_ns, at_ns - window_ns))
        for one in ("ok", "dent", None):
            assert votes.amount(one) == held[one]
            assert votes.others(one) == sum(held.values()) - held[one]
        is_won = key is not None and held[key] >= needed_ms * _MS
        assert votes.winner(None) == (key if is_won else None)


@given(st.lists(_KEYS, max_size=60), st.integers(1, 5), st.integers(0, 5))
def test_counted_votes_are_those_of_the_last_results(results: list[Key], needed: int, more: int) -> None:
    votes = CountedVotes(needed, needed + more)
    for number, key in enumerate(results, 1):
        votes.add(key, 0)
        last = results[max(0, number - needed - more) : number]
        assert [votes.amount(one) for one in ("ok", "dent", None)] == [last.count(one) for one in ("ok", "dent", None)]
        reached = {one for one in ("ok", "dent") if last.count(one) >= needed}
        assert (votes.winner(None) in reached) if reached else votes.winner(None) is None


@given(st.lists(st.tuples(_KEYS, st.integers(0, 900)), min_size=1, max_size=30), _KEYS)
def test_kept_votes_are_those_for_one_key(results: list[tuple[Key, int]], kept: Key) -> None:
    votes = TimedVotes(1000 * _MS, 3000 * _MS, gap_ns=1000 * _MS)
    at_ns = 0
    for key, interval_ms in results:
        at_ns += interval_ms * _MS
        votes.add(key, at_ns)
    before = votes.amount(kept)
    votes.keep(kept)
    assert (votes.amount(kept), votes.others(kept)) == (before, 0)
    votes.add("other", at_ns + 500 * _MS)
    newest = results[-1][0]
    assert votes.amount(newest) >= 500 * _MS, "what the newest result votes for holds until the next one"


def test_a_gap_of_stale_after_s_forgets_what_held_before() -> None:
    took_s, _ = _decided_after_s([1000, 1000, 4000, 1000, 1000, 1000, 1000], hold_s=3, stale_after_s=4)
    assert took_s == 9.0


def test_a_shorter_gap_counts_as_the_result_before_it() -> None:
    took_s, _ = _decided_after_s([1000, 3900], hold_s=3, stale_after_s=4)
    assert took_s == 4.9
