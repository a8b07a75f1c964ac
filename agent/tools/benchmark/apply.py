"""Writes a recommendation into a configuration file; everything else in it stays, comments included."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from agent.config.loader import LoadedConfig, load_config
from agent.config.state_dir import cache_dir_in
from agent.runtime.errors import ConfigError, UsageError
from agent.tools.benchmark.edit import with_engine
from agent.tools.benchmark.report import Recommendation
from engines import EngineOptions, Measurement, ModelPackage, remember_selection


def apply_to(path: Path, choice: Recommendation, package: ModelPackage, *, model: str | None = None) -> list[str]:
    """Set engine and precision of the models in ``path`` that use ``package``; gives their keys.

    ``model`` names one of them. The new file is checked before it replaces the old one.

    Raises:
        UsageError: no model uses the package, or there is nothing to recommend.
        ConfigError: the file cannot be used, or cannot be edited without losing something.
    """
    if choice.engine is None or choice.precision is None:
        raise UsageError(f"there is nothing to apply: {choice.reason}")
    keys = _keys(path, package, model)
    path = path.resolve()
    _replace_checked(path, _with_values(path, keys, choice.engine, choice.precision), keys, choice)
    return keys


def check_can_apply(path: Path, package: ModelPackage, *, model: str | None = None) -> None:
    """Whether ``apply_to`` will work, whichever engine is recommended.

    Raises:
        UsageError: no model uses the package, or the file cannot be replaced.
        ConfigError: as ``apply_to``.
    """
    keys = _keys(path, package, model)
    path = path.resolve()
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path} cannot be replaced: {path.parent} is not writable. Give --apply a copy elsewhere")
    _with_values(path, keys, "auto", "fp32")


def _keys(path: Path, package: ModelPackage, model: str | None) -> list[str]:
    loaded = load_config(path, check_files=False)
    keys = [model] if model is not None else _users_of(loaded, package)
    for key in keys:
        if key not in loaded.config.models:
            raise UsageError(f"{path} has no model {key!r}; it has {', '.join(loaded.config.models)}")
    if not keys:
        raise UsageError(
            f"no model in {path} uses the package {package.directory}. Name the model with --model, or add one that "
            f"has package: {package.directory}"
        )
    return keys


def _with_values(path: Path, keys: Sequence[str], engine: str, precision: str) -> str:
    try:
        return with_engine(path.read_bytes().decode(), keys, engine, precision)
    except ValueError as exc:
        raise ConfigError(
            f"{path} cannot be edited: {exc}. Set engine: {engine} and precision: {precision} of "
            f"{', '.join(keys)} by hand",
            file=str(path),
        ) from exc


def remember_for(path: Path, keys: Sequence[str], package: ModelPackage, measurements: Sequence[Measurement]) -> None:
    """Store the measurement where ``auto`` and ``fastest`` look for it when the agent runs with ``path``.

    Raises:
        EngineUnavailable: the state directory cannot be written.
    """
    loaded = load_config(path, check_files=False)
    for key in keys:
        config = loaded.config.models[key]
        options = EngineOptions(
            cache_dir=loaded.state_dir / "cache",
            engine="auto",
            precision=measurements[0].precision,
            options=config.options,
            max_batch=config.batching.engine_batch,
            workers=_workers(loaded),
        )
        remember_selection(package, options, measurements)


def _workers(loaded: LoadedConfig) -> int:
    """One worker for each model that an enabled camera uses, as in the pipeline."""
    cameras = [camera for camera in loaded.config.cameras.values() if camera.enabled]
    return max(1, len({use.model for camera in cameras for use in camera.classify}))


def _users_of(loaded: LoadedConfig, package: ModelPackage) -> list[str]:
    found = []
    for key in loaded.config.models:
        folder = loaded.package_dir(key)
        if folder.is_dir() and (folder.samefile(package.directory) or _digest(loaded, key) == package.digest):
            found.append(key)
    return found


def _digest(loaded: LoadedConfig, key: str) -> str:
    return loaded.read_package(key, cache_dir_in(loaded.state_dir)).digest


def _loaded_text(text: str, path: Path) -> LoadedConfig:
    """``text`` as if it were the content of ``path``."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", suffix=".yaml") as file:
        file.write(text.encode())
        file.flush()
        return load_config(Path(file.name), check_files=False)


def _replace_checked(path: Path, text: str, keys: Sequence[str], choice: Recommendation) -> None:
    """Replace ``path`` by ``text`` if that changes engine and precision of ``keys`` and nothing else."""
    old, new = load_config(path, check_files=False).config, _loaded_text(text, path).config
    wanted = {
        key: model.model_copy(update={"engine": choice.engine, "precision": choice.precision})
        if key in keys
        else model
        for key, model in old.models.items()
    }
    if new != old.model_copy(update={"models": wanted}):
        raise ConfigError(f"{path} could not be edited safely and was not changed. Set engine and precision by hand")
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-", suffix=".yaml")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(path.stat().st_mode & 0o7777)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
