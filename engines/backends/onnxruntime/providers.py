"""Opens a session on each execution provider, each in its own way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engines.backends.onnxruntime.cpu_graph import computes_in_half, cpu_graph
from engines.backends.onnxruntime.options import SessionSettings
from engines.backends.onnxruntime.session import (
    CPU,
    CUDA,
    OPENVINO,
    TENSORRT,
    XNNPACK,
    SessionPlan,
    create_session,
    load_libraries,
)
from engines.backends.onnxruntime.tensorrt import (
    context_model,
    plan_key,
    prepared_directory,
    provider_options,
    tensorrt_version,
    without_context,
)
from engines.base import BuildProgress, EngineOptions, Precision
from engines.environment import gpus_from_answer
from engines.errors import BuildNeeded, EngineUnavailable
from engines.graph.ort_library import library
from engines.graph.serving import ServingGraph
from engines.host import cpu_model
from engines.package.load import ModelPackage
from engines.probes.child import run_child
from engines.store.plan_cache import PlanCache, PlanKey


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedSession:
    """An open session. ``memory`` is where inputs and outputs live: ``cpu`` or ``cuda``."""

    session: Any
    device: str
    precision: Precision
    versions: Mapping[str, str]
    memory: str = "cpu"


def open_session(
    package: ModelPackage,
    options: EngineOptions,
    *,
    engine: str,
    provider: str,
    settings: SessionSettings,
    graph: ServingGraph,
) -> OpenedSession:
    """Open the serving graph on ``provider``.

    Raises:
        EngineUnavailable: the library is absent, refuses, or would run the model elsewhere.
    """
    plan = SessionPlan(
        engine=engine,
        provider=provider,
        model=graph.path,
        settings=settings,
        provider_options=settings.provider,
        is_exclusive=options.strict and provider != CPU,
    )
    if provider == CPU:
        return _on_cpu(plan, graph)
    if provider == CUDA:
        return _on_cuda(plan, graph)
    if provider == TENSORRT:
        return _on_tensorrt(plan, package, options, graph)
    if provider == OPENVINO:
        ours = {"device_type": "CPU", "num_of_threads": str(settings.threads)}
        plan = replace(plan, provider_options={**ours, **settings.provider})
    elif provider == XNNPACK:
        # XNNPACK has its own threads; spinning session threads would compete with them. Source: XNNPACK provider page.
        ours = {"intra_op_num_threads": str(settings.threads)}
        plan = replace(
            plan, provider_options={**ours, **settings.provider}, settings=replace(settings, allow_spinning=False)
        )
    device = provider.removesuffix("ExecutionProvider")
    return OpenedSession(
        session=create_session(plan),
        device=f"{device} on CPU {cpu_model() or ''}".strip() if provider == OPENVINO else device,
        precision=graph.precision,
        versions=_versions(),
    )


def _on_cpu(plan: SessionPlan, graph: ServingGraph) -> OpenedSession:
    optimised = cpu_graph(graph.path, plan.settings)
    is_half = graph.precision == "fp16" and computes_in_half(optimised)
    return OpenedSession(
        session=create_session(replace(plan, model=optimised.path, is_optimised=optimised.is_optimised)),
        device=f"CPU {cpu_model() or ''}".strip(),
        precision=graph.precision if graph.precision != "fp16" or is_half else "fp32",
        versions=_versions(),
    )


def _on_cuda(plan: SessionPlan, graph: ServingGraph) -> OpenedSession:
    load_libraries(CUDA)
    return OpenedSession(
        session=create_session(plan),
        device=_gpu_name(plan),
        precision=graph.precision,
        versions=_versions(),
        memory="cuda",
    )


def _on_tensorrt(
    plan: SessionPlan, package: ModelPackage, options: EngineOptions, graph: ServingGraph
) -> OpenedSession:
    """Open the plans of an earlier build, else build them.

    Only a sandboxed child builds: it can be watched and killed.
    """
    load_libraries(TENSORRT)
    gpus = gpus_from_answer(run_child("cuda_child"))
    key = plan_key(package, graph, options, plan.provider_options, gpus)
    cache, building = PlanCache(options.cache_dir), options.building
    # The provider writes into the entry's directory itself, so two processes must not open it at once.
    with cache.locked(key, is_cancelled=building.is_cancelled, on_wait=lambda: _tell(key, options, "waiting")):
        directory = prepared_directory(cache, key, is_forced=building.force)
        is_built = cache.is_complete(key)
        is_in_child = options.sandbox is None
        if not is_built and (not is_in_child or (building.defer and not options.strict)):
            raise BuildNeeded(
                f"{plan.engine} must build its plan for this device before it can run, which takes minutes. "
                "Build it ahead of time: agent build",
                engine=plan.engine,
                reason="its plan is not built yet",
                remedy="build it: agent build",
            )
        if not is_built:
            _tell(key, options, "building inside ONNX Runtime, which reports no progress")
        given = provider_options(package, graph, options, plan.provider_options, directory)
        # Nodes that TensorRT cannot take go to CUDA instead of the CPU.
        plan = replace(plan, fallbacks=[(CUDA, {})], provider_options=given)
        session = _kept(plan, directory) if is_built else _built(plan, directory)
        cache.seal(key, {})
    return OpenedSession(
        session=session,
        device=_gpu_name(plan),
        precision=graph.precision,
        versions={**_versions(), "tensorrt": tensorrt_version()},
        memory="cuda",
    )


def _tell(key: PlanKey, options: EngineOptions, phase: str) -> None:
    options.building.on_progress(BuildProgress(engine=key.engine, model=key.model, phase=phase, elapsed_s=0.0))


def _kept(plan: SessionPlan, directory: Path) -> Any:
    """Open from the context model; without one, or if it does not load, from the plans themselves."""
    found = _from_context(plan, directory)
    if found is not None:
        return found
    return create_session(replace(plan, provider_options=without_context(plan.provider_options, directory)))


def _from_context(plan: SessionPlan, directory: Path) -> Any | None:
    kept = context_model(directory)
    if kept is None:
        return None
    options = {name: value for name, value in plan.provider_options.items() if name != "trt_dump_ep_context_model"}
    options["trt_engine_cache_path"] = str(directory / "plans")
    try:
        return create_session(replace(plan, model=kept, is_optimised=True, provider_options=options))
    except EngineUnavailable:
        return None


def _built(plan: SessionPlan, directory: Path) -> Any:
    try:
        return create_session(plan)
    except EngineUnavailable:
        # A context model needs a graph that TensorRT takes as a whole: build again without one.
        return create_session(replace(plan, provider_options=without_context(plan.provider_options, directory)))


def _gpu_name(plan: SessionPlan) -> str:
    gpus = gpus_from_answer(run_child("cuda_child"))
    number = int(plan.provider_options.get("device_id", "0"))
    return gpus[number].name if number < len(gpus) else "CUDA device"


def _versions() -> dict[str, str]:
    return {"onnxruntime": str(library().__version__)}
