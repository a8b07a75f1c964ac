"""A new configuration while the agent runs: a good one takes effect, a bad one changes nothing and says why."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Literal

from agent.config.loader import LoadedConfig, check_when_labels, load_config
from agent.errors import AgentError
from agent.pipeline.pipeline import Pipeline
from agent.service.logs import get_logger
from agent.stage import StageThread
from engines import EngineError, ModelPackage, load_package

log = get_logger(__name__)

_LIVE_SECTIONS = {"models", "cameras"}
"""Sections that change under the running agent; any other one starts its parts anew within the same process."""


def load_packages(loaded: LoadedConfig) -> dict[str, ModelPackage]:
    """The packages of every model that an enabled camera asks for, checked against the gates that wait for labels.

    Raises:
        ModelRejected: a package cannot be served.
        ConfigError: a gate waits for a label that its model does not have.
    """
    config = loaded.config
    enabled = [camera for camera in config.cameras.values() if camera.enabled]
    used = {classifier.model for camera in enabled for classifier in camera.classify}
    packages = {key: load_package(loaded.package_dir(key)) for key in config.models if key in used}
    check_when_labels(loaded, {key: package.labels for key, package in packages.items()})
    return packages


class Reloader:
    """Reads the configuration again and goes over to it, on a thread of its own so that supervision goes on.

    One at a time; a request that comes meanwhile is answered afterwards. Its methods belong to the main thread.
    ``successor`` is a configuration that needs a new start of everything.
    """

    def __init__(
        self,
        loaded: LoadedConfig,
        packages: Mapping[str, ModelPackage],
        pipeline: Pipeline,
        *,
        on_applied: Callable[[LoadedConfig, Mapping[str, ModelPackage]], None],
        amend: Callable[[LoadedConfig], LoadedConfig] = lambda loaded: loaded,
    ) -> None:
        """``amend`` puts what was changed by command and is to be kept onto a configuration that was read."""
        self._loaded = loaded
        self._packages = packages
        self._pipeline = pipeline
        self._on_applied = on_applied
        self._amend = amend
        self._one_at_a_time = threading.Lock()
        self._stage: StageThread | None = None
        self._is_asked = False
        self.successor: LoadedConfig | None = None

    def request(self) -> None:
        """Read the configuration again at the next ``tick``."""
        self._is_asked = True

    def tick(self) -> None:
        """Start what was requested, when nothing else runs; raise what ended the thread."""
        if self._stage is not None:
            if self._stage.is_alive:
                return
            if self._stage.failure is not None:
                raise self._stage.failure
            self._stage = None
        if self._is_asked:
            self._is_asked = False
            self._stage = StageThread("reload", self._reload)
            self._stage.start()

    def stop(self, timeout_s: float = 1.0) -> None:
        """Wait a moment for a reload that is under way."""
        if self._stage is not None and not self._stage.join(timeout_s):
            log.warning("stop.cut_off", thread="reload")

    def _reload(self) -> None:
        try:
            self.reload_now()
        except (AgentError, EngineError) as exc:
            log.error("config.rejected", error=exc.message)  # noqa: TRY400 - the message says it all

    def reload_now(self) -> Literal["unchanged", "restarting", "applied"]:
        """Read the configuration again and go over to it, on the thread of the caller; what came of it.

        Raises:
            AgentError, EngineError: it cannot be used; nothing has changed.
        """
        with self._one_at_a_time:
            loaded = self._amend(load_config(self._loaded.path))
            packages = load_packages(loaded)
            is_same = loaded.sha256 == self._loaded.sha256 and loaded.config == self._loaded.config
            if is_same and packages == self._packages:
                log.info("config.unchanged", config_sha256=loaded.sha256[:12])
                return "unchanged"
            restarting = _sections_to_restart(self._loaded, loaded)
            if restarting:
                log.info("config.restarting", because_of=", ".join(restarting))
                self.successor = loaded
                return "restarting"
            self._go_over_to(loaded, packages)
            log.info("config.applied", config_sha256=loaded.sha256[:12])
        return "applied"

    def adjust(self, changed: LoadedConfig) -> None:
        """Go over to a changed copy of the configuration in force, on the thread of the caller.

        Raises:
            AgentError, EngineError: it cannot be used; nothing has changed.
        """
        with self._one_at_a_time:
            self._go_over_to(changed, load_packages(changed))

    def _go_over_to(self, loaded: LoadedConfig, packages: Mapping[str, ModelPackage]) -> None:
        self._pipeline.apply(loaded.config, packages)
        self._loaded, self._packages = loaded, packages
        self._on_applied(loaded, packages)


def _sections_to_restart(old: LoadedConfig, new: LoadedConfig) -> list[str]:
    before, after = old.config.model_dump(exclude=_LIVE_SECTIONS), new.config.model_dump(exclude=_LIVE_SECTIONS)
    return sorted(key for key in after if before[key] != after[key])
