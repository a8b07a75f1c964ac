"""Settings changed by commands, on top of the configuration, and which of them are kept across restarts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pydantic import Field, ValidationError

from agent.commands.contract import CommandRefused, NotKept, require_known
from agent.commands.requests import Set, problem_of
from agent.config.loader import LoadedConfig
from agent.config.model import AgentConfig, CameraConfig, ClassifierConfig
from agent.config.sections.base import Name, Section
from agent.config.sections.decide import DecideConfig, LabelConfig
from agent.runtime.logs import get_logger
from engines import JsonRecord, RecordDamaged

FILE_NAME = "overrides.json"

log = get_logger(__name__)


M = TypeVar("M", bound=Section)


class LabelOverride(Section):
    """Changes of one label; null leaves the file's value."""

    enter: float | None = Field(default=None, ge=0.0, le=1.0)
    exit: float | None = Field(default=None, ge=0.0, le=1.0)


class ClassifierOverride(LabelOverride):
    """Changes of one classifier, and of single labels of it; null leaves the file's value."""

    enabled: bool | None = None
    labels: dict[str, LabelOverride] = Field(default_factory=dict)


class CameraOverride(Section):
    """Changes of one camera."""

    rate_hz: float | None = Field(default=None, gt=0.0, le=1000.0)
    enabled: bool | None = None
    classifiers: dict[Name, ClassifierOverride] = Field(default_factory=dict)


class Overrides(Section):
    """All changes, by camera."""

    cameras: dict[Name, CameraOverride] = Field(default_factory=dict)

    def with_change(self, request: Set) -> Overrides:
        """These overrides and the change of ``request``."""
        camera = self.cameras.get(request.camera, CameraOverride())
        if request.classifier is None:
            camera = _updated(camera, rate_hz=request.rate_hz, enabled=request.enabled)
        else:
            camera = _updated(camera, rate_hz=request.rate_hz)
            before = camera.classifiers.get(request.classifier, ClassifierOverride())
            changed = _changed_classifier(before, request)
            camera = camera.model_copy(update={"classifiers": {**camera.classifiers, request.classifier: changed}})
        return Overrides(cameras={**self.cameras, request.camera: camera})

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
        """The overrides that fit ``config``, and a problem for each camera whose overrides do not."""
        kept, problems = Overrides(), []
        for name, change in self.cameras.items():
            # Added one by one, so that one that does not fit leaves the others in force.
            more = Overrides(cameras={**kept.cameras, name: change})
            try:
                more.applied_to(config)
            except CommandRefused as exc:
                problems.append(exc.message)
            else:
                kept = more
        return kept, problems


def _changed_classifier(before: ClassifierOverride, request: Set) -> ClassifierOverride:
    if request.label is None:
        return _updated(before, enter=request.enter, exit=request.exit, enabled=request.enabled)
    label = _updated(before.labels.get(request.label, LabelOverride()), enter=request.enter, exit=request.exit)
    return _updated(before, enabled=request.enabled, labels={**before.labels, request.label: label})


def _updated(model: M, **values: object) -> M:
    return model.model_copy(update={key: value for key, value in values.items() if value is not None})


def _changed_camera(name: str, camera: CameraConfig, change: CameraOverride) -> CameraConfig:
    values: dict[str, object] = {}
    if change.rate_hz is not None:
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
        if one.when is not None and one.when.classifier not in left:
            raise CommandRefused(
                "needed_by_gate",
                f"the gate of {one.key} needs {one.when.classifier}, which would be disabled; disable {one.key} first",
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
        encode=lambda overrides: overrides.model_dump(mode="json", exclude_none=True),
        decode=Overrides.model_validate,
        is_durable=False,
    )


def amended(loaded: LoadedConfig, overrides: Overrides) -> LoadedConfig:
    """``loaded`` with the overrides that still fit its file; the others are logged."""
    kept, problems = overrides.fitting(loaded.config)
    for problem in problems:
        log.warning("overrides.ignored", error=problem)
    return replace(loaded, config=kept.applied_to(loaded.config)) if kept.cameras else loaded


def with_kept_changes(loaded: LoadedConfig) -> LoadedConfig:
    """``loaded`` with the overrides kept by earlier sessions, unless commands are off."""
    if not loaded.config.mqtt.commands.enabled:
        return loaded
    return amended(loaded, load_overrides(loaded.state_dir))
