"""The ONNX Runtime engine: one class for every execution provider."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.backends.batches import check_batch, check_scores
from engines.backends.onnxruntime.options import provider_of, session_settings
from engines.backends.onnxruntime.providers import OpenedSession, open_session
from engines.backends.onnxruntime.session import ON_CPU, failure_from, placement
from engines.base import EngineInfo, EngineOptions, Features, Images, Precision, Scores
from engines.errors import EngineUnavailable, InferenceFailed
from engines.graph.int8_forms import form_details
from engines.graph.ort_library import library, library_errors
from engines.graph.serving import ServingGraph
from engines.host import available_cores
from engines.package.load import ModelPackage

_WARM_UP_RUNS = 2


class OnnxRuntimeEngine:
    """A session on one execution provider. Used by one thread; only ``interrupt`` may be called from another."""

    def __init__(self, opened: OpenedSession, *, info: EngineInfo, graph: ServingGraph, package: ModelPackage) -> None:
        """Take ownership of a session that runs where ``info`` says."""
        self._info = info
        self._height, self._width = package.input.height, package.input.width
        self._image_shape = (self._height, self._width, 3)
        self._max_batch = info.max_batch
        # Softmax spreads NaN and infinity over the whole row, so checking one value is enough.
        self._is_softmax = package.output.activation == "softmax"
        self._fixed_batch = graph.max_batch
        self._run_options = library().RunOptions()
        self._run_options.log_severity_level = 4
        self._is_interrupted = False
        self._features: Features | None = None
        self._errors: tuple[type[Exception], ...] = (*library_errors(), MemoryError)
        self._runner: DirectRunner | BoundRunner | None = (
            DirectRunner(opened.session, graph)
            if opened.memory == "cpu"
            else BoundRunner(opened.session, graph, memory=opened.memory, classes=info.classes)
        )

    @property
    def info(self) -> EngineInfo:
        """What runs."""
        return self._info

    @property
    def features(self) -> Features | None:
        """See ``engines.base.features_of``."""
        return self._features

    def infer(self, batch: Images) -> Scores:
        """Classify a batch; see ``engines.base.Engine``."""
        runner = self._runner
        if runner is None:
            raise InferenceFailed(
                f"{self._info.name} was used after it was closed. Open it again", engine=self._info.name
            )
        # Between two camera frames the CPU caches go cold and each Python call takes 10 to 50 us: check inline.
        count = len(batch)
        if batch.shape[1:] != self._image_shape or batch.dtype != np.uint8 or not 0 < count <= self._max_batch:
            check_batch(batch, height=self._height, width=self._width, max_batch=self._max_batch)
        # `terminate` stays set after the call that it ended, and would end every later one.
        if self._is_interrupted:
            self._is_interrupted = self._run_options.terminate = False
        try:
            fed = batch if self._fixed_batch is None or self._fixed_batch == count else self._padded(batch)
            scores, *features = runner.run(fed, self._run_options)
        except self._errors as exc:
            raise failure_from(self._info.name, count, exc) from exc
        if len(scores) != count:
            scores = scores[:count]
        self._features = features[0][:count] if features else None
        if not math.isfinite(scores.item(0) if count == 1 and self._is_softmax else np.vdot(scores, scores)):
            check_scores(scores, engine=self._info.name)
        return scores

    def interrupt(self) -> None:
        """End the running call at its next node; a later call is not affected."""
        self._run_options.terminate = True
        self._is_interrupted = True

    def close(self) -> None:
        """Free the session."""
        self._runner = None

    def __enter__(self) -> OnnxRuntimeEngine:
        """Use the engine for a while."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def warmed_up(self, started_ns: int) -> OnnxRuntimeEngine:
        """Run the smallest and the largest batch, and record the load time since ``started_ns``."""
        for size in sorted({1, self._info.max_batch}):
            grey = np.full((size, self._height, self._width, 3), 127, np.uint8)
            for _ in range(_WARM_UP_RUNS):
                self.infer(grey)
        self._info = replace(self._info, load_ms=(time.perf_counter_ns() - started_ns) / 1e6)
        return self

    def _padded(self, batch: Images) -> Images:
        """Fill a batch up to the size that the model is fixed to."""
        padded = np.zeros((self._fixed_batch or 1, self._height, self._width, 3), np.uint8)
        padded[: len(batch)] = batch
        return padded


class DirectRunner:
    """Passes numpy arrays to the session as they are: on the CPU nothing is copied."""

    def __init__(self, session: Any, graph: ServingGraph) -> None:
        self._session = session
        self._input = graph.input_name
        self._outputs = graph.output_names

    def run(self, batch: Images, run_options: Any) -> Sequence[npt.NDArray[np.float32]]:
        """Return fresh arrays: scores ``(N, classes)``, and embeddings if the graph gives them."""
        outputs: list[npt.NDArray[np.float32]] = self._session.run(self._outputs, {self._input: batch}, run_options)
        return outputs


class BoundRunner:
    """Keeps one pair of device buffers for each batch size; their addresses never change."""

    def __init__(self, session: Any, graph: ServingGraph, *, memory: str, classes: int) -> None:
        self._session = session
        self._input = graph.input_name
        self._lengths = dict(zip(graph.output_names, (classes, graph.features), strict=False))
        self._memory = memory
        self._pairs: dict[int, tuple[Any, Any]] = {}

    def run(self, batch: Images, run_options: Any) -> Sequence[npt.NDArray[np.float32]]:
        """Copy the batch to the device, run, and return what DirectRunner returns, on the host."""
        pair = self._pairs.get(len(batch))
        if pair is None:
            pair = self._pairs[len(batch)] = self._bound(batch.shape)
        images, binding = pair
        images.update_inplace(np.ascontiguousarray(batch))
        self._session.run_with_iobinding(binding, run_options)
        return [np.array(rows, np.float32) for rows in binding.copy_outputs_to_cpu()]

    def _bound(self, shape: tuple[int, ...]) -> tuple[Any, Any]:
        values = library().OrtValue
        images = values.ortvalue_from_shape_and_type(list(shape), np.uint8, self._memory, 0)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._input, images)
        for name, length in self._lengths.items():
            rows = values.ortvalue_from_shape_and_type([shape[0], length], np.float32, self._memory, 0)
            binding.bind_ortvalue_output(name, rows)
        return images, binding


def open_onnxruntime(
    package: ModelPackage, options: EngineOptions, *, engine: str, graph: ServingGraph
) -> OnnxRuntimeEngine:
    """Open ``graph`` on the provider of ``engine``, and warm it up with the smallest and the largest batch.

    Raises:
        EngineUnavailable: the provider is not there or does not take the graph.
        OptionsRejected: an option that the engine does not have.
        InferenceFailed: the first run failed.
    """
    started_ns = time.perf_counter_ns()
    provider = provider_of(engine)
    threads = max(1, available_cores() // max(1, options.workers))
    settings = session_settings(engine, provider, options.options, default_threads=threads)
    opened = open_session(package, options, engine=engine, provider=provider, settings=settings, graph=graph)
    placed = placement(opened.session)
    if placed and provider not in placed:
        raise EngineUnavailable(
            f"{engine} was asked to run on {provider} and every node went to {', '.join(placed)}. "
            "The provider does not support this model: choose another engine",
            engine=engine,
            provider=provider,
        )
    info = EngineInfo(
        name=engine,
        requested=options.engine,
        precision=opened.precision,
        requested_precision=options.precision,
        device=opened.device,
        max_batch=graph.max_batch or options.max_batch,
        classes=package.signature.classes,
        placement=placed,
        versions=opened.versions,
        degraded=_less_than_asked(engine, provider, placed, opened.precision, graph.precision),
        gains_by_batches=provider not in ON_CPU,
        details={
            **settings.details(provider),
            **form_details(engine, graph.precision),
            **({"features": graph.features} if graph.features else {}),
        },
    )
    return OnnxRuntimeEngine(opened, info=info, graph=graph, package=package).warmed_up(started_ns)


def _less_than_asked(
    engine: str, provider: str, placed: Mapping[str, int], actual: Precision, wanted: Precision
) -> str | None:
    sentences = []
    others = {name: count for name, count in placed.items() if name != provider}
    if others:
        parts = ", ".join(f"{count} on {name}" for name, count in sorted(others.items()))
        sentences.append(f"{engine} runs {placed[provider]} nodes on {provider} and {parts}")
    if actual != wanted:
        sentences.append(f"{engine} computes the {wanted} graph in {actual} on this device, so {wanted} is not faster")
    return "; ".join(sentences) or None
