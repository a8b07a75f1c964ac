"""Whether the engine of each model opens, as at a start of the agent: the same options, the same code.

    state directory/cache ──copies──► a temporary folder ──► open_engine ──► close

The agent's own cache is only read: it belongs to the service, and this may be root.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from agent.config.labels import check_labels, idle_thresholds, questionable_means
from agent.config.loader import LoadedConfig
from agent.config.state_dir import cache_dir_in
from agent.inference.engine_opening import EngineOpener
from agent.tools.doctor.findings import Finding
from engines import (
    BuildCancelled,
    Building,
    BuildProgress,
    EngineError,
    EngineInfo,
    ModelPackage,
    OptionsRejected,
)

_OPEN_WITHIN_S = 100.0
"""Less than the deadline of the check, so that a slow opening has a line of its own."""
_BUILDING = "building"
"""How the phase of a plan's build begins, in ``BuildProgress``."""


def used_models(loaded: LoadedConfig) -> tuple[str, ...]:
    """The keys of the models that an enabled camera uses, sorted."""
    cameras = [camera for camera in loaded.config.cameras.values() if camera.enabled]
    return tuple(sorted({use.model for camera in cameras for use in camera.classify}))


@contextmanager
def copied_cache(state_dir: Path) -> Iterator[Path]:
    """A temporary copy of the agent's cache, as far as it can be read, trusted, and has room; deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="agent-doctor-", ignore_cleanup_errors=True) as folder:
        target = Path(folder) / "cache"
        target.mkdir(mode=0o700)
        source = cache_dir_in(state_dir)
        files = [*_trusted_files(source)]
        if sum(size for _, size in files) < shutil.disk_usage(folder).free / 2:
            for file, _ in files:
                copy = target / file.relative_to(source)
                with suppress(OSError):  # replaced or deleted meanwhile
                    copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    shutil.copy2(file, copy, follow_symlinks=False)
        yield target


def _trusted_files(folder: Path) -> Iterator[tuple[Path, int]]:
    """Files below ``folder`` and their sizes. Of files that others could have written a copy would hide that."""
    for parent, _, names in os.walk(folder):
        for name in names:
            file = Path(parent) / name
            with suppress(OSError):
                status = file.lstat()
                is_ours = status.st_uid in (os.geteuid(), 0) and not status.st_mode & 0o022
                if is_ours and stat.S_ISREG(status.st_mode):
                    yield file, status.st_size


@dataclass(slots=True)
class _Patience:
    """Ends an opening that builds a plan, which takes minutes, or that takes too long; one opening."""

    until_s: float = field(default_factory=lambda: time.monotonic() + _OPEN_WITHIN_S)
    is_building: bool = False

    def building(self) -> Building:
        """As at a start of the agent, with an end."""
        return Building(defer=True, on_progress=self._note, is_cancelled=self._is_over)

    def _note(self, progress: BuildProgress) -> None:
        self.is_building |= progress.phase.startswith(_BUILDING)

    def _is_over(self) -> bool:
        return self.is_building or time.monotonic() >= self.until_s


def model_finding(name: str, loaded: LoadedConfig, cache_dir: Path) -> Finding:
    """Whether one model's package is good, and which engine serves it when the agent starts."""
    directory = loaded.package_dir(name)
    try:
        # Nothing is remembered, see above.
        package = loaded.read_package(name, None)
    except EngineError as exc:
        return Finding(name, "failed", exc.message, f"look closer with: agent model check {directory}", is_needed=True)
    text = f"{package.name} {package.version}, {len(package.labels)} labels"
    patience = _Patience()
    try:
        info = _opened(name, loaded, package, cache_dir, patience)
    except BuildCancelled:
        return Finding(name, "warning", *_not_ready(text, loaded, patience), is_needed=True)
    except OptionsRejected as exc:
        return Finding(name, "failed", exc.message, is_needed=True)
    except EngineError as exc:
        return Finding(name, "failed", f"{text}: {exc.message}", is_needed=True)
    return _serving(name, text, info)


def _opened(
    name: str, loaded: LoadedConfig, package: ModelPackage, cache_dir: Path, patience: _Patience
) -> EngineInfo:
    workers = len(used_models(loaded))
    opener = EngineOpener(lambda: loaded, cache_dir=lambda: cache_dir, workers=lambda: workers)
    with opener.open(name, loaded.config.models[name], package, patience.building()) as engine:
        return engine.info


def _not_ready(text: str, loaded: LoadedConfig, patience: _Patience) -> tuple[str, str]:
    remedy = f"build it ahead: agent build -c {loaded.path}"
    if patience.is_building:
        return f"{text}: its engine has to be built first, which takes minutes; not tried here", remedy
    return f"{text}: no engine was ready within {_OPEN_WITHIN_S:g} s, so this check was ended", remedy


def _serving(name: str, text: str, info: EngineInfo) -> Finding:
    asked = "" if info.requested == info.name else f" (of {info.requested})"
    facts = {"engine": info.name, "precision": info.precision, "degraded": info.degraded, "pending": info.pending}
    serves = f"{text}, {info.name}{asked} in {info.precision}"
    pending = f"; {info.pending} has to be built first, which the agent does while this one serves"
    serves += pending if info.pending else ""
    if info.degraded is None:
        return Finding(name, "ok", serves, is_needed=True, facts=facts)
    remedy = next((one.remedy for one in info.rejected if one.engine == info.requested), "")
    return Finding(name, "warning", f"{serves}, degraded: {info.degraded}", remedy, is_needed=True, facts=facts)


def label_findings(loaded: LoadedConfig) -> Iterator[Finding]:
    """Whether gates and rules fit the labels of the models. A package that cannot be read has a line of its own."""
    packages: dict[str, ModelPackage] = {}
    for name in used_models(loaded):
        with suppress(EngineError):
            packages[name] = loaded.read_package(name, None)
    check_labels(loaded, packages)
    for doubt in (*idle_thresholds(loaded, packages), *questionable_means(loaded, packages)):
        yield Finding("labels", "warning", doubt, is_needed=True)
    cameras = [camera for camera in loaded.config.cameras.values() if camera.enabled]
    if any(use.follows is not None or use.decide.labels for camera in cameras for use in camera.classify):
        yield Finding("labels", "ok", "gates, means and rules fit the labels of their models", is_needed=True)
