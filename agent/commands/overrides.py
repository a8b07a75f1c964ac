"""Settings changed by commands, on top of the configuration, and which of them are kept across restarts.

An override remembers the value that the file had when it was set. Once the file has another value there, the file was
edited since, and wins.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import Field, ValidationError

from agent.commands.contract import CommandRefused, NotKept, require_known
from agent.commands.requests import Set, problem_of
from agent.config.loader import LoadedConfig
from agent.config.model import AgentConfig, CameraConfig, ClassifierConfig
from agent.config.overridden import Value, file_config, in_words, overridden
from agent.config.sections.base import Name, Section
from agent.config.sections.decide import DecideConfig, LabelConfig
from agent.config.state_dir import OVERRIDES_FILE
from agent.runtime.logs import get_logger
from engines import JsonRecord, RecordDamaged

FILE_NAME = OVERRIDES_FILE

log = get_logger(__name__)

_changes_of_the_file = threading.Lock()


class _Override(Section):
    over: dict[str, Value] = Field(default_factory=dict)
    """What the file said when each key was set; without an entry it is not known, and the override stays."""


M = TypeVar("M", bound=_Override)


class LabelOverride(_Override):
    """Changes of one label; null leaves the file's value."""

    enter: float | None = Field(default=None, ge=0.0, le=1.0)
    exit: float | None = Field(default=None, ge=0.0, le=1.0)


class ClassifierOverride(LabelOverride):
    """Changes of one classifier, and of single labels of it; null leaves the file's value."""

    enabled: bool | None = None
    labels: dict[str, LabelOverride] = Field(default_factory=dict)


class CameraOverride(_Override):
    """Changes of one camera."""

    rate_hz: float | None = Field(default=None, gt=0.0, le=1000.0)
    enabled: bool | None = None
    classifiers: dict[Name, ClassifierOverride] = Field(default_factory=dict)


class Overrides(Section):
    """All changes, by camera."""

    cameras: dict[Name, CameraOverride] = Field(default_factory=dict)

    def with_change(self, request: Set, file: AgentConfig) -> Overrides:
        """These overrides and the change of ``request``, made over the values of ``file``.

        A key that is set to its value in the file is no override any more.
        """
        camera = self.cameras.get(request.camera, CameraOverride())
        said = _said_by(file, request.camera)
        if request.classifier is None:
            camera = _updated(camera, said, rate_hz=request.rate_hz, enabled=request.enabled)
        else:
            camera = _updated(camera, said, rate_hz=request.rate_hz)
            before = camera.classifiers.get(request.classifier, ClassifierOverride())
            changed = _changed_classifier(before, request, file)
            camera = camera.model_copy(update={"classifiers": {**camera.classifiers, request.classifier: changed}})
        return Overrides(cameras={**self.cameras, request.camera: camera})

    def current(self, file: AgentConfig) -> tuple[Overrides, list[str]]:
        """The overrides whose keys were not edited in ``file`` since they were set, and a sentence for each other
        one."""
        edited: list[str] = []
        cameras = {name: _current_camera(name, camera, file, edited) for name, camera in self.cameras.items()}
        return Overrides(cameras={name: camera for name, camera in cameras.items() if _changes(camera)}), edited

    def applied_to(self, config: AgentConfig) -> AgentConfig:
        """``config`` with these overrides applied.

        Raises:
            CommandRefused: an override does not fit ``config``.
        """
        cameras = dict(config.cameras)
        for name, change in self.cameras.items():
            require_known(cameras, name, "camera")
            cameras[name] = _changed_camera(name, cameras[name], change)
        if not any(camera.enabled for camera in cameras.values()):
            raise CommandRefused("last_camera", "this is the last enabled camera; stop the agent instead")
        return config.model_copy(update={"cameras": cameras})

    def fitting(self, config: AgentConfig) -> tuple[Overrides, list[str]]:
        """The overrides that fit ``config``, and a problem for each key whose override does not."""
        kept, left = Overrides(), list(_single_changes(self))
        while True:
            kept, refused = _with_fitting(kept, left, config)
            # One may fit only after another, as an `exit` does after the `enter` above it.
            if len(refused) in {0, len(left)}:
                return kept, list(refused.values())
            left = list(refused)


class _SingleChange(NamedTuple):
    """The override of one key; ``over`` has what the file said when it was set, if that is known."""

    camera: str
    classifier: str | None
    label: str | None
    key: str
    value: Value
    is_over_known: bool
    over: Value

    def added_to(self, overrides: Overrides) -> Overrides:
        """``overrides`` and this one."""
        camera = overrides.cameras.get(self.camera, CameraOverride())
        if self.classifier is None:
            camera = self._with_key(camera)
        else:
            classifier = camera.classifiers.get(self.classifier, ClassifierOverride())
            if self.label is None:
                classifier = self._with_key(classifier)
            else:
                label = self._with_key(classifier.labels.get(self.label, LabelOverride()))
                classifier = classifier.model_copy(update={"labels": {**classifier.labels, self.label: label}})
            camera = camera.model_copy(update={"classifiers": {**camera.classifiers, self.classifier: classifier}})
        return Overrides(cameras={**overrides.cameras, self.camera: camera})

    def _with_key(self, model: M) -> M:
        over = dict(model.over)
        if self.is_over_known:
            over[self.key] = self.over
        return model.model_copy(update={self.key: self.value, "over": over})

    def text(self) -> str:
        """Where it is, and what it says."""
        place = f"cameras.{self.camera}"
        place += "" if self.classifier is None else f", classifier {self.classifier}"
        place += "" if self.label is None else f", label {self.label}"
        return f"{place}: {self.key} {in_words(self.value)}"


def _single_changes(overrides: Overrides) -> Iterator[_SingleChange]:
    for camera, change in overrides.cameras.items():
        yield from _keys_of(change, camera)
        for classifier, one in change.classifiers.items():
            yield from _keys_of(one, camera, classifier)
            for label, rule in one.labels.items():
                yield from _keys_of(rule, camera, classifier, label)


def _keys_of(
    model: _Override, camera: str, classifier: str | None = None, label: str | None = None
) -> Iterator[_SingleChange]:
    for key, value in model:
        if value is not None and not isinstance(value, dict):
            yield _SingleChange(camera, classifier, label, key, value, key in model.over, model.over.get(key))


def _with_fitting(
    kept: Overrides, changes: Iterable[_SingleChange], config: AgentConfig
) -> tuple[Overrides, dict[_SingleChange, str]]:
    """``kept`` and those of ``changes`` that fit ``config``; each other one with its problem."""
    refused: dict[_SingleChange, str] = {}
    for change in changes:
        more = change.added_to(kept)
        try:
            more.applied_to(config)
        except CommandRefused as exc:
            refused[change] = f"{change.text()} is kept, but {exc.message}"
        else:
            kept = more
    return kept, refused


def _said_by(file: AgentConfig, camera: str, classifier: str | None = None) -> Mapping[str, Value]:
    """The values of ``file`` that `set` can change; empty if it has no such camera or classifier."""
    found = file.cameras.get(camera)
    if found is None:
        return {}
    if classifier is None:
        return {"rate_hz": found.rate_hz, "enabled": found.enabled}
    decide = _decide_of(found, classifier)
    return {} if decide is None else {"enter": decide.enter, "exit": decide.exit, "enabled": True}


def _said_of_label(file: AgentConfig, camera: str, classifier: str, label: str) -> Mapping[str, Value]:
    """The thresholds of one label in ``file``, None where it has none; empty without such a classifier."""
    found = file.cameras.get(camera)
    decide = None if found is None else _decide_of(found, classifier)
    if decide is None:
        return {}
    own = decide.labels.get(label, LabelConfig())
    return {"enter": own.enter, "exit": own.exit}


def _decide_of(camera: CameraConfig, classifier: str) -> DecideConfig | None:
    return next((one.decide for one in camera.classify if one.key == classifier), None)


def _changed_classifier(before: ClassifierOverride, request: Set, file: AgentConfig) -> ClassifierOverride:
    key = request.classifier or ""
    said = _said_by(file, request.camera, key)
    if request.label is None:
        return _updated(before, said, enter=request.enter, exit=request.exit, enabled=request.enabled)
    label = before.labels.get(request.label, LabelOverride())
    said_of_label = _said_of_label(file, request.camera, key, request.label)
    label = _updated(label, said_of_label, enter=request.enter, exit=request.exit)
    changed = before.model_copy(update={"labels": {**before.labels, request.label: label}})
    return _updated(changed, said, enabled=request.enabled)


def _updated(model: M, said: Mapping[str, Value], **values: Value) -> M:
    changed: dict[str, Value] = {}
    over = dict(model.over)
    for key, value in values.items():
        if value is None:
            continue
        is_back = key in said and value == said[key]
        changed[key] = None if is_back else value
        over.pop(key, None)
        if key in said and not is_back:
            over[key] = said[key]
    return model.model_copy(update={**changed, "over": over})


def _current_camera(name: str, camera: CameraOverride, file: AgentConfig, edited: list[str]) -> CameraOverride:
    where = f"cameras.{name}"
    camera = _unedited(camera, _said_by(file, name), where, edited)
    classifiers = {key: _current_classifier(name, key, one, file, edited) for key, one in camera.classifiers.items()}
    return camera.model_copy(update={"classifiers": {key: one for key, one in classifiers.items() if _changes(one)}})


def _current_classifier(
    camera: str, key: str, change: ClassifierOverride, file: AgentConfig, edited: list[str]
) -> ClassifierOverride:
    where = f"cameras.{camera}, classifier {key}"
    change = _unedited(change, _said_by(file, camera, key), where, edited)
    labels = {
        label: _unedited(one, _said_of_label(file, camera, key, label), f"{where}, label {label}", edited)
        for label, one in change.labels.items()
    }
    return change.model_copy(update={"labels": {label: one for label, one in labels.items() if _changes(one)}})


def _unedited(model: M, said: Mapping[str, Value], where: str, edited: list[str]) -> M:
    stale = [key for key, value in model.over.items() if key in said and said[key] != value]
    edited += [
        f"{where}: {key} was set to {in_words(getattr(model, key))} over {in_words(model.over[key])}, but the file "
        f"says {in_words(said[key])} now; the file wins"
        for key in stale
    ]
    over = {key: value for key, value in model.over.items() if key not in stale}
    return model.model_copy(update={**dict.fromkeys(stale), "over": over})


def _changes(model: _Override) -> bool:
    return any(value not in (None, {}) for key, value in model if key != "over")


def _changed_camera(name: str, camera: CameraConfig, change: CameraOverride) -> CameraConfig:
    values: dict[str, object] = {}
    if change.rate_hz is not None:
        if camera.trigger is not None:
            raise CommandRefused(
                "invalid",
                f"rate_hz {change.rate_hz:g} was given, but camera {name} has a trigger, and so no rate; remove "
                "`trigger` from the file, or send no rate",
            )
        values["rate_hz"] = change.rate_hz
    if change.enabled is not None:
        values["enabled"] = change.enabled
    if change.classifiers:
        values["classify"] = _changed_classifiers(name, camera.classify, change.classifiers)
    return camera.model_copy(update=values)


def _changed_classifiers(
    camera: str, classifiers: tuple[ClassifierConfig, ...], changes: dict[str, ClassifierOverride]
) -> tuple[ClassifierConfig, ...]:
    by_key = {classifier.key: classifier for classifier in classifiers}
    for key, change in changes.items():
        require_known(by_key, key, "classifier")
        by_key[key] = by_key[key].model_copy(update={"decide": _changed_decide(by_key[key].decide, change)})
    kept = tuple(one for key, one in by_key.items() if key not in changes or changes[key].enabled is not False)
    if not kept:
        raise CommandRefused(
            "last_classifier", f"camera {camera} would have no classifier left; disable the camera instead"
        )
    left = {one.key for one in kept}
    for one in kept:
        if one.follows is not None and one.follows not in left:
            what = "mean" if one.when is None else "gate"
            raise CommandRefused(
                "needed_by_gate",
                f"the {what} of {one.key} needs {one.follows}, which would be disabled; disable {one.key} first",
            )
    return kept


def _changed_decide(decide: DecideConfig, change: ClassifierOverride) -> DecideConfig:
    labels = dict(decide.labels)
    try:
        for label, rule in change.labels.items():
            labels[label] = LabelConfig(**{**labels.get(label, LabelConfig()).model_dump(), **_thresholds(rule)})
        return DecideConfig(**{**decide.model_dump(), **_thresholds(change), "labels": labels})
    except ValidationError as exc:
        raise CommandRefused("invalid", problem_of(exc.errors()[0])) from exc


def _thresholds(change: LabelOverride) -> dict[str, float]:
    return {key: value for key, value in (("enter", change.enter), ("exit", change.exit)) if value is not None}


def load_overrides(state_dir: Path) -> Overrides:
    """The kept overrides; none without a readable file."""
    record = _record(state_dir)
    try:
        return record.read()
    except FileNotFoundError:
        return Overrides()
    except RecordDamaged as exc:
        log.warning("overrides.ignored", file=str(record.path), error=str(exc))
        return Overrides()


def save_overrides(state_dir: Path, overrides: Overrides) -> None:
    """Replace the file atomically.

    Raises:
        NotKept: the file cannot be written.
    """
    record = _record(state_dir)
    try:
        record.save(overrides)
    except OSError as exc:
        raise NotKept(
            f"in force, but only until the next start or reload: {record.path} cannot be written ({exc.strerror})",
            path=str(record.path),
        ) from exc


def _record(state_dir: Path) -> JsonRecord[Overrides]:
    return JsonRecord(
        state_dir / FILE_NAME,
        encode=lambda overrides: overrides.model_dump(mode="json", exclude_defaults=True),
        decode=Overrides.model_validate,
        is_durable=False,
    )


@dataclass(frozen=True, slots=True)
class Kept:
    """A configuration with the overrides that were kept and still hold, and a sentence for each other one."""

    loaded: LoadedConfig
    unfit: tuple[str, ...] = ()
    edited: tuple[str, ...] = ()

    def in_force(self) -> Iterator[str]:
        """A sentence for each override that holds."""
        return (one.text() for one in overridden(self.loaded))


def kept_changes(loaded: LoadedConfig) -> Kept:
    """The file of ``loaded`` with the overrides kept by earlier sessions, unless commands are off."""
    if not loaded.config.mqtt.commands.enabled:
        return Kept(loaded)
    file = file_config(loaded)
    current, edited = load_overrides(loaded.state_dir).current(file)
    kept, problems = current.fitting(file)
    config = kept.applied_to(file) if kept.cameras else file
    return Kept(replace(loaded, config=config), tuple(problems), tuple(edited))


def with_kept_changes(loaded: LoadedConfig) -> LoadedConfig:
    """As ``kept_changes``; the log says which overrides are in force, and which are not any more."""
    kept = kept_changes(loaded)
    for problem in kept.unfit:
        log.warning("overrides.ignored", error=problem)
    for text in kept.edited:
        log.warning("overrides.superseded", reason=text)
    for text in kept.in_force():
        log.info("overrides.in_force", change=text, file=str(loaded.state_dir / FILE_NAME))
    return kept.loaded


def forget_edited(loaded: LoadedConfig) -> None:
    """Delete the kept overrides whose keys were edited: ``loaded`` is in force, and an edit back revives nothing."""
    if not loaded.config.mqtt.commands.enabled:
        return
    file = file_config(loaded)
    try:
        change_kept(loaded.state_dir, lambda kept: kept.current(file)[0])
    except NotKept as exc:
        log.warning("overrides.ignored", error=exc.message)


def change_kept(state_dir: Path, change: Callable[[Overrides], Overrides]) -> None:
    """Change the kept overrides; any thread.

    Raises:
        NotKept: the file cannot be written.
    """
    with _changes_of_the_file:
        kept = load_overrides(state_dir)
        changed = change(kept)
        if changed != kept:
            save_overrides(state_dir, changed)
