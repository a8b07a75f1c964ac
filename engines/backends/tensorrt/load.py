"""From a package to a running TensorRT engine: plan, crash counter, session, warm-up."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import Any

from engines.backends.tensorrt.crash_counter import CrashCounter
from engines.backends.tensorrt.cuda import CudaDevice
from engines.backends.tensorrt.engine import TensorRtEngine
from engines.backends.tensorrt.library import library
from engines.backends.tensorrt.plans import ENGINE, Plan, PlanRequest, obtain_plan, plan_request
from engines.backends.tensorrt.session import PlanSession
from engines.base import EngineInfo, EngineOptions
from engines.errors import EngineError, EngineLost
from engines.graph.int8_forms import form_details
from engines.package.load import ModelPackage
from engines.store.plan_cache import PlanCache


def open_tensorrt(package: ModelPackage, options: EngineOptions) -> tuple[TensorRtEngine, tuple[str, ...]]:
    """Open the plan of ``package``, built first if it is not cached; also return the layers that it keeps in fp32.

    Raises:
        EngineUnavailable: TensorRT, CUDA or the plan cannot be used. BuildNeeded, BuildFailed, OutOfMemory: see there.
        BuildCancelled: the build was stopped.
        OptionsRejected, ModelRejected, PrecisionRejected: see ``engines.open_engine``.
        InferenceFailed: the first run failed.
    """
    started_ns = time.perf_counter_ns()
    request = plan_request(package, options)
    plan = obtain_plan(request)
    crashes = CrashCounter(PlanCache(options.cache_dir).crash_marker(request.key))
    crashes.begin(engine=ENGINE)
    try:
        engine = _loaded(request, plan, crashes, started_ns)
    # A lost device may be the plan's fault, so its start stays counted.
    except EngineLost:
        raise
    except EngineError:
        crashes.end_well()
        raise
    return engine, request.kept_layers


def _loaded(request: PlanRequest, plan: Plan, crashes: CrashCounter, started_ns: int) -> TensorRtEngine:
    trt = library()
    settings = request.settings
    device = CudaDevice(settings.device_id, blocking_sync=settings.blocking_sync, library=settings.cuda_library)
    session = PlanSession(
        trt,
        device,
        plan.content,
        max_batch=request.max_batch,
        classes=request.package.signature.classes,
    )
    engine = TensorRtEngine(session, info=_info(request, session, device, trt), crashes=crashes)
    with contextlib.ExitStack() as undo:
        undo.callback(session.close)
        engine.warm_up()
        if settings.cuda_graph:
            session.capture()
            engine.warm_up()
        undo.pop_all()
    load_ms = (time.perf_counter_ns() - started_ns) / 1e6
    cuda = f"{device.library} {device.version}"
    details = {**_details(session, plan), "cuda": cuda, **form_details(ENGINE, request.graph.precision)}
    engine._info = replace(engine.info, load_ms=load_ms, details=details)  # noqa: SLF001 made here
    return engine


def _info(request: PlanRequest, session: PlanSession, device: CudaDevice, trt: Any) -> EngineInfo:
    versions = {"tensorrt": str(trt.__version__), device.library: device.version}
    return EngineInfo(
        name=ENGINE,
        requested=request.options.engine,
        precision=request.options.precision,
        requested_precision=request.options.precision,
        device=device.name,
        max_batch=request.max_batch,
        classes=request.package.signature.classes,
        placement={"TensorRT": session.layers},
        versions=versions,
    )


def _details(session: PlanSession, plan: Plan) -> dict[str, str | int | float | bool]:
    details: dict[str, str | int | float | bool] = {
        "plan_sha256": plan.sha256,
        "plan_bytes": len(plan.content),
        "device_memory_bytes": session.device_memory_bytes,
        "streams": session.streams,
        "device_copies": session.device_copies,
        "cuda_graphs": ",".join(map(str, session.graph_sizes)),
    }
    if plan.why_built is not None:
        details["why_built"] = plan.why_built
    if session.why_no_graphs is not None:
        details["why_no_cuda_graph"] = session.why_no_graphs
    return details
