"""Writes a recommendation into a configuration file and leaves everything else in it as it was, comments included."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from agent.benchmark.report import Recommendation
from agent.config.loader import LoadedConfig, load_config
from agent.runtime.errors import ConfigError, UsageError
from engines.base import EngineOptions, Measurement
from engines.choices import remember
from engines.package import ModelPackage, load_package

_VALUE = re.compile(r"^(\s*(?:engine|precision)\s*:\s*)(\"[^\"]*\"|'[^']*'|[^\s#]+)?(\s*(?:#.*)?)$")


def apply_to(path: Path, choice: Recommendation, package: ModelPackage, *, model: str | None = None) -> list[str]:
    """Set engine and precision of the models in ``path`` that use ``package``; gives their keys.

    ``model`` names one of them. The new file is checked before it takes the place of the old one.

    Raises:
        UsageError: no model uses the package, or there is nothing to recommend.
        ConfigError: the file cannot be used, or is written in a form that is not edited here.
    """
    if choice.engine is None or choice.precision is None:
        raise UsageError(f"there is nothing to apply: {choice.reason}")
    keys = _keys(path, package, model)
    path = path.resolve()
    _replace_checked(path, _with_values(path, keys, choice.engine, choice.precision), keys, choice)
    return keys


def check_can_apply(path: Path, package: ModelPackage, *, model: str | None = None) -> None:
    """Whether ``apply_to`` can do its work, whatever will be recommended.

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
            raise UsageError(f"{path} has no model {key!r}, it has {', '.join(loaded.config.models)}")
    if not keys:
        raise UsageError(
            f"no model in {path} uses the package {package.directory}. Name the model with --model, or add one that "
            f"has package: {package.directory}"
        )
    return keys


def _with_values(path: Path, keys: Sequence[str], engine: str, precision: str) -> str:
    text = path.read_bytes().decode()
    for key in keys:
        for name, value in (("engine", engine), ("precision", precision)):
            text = _with_value(text, key, name, value, path)
    return text


def remember_for(path: Path, keys: Sequence[str], package: ModelPackage, measurements: Sequence[Measurement]) -> None:
    """Leave the measurement where ``auto`` and ``fastest`` look for it when the agent runs with ``path``.

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
            max_batch=config.batching.most,
            workers=_workers(loaded),
        )
        remember(package, options, measurements)


def _workers(loaded: LoadedConfig) -> int:
    """One worker for each model that an enabled camera uses, as in the pipeline."""
    cameras = [camera for camera in loaded.config.cameras.values() if camera.enabled]
    return max(1, len({use.model for camera in cameras for use in camera.classify}))


def _users_of(loaded: LoadedConfig, package: ModelPackage) -> list[str]:
    found = []
    for key in loaded.config.models:
        folder = loaded.package_dir(key)
        if folder.is_dir() and (folder.samefile(package.directory) or load_package(folder).sha256 == package.sha256):
            found.append(key)
    return found


def _with_value(text: str, model: str, name: str, value: str, path: Path) -> str:
    """``text`` with one key of one model set, on its own line."""
    document = _loaded_text(text, path).document
    lines = text.splitlines(keepends=True)
    where = document.lines.get(("models", model, name))
    package = document.lines[("models", model, "package")]
    beside = document.lines.get(("models", model, "engine"), package)
    if document.lines[("models", model)] == package:
        raise ConfigError(
            f"{path}:{package}: the model {model} is written in one line, which is not edited here. Write each of its "
            f"keys on a line, or set {name}: {value} by hand",
            file=str(path),
            line=package,
        )
    if where is None:
        above = lines[beside - 1]
        indent = above[: len(above) - len(above.lstrip())]
        end = "\r\n" if above.endswith("\r\n") else "\n"
        if not above.endswith("\n"):
            lines[beside - 1] = above + end
        lines.insert(beside, f"{indent}{name}: {value}{end}")
        return "".join(lines)
    old = lines[where - 1]
    body = old.rstrip("\r\n")
    match = _VALUE.match(body)
    if match is None:
        raise ConfigError(
            f"{path}:{where}: {body.strip()!r} is written in a way that is not edited here. "
            f"Set {name}: {value} by hand",
            file=str(path),
            line=where,
        )
    lines[where - 1] = f"{match[1]}{value}{match[3]}{old[len(body) :]}"
    return "".join(lines)


def _loaded_text(text: str, path: Path) -> LoadedConfig:
    """``text`` as if it stood in the place of ``path``."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", suffix=".yaml") as file:
        file.write(text.encode())
        file.flush()
        return load_config(Path(file.name), check_files=False)


def _replace_checked(path: Path, text: str, keys: Sequence[str], choice: Recommendation) -> None:
    """Put ``text`` in the place of ``path`` if it differs from it in what was meant alone."""
    old, new = load_config(path, check_files=False).config, _loaded_text(text, path).config
    wanted = {
        key: model.model_copy(update={"engine": choice.engine, "precision": choice.precision})
        if key in keys
        else model
        for key, model in old.models.items()
    }
    if new != old.model_copy(update={"models": wanted}):
        raise ConfigError(f"{path} could not be edited safely and was left as it is. Set engine and precision by hand")
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
