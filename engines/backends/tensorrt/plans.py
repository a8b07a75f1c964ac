"""The plan that this device needs for a package, and where it comes from: the cache, or a build."""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.backends.tensorrt.job import BuildJob
from engines.backends.tensorrt.library import has_precision_flags, library
from engines.backends.tensorrt.options import TensorRtOptions, checked_options
from engines.base import BuildProgress, EngineOptions
from engines.environment import Gpu, device_facts, gpus_from_answer
from engines.errors import BuildFailed, BuildNeeded, EngineUnavailable, OptionsRejected
from engines.graph.precision import precise_graph
from engines.graph.serving import ServingGraph, serving_graph
from engines.package.load import ModelPackage
from engines.probes.child import run_child
from engines.sandbox.child import ChildLimits, run_build
from engines.sandbox.memory import default_memory_bytes
from engines.store.files import cache_errors, content_address, content_hash
from engines.store.plan_cache import PlanCache, PlanKey

ENGINE = "tensorrt"
PLAN = "engine.plan"
PLACEMENT = "placement.json"
_CHILD = "engines.backends.tensorrt.build_child"
_USUAL_WORKSPACE_BYTES = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """Everything that a plan depends on, resolved."""

    package: ModelPackage
    options: EngineOptions
    settings: TensorRtOptions
    graph: ServingGraph
    kept_layers: tuple[str, ...]
    gpu: Gpu
    key: PlanKey

    @property
    def max_batch(self) -> int:
        """Largest number of images in one call."""
        return self.graph.max_batch or self.options.max_batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A verified plan; ``why_built`` says why it was not in the cache, None if it was.

    ``on_dla`` counts the layers for a DLA core, ``on_gpu`` names those that fall back to the GPU; without a DLA core
    None and empty.
    """

    content: bytes
    sha256: str
    why_built: str | None
    on_dla: int | None = None
    on_gpu: tuple[str, ...] = ()


def plan_request(package: ModelPackage, options: EngineOptions) -> PlanRequest:
    """Work out which plan ``options`` need on this device.

    Raises:
        EngineUnavailable: TensorRT or CUDA is not there. OptionsRejected: a wrong option.
        ModelRejected, PrecisionRejected: the graph cannot be made.
    """
    settings = checked_options(options.options)
    trt = library()
    answer = run_child("cuda_child", timeout_s=20.0)
    gpus = gpus_from_answer(answer)
    if settings.device_id >= len(gpus):
        raise EngineUnavailable(
            f"option device_id is {settings.device_id}, but CUDA shows {len(gpus)} device(s): "
            f"{answer.failure or 'name a lower one'}",
            engine=ENGINE,
        )
    gpu = gpus[settings.device_id]
    _check_dla(settings, options)
    graph, kept_layers = _graph(package, options, trt)
    facts: dict[str, object] = {
        "model": package.sha256,
        "graph": graph.sha256,
        "batch": list(_batches(graph, options, settings)),
        "options": settings.plan_facts(),
        "tensorrt": str(trt.__version__),
        "cuda_driver": answer.text("cuda_driver"),
        **device_facts(gpu),
        "system": f"{platform.system()} {platform.machine()}",
    }
    key = PlanKey(ENGINE, f"{package.name}-{package.version}", options.precision, facts)
    return PlanRequest(
        package=package,
        options=options,
        settings=settings,
        graph=graph,
        kept_layers=kept_layers,
        gpu=gpu,
        key=key,
    )


def obtain_plan(request: PlanRequest) -> Plan:
    """Take the plan from the cache, else build it unless builds are deferred.

    Raises:
        BuildNeeded: it is not cached and must not be built now.
        BuildFailed, BuildCancelled: the build failed or was cancelled.
        EngineUnavailable: the cache cannot be used.
    """
    cache, building = PlanCache(request.options.cache_dir), request.options.building
    if not building.force:
        known = cache.read(request.key)
        if known is not None:
            return _plan(known, None)
    why = _why_built(cache, request)
    if building.defer and not request.options.strict:
        raise BuildNeeded(
            f"tensorrt has no plan of {request.key.model} yet: {why}. It is built in the background; another engine "
            "serves until then",
            engine=ENGINE,
            reason=f"its plan must be built first: {why}",
            remedy="wait for the build, or build ahead: agent build",
        )
    return _built(cache, request, why)


def _built(cache: PlanCache, request: PlanRequest, why: str) -> Plan:
    building, began_s = request.options.building, time.monotonic()

    def report(phase: str, elapsed_s: float, ratio: float | None) -> None:
        building.on_progress(
            BuildProgress(engine=ENGINE, model=request.key.model, phase=phase, elapsed_s=elapsed_s, done_ratio=ratio)
        )

    def waiting() -> None:
        report("waiting for another process that is building it", time.monotonic() - began_s, None)

    with cache.locked(request.key, is_cancelled=building.is_cancelled, on_wait=waiting):
        known = None if building.force else cache.read(request.key, is_locked=True)
        if known is not None:  # built by the process that held the lock
            return _plan(known, None)
        with tempfile.TemporaryDirectory(dir=_scratch(request), prefix=f"{request.key.stem}-") as folder:
            job = _job(request, Path(folder) / PLAN)
            result = run_build(
                _CHILD,
                job.as_dict(),
                what=f"{request.key.model} in {request.key.precision} for TensorRT",
                limits=_limits(request),
                report=report,
                is_cancelled=building.is_cancelled,
            )
            content = Path(job.target).read_bytes()
        if content_hash(content) != result.get("sha256"):
            raise BuildFailed(
                f"the plan of {request.key.model} changed between the build and the cache. Build it again"
            )
        notes = {**result, "why_built": why, "build_s": round(time.monotonic() - began_s, 1)}
        files = {PLAN: content}
        if request.settings.dla_core is not None:
            placement = {name: result.get(name) for name in ("on_dla", "on_gpu")}
            files[PLACEMENT] = json.dumps(placement).encode()
        cache.store(request.key, files, notes)
    return _plan(files, why)


def _plan(files: Mapping[str, bytes], why_built: str | None) -> Plan:
    content = files[PLAN]
    # Written by this program, and the cache has checked its hash.
    placement = json.loads(files[PLACEMENT]) if PLACEMENT in files else {"on_dla": None, "on_gpu": []}
    return Plan(
        content=content,
        sha256=content_hash(content),
        why_built=why_built,
        on_dla=placement["on_dla"],
        on_gpu=tuple(placement["on_gpu"]),
    )


def _why_built(cache: PlanCache, request: PlanRequest) -> str:
    if request.options.building.force:
        return "a new build was requested"
    return cache.why_quarantined(request.key) or cache.why_not_another(request.key) or "it was not in the cache"


def _graph(package: ModelPackage, options: EngineOptions, trt: Any) -> tuple[ServingGraph, tuple[str, ...]]:
    """Return the graph to build: if fp16 is a builder flag the fp32 graph, else the converted one."""
    if options.precision == "fp16" and has_precision_flags(trt):
        return serving_graph(package, cache_dir=options.cache_dir), ()
    precise = precise_graph(package, cache_dir=options.cache_dir, precision=options.precision)
    return precise.graph, precise.kept_layers


def _check_dla(settings: TensorRtOptions, options: EngineOptions) -> None:
    """Refuse what a DLA core cannot do. Source: TensorRT developer guide, "Working with DLA", restrictions."""
    if settings.dla_core is None:
        return
    if options.precision == "fp32":
        raise OptionsRejected(
            f"option dla_core of engine tensorrt is {settings.dla_core}, but precision is fp32, and a DLA core "
            "computes fp16 and int8 only. Set precision: fp16 or int8, or remove dla_core",
            engine=ENGINE,
            option="dla_core",
        )
    if settings.opt_batch not in (None, options.max_batch):
        raise OptionsRejected(
            f"option opt_batch of engine tensorrt is {settings.opt_batch}, but a plan for a DLA core takes exactly "
            f"the largest batch, {options.max_batch}. Remove opt_batch, or dla_core",
            engine=ENGINE,
            option="opt_batch",
        )


def _batches(graph: ServingGraph, options: EngineOptions, settings: TensorRtOptions) -> tuple[int, int, int]:
    """Return the smallest, usual and largest batch. The usual one is 1: frames rarely arrive together.

    On a DLA core all three are the largest: its profile must not be dynamic.
    """
    if graph.max_batch is not None:
        return (graph.max_batch,) * 3
    if settings.dla_core is not None:
        return (options.max_batch,) * 3
    return 1, min(settings.opt_batch or 1, options.max_batch), options.max_batch


def _job(request: PlanRequest, target: Path) -> BuildJob:
    settings, graph, size = request.settings, request.graph, request.package.input
    shapes = [(count, size.height, size.width, 3) for count in _batches(graph, request.options, settings)]
    version = str(request.key.facts["tensorrt"])
    board = content_address(device_facts(request.gpu), chars=12)
    # By default a tactic may use all device memory, which on a Jetson is the memory of the CPU too.
    workspace = min(_USUAL_WORKSPACE_BYTES, request.gpu.memory_bytes // 4 or _USUAL_WORKSPACE_BYTES)
    return BuildJob(
        graph=str(graph.path),
        graph_sha256=graph.sha256,
        target=str(target),
        timing_cache=str(request.options.cache_dir / "timing" / f"tensorrt-{version}-{board}.bin"),
        precision=request.options.precision,
        input_name=graph.input_name,
        profile=None if graph.max_batch is not None else (shapes[0], shapes[1], shapes[2]),
        device_id=settings.device_id,
        cuda_library=settings.cuda_library,
        workspace_bytes=workspace if settings.workspace_mib is None else settings.workspace_mib * 2**20,
        builder_level=settings.builder_level,
        dla_core=settings.dla_core,
        gpu_fallback=settings.gpu_fallback,
        tf32=settings.tf32,
    )


def _limits(request: PlanRequest) -> ChildLimits:
    asked = request.settings.build_memory_mib
    return ChildLimits(
        timeout_s=float(request.settings.build_timeout_s),
        memory_bytes=default_memory_bytes() if asked is None else asked * 2**20,
    )


def _scratch(request: PlanRequest) -> Path:
    """Return the folder for unfinished builds, cleared of what a killed build left. The caller holds the lock."""
    folder = request.options.cache_dir / "building"
    with cache_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in folder.glob(f"{request.key.stem}-*"):
        for path in sorted(left.rglob("*"), reverse=True):
            path.unlink(missing_ok=True)
        left.rmdir()
    return folder
