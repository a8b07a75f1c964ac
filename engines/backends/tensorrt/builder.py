"""Builds a plan with TensorRT 8.5 to 11. Runs in the build's child process, after the CUDA device has answered.

TensorRT reports errors by returning False or None and writing the reason to its log, so every return value is checked.
Source: TensorRT developer guide 8.5 to 11, Python API of the builder and the ONNX parser.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from engines.backends.tensorrt.job import BuildJob
from engines.backends.tensorrt.library import Log, has_precision_flags, member, version_of

Report = Callable[[str, "float | None"], None]


class BuilderRefused(Exception):
    """TensorRT failed; the text is what it wrote to its log."""


@dataclass(frozen=True, slots=True)
class BuiltPlan:
    """``notes``: options that this TensorRT does not know, and its warnings.

    ``on_dla`` and ``on_gpu`` are the network's layers by device, None and empty without a DLA core.
    """

    plan: bytes
    timing_cache: bytes
    notes: tuple[str, ...]
    on_dla: int | None = None
    on_gpu: tuple[str, ...] = ()


@dataclass(slots=True)
class PlanBuilder:
    """One build."""

    trt: Any
    log: Log
    job: BuildJob
    report: Report
    notes: list[str] = field(default_factory=list)

    def build(self, graph: bytes, timing_cache: bytes) -> BuiltPlan:
        """Build the plan of an ONNX graph.

        Raises:
            BuilderRefused: with the text of TensorRT's log.
        """
        mark = self.log.mark()
        try:
            builder = self.trt.Builder(self.log.native)
        except TypeError as exc:  # pybind11: the factory returned nullptr
            raise BuilderRefused(f"no builder: {self.log.errors(mark)} ({exc})") from exc
        self.report("reading the model", None)
        network = self._checked(builder.create_network(self._network_flags()), "no network", mark)
        parser = self._checked(self.trt.OnnxParser(network, self.log.native), "no ONNX parser", mark)
        if not parser.parse(graph):
            reasons = "; ".join(str(parser.get_error(index)) for index in range(min(parser.num_errors, 3)))
            raise BuilderRefused(f"the parser rejects the model: {reasons or self.log.errors(mark)}")
        config = self._checked(builder.create_builder_config(), "no builder configuration", mark)
        self._configure(builder, network, config, mark)
        on_dla, on_gpu = self._placed(network, config)
        cache = self._timing_cache(config, timing_cache)
        self._watch(config)
        self.report("building", None)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BuilderRefused(f"TensorRT gave no plan: {self.log.errors(mark)}")
        # IHostMemory only has the buffer protocol.
        content = bytes(plan)
        kept = config.get_timing_cache() if cache is not None else None
        timings = b"" if kept is None else bytes(kept.serialize())
        return BuiltPlan(content, timings, (*self.notes, *self.log.warnings[-3:]), on_dla, on_gpu)

    def _network_flags(self) -> int:
        """Ask for explicit batch up to TensorRT 9; 10 ignores the flag and 11 does not have it."""
        explicit = member(self.trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH")
        is_old = version_of(self.trt)[0] < 10
        return 1 << int(explicit) if is_old and explicit is not None else 0

    def _configure(self, builder: Any, network: Any, config: Any, mark: int) -> None:
        trt, job = self.trt, self.job
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace_bytes)
        if job.builder_level is not None:
            if hasattr(config, "builder_optimization_level"):
                config.builder_optimization_level = job.builder_level
            else:
                self.notes.append(f"builder_level is not known to TensorRT {trt.__version__}")
        if has_precision_flags(trt):
            for precision, name in (("fp16", "FP16"), ("int8", "INT8")):
                if job.precision == precision:
                    config.set_flag(getattr(trt.BuilderFlag, name))
        if not job.tf32:
            config.clear_flag(trt.BuilderFlag.TF32)
        if job.dla_core is not None:
            self._use_dla(builder, config, job.dla_core)
        if job.profile is not None:
            profile = self._checked(builder.create_optimization_profile(), "no optimization profile", mark)
            profile.set_shape(job.input_name, *job.profile)
            if config.add_optimization_profile(profile) < 0:
                raise BuilderRefused(f"the profile {job.profile} is rejected: {self.log.errors(mark)}")
        if network.num_inputs != 1:
            raise BuilderRefused(
                f"the model has {network.num_inputs} inputs after parsing, but 1 is needed. Export it with one input"
            )

    def _use_dla(self, builder: Any, config: Any, core: int) -> None:
        cores = int(getattr(builder, "num_DLA_cores", 0))
        if core >= cores:
            raise BuilderRefused(
                f"option dla_core is {core}, but this device has {cores} DLA core(s). "
                "Give a lower number, or leave the option out"
            )
        config.default_device_type = self.trt.DeviceType.DLA
        config.DLA_core = core
        if self.job.gpu_fallback:
            config.set_flag(self.trt.BuilderFlag.GPU_FALLBACK)

    def _placed(self, network: Any, config: Any) -> tuple[int | None, tuple[str, ...]]:
        """Return how many layers can run on the DLA core, and the names of the others, which fall back to the GPU."""
        if self.job.dla_core is None:
            return None, ()
        layers = [network.get_layer(index) for index in range(network.num_layers)]
        on_gpu = tuple(str(layer.name) for layer in layers if not config.can_run_on_DLA(layer))
        return len(layers) - len(on_gpu), on_gpu

    def _timing_cache(self, config: Any, content: bytes) -> Any | None:
        cache = config.create_timing_cache(content)
        if cache is None and content:
            self.notes.append("the timing cache was of another version; a new one is started")
            cache = config.create_timing_cache(b"")
        # Without ignore_mismatch a cache of another GPU is refused: its timings would select the wrong tactics.
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            self.notes.append("TensorRT does not accept a timing cache")
            return None
        return cache

    def _watch(self, config: Any) -> None:
        """Report progress if this TensorRT can (10 and later)."""
        base = member(self.trt, "IProgressMonitor")
        if base is not None and hasattr(config, "progress_monitor"):
            config.progress_monitor = _monitor(base, self.report)

    def _checked(self, value: Any, what: str, mark: int) -> Any:
        if value is None:
            raise BuilderRefused(f"{what}: {self.log.errors(mark)}")
        return value


def _monitor(base: Any, report: Report) -> Any:
    class Monitor(base):  # type: ignore[misc]  # the base is known at run time only
        """Reports the outermost phase. TensorRT calls it from its own threads."""

        def __init__(self) -> None:
            base.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._steps[phase_name] = max(1, num_steps)
                report(f"building: {phase_name}", 0.0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._steps:
                report(f"building: {phase_name}", min(1.0, (step + 1) / self._steps[phase_name]))
            # False would cancel the build.
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()
