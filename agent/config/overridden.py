"""Where the configuration in force differs from its file, because a `set` command changed it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent.config.loader import LoadedConfig
from agent.config.model import AgentConfig, CameraConfig
from agent.config.problems import dotted
from agent.config.sections.decide import LabelConfig

Value = float | bool | None


@dataclass(frozen=True, slots=True)
class Overridden:
    """One key as in error messages (``cameras.front.rate_hz``), its value in force, and that in the file.

    A classifier that is switched off has the key of its section, and false instead of true.
    """

    key: str
    value: Value
    in_file: Value

    def text(self) -> str:
        """One sentence for people."""
        return f"{self.key} is {in_words(self.value)}, set by command; the file says {in_words(self.in_file)}"


def in_words(value: Value) -> str:
    """A value as it is written in the file."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else f"{value:g}"


def file_config(loaded: LoadedConfig) -> AgentConfig:
    """The configuration as its file says, without what commands have changed."""
    return AgentConfig.model_validate(loaded.document.data)


def overridden(loaded: LoadedConfig) -> tuple[Overridden, ...]:
    """Every key of ``loaded`` that a command has changed, in the order of the file."""
    return tuple(_differences(file_config(loaded), loaded.config))


def _differences(file: AgentConfig, in_force: AgentConfig) -> Iterator[Overridden]:
    for name, camera in file.cameras.items():
        now = in_force.cameras[name]
        for key in ("rate_hz", "enabled"):
            yield from _difference(dotted(("cameras", name, key)), getattr(now, key), getattr(camera, key))
        yield from _classifier_differences(name, camera, now)


def _classifier_differences(name: str, camera: CameraConfig, now: CameraConfig) -> Iterator[Overridden]:
    served = {one.key: one.decide for one in now.classify}
    for index, one in enumerate(camera.classify):
        path = ("cameras", name, "classify", index)
        if one.key not in served:
            yield Overridden(dotted(path), value=False, in_file=True)
            continue
        for key in ("enter", "exit"):
            yield from _difference(
                dotted((*path, "decide", key)), getattr(served[one.key], key), getattr(one.decide, key)
            )
        for label, rule in served[one.key].labels.items():
            in_file = one.decide.labels.get(label, LabelConfig())
            for key in ("enter", "exit"):
                where = dotted((*path, "decide", "labels", label, key))
                yield from _difference(where, getattr(rule, key), getattr(in_file, key))


def _difference(key: str, value: Value, in_file: Value) -> Iterator[Overridden]:
    if value != in_file:
        yield Overridden(key, value, in_file)
