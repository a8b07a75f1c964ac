"""Burst and sustained speed: each engine runs back to back until the temperature is steady."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from agent.tools.benchmark.conditions import ConditionsWatch
from agent.tools.benchmark.measure.assemble import engine_result
from agent.tools.benchmark.measure.rounds import (
    Measured,
    Plan,
    Progress,
    RawBlock,
    ask_block,
    block_request,
    open_session,
)
from agent.tools.benchmark.measure.target import BARE, Target
from agent.tools.benchmark.report import EngineResult
from agent.tools.benchmark.scenarios import Case, cases_of

_BLOCK_S = 5.0
_BURST_S = 10.0
_STEADY_WINDOW_S = 60.0
_STEADY_CELSIUS = 0.5
"""Steady: the mean of one window differs from that of the window before by less."""


def soak(
    plan: Plan,
    ready: Mapping[Target, float],
    engines: Sequence[EngineResult],
    watch: ConditionsWatch,
    progress: Progress,
    *,
    is_quick: bool,
) -> tuple[EngineResult, ...]:
    """Run each target alone, and add its results to ``engines``."""
    case = cases_of(["soak"], [1], fps=1.0, is_quick=is_quick)[0]
    targets = [target for target in ready if target.kind != BARE]
    found = list(engines)
    progress.phase("soaking", case.min_duration_s * len(targets))
    for target in targets:
        measured = _soak_one(plan, target, ready[target], case, watch, progress)
        result = engine_result(measured, watch)
        known = next((place for place, one in enumerate(found) if one.label == result.label), None)
        if known is None:
            found.append(result)
        else:
            found[known] = replace(found[known], cases=(*found[known].cases, *result.cases))
    return tuple(found)


def _soak_one(
    plan: Plan, target: Target, prepare_s: float, case: Case, watch: ConditionsWatch, progress: Progress
) -> Measured:
    """Blocks without a pause between them, until steady or until the case's length has passed."""
    blocks_wanted = max(2, round(case.min_duration_s / _BLOCK_S))
    request = block_request(replace(case, min_queries=1), rounds=blocks_wanted)
    blocks: list[RawBlock] = []
    began_s = time.monotonic()
    with open_session(plan, target) as (session, opened):
        measured = Measured(target, opened, prepare_s)
        while time.monotonic() - began_s < case.min_duration_s:
            raw, answer = ask_block(session, request, watch, expected_s=_BLOCK_S)
            measured.peak_bytes = int(str(answer["peak_bytes"]))
            blocks.append(raw)
            progress.advance(raw.wall_ns / 1e9)
            if _is_steady(blocks, watch):
                break
    burst = max(1, round(_BURST_S / _BLOCK_S)) if len(blocks) > 3 else 1
    sustained = max(1, min(len(blocks) - burst, round(_STEADY_WINDOW_S / _BLOCK_S)))
    measured.blocks[replace(case, part="burst")] = blocks[:burst]
    measured.blocks[replace(case, part="sustained")] = blocks[-sustained:]
    return measured


def _is_steady(blocks: Sequence[RawBlock], watch: ConditionsWatch) -> bool:
    count = round(_STEADY_WINDOW_S / _BLOCK_S)
    if len(blocks) < 2 * count:
        return False
    before = watch.over([one.window for one in blocks[-2 * count : -count]]).celsius_mean
    now = watch.over([one.window for one in blocks[-count:]]).celsius_mean
    return before is not None and now is not None and abs(now - before) < _STEADY_CELSIUS
