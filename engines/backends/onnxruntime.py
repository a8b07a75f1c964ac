"""The ONNX Runtime engines: one class for every execution provider."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np

from engines.backends.batches import check_batch, check_scores
from engines.backends.ort_options import provider_of, session_settings
from engines.backends.ort_session import library, library_errors, one_line, open_session, placement
from engines.base import EngineInfo, EngineOptions, Images, Scores
from engines.environment import available_cores, cpu_model
from engines.errors import EngineUnavailable, InferenceFailed
from engines.graph import ServingGraph
from engines.package import ModelPackage

_WARM_UP_RUNS = 2


class OnnxRuntimeEngine:
    """A session on one execution provider. One thread uses it; ``interrupt`` alone may come from another."""

    def __init__(self, session: Any, *, info: EngineInfo, graph: ServingGraph, height: int, width: int) -> None:
        """Take over a session that has been proven to run where ``info`` says."""
        self._session = session
        self._info = info
        self._input = graph.input_name
        self._outputs = [graph.output_name]
        self._height, self._width = height, width
        self._fixed_batch = graph.max_batch
        self._run_options = library().RunOptions()
        self._run_options.log_severity_level = 4
        self._errors = library_errors()

    @property
    def info(self) -> EngineInfo:
        """What runs."""
        return self._info

    def infer(self, batch: Images) -> Scores:
        """Classify a batch; see ``engines.base.Engine``."""
        session = self._session
        if session is None:
            raise InferenceFailed(
                f"{self._info.name} was used after it was closed. Open it again", engine=self._info.name
            )
        check_batch(batch, height=self._height, width=self._width, max_batch=self._info.max_batch)
        count = len(batch)
        fed = batch if self._fixed_batch in (None, count) else self._padded(batch)
        self._run_options.terminate = False
        try:
            scores: Scores = session.run(self._outputs, {self._input: fed}, self._run_options)[0][:count]
        except self._errors as exc:
            raise InferenceFailed(
                f"{self._info.name} failed on a batch of {count}: {one_line(exc)}. Three in a row reload the engine",
                engine=self._info.name,
                images=count,
            ) from exc
        check_scores(scores, engine=self._info.name)
        return scores

    def interrupt(self) -> None:
        """End the running call at its next node; a call that starts later is not touched."""
        self._run_options.terminate = True

    def close(self) -> None:
        """Free the session."""
        self._session = None

    def __enter__(self) -> OnnxRuntimeEngine:
        """Use the engine for a while."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _padded(self, batch: Images) -> Images:
        """Fill a batch up to the number of images that the model is fixed to."""
        padded = np.zeros((self._fixed_batch or 1, self._height, self._width, 3), np.uint8)
        padded[: len(batch)] = batch
        return padded


def open_onnxruntime(
    package: ModelPackage, options: EngineOptions, *, engine: str, graph: ServingGraph
) -> OnnxRuntimeEngine:
    """Open ``graph`` on the provider that ``engine`` names and run it once in each batch size's extreme.

    Raises:
        EngineUnavailable: the provider is not there or does not take the graph.
        OptionsRejected: an option that the engine does not have.
        InferenceFailed: the first run failed.
    """
    started = time.perf_counter_ns()
    provider = provider_of(engine)
    threads = max(1, available_cores() // max(1, options.workers))
    settings = session_settings(engine, provider, options.options, default_threads=threads)
    session = open_session(graph.path, engine=engine, provider=provider, settings=settings)
    placed = placement(session)
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
        precision=graph.precision,
        requested_precision=options.precision,
        device=_device_of(provider),
        max_batch=graph.max_batch or options.max_batch,
        classes=package.signature.classes,
        placement=placed,
        versions=_versions(),
        degraded=_split_between(placed, provider, engine),
    )
    loaded = OnnxRuntimeEngine(session, info=info, graph=graph, height=package.input.height, width=package.input.width)
    _warm_up(loaded, package)
    load_ms = (time.perf_counter_ns() - started) / 1e6
    loaded._info = replace(info, load_ms=load_ms)  # noqa: SLF001 the same module made it a moment ago
    return loaded


def _warm_up(engine: OnnxRuntimeEngine, package: ModelPackage) -> None:
    for size in sorted({1, engine.info.max_batch}):
        grey = np.full((size, package.input.height, package.input.width, 3), 127, np.uint8)
        for _ in range(_WARM_UP_RUNS):
            engine.infer(grey)


def _split_between(placed: Mapping[str, int], provider: str, engine: str) -> str | None:
    others = {name: count for name, count in placed.items() if name != provider}
    if not others:
        return None
    parts = ", ".join(f"{count} on {name}" for name, count in sorted(others.items()))
    return f"{engine} runs {placed[provider]} nodes on {provider} and {parts}"


def _device_of(provider: str) -> str:
    if provider in ("CPUExecutionProvider", "XnnpackExecutionProvider", "DnnlExecutionProvider"):
        return f"CPU {cpu_model() or ''}".strip()
    return provider.removesuffix("ExecutionProvider")


def _versions() -> dict[str, str]:
    return {"onnxruntime": str(library().__version__), "numpy": str(np.__version__)}
