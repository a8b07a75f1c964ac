"""Serves model packages to programs, without cameras, broker and state: `agent serve`."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from agent.build import make_web
from agent.cameras.sources.choose import make_source
from agent.config.loader import LoadedConfig, load_config
from agent.config.state_dir import cache_dir_in, default_state_dir
from agent.inference.engine_opening import EngineOpener
from agent.inference.pipeline import Parts, Pipeline
from agent.inference.supervision import HangMonitor
from agent.reload import Reloader, load_packages
from agent.runtime.clock import SystemClock
from agent.runtime.errors import ConfigError, StageFailed, UsageError
from engines import ModelPackage, load_unknown_package

_TICK_S = 0.1


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What the command line asks for; addresses and files as in the section `serve` of a configuration."""

    http: str
    grpc: str | None
    tokens_file: Path | None
    engine: str
    precision: str
    max_batch: int | None
    max_file_mib: int


def serve_packages(
    directories: Sequence[Path],
    options: ServeOptions,
    *,
    is_stopping: Callable[[], bool],
    on_ready: Callable[[str, Sequence[str]], None],
) -> None:
    """Serve each package under its own name until ``is_stopping``; ``on_ready`` gets the address and the names.

    Raises:
        AgentError, EngineError: a package, the address or the tokens cannot be used, or a thread failed.
    """
    packages = _read(directories, options.max_file_mib << 20)
    with tempfile.TemporaryDirectory(prefix="agent-serve-") as folder, ExitStack() as resources:
        loaded = _configuration(Path(folder), packages, options)
        known = load_packages(loaded, known=packages)
        clock = SystemClock()
        opener = EngineOpener(
            lambda: loaded, cache_dir=lambda: cache_dir_in(default_state_dir()), workers=lambda: len(known)
        )
        pipeline = resources.enter_context(
            Pipeline(
                loaded.config,
                known,
                Parts(opener.open, lambda source: make_source(source, base_dir=loaded.base_dir, clock=clock)),
                clock=clock,
                emit=lambda _: None,
            )
        )
        reloader = Reloader(loaded, known, pipeline, on_applied=lambda *_: None, expect_cameras=lambda _: None)
        resources.callback(reloader.abandon)
        web = make_web(loaded, pipeline, reloader)
        resources.callback(web.stop)
        pipeline.start_workers()
        web.start()
        _supervise(pipeline, lambda: web.failure, is_stopping, lambda: on_ready(web.address or "", tuple(known)))


def _read(directories: Sequence[Path], max_bytes: int) -> dict[str, ModelPackage]:
    cache_dir = cache_dir_in(default_state_dir())
    packages: dict[str, ModelPackage] = {}
    for directory in directories:
        package = load_unknown_package(directory, cache_dir, max_bytes=max_bytes)
        if package.name in packages:
            raise UsageError(
                f"{directory} and {packages[package.name].directory} are both named {package.name}, but each model "
                "needs a name of its own; serve one of them, or write a configuration"
            )
        packages[package.name] = package
    return packages


def _configuration(folder: Path, packages: Mapping[str, ModelPackage], options: ServeOptions) -> LoadedConfig:
    """A configuration file as a user would write it, so that every check of the loader applies."""
    model = {
        "serve": True,
        "max_file_mib": options.max_file_mib,
        "engine": options.engine,
        "precision": options.precision,
    }
    batching = {} if options.max_batch is None else {"batching": {"max_size": options.max_batch}}
    serve: dict[str, object] = {"http": options.http}
    if options.grpc is not None:
        serve["grpc"] = options.grpc
    if options.tokens_file is not None:
        serve["tokens_file"] = str(options.tokens_file.absolute())
    document = {
        "version": 1,
        "models": {name: {"package": str(one.directory), **model, **batching} for name, one in packages.items()},
        "serve": serve,
    }
    path = folder / "serve.yaml"
    path.write_text(json.dumps(document), encoding="utf-8")
    try:
        return load_config(path)
    except ConfigError as exc:
        # The user has not written this file, and its keys are those of the options.
        raise UsageError(exc.message.replace(f"{path}:1: ", "")) from exc


def _supervise(
    pipeline: Pipeline,
    failure_of_web: Callable[[], Exception | None],
    is_stopping: Callable[[], bool],
    on_ready: Callable[[], None],
) -> None:
    hang_monitor, is_ready = HangMonitor(), False
    while not is_stopping():
        pipeline.check()
        pipeline.tick()
        if (failure := failure_of_web()) is not None:
            raise StageFailed(f"an exception ended the server: {failure!r}") from failure
        for worker in pipeline.workers.values():
            hang_monitor.check(worker.statistics(), worker.interrupt)
        if not is_ready and all(worker.loaded is not None for worker in pipeline.workers.values()):
            is_ready = True
            on_ready()
        time.sleep(_TICK_S)
