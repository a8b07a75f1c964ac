"""Turns the blocks that the children timed into results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from agent.tools.benchmark.conditions import ConditionsWatch
from agent.tools.benchmark.judge import reasons_against, warnings_about
from agent.tools.benchmark.measure.rounds import Measured, RawBlock
from agent.tools.benchmark.measure.target import BARE, Target
from agent.tools.benchmark.report import CaseResult, EngineResult
from agent.tools.benchmark.scenarios import Case
from agent.tools.benchmark.statistics import spread_of

_KEPT_PER_ROUND = 400


def engine_result(measured: Measured, watch: ConditionsWatch) -> EngineResult:
    """The result of one target, from the answers of its child process."""
    opened = cast("dict[str, Any]", measured.opened)
    return EngineResult(
        name=opened["name"],
        precision=opened["precision"],
        device=opened["device"],
        max_batch=opened["max_batch"],
        placement=opened["placement"],
        versions=opened["versions"],
        degraded=opened["degraded"],
        prepare_s=measured.prepare_s,
        load_ms=opened["load_ms"] or opened["opened_ms"],
        own_bytes=max(opened["resident_bytes"] - opened["resident_before_bytes"], 0),
        peak_bytes=measured.peak_bytes,
        accuracy_check=opened["accuracy_check"],
        kept_layers=tuple(opened["kept_layers"]),
        details=opened["details"],
        accuracy=measured.accuracy,
        cases=tuple(case_result(case, blocks, watch) for case, blocks in measured.blocks.items()),
    )


def case_result(case: Case, blocks: Sequence[RawBlock], watch: ConditionsWatch) -> CaseResult:
    """The result of one case, from its rounds."""
    times_ns = [one for block in blocks for one in block.times_ns]
    spread = spread_of(times_ns)
    rounds_ms = tuple(_thinned(block.times_ns) for block in blocks)
    conditions = watch.over([block.window for block in blocks])
    missed = sum(block.missed for block in blocks)
    wall_s = sum(block.wall_ns for block in blocks) / 1e9
    images = len(times_ns) * case.samples
    stages = {
        name: spread_of([round(value * 1e6) for block in blocks for value in block.stages_ms.get(name, ())])
        for name in blocks[0].stages_ms
    }
    watts = conditions.watts_mean
    return CaseResult(
        case=case,
        spread=spread,
        rounds_ms=rounds_ms,
        warm_up=sum(block.warm_up for block in blocks),
        wall_s=wall_s,
        throughput_hz=images / wall_s,
        cpu_ms_per_image=sum(block.cpu_ns for block in blocks) / 1e6 / images,
        cpu_rounds_ms=tuple(_cpu_ms(block, case) for block in blocks),
        missed=missed,
        conditions=conditions,
        stages=stages,
        images_per_joule=images / wall_s / watts if watts else None,
        warnings=warnings_about(case, spread, conditions, stages, missed=missed),
        invalid=reasons_against(case, spread, conditions, rounds_ms, missed=missed),
    )


def _cpu_ms(block: RawBlock, case: Case) -> float:
    return block.cpu_ns / 1e6 / max(len(block.times_ns) * case.samples, 1)


def with_bare(engines: Sequence[EngineResult], targets: Sequence[Target]) -> tuple[EngineResult, ...]:
    """Compare each ONNX Runtime engine with the bare session of the same provider and precision."""
    bare: Mapping[tuple[str, str], EngineResult] = {
        (target.engine, target.precision): engine
        for engine, target in zip(engines, targets, strict=True)
        if target.kind == BARE
    }
    return tuple(
        engine if target.kind == BARE else _held_against(engine, bare.get((target.engine, target.precision)))
        for engine, target in zip(engines, targets, strict=True)
    )


def _held_against(engine: EngineResult, bare: EngineResult | None) -> EngineResult:
    if bare is None:
        return engine
    cases = []
    for result in engine.cases:
        other = bare.result_of(result.case)
        cases.append(result if other is None else _compared(result, other))
    return replace(engine, cases=tuple(cases))


def _compared(result: CaseResult, bare: CaseResult) -> CaseResult:
    mine, floor = result.spread.p50_ms, bare.spread.p50_ms
    return replace(result, to_bare=mine / floor, above_bare_us=(mine - floor) * 1e3)


def _thinned(times_ns: Sequence[int]) -> tuple[float, ...]:
    step = max(1, -(-len(times_ns) // _KEPT_PER_ROUND))
    return tuple(round(one / 1e6, 4) for one in times_ns[::step])
