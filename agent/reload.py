"""Applies a new configuration while the agent runs. A faulty one changes nothing, and the error says why."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

from agent.config.labels import check_labels, idle_thresholds, questionable_means, unknown_labels
from agent.config.loader import LoadedConfig, load_config
from agent.config.state_dir import cache_dir_in
from agent.daemon import control
from agent.inference.pipeline import Pipeline
from agent.runtime.errors import AgentError, ReloadAbandoned, ReloadUnderWay, UsageError
from agent.runtime.logs import get_logger
from agent.runtime.threads import StageThread
from engines import EngineError, ModelPackage

log = get_logger(__name__)

COMMAND_PATIENCE_S = 2.0
"""How long a command waits for a running change; one that builds an engine takes minutes."""
_LOOK_S = 0.1

Outcome = control.Outcome
AnswerNow = Literal["unchanged", "restarting", "applied", "waiting"]

Prepare = Callable[[LoadedConfig], Callable[[], None] | None]
"""First phase: checks a configuration, changes nothing, and returns the second phase, which switches a part to it and
cannot fail. None if nothing differs for that part. Raises AgentError if the configuration cannot be used."""


def load_packages(
    loaded: LoadedConfig,
    *,
    known: Mapping[str, ModelPackage] | None = None,
    unloaded: Collection[str] = (),
) -> dict[str, ModelPackage]:
    """The packages of every model that an enabled camera uses or that is served, checked against what the file
    says of their labels.

    Those in ``known``, by model, are not read from the disk; models ``unloaded`` by a program are left out unless a
    camera uses them. A package that is new to this device is first read in a child process.

    Raises:
        ModelRejected: a package cannot be served.
        SandboxFailed: reading it took too much time or memory, or killed the child.
        ConfigError: a gate or a rule names a label that its model does not have, or a label has a reserved name.
    """
    config = loaded.config
    known, cache_dir = known or {}, cache_dir_in(loaded.state_dir)
    used = config.camera_models.union(set(config.served_models).difference(unloaded))
    packages = {key: known.get(key) or loaded.read_package(key, cache_dir) for key in config.models if key in used}
    check_labels(loaded, packages)
    for label in unknown_labels(loaded, packages):
        log.warning("overrides.ignored", error=label)
    for threshold in idle_thresholds(loaded, packages):
        log.warning("decide.threshold_idle", error=threshold)
    for mean in questionable_means(loaded, packages):
        log.warning("decide.mean_questionable", error=mean)
    return packages


@dataclass(slots=True)
class ReloadRequest:
    """A requested reload. ``outcome`` or ``error`` is set by the first reload that reads the file after the
    request."""

    outcome: Outcome | None = None
    error: AgentError | EngineError | None = None


class Reloader:
    """Reads the configuration again and applies it, on the thread ``reload``, so that supervision continues.

    One change at a time; a request that comes meanwhile is served afterwards. ``request``, ``reload_now``, ``adjust``
    and ``abandon`` may be called from any thread, the others from the main thread. ``successor`` is a configuration
    for which all parts must be built again.
    """

    def __init__(
        self,
        loaded: LoadedConfig,
        packages: Mapping[str, ModelPackage],
        pipeline: Pipeline,
        *,
        others: Sequence[Prepare] = (),
        on_applied: Callable[[LoadedConfig, Mapping[str, ModelPackage]], None],
        expect_cameras: Callable[[LoadedConfig], None],
        amend: Callable[[LoadedConfig], LoadedConfig] = lambda loaded: loaded,
    ) -> None:
        """``others`` are the parts beside the pipeline. ``amend`` adds the kept overrides to a configuration that was
        read. ``expect_cameras`` is called before ``adjust`` changes cameras."""
        self._loaded = loaded
        self._packages = packages
        self._known = dict(packages)
        """Every package in force since the file was read, also of models that no enabled camera uses now."""
        self._unloaded: frozenset[str] = frozenset()
        """Models that a program unloaded; the next reload of the file loads them again."""
        self._pipeline = pipeline
        self._others = tuple(others)
        self._on_applied = on_applied
        self._amend = amend
        self._expect_cameras = expect_cameras
        self._one_at_a_time = threading.Lock()
        self._stage: StageThread | None = None
        self._asked: list[ReloadRequest] = []
        self._is_stopping = False
        self._turns = 0
        self._drops: tuple[Callable[[], None], ...] = ()
        self.successor: LoadedConfig | None = None
        self.refused: str | None = None
        """Why the file was refused at the last read; None if it is in force."""

    def add(self, other: Prepare, *, drop: Callable[[], None]) -> None:
        """Prepare and change one more part at each reload. Before the first one.

        ``drop`` is called at the end of each reload; it closes what was prepared but not applied.
        """
        self._others = (*self._others, other)
        self._drops = (*self._drops, drop)

    def request(self) -> ReloadRequest:
        """Read the configuration again at a ``tick``, once no other change runs."""
        request = ReloadRequest()
        self._asked.append(request)
        if self._one_at_a_time.locked():
            log.info("config.reload_deferred", reason="another change runs; the file is read again after it")
        return request

    def tick(self) -> None:
        """Start a requested reload if none runs; raise the exception that ended the thread."""
        if self._stage is not None:
            if self._stage.is_alive:
                return
            if self._stage.failure is not None:
                raise self._stage.failure
            self._stage = None
        if self._asked:
            # Later requests may be about a file that changes after this read, so they get a reload of their own.
            asked, self._asked = self._asked, []
            self._stage = StageThread("reload", partial(self._reload, asked))
            self._stage.start()

    def abandon(self) -> None:
        """The agent stops: cancel the running change and start no other; does not wait."""
        self._is_stopping = True

    def stop(self, timeout_s: float = 1.0) -> None:
        """Cancel the running change, and wait up to ``timeout_s`` for its end."""
        self.abandon()
        if self._stage is not None and not self._stage.join(timeout_s):
            log.warning("stop.cut_off", thread="reload")

    def _reload(self, asked: Sequence[ReloadRequest]) -> None:
        outcome: Outcome | None = None
        error: AgentError | EngineError | None = None
        try:
            with self._turn():
                outcome = self._read()
        except ReloadAbandoned as exc:
            log.info("config.reload_abandoned", reason=exc.message)
            error = exc
        except (AgentError, EngineError) as exc:
            log.error("config.rejected", turn=self._turn_text, error=exc.message)  # noqa: TRY400 - the message says it all
            error = exc
        for request in asked:
            request.outcome, request.error = outcome, error

    def reload_now(self) -> AnswerNow:
        """Read the configuration again and apply it, on the caller's thread; return the outcome.

        ``waiting``: another change runs, and the file is read again after it.

        Raises:
            AgentError, EngineError: it cannot be used; nothing has changed.
        """
        try:
            with self._turn(COMMAND_PATIENCE_S):
                return self._read()
        except ReloadUnderWay:
            self.request()
            return "waiting"

    def adjust(self, changed: LoadedConfig) -> None:
        """Apply a copy of the configuration in force with changed cameras, on the caller's thread.

        Nothing is read again: neither the file nor the packages and passwords that are in force. Only the package of a
        model that no enabled camera has used since the file was read is loaded.

        Raises:
            ReloadUnderWay: another change runs, or was applied while this one waited for its turn.
            AgentError, EngineError: it cannot be used; nothing has changed.
        """
        with self._turn(COMMAND_PATIENCE_S):
            if changed.document is not self._loaded.document:
                raise ReloadUnderWay(
                    "the file was read again while this change waited, and the change was made for its old content; "
                    "nothing has changed; try again"
                )
            packages = load_packages(changed, known=self._known, unloaded=self._unloaded)
            self._expect_cameras(changed)
            self._switch_to(changed, packages, ())
            self._known.update(packages)

    def load_model(self, model: str) -> None:
        """Read the package of a served model again and serve it, on the caller's thread.

        The one that is served now stays until the new one has been loaded and checked; it stays if that fails.

        Raises:
            ReloadUnderWay: another change runs.
            AgentError, EngineError: it cannot be served; nothing has changed.
        """
        with self._turn(COMMAND_PATIENCE_S):
            known = {key: package for key, package in self._known.items() if key != model}
            unloaded = self._unloaded.difference((model,))
            packages = load_packages(self._loaded, known=known, unloaded=unloaded)
            self._switch_to(self._loaded, packages, ())
            self._unloaded = unloaded
            self._known.update(packages)

    def unload_model(self, model: str) -> None:
        """Stop to serve a model and free its engine, on the caller's thread; requests that wait are answered first.

        Raises:
            UsageError: an enabled camera uses it.
            ReloadUnderWay: another change runs.
        """
        with self._turn(COMMAND_PATIENCE_S):
            if model in self._loaded.config.camera_models:
                raise UsageError(
                    f"model {model} was to be unloaded, but an enabled camera uses it; disable the camera first",
                    model=model,
                )
            packages = {key: package for key, package in self._packages.items() if key != model}
            self._switch_to(self._loaded, packages, ())
            self._unloaded = self._unloaded.union((model,))

    @property
    def _turn_text(self) -> str:
        """A text, because the log's rate limit compares texts: each reload gets its own line."""
        return str(self._turns)

    @contextmanager
    def _turn(self, patience_s: float = float("inf")) -> Iterator[None]:
        """Wait until earlier changes have ended.

        Raises:
            ReloadUnderWay: they took longer than ``patience_s``.
            ReloadAbandoned: the agent stops.
        """
        deadline = time.monotonic() + patience_s
        while not self._one_at_a_time.acquire(timeout=_LOOK_S):
            if self._is_stopping:
                raise ReloadAbandoned("the agent stops, so the configuration was not read again")
            if time.monotonic() >= deadline:
                raise ReloadUnderWay(
                    "another change of the configuration runs (building an engine takes minutes) and did not end "
                    f"within {patience_s:g} s; nothing has changed; try again later"
                )
        try:
            yield
        finally:
            self._one_at_a_time.release()

    def _read(self) -> Outcome:
        """Read and apply, and keep the reason of a refusal."""
        try:
            outcome = self._read_and_apply()
        except ReloadAbandoned:
            raise
        except (AgentError, EngineError) as exc:
            self.refused = exc.message
            raise
        finally:
            for drop in self._drops:
                drop()
        self.refused = None
        return outcome

    def _read_and_apply(self) -> Outcome:
        self._turns += 1
        loaded = self._amend(load_config(self._loaded.path))
        packages = load_packages(loaded)
        changes = self._prepared(loaded)
        restarting = _to_restart(self._loaded, loaded)
        if restarting:
            log.info("config.restarting", because_of=", ".join(restarting))
            self.successor = loaded
            return "restarting"
        is_same = loaded.sha256 == self._loaded.sha256 and loaded.config == self._loaded.config
        is_same = is_same and not _with_new_password(self._loaded, loaded)
        if is_same and packages == self._packages and not changes:
            self._known = dict(packages)
            self._unloaded = frozenset()
            log.info("config.unchanged", turn=self._turn_text, config_sha256=loaded.sha256[:12])
            return "unchanged"
        self._switch_to(loaded, packages, changes)
        self._known = dict(packages)
        self._unloaded = frozenset()
        log.info("config.applied", turn=self._turn_text, config_sha256=loaded.sha256[:12])
        return "applied"

    def _prepared(self, loaded: LoadedConfig) -> list[Callable[[], None]]:
        prepared = [prepare(loaded) for prepare in self._others]
        return [apply_change for apply_change in prepared if apply_change is not None]

    def _switch_to(
        self, loaded: LoadedConfig, packages: Mapping[str, ModelPackage], changes: Sequence[Callable[[], None]]
    ) -> None:
        # The pipeline first: it is the one that can still refuse.
        self._pipeline.apply(
            loaded.config,
            packages,
            reopen=_with_new_password(self._loaded, loaded),
            is_cancelled=lambda: self._is_stopping,
        )
        if self._is_stopping:
            raise ReloadAbandoned("the agent stops, so the rest of the new configuration was not applied")
        for apply_change in changes:
            apply_change()
        self._loaded, self._packages = loaded, packages
        self._on_applied(loaded, packages)


def _with_new_password(old: LoadedConfig, new: LoadedConfig) -> frozenset[str]:
    """Cameras whose password file has new content."""
    before = {name: secret.reveal() for name, secret in old.camera_passwords.items()}
    return frozenset(name for name, secret in new.camera_passwords.items() if secret.reveal() != before.get(name))


def _to_restart(old: LoadedConfig, new: LoadedConfig) -> list[str]:
    """Changed keys that no part can apply in place: names in every topic, files that are held open."""
    before, after = old.config.mqtt, new.config.mqtt
    differs = {
        "device.id": old.device_id != new.device_id,
        "serve": old.config.serve.is_on != new.config.serve.is_on,
        "serve.page": old.config.serve.page != new.config.serve.page,
        "serve.metrics_file": old.config.serve.metrics_file != new.config.serve.metrics_file,
        "state_dir": old.state_dir != new.state_dir,
        "mqtt.prefix": before.prefix != after.prefix,
        "mqtt.outbox": before.outbox != after.outbox,
        "mqtt.commands": before.commands != after.commands,
        "mqtt.broker": before.broker != after.broker and (before.is_embedded or after.is_embedded),
    }
    return [key for key, has_changed in differs.items() if has_changed]
