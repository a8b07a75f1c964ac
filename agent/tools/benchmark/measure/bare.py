"""ONNX Runtime called directly on the same serving graph, without our code: what engines are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engines import (
    INPUT_NAME,
    OUTPUT_NAME,
    EngineOptions,
    Images,
    ModelPackage,
    Scores,
    available_cores,
    precise_graph,
    provider_of,
    session_settings,
)
from engines import onnxruntime_library as library

_CPU = "CPUExecutionProvider"


class BareSession:
    """``session.run`` and nothing else, with the engine's thread count and spinning for the same options."""

    def __init__(self, package: ModelPackage, options: EngineOptions) -> None:
        """Load the serving graph in the wanted precision.

        Raises:
            ModelRejected, PrecisionRejected, EngineUnavailable: the graph cannot be built.
        """
        graph = precise_graph(
            package, cache_dir=options.cache_dir, precision=options.precision, engine=options.engine
        ).graph
        ort = library()
        settings = ort.SessionOptions()
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        same = session_settings(
            options.engine, provider_of(options.engine), options.options, default_threads=available_cores()
        )
        settings.intra_op_num_threads = same.threads
        settings.add_session_config_entry("session.intra_op.allow_spinning", "1" if same.allow_spinning else "0")
        settings.log_severity_level = 4
        self._session: Any = ort.InferenceSession(
            str(graph.path), settings, providers=list(dict.fromkeys([provider_of(options.engine), _CPU]))
        )
        self.max_batch = graph.max_batch or options.max_batch
        self.versions: Mapping[str, str] = {"onnxruntime": str(ort.__version__)}
        self.provider = str(self._session.get_providers()[0])

    def infer(self, batch: Images) -> Scores:
        """One call, as a script would write it."""
        scores: Scores = self._session.run([OUTPUT_NAME], {INPUT_NAME: batch})[0]
        return scores
