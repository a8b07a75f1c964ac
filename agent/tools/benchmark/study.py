"""Runs one benchmark, from request to report."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

import agent
from agent.runtime.errors import Unavailable
from agent.tools.benchmark.conditions import ConditionsWatch, clocks_are_locked
from agent.tools.benchmark.judge import warnings_about_machine
from agent.tools.benchmark.measure.assemble import engine_result, with_bare
from agent.tools.benchmark.measure.rounds import Plan, Progress, measure, prepare
from agent.tools.benchmark.measure.soak import soak
from agent.tools.benchmark.measure.target import Target
from agent.tools.benchmark.pipeline.run import PipelineRequest, run_pipelines
from agent.tools.benchmark.recommend import Limits, recommend
from agent.tools.benchmark.report import Absent, EngineResult, Model, PipelineResult, Report
from agent.tools.benchmark.scenarios import ENGINE_SCENARIOS, MULTI_STREAM_SAMPLES, Case, Scenario, cases_of
from engines import (
    EnvironmentRecord,
    ModelPackage,
    Precision,
    Prober,
    canonical_name,
    describe,
    image_set_of,
    load_unknown_package,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to measure. Empty ``engines`` means all that can run."""

    package_dir: Path
    cache_dir: Path
    engines: tuple[str, ...]
    precisions: tuple[Precision, ...]
    batches: tuple[int, ...]
    scenarios: tuple[Scenario, ...]
    fps: float
    rounds: int
    is_quick: bool
    command: str
    within_s: float = math.inf
    """How long the scenario `latency` may take on all engines together; it is shortened to fit."""
    options: Mapping[str, object] = field(default_factory=dict)
    pythons: Mapping[str, str] = field(default_factory=dict)
    images: Path | None = None
    max_file_mib: int = 512
    limits: Limits = field(default_factory=Limits)
    pipeline: PipelineRequest = field(default_factory=PipelineRequest)


def run_study(request: Request, progress: Progress) -> Report:
    """Measure everything in ``request``.

    Raises:
        Unavailable: no engine could be measured; the message lists each with its reason.
        EngineError: the package cannot be loaded, or an engine has no such name or option.
    """
    began_s, started_at = time.monotonic(), datetime.now(timezone.utc).isoformat(timespec="seconds")
    load_before, locked = os.getloadavg()[0], clocks_are_locked()
    package = load_unknown_package(request.package_dir, request.cache_dir, max_bytes=request.max_file_mib << 20)
    environment = describe()
    found = _run(request, progress)
    if not found.pipelines and not any(not engine.is_bare for engine in found.engines):
        tried = "; ".join(f"{o.engine} {o.precision}: {o.reason} (to get it, {o.remedy})" for o in found.absent)
        message = f"no engine could be measured for {package.name}. Tried: {tried}"
        raise Unavailable(message, attempts=len(found.absent))
    return Report(
        agent=agent.__version__,
        started_at=started_at,
        wall_s=time.monotonic() - began_s,
        command=request.command,
        is_quick=request.is_quick,
        rounds=request.rounds,
        environment=environment.as_dict(),
        clocks_locked=locked,
        load_before=load_before,
        load_after=os.getloadavg()[0],
        model=_model(package),
        engines=found.engines,
        absent=found.absent,
        pipelines=found.pipelines,
        recommendation=recommend(found.engines, request.limits) if found.engines else None,
        warnings=tuple(_machine_warnings(environment, locked=locked, load=load_before)),
    )


@dataclass(frozen=True, slots=True)
class _Found:
    engines: tuple[EngineResult, ...]
    absent: tuple[Absent, ...]
    pipelines: tuple[PipelineResult, ...]


def _run(request: Request, progress: Progress) -> _Found:
    names, absent = _engines(request)
    plan = _plan(request, names)
    ready, refused = prepare(plan, progress)
    plan = replace(plan, cases=_cases(request, len(ready)))
    absent += refused
    engines: tuple[EngineResult, ...] = ()
    pipelines: tuple[PipelineResult, ...] = ()
    with ConditionsWatch() as watch:
        if plan.cases:
            measured, failed = measure(plan, ready, watch, progress)
            absent += failed
            results = [engine_result(one, watch) for one in measured]
            engines = with_bare(results, [one.target for one in measured])
        if "soak" in request.scenarios:
            engines = soak(plan, ready, engines, watch, progress, is_quick=request.is_quick)
        if "pipeline" in request.scenarios:
            pipelines = run_pipelines(
                plan, tuple(ready), request.pipeline, watch, progress, fps=request.fps, is_quick=request.is_quick
            )
    return _Found(engines, tuple(absent), pipelines)


def _engines(request: Request) -> tuple[list[str], list[Absent]]:
    """Names of the engines to try, and those that cannot run at all."""
    if request.engines:
        return list(dict.fromkeys(canonical_name(name) for name in request.engines)), []
    prober = Prober()
    names, absent = [], []
    for name in prober.names():
        result = None if name in request.pythons else prober.probe(name)
        if result is None or result.can_run:
            names.append(name)
        else:
            absent.append(Absent(engine=name, precision="any", reason=result.reason, remedy=result.remedy))
    return names, absent


def _plan(request: Request, names: Sequence[str]) -> Plan:
    engines = [Target(engine=name, precision=one) for name in names for one in request.precisions]
    # A bare session exists for ONNX Runtime only, and in this interpreter.
    bare_sessions = [
        Target(engine=target.engine, precision=target.precision, kind="bare")
        for target in engines
        if target.engine == "ort-cpu" and target.engine not in request.pythons
    ]
    largest = max([*request.batches, *([MULTI_STREAM_SAMPLES] if "multi_stream" in request.scenarios else [])])
    return Plan(
        package_dir=request.package_dir,
        cache_dir=request.cache_dir,
        targets=(*engines, *bare_sessions),
        cases=(),  # how long they are depends on how many engines can be opened
        rounds=request.rounds,
        max_batch=largest,
        options=request.options,
        pythons={**dict.fromkeys(names, sys.executable), **request.pythons},
        images=request.images,
        max_file_mib=request.max_file_mib,
    )


def _cases(request: Request, engines: int) -> tuple[Case, ...]:
    """What is measured on each of so many engines, bare sessions included."""
    return cases_of(
        [one for one in request.scenarios if one in ENGINE_SCENARIOS and one != "soak"],
        request.batches,
        fps=request.fps,
        is_quick=request.is_quick,
        share_s=request.within_s / max(engines, 1),
    )


def _model(package: ModelPackage) -> Model:
    return Model(
        name=package.name,
        version=package.version,
        sha256=package.sha256,
        width=package.input.width,
        height=package.input.height,
        classes=package.signature.classes,
        images=image_set_of(package).source,
    )


def _machine_warnings(environment: EnvironmentRecord, *, locked: bool | None, load: float) -> list[str]:
    return warnings_about_machine(
        clocks_locked=locked, power_mode=environment.power_mode, load=load, cores=environment.cpu_cores
    )
