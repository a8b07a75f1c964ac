"""Opens engines: the one that the configuration asks for, or under heat one that is already built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from agent.config.loader import LoadedConfig
from agent.config.model import ModelConfig
from agent.config.problems import at, dotted
from agent.inference.worker import Worker
from agent.runtime.logs import get_logger
from engines import (
    Building,
    Engine,
    EngineOptions,
    ModelPackage,
    OptionsRejected,
    Precision,
    open_engine,
    open_prepared,
)

log = get_logger(__name__)


class EngineOpener:
    """Called on the workers' threads. ``loaded`` returns the active configuration, ``workers`` their number."""

    def __init__(
        self, loaded: Callable[[], LoadedConfig], *, cache_dir: Callable[[], Path], workers: Callable[[], int]
    ) -> None:
        self._loaded = loaded
        self._cache_dir = cache_dir
        self._workers = workers

    def open(self, key: str, config: ModelConfig, package: ModelPackage, building: Building) -> Engine:
        """Open the engine that ``config`` asks for.

        Raises:
            EngineError: see ``engines.open_engine``; the error of a refused option names its line in the file.
        """
        options = self._options(config, building)
        try:
            engine = open_engine(package, options)
        except OptionsRejected as exc:
            raise OptionsRejected(self._with_place(key, config, exc), model=key, **exc.fields) from exc
        info = engine.info
        log.info("engine.loaded", model=key, engine=info.name, precision=info.precision, load_ms=round(info.load_ms))
        if info.degraded is not None:
            log.warning("engine.degraded", model=key, reason=info.degraded)
        return engine

    def open_prepared(self, worker: Worker, precision: Precision, building: Building) -> Engine:
        """Open the engine that ``worker`` runs, but in ``precision``, from an existing build.

        Raises:
            EngineError: see ``engines.select.prepared.open_prepared``.
        """
        info = worker.statistics().info
        options = self._options(worker.config, building)
        wanted = replace(options, engine=info.name if info else options.engine, precision=precision)
        engine = open_prepared(worker.package, wanted)
        log.info("engine.loaded", model=worker.key, engine=engine.info.name, precision=precision, reason="heat")
        return engine

    def open_configured(self, worker: Worker, building: Building) -> Engine:
        """Open the engine that the configuration of ``worker`` asks for.

        Raises:
            EngineError: see ``engines.open_engine``.
        """
        return self.open(worker.key, worker.config, worker.package, building)

    def _options(self, config: ModelConfig, building: Building) -> EngineOptions:
        return EngineOptions(
            engine=config.engine,
            precision=config.precision,
            strict=config.strict,
            max_batch=config.batching.engine_batch,
            options=config.options,
            cache_dir=self._cache_dir(),
            workers=self._workers(),
            building=building,
        )

    def _with_place(self, key: str, config: ModelConfig, error: OptionsRejected) -> str:
        option = error.fields.get("option")
        path = ("models", key, "options", option) if isinstance(option, str) else ("models", key)
        loaded = self._loaded()
        if config != loaded.config.models.get(key):
            # A reload in progress: the option is in a newer file, where its line may differ.
            return f"{dotted(path)}: {error.message}"
        return at(loaded.document, path, error.message).text(loaded.document.name)
