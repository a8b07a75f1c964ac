"""Says in words why a decision stands where it does, and what would change it."""

from __future__ import annotations

from agent.runtime.records import Standing


def why(standing: Standing) -> str:
    """One sentence about the candidate: its confidence against its threshold, its votes, and what is missing."""
    if standing.candidate is None:
        return "no result yet"
    confidence = f"{standing.candidate}: confidence {standing.confidence:.2f}"
    votes = f"{_votes(standing)}{_next_best(standing)}"
    is_enough = standing.confidence >= standing.threshold
    if standing.is_decided:
        relation = "is not below" if is_enough else "is below"
        end = "so it stays" if is_enough else "so it ends unless better results follow"
        return f"{confidence} {relation} exit {standing.threshold:g}, {end}; {votes}"
    if is_enough:
        return f"{confidence} reaches enter {standing.threshold:g}; {votes}; {_missing(standing)}"
    end = "clearer images or a lower enter would change this"
    return f"{confidence} is below enter {standing.threshold:g}; {votes}; {end}"


def _votes(standing: Standing) -> str:
    if standing.is_timed:
        return f"held for {standing.votes:.1f} s, {standing.needed:g} s needed"
    return f"{standing.votes:g} of {standing.window:g} votes, {standing.needed:g} needed"


def _next_best(standing: Standing) -> str:
    if standing.runner_up is None:
        return ""
    label, confidence = standing.runner_up
    return f"; next best {label} {confidence:.2f}"


def _missing(standing: Standing) -> str:
    missing = max(standing.needed - standing.votes, 0)
    if standing.is_timed:
        return f"{missing:.1f} s more of it decide"
    return f"{missing:g} more such {'result decides' if missing == 1 else 'results decide'}"
