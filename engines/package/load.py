"""A model package: a directory with a model and its manifest.

``load_package`` is the only way in: its result has been checked against the manifest, the labels and the sha256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from engines.errors import ModelRejected
from engines.package.activation import check_declared_activation, last_operator
from engines.package.digest import check_digest, package_digest
from engines.package.images import IMAGE_SUFFIXES
from engines.package.labels import MAX_BYTES as MAX_LABEL_BYTES
from engines.package.labels import fit_labels, parse_labels
from engines.package.manifest import MANIFEST_NAME, InputSection, Manifest, inside, read_manifest
from engines.package.model_bytes import DEFAULT_MAX_BYTES, read_model_bytes
from engines.package.signature.pt2 import last_operation, pt2_signature, read_program
from engines.package.specs import (
    Activation,
    Color,
    InputDtype,
    InputSpec,
    Interpolation,
    Layout,
    ModelFormat,
    ModelSignature,
    OutputSpec,
    ResizeMode,
    Task,
)
from engines.package.strict_yaml import nearest_key
from engines.package.task import output_of, task_of
from engines.store.files import read_regular

__all__ = [
    "Activation",
    "Color",
    "GoldenImage",
    "InputDtype",
    "InputSpec",
    "Interpolation",
    "Layout",
    "ModelFacts",
    "ModelFormat",
    "ModelPackage",
    "ModelSignature",
    "OutputSpec",
    "ResizeMode",
    "Task",
    "load_package",
]

MAX_FOLDER_IMAGES = 10_000
_FORMATS: dict[str, ModelFormat] = {".onnx": "onnx", ".pt2": "pt2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenImage:
    """An image with a known label: it must be classified as ``label`` with at least ``min_confidence`` (0 to 1)."""

    path: Path
    label: str
    min_confidence: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What reading a model file has found: its signature, and the operator that it ends in."""

    signature: ModelSignature
    last_operator: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPackage:
    """A checked package. ``sha256`` (lower-case hex) is of ``model_path``; ``labels[i]`` names score i.

    ``digest`` is the sha256 of everything that changes an answer or its proof: model, input, output, labels, golden,
    calibration and evaluation images; ``is_digest_stated`` tells whether the manifest states it, so that it was
    checked. A binary model has one score and two labels: the second is the one that its score speaks against.
    ``calibration`` and ``evaluation`` are the images of these folders; ``engines.graph.image_set`` says which are used
    for what. ``max_file_bytes`` is the limit of the model with its external data, which each further reading keeps.
    ``gives_features``: engines give the embedding ``output.features`` beside the scores, see ``with_features``.
    """

    directory: Path
    name: str
    version: str
    sha256: str
    model_path: Path
    format: ModelFormat
    input: InputSpec
    output: OutputSpec
    labels: tuple[str, ...]
    golden: tuple[GoldenImage, ...]
    calibration: tuple[Path, ...]
    evaluation: tuple[Path, ...]
    license: str | None
    facts: ModelFacts
    digest: str
    is_digest_stated: bool = False
    model_title: str = ""
    max_file_bytes: int = DEFAULT_MAX_BYTES
    gives_features: bool = False

    def with_features(self) -> ModelPackage:
        """The package as engines open it that give each image's embedding too.

        Raises:
            ModelRejected: its manifest names no embedding.
        """
        if self.output.features is None:
            raise ModelRejected(
                f"features is true, but package {self.name}-{self.version} names no tensor with an embedding. Import "
                "the model again with --features NAME (output.features in its manifest), or set features: false"
            )
        return replace(self, gives_features=True)

    @property
    def signature(self) -> ModelSignature:
        """What the model file states."""
        return self.facts.signature

    @property
    def title(self) -> str:
        """What messages call the model: its file's name, or for an import the file that the user gave."""
        return self.model_title or self.model_path.name

    @property
    def images(self) -> tuple[Path, ...]:
        """Golden, evaluation and calibration images; a file that is several of them is listed once."""
        return tuple(dict.fromkeys((*(one.path for one in self.golden), *self.evaluation, *self.calibration)))


def load_package(
    directory: Path,
    *,
    shown_as: Mapping[str, str] | None = None,
    known: ModelFacts | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> ModelPackage:
    """Read and check the package in ``directory``: manifest, paths, sha256, labels, model against manifest.

    ``shown_as`` names files in messages that an import has copied. ``known`` is what an earlier reading of the same
    files has found: the model is then hashed but not parsed. ``max_bytes`` limits it with its external data.

    Raises:
        ModelRejected: anything that does not fit, with the two facts that disagree.
    """
    shown = shown_as or {}
    manifest = read_manifest(directory, name=shown.get(MANIFEST_NAME))
    root = directory.resolve()
    model_path, model_format = _model_of(manifest, root)
    spec = input_spec(manifest.input)
    model_name = shown.get(manifest.file, model_path.name)
    facts = _facts(known, model_path, root, manifest, spec, name=model_name, max_bytes=max_bytes)
    output, labels = _output_and_labels(manifest, root, facts, name=model_name, shown=shown)
    golden = _golden(root, manifest, labels)
    folders = {what: _images(root, getattr(manifest, what), what=what) for what in ("calibration", "evaluation")}
    images = [(one.path, one.label, one.min_confidence) for one in golden]
    digest = package_digest(
        model=manifest.sha256, spec=spec, output=output, labels=labels, golden=images, folders=folders, root=root
    )
    check_digest(digest, manifest.package_sha256, name=MANIFEST_NAME)
    return ModelPackage(
        directory=root,
        name=manifest.name,
        version=manifest.version,
        sha256=manifest.sha256,
        model_path=model_path,
        format=model_format,
        input=spec,
        output=output,
        labels=labels,
        golden=golden,
        calibration=folders["calibration"],
        evaluation=folders["evaluation"],
        license=manifest.license,
        facts=facts,
        digest=digest,
        is_digest_stated=manifest.package_sha256 is not None,
        model_title=model_name,
        max_file_bytes=max_bytes,
    )


def _output_and_labels(
    manifest: Manifest, root: Path, facts: ModelFacts, *, name: str, shown: Mapping[str, str]
) -> tuple[OutputSpec, tuple[str, ...]]:
    classes, labels_name = facts.signature.classes, shown.get(manifest.labels.file, manifest.labels.file)
    task = task_of(manifest.output, classes=classes, last=facts.last_operator, name=name)
    labels = _labels(root, manifest, 2 if task is Task.BINARY else classes, name=labels_name)
    return output_of(manifest.output, task, labels, name=labels_name)


def _model_of(manifest: Manifest, root: Path) -> tuple[Path, ModelFormat]:
    path = inside(root, manifest.file, what="file")
    model_format = _FORMATS.get(path.suffix.lower())
    if model_format is None:
        raise ModelRejected(
            f"file {manifest.file!r} ends in {path.suffix!r}, but a model is .onnx or .pt2. Export it as one of them"
        )
    return path, model_format


def input_spec(section: InputSection) -> InputSpec:
    """Return the input section with its defaults filled in."""
    channels = 1 if section.color == "gray" else 3
    return InputSpec(
        width=section.width,
        height=section.height,
        color=section.color,
        resize=section.resize,
        resize_to=section.resize_to,
        interpolation=section.interpolation,
        scale=float(section.scale),
        mean=tuple(float(v) for v in section.mean) if section.mean else (0.0,) * channels,
        std=tuple(float(v) for v in section.std) if section.std else (1.0,) * channels,
        constants=tuple(
            (name, tuple(map(float, value if isinstance(value, list) else [value])))
            for name, value in section.constants.items()
        ),
    )


def check_sha256(found: str, stated: str, *, path: Path) -> None:
    """Refuse a model whose bytes are not those that the manifest states.

    Raises:
        ModelRejected: with both hashes.
    """
    if found != stated:
        raise ModelRejected(
            f"{path} has sha256 {found}, but the manifest states {stated}. The file is damaged or has been replaced: "
            "copy the package again, or import the model again if the change is intended",
            path=str(path),
            found=found,
            stated=stated,
        )


def _facts(
    known: ModelFacts | None,
    path: Path,
    root: Path,
    manifest: Manifest,
    spec: InputSpec,
    *,
    name: str,
    max_bytes: int,
) -> ModelFacts:
    if known is None:
        return _read_model(path, root, manifest, spec, name=name, max_bytes=max_bytes)
    _check_bytes(path, manifest, max_bytes)
    return known


def _check_bytes(path: Path, manifest: Manifest, max_bytes: int) -> None:
    found = hashlib.sha256(read_model_bytes(path, max_bytes=max_bytes)).hexdigest()
    check_sha256(found, manifest.sha256, path=path)


def _read_model(
    path: Path, root: Path, manifest: Manifest, spec: InputSpec, *, name: str, max_bytes: int
) -> ModelFacts:
    """Parse the model, and check it against the manifest."""
    output = manifest.output
    if path.suffix.lower() == ".pt2":
        refuse_features(output.features, name=name)
        _check_bytes(path, manifest, max_bytes)
        program = read_program(path, name=name)
        signature = pt2_signature(
            program, spec, name=name, output=output.name, constants=spec.constants, class_axis=output.class_axis
        )
        last = last_operation(program, signature.output_name)
    else:
        signature, last = _read_onnx(path, root, manifest, spec, name=name, max_bytes=max_bytes)
    check_declared_activation(last, output.activation, name=name)
    if signature.dtype == "uint8" and (spec.scale, set(spec.mean), set(spec.std)) != (1.0, {0.0}, {1.0}):
        raise ModelRejected(
            f"{name}: the model takes uint8, so it normalises its input itself, but the manifest says "
            f"scale {spec.scale:g}, mean {list(spec.mean)}, std {list(spec.std)}. Remove scale, mean and std",
            dtype="uint8",
            scale=spec.scale,
        )
    return ModelFacts(signature=signature, last_operator=last)


def refuse_features(features: str | None, *, name: str) -> None:
    """Refuse an embedding of a torch.export program: the engine ``torch`` gives scores only.

    Raises:
        ModelRejected: ``features`` names one.
    """
    if features is not None:
        raise ModelRejected(
            f"output.features names {features!r}, but {name} is a torch.export program, whose engine gives scores "
            "only. Export the model to ONNX, or remove features",
            output=features,
        )


def _read_onnx(
    path: Path, root: Path, manifest: Manifest, spec: InputSpec, *, name: str, max_bytes: int
) -> tuple[ModelSignature, str]:
    # Imported here: an agent whose models have been read before does not load the onnx library.
    from engines.package.graph_faults import check_inference_mode
    from engines.package.model_file import check_model, read_onnx
    from engines.package.signature.onnx import onnx_signature
    from engines.package.signature.selection import select

    model, found = read_onnx(path, root=root, max_bytes=max_bytes)
    check_sha256(found, manifest.sha256, path=path)
    check_model(model, name=name)
    output = manifest.output
    select(model, output=output.name, constants=spec.constants, name=name, features=output.features)
    signature = onnx_signature(model, spec, name=name, class_axis=output.class_axis, features=output.features)
    check_inference_mode(model, name=name)
    return signature, last_operator(model, signature.output_name)


def _labels(root: Path, manifest: Manifest, classes: int, *, name: str) -> tuple[str, ...]:
    path = inside(root, manifest.labels.file, what="labels.file")
    offset = int(manifest.labels.offset)
    try:
        data = read_regular(path, max_bytes=MAX_LABEL_BYTES)
    except ValueError as exc:
        raise ModelRejected(f"labels: {exc}. Is it a list of labels?", path=str(path)) from exc
    except OSError as exc:
        raise ModelRejected(f"labels {path} cannot be read: {exc.strerror or exc}", path=str(path)) from exc
    return fit_labels(parse_labels(data, name=name, offset=offset), classes=classes, offset=offset, name=name)


def _golden(root: Path, manifest: Manifest, labels: tuple[str, ...]) -> tuple[GoldenImage, ...]:
    golden: list[GoldenImage] = []
    known = set(labels)
    for place, item in enumerate(manifest.golden):
        if item.label not in known:
            near = nearest_key(item.label, labels)
            hint = f"did you mean {near!r}?" if near else f"the first labels are {', '.join(labels[:5])}"
            raise ModelRejected(
                f"golden[{place}]: label {item.label!r} is not one of the model's {len(labels)} labels; {hint}",
                label=item.label,
            )
        path = inside(root, item.image, what=f"golden[{place}].image")
        golden.append(GoldenImage(path=path, label=item.label, min_confidence=float(item.min_confidence)))
    return tuple(golden)


def _images(root: Path, stated: str | None, *, what: str) -> tuple[Path, ...]:
    if stated is None:
        return ()
    folder = inside(root, stated, what=what)
    if not folder.is_dir():
        raise ModelRejected(
            f"{what} {stated!r} is a file, but a directory of images was expected. Name one in model.yaml"
        )
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not 0 < len(found) <= MAX_FOLDER_IMAGES:
        raise ModelRejected(
            f"{what} {stated!r} holds {len(found)} images, but it may hold 1 to {MAX_FOLDER_IMAGES}. "
            "Add or remove images, or leave the key out",
            images=len(found),
        )
    return tuple(inside(root, path.relative_to(root).as_posix(), what=f"{what} image") for path in found)
