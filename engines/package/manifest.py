"""The manifest ``model.yaml``, checked key by key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engines.errors import ModelRejected
from engines.package.specs import Interpolation
from engines.package.strict_yaml import (
    MAX_BYTES,
    KeyPath,
    StrictDocument,
    StrictYamlError,
    load_strict,
    nearest_key,
)
from engines.store.files import path_exists, read_regular

MANIFEST_NAME = "model.yaml"
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
VERSION_PATTERN = r"^[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}$"
SHA256_PATTERN = r"^[0-9a-f]{64}$"
MAX_SIDE_PX = 8192
_SHOWN_ERRORS = 5

Side = Annotated[int, Field(ge=1, le=MAX_SIDE_PX)]
RelativePath = Annotated[str, Field(min_length=1, max_length=1024)]
Threshold = Annotated[float, Field(gt=0.0, lt=1.0)]
TensorName = Annotated[str, Field(min_length=1, max_length=1024)]
Number = bool | int | float
Constant = Number | Annotated[list[Number], Field(min_length=1, max_length=65_536)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


class InputSection(_Section):
    """``input``: how an image becomes the model's input, and the values of its other inputs."""

    width: Side
    height: Side
    color: Literal["rgb", "bgr", "gray"]
    resize: Literal["stretch", "shorter_side", "letterbox"]
    resize_to: Side | None = None
    interpolation: Interpolation = "linear"
    scale: float = 1.0
    mean: list[float] | None = None
    std: list[float] | None = None
    constants: dict[TensorName, Constant] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> InputSection:
        channels = 1 if self.color == "gray" else 3
        for key, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != channels:
                raise ValueError(f"{key} has {len(values)} values, but color {self.color} has {channels} channels")
        if self.std is not None and any(value <= 0 for value in self.std):
            raise ValueError(f"std must be above 0, but it is {self.std}")
        if self.scale == 0:
            raise ValueError("scale is 0, so every image would look the same")
        if self.resize != "shorter_side" and self.resize_to is not None:
            raise ValueError(f"resize_to needs resize: shorter_side, but resize is {self.resize}. Remove resize_to")
        if self.resize == "shorter_side" and self.resize_to is None:
            raise ValueError("resize: shorter_side needs resize_to, the length of the shorter side, for example 256")
        if self.resize_to is not None and self.resize_to < max(self.width, self.height):
            raise ValueError(f"resize_to is {self.resize_to}, less than the crop of {self.width}x{self.height}")
        return self


class OutputSection(_Section):
    """``output``: the activation that the graph lacks, and what the scores decide.

    ``thresholds``: the score from which on a label is detected, 0.5 where a label has none. ``name``: the output that
    holds the scores, for a model with several. ``class_axis``: the axis of the classes, where it is not the last.
    ``features``: the tensor with one embedding for each image, which ``features: true`` of the agent publishes.
    """

    activation: Literal["none", "softmax", "sigmoid"]
    task: Literal["single_label", "multi_label", "binary"] | None = None
    positive: Annotated[str, Field(min_length=1)] | None = None
    thresholds: dict[str, Threshold] = Field(default_factory=dict)
    name: TensorName | None = None
    class_axis: Annotated[int, Field(ge=0, le=7)] | None = None
    features: TensorName | None = None

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> OutputSection:
        if self.task == "binary" and self.positive is None:
            raise ValueError("task: binary needs positive, the label that the score speaks for, for example defect")
        if self.task != "binary" and self.positive is not None:
            raise ValueError(f"positive needs task: binary, but task is {self.task or 'not stated'}. Remove positive")
        if self.thresholds and self.task not in {"multi_label", "binary"}:
            raise ValueError(
                f"thresholds need task: multi_label or binary, but task is {self.task or 'not stated'}. "
                "Remove thresholds"
            )
        if self.features is not None and self.features == self.name:
            raise ValueError(
                f"features and name are both {self.name}, but the scores are no embedding. Name the tensor "
                "before the last layer, or remove features"
            )
        return self


class LabelsSection(_Section):
    """``labels``: the file, and offset 1 if the model has a background class before the first label."""

    file: RelativePath
    offset: Literal[0, 1] = 0


class GoldenSection(_Section):
    """One item of ``golden``: an image and its label."""

    image: RelativePath
    label: Annotated[str, Field(min_length=1)]
    min_confidence: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0


class Manifest(_Section):
    """The whole manifest."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    version: Annotated[str, Field(pattern=VERSION_PATTERN)]
    file: RelativePath
    sha256: Annotated[str, Field(pattern=SHA256_PATTERN)]
    package_sha256: Annotated[str, Field(pattern=SHA256_PATTERN)] | None = None
    input: InputSection
    output: OutputSection
    labels: LabelsSection
    golden: list[GoldenSection] = Field(default_factory=list)
    calibration: RelativePath | None = None
    evaluation: RelativePath | None = None
    license: str | None = None


_SECTIONS: dict[str, type[_Section]] = {
    "input": InputSection,
    "output": OutputSection,
    "labels": LabelsSection,
    "golden": GoldenSection,
}


def read_manifest(directory: Path, *, name: str | None = None) -> Manifest:
    """Return the manifest of the package in ``directory``; ``name`` stands for its path in messages.

    Raises:
        ModelRejected: there is none, or it is invalid; the message names file and line.
    """
    path = directory / MANIFEST_NAME
    if not _is_there(directory, Path.is_dir):
        hint = "Make a package of it: agent model import" if directory.is_file() else "Check the path"
        raise ModelRejected(f"{directory} is not a model package directory. {hint}", path=str(directory))
    try:
        text = read_regular(path, max_bytes=MAX_BYTES).decode("utf-8")
    except FileNotFoundError as exc:
        raise ModelRejected(
            f"{directory} has no {MANIFEST_NAME}, but a model package has one. Make one: agent model import FILE.onnx",
            path=str(directory),
        ) from exc
    except (OSError, ValueError) as exc:
        raise ModelRejected(f"{path} cannot be read: {exc}", path=str(path)) from exc
    return parse_manifest(text, name=name or str(path))


def parse_manifest(text: str, *, name: str) -> Manifest:
    """Return the manifest in ``text``; ``name`` stands for the file in messages.

    Raises:
        ModelRejected: it is invalid; one line for each problem.
    """
    try:
        document = load_strict(text, name=name)
    except StrictYamlError as exc:
        raise ModelRejected(str(exc), file=name, line=exc.line) from exc
    if not isinstance(document.data, dict):
        raise ModelRejected(f"{name} is not a manifest: it must be keys and values (name: …)", file=name)
    try:
        return Manifest.model_validate(document.data)
    except ValidationError as exc:
        problems = [_problem(document, error["loc"], error["type"], error["msg"]) for error in exc.errors()]
        shown = problems[:_SHOWN_ERRORS]
        if len(problems) > len(shown):
            shown.append(f"and {len(problems) - len(shown)} more")
        raise ModelRejected("\n".join(shown), file=name, problems=len(problems)) from exc


def _problem(document: StrictDocument, loc: KeyPath, kind: str, message: str) -> str:
    where = f"{document.name}:{document.line_of(loc)}: {_dotted(loc)}"
    if kind == "extra_forbidden":
        valid = list(_section_at(loc[:-1]).model_fields)
        near = nearest_key(str(loc[-1]), valid)
        hint = f"did you mean {near}?" if near else f"known are {', '.join(valid)}"
        return f"{where}: unknown key; {hint}"
    if kind == "missing":
        return f"{where}: missing, but the manifest needs it"
    value = _value_at(document.data, loc)
    if kind == "value_error":
        return f"{where}: {message.removeprefix('Value error, ')}"
    hint = '. Quote it: "…"' if kind == "string_type" and isinstance(value, int | float) else ""
    return f"{where}: is {value!r:.80}, but {message[:1].lower()}{message[1:]}{hint}"


def _section_at(loc: KeyPath) -> type[_Section]:
    return _SECTIONS.get(str(loc[0]), Manifest) if loc else Manifest


def _value_at(data: object, loc: KeyPath) -> object:
    for step in loc:
        if isinstance(data, dict):
            data = data.get(step)
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            data = data[step]
        else:
            return data
    return data


def _dotted(loc: KeyPath) -> str:
    text = ""
    for step in loc:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text or "manifest"


def inside(directory: Path, relative: str, *, what: str) -> Path:
    """Resolve ``relative`` inside the package.

    Raises:
        ModelRejected: it is absolute, leaves the package (``..`` or a link), or does not exist.
    """
    if PurePosixPath(relative).is_absolute() or "\x00" in relative or "\\" in relative:
        raise ModelRejected(
            f"{what} is {relative!r}, but must be a path with / inside the package {directory}. "
            "Write it relative to that"
        )
    root = directory.resolve()
    # resolve() follows links, so a link that leaves the package is caught as well.
    path = (root / relative).resolve()
    if path == root or root not in path.parents:
        raise ModelRejected(
            f"{what} {relative!r} leads to {path}, which is outside the package {root}. Put it inside",
            path=str(path),
            root=str(root),
        )
    if not _is_there(path, Path.exists):
        raise ModelRejected(f"{what} {relative!r} is named, but {path} does not exist. Copy it there", path=str(path))
    return path


def _is_there(path: Path, look: Callable[[Path], bool]) -> bool:
    try:
        return path_exists(path, look)
    except OSError as exc:
        raise ModelRejected(
            f"{path} cannot be reached: {exc.strerror}. Let the agent's user enter every folder of the path, or move "
            "the package",
            path=str(path),
        ) from exc
