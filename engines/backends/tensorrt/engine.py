"""The engine ``tensorrt``: a plan of this device behind the contract of ``engines.base.Engine``."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np

from engines.backends.batches import check_batch, check_scores
from engines.backends.tensorrt.crash_counter import CrashCounter
from engines.backends.tensorrt.cuda import CudaDevice
from engines.backends.tensorrt.library import LIBRARY_ERRORS, library
from engines.backends.tensorrt.plans import ENGINE, Plan, PlanRequest, obtain_plan, plan_request
from engines.backends.tensorrt.session import PlanSession
from engines.base import EngineInfo, EngineOptions, Images, Scores
from engines.errors import EngineError, EngineLost, EngineUnavailable, InferenceFailed, OutOfMemory
from engines.graph.int8_forms import form_details
from engines.package.load import ModelPackage
from engines.store.plan_cache import PlanCache

_WARM_UP_RUNS = 2
_NAMED_LAYERS = 8


class TensorRtEngine:
    """One plan. ``interrupt`` has no effect: a kernel on the GPU cannot be interrupted."""

    def __init__(self, session: PlanSession, *, info: EngineInfo, crashes: CrashCounter) -> None:
        """Take ownership of ``session``, and of ``crashes``, which has counted this start."""
        self._session: PlanSession | None = session
        self._info = info
        self._height, self._width = session.tensors.height, session.tensors.width
        self._crashes: CrashCounter | None = crashes

    @property
    def info(self) -> EngineInfo:
        """What runs."""
        return self._info

    def infer(self, batch: Images) -> Scores:
        """Classify a batch; see ``engines.base.Engine``."""
        session = self._session
        if session is None:
            raise InferenceFailed("tensorrt was used after it was closed. Open it again", engine="tensorrt")
        check_batch(batch, height=self._height, width=self._width, max_batch=self._info.max_batch)
        try:
            scores = session.run(batch)
        except EngineLost:
            # This start counts as a crash of the plan.
            self._crashes = None
            raise
        # During a run this is a failed call, not a reason to select another engine.
        except OutOfMemory as exc:
            raise InferenceFailed(exc.message, engine="tensorrt") from exc
        except MemoryError as exc:
            raise InferenceFailed(
                f"tensorrt failed on a batch of {len(batch)}: this process got no more memory. Free some, or use a "
                "smaller batch",
                engine="tensorrt",
            ) from exc
        check_scores(scores, engine="tensorrt")
        if self._crashes is not None and self._crashes.note_success():
            self._crashes = None
        return scores

    def interrupt(self) -> None:
        """Do nothing: TensorRT cannot interrupt a run."""

    def close(self) -> None:
        """Free the plan and its buffers."""
        session, self._session = self._session, None
        if session is None:
            return
        session.close()
        crashes, self._crashes = self._crashes, None
        if crashes is not None:
            crashes.end_well()

    def __enter__(self) -> TensorRtEngine:
        """Use the engine for a while."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def warm_up(self) -> None:
        """Run the smallest and the largest batch.

        Raises:
            InferenceFailed: a run failed.
        """
        for size in sorted({1, self._info.max_batch}):
            grey = np.full((size, self._height, self._width, 3), 127, np.uint8)
            for _ in range(_WARM_UP_RUNS):
                self.infer(grey)

    def complete_info(self, *, load_ms: float, details: Mapping[str, str | int | float | bool]) -> None:
        """Set what is only known after the warm-up: the load time, the captured graphs, the memory in use."""
        self._info = replace(self._info, load_ms=load_ms, details=details)


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
    except (EngineError, MemoryError, OSError):
        crashes.end_well()
        raise
    except LIBRARY_ERRORS as exc:
        crashes.end_well()
        raise EngineUnavailable(
            f"TensorRT cannot load the plan: {exc}. Build it again: agent build --force",
            engine=ENGINE,
            reason=f"TensorRT cannot load the plan: {exc}",
            remedy="agent build --force",
        ) from exc
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
        dla_core=settings.dla_core,
    )
    with contextlib.ExitStack() as undo:
        undo.callback(session.close)
        engine = TensorRtEngine(session, info=_info(request, plan, session, device, trt), crashes=crashes)
        engine.warm_up()
        if settings.cuda_graph:
            session.capture()
            # Again, now through the graphs: their first launch is slower too.
            engine.warm_up()
        undo.pop_all()
    cuda = f"{device.library} {device.version}"
    details = {**_details(session, plan), "cuda": cuda, **form_details(ENGINE, request.graph.precision)}
    engine.complete_info(load_ms=(time.perf_counter_ns() - started_ns) / 1e6, details=details)
    return engine


def _info(request: PlanRequest, plan: Plan, session: PlanSession, device: CudaDevice, trt: Any) -> EngineInfo:
    versions = {"tensorrt": str(trt.__version__), device.library: device.version}
    return EngineInfo(
        name=ENGINE,
        requested=request.options.engine,
        precision=request.options.precision,
        requested_precision=request.options.precision,
        device=device.name,
        max_batch=request.max_batch,
        classes=request.package.signature.classes,
        placement={"TensorRT": session.layers} if plan.on_dla is None else _dla_placement(plan),
        versions=versions,
    )


def _dla_placement(plan: Plan) -> dict[str, int]:
    return {"TensorRT on the DLA": plan.on_dla or 0, "TensorRT on the GPU": len(plan.on_gpu)}


def _details(session: PlanSession, plan: Plan) -> dict[str, str | int | float | bool]:
    details: dict[str, str | int | float | bool] = {
        "plan_sha256": plan.sha256,
        "plan_bytes": len(plan.content),
        "device_memory_bytes": session.device_memory_bytes,
        "streams": session.streams,
        "device_copies": session.device_copies,
        "cuda_graphs": ",".join(map(str, session.graph_sizes)),
    }
    if plan.on_gpu:
        shown = ", ".join(plan.on_gpu[:_NAMED_LAYERS])
        more = f" and {len(plan.on_gpu) - _NAMED_LAYERS} more" if len(plan.on_gpu) > _NAMED_LAYERS else ""
        details["layers_not_on_dla"] = f"{shown}{more}"
    if plan.why_built is not None:
        details["why_built"] = plan.why_built
    if session.why_no_graphs is not None:
        details["why_no_cuda_graph"] = session.why_no_graphs
    return details
