"""Recommends an engine and precision: the fastest that agrees with the reference, within the limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.tools.benchmark.report import CaseResult, EngineResult, Recommendation
from agent.tools.benchmark.statistics import ratio_of
from engines import PRECISIONS, Measurement, Precision

_SAME_RATIO = 1.02
"""Closer medians count as equal, as do those whose ratio has 1 in its interval: then the safer precision is chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits for the recommended engine; None is no limit."""

    max_p99_ms: float | None = None
    max_watts: float | None = None


def headline_of(engine: EngineResult) -> CaseResult | None:
    """The case that decides: paced if it was measured, else the first that is not the burst of a soak."""
    lasting = [one for one in engine.cases if one.case.part != "burst"]
    paced = (one for one in lasting if one.case.mode == "paced")
    return next(paced, lasting[0] if lasting else None)


def recommend(engines: Sequence[EngineResult], limits: Limits) -> Recommendation:
    """Choose among ``engines``, with the reason in one sentence."""
    candidates: list[tuple[EngineResult, CaseResult]] = []
    refused: list[str] = []
    for engine in engines:
        result = headline_of(engine)
        if engine.is_bare or result is None:
            continue
        why = _why_not(engine, result, limits)
        if why:
            refused.append(f"{engine.label}: {why}")
        else:
            candidates.append((engine, result))
    if not candidates:
        return Recommendation(engine=None, precision=None, reason="; ".join(refused) or "nothing was measured")
    fastest = min(candidates, key=lambda one: one[1].spread.p50_ms)[1]
    near = [one for one in candidates if _is_near(one[1], fastest)]
    chosen = min(near, key=lambda one: (_risk(one[0].precision), one[1].spread.p90_ms))
    rest = [one for one in candidates if one is not chosen]
    reason = "; ".join([_against(chosen, rest), *refused])
    return Recommendation(engine=chosen[0].name, precision=chosen[0].precision, reason=reason)


def measurements_for(engines: Sequence[EngineResult], choice: Recommendation) -> tuple[Measurement, ...]:
    """What ``auto`` should remember: the engines in the chosen precision, including the chosen one."""
    found = []
    for engine in engines:
        result = headline_of(engine)
        if engine.is_bare or result is None or engine.precision != choice.precision:
            continue
        found.append(
            Measurement(
                engine=engine.name,
                precision=_precision(engine.precision),
                runs=result.spread.n,
                p50_ms=result.spread.p50_ms,
                p90_ms=result.spread.p90_ms,
                batch=result.case.batch,
            )
        )
    # A faster engine that failed the check or the limits must not win there.
    chosen = next(one for one in found if one.engine == choice.engine)
    return (chosen, *(one for one in found if one is not chosen and one.p50_ms > chosen.p50_ms * _SAME_RATIO))


def as_yaml(choice: Recommendation, *, model: str, package: str) -> str:
    """YAML lines for a configuration."""
    keys = {"package": package, "engine": choice.engine, "precision": choice.precision}
    return f"models:\n  {model}:\n" + "".join(f"    {key}: {value}\n" for key, value in keys.items())


def _is_near(result: CaseResult, fastest: CaseResult) -> bool:
    """Whether the difference is too small, or too uncertain, to prefer a riskier precision."""
    if result.spread.p50_ms <= fastest.spread.p50_ms * _SAME_RATIO:
        return True
    return not ratio_of(fastest.rounds_ms, result.rounds_ms).is_different


def _why_not(engine: EngineResult, result: CaseResult, limits: Limits) -> str:
    if engine.accuracy_check is not None and not engine.accuracy_check.get("passed"):
        return f"top-1 agreement {engine.accuracy_check.get('top1_agreement')} is below its minimum"
    # Reports of earlier versions do not say whether the images sufficed.
    if engine.accuracy_check is not None and not engine.accuracy_check.get("proven", True):
        return "its accuracy is not proven: the package has too few images that it can be judged on, see agent verify"
    if limits.max_p99_ms is not None and result.spread.p99_ms > limits.max_p99_ms:
        return f"p99 {result.spread.p99_ms:.2f} ms is above {limits.max_p99_ms:g} ms"
    watts = result.conditions.watts_mean
    if limits.max_watts is not None and watts is None:
        return "this device has no power sensor, so --max-watts cannot be checked"
    if limits.max_watts is not None and watts is not None and watts > limits.max_watts:
        return f"{watts:.1f} W is above {limits.max_watts:g} W"
    return ""


def _against(chosen: tuple[EngineResult, CaseResult], rest: list[tuple[EngineResult, CaseResult]]) -> str:
    engine, result = chosen
    words = f"{engine.label} has p50 {result.spread.p50_ms:.3f} ms, {result.case.name}"
    if not rest:
        return f"{words}; it is the only candidate"
    other, next_best = min(rest, key=lambda one: one[1].spread.p50_ms)
    ratio = ratio_of(result.rounds_ms, next_best.rounds_ms)
    interval = f"99 % interval {ratio.low:.2f} to {ratio.high:.2f}"
    if not ratio.is_different:
        return f"{words}; {other.label} is not measurably different ({interval})"
    return f"{words}; next is {other.label} at {ratio.value:.2f} times that ({interval})"


def _risk(precision: str) -> int:
    return PRECISIONS.index(_precision(precision))


def _precision(text: str) -> Precision:
    return next(one for one in PRECISIONS if one == text)
