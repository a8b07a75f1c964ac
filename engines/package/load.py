"""A model package: a directory with a model and its manifest.

``load_package`` is the only way in: its result has been checked against the manifest, the labels and the sha256.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engines.errors import ModelRejected
from engines.package.activation import check_declared_activation
from engines.package.images import IMAGE_SUFFIXES
from engines.package.labels import MAX_BYTES as MAX_LABEL_BYTES
from engines.package.labels import fit_labels, parse_labels
from engines.package.manifest import InputSection, Manifest, inside, read_manifest
from engines.package.model_file import check_model, file_sha256, read_onnx
from engines.package.onnx_signature import onnx_signature
from engines.package.pt2_signature import pt2_signature
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
)
from engines.package.strict_yaml import nearest_key
from engines.store.files import read_regular

__all__ = [
    "Activation",
    "Color",
    "GoldenImage",
    "InputDtype",
    "InputSpec",
    "Interpolation",
    "Layout",
    "ModelFormat",
    "ModelPackage",
    "ModelSignature",
    "OutputSpec",
    "ResizeMode",
    "load_package",
]

MAX_CALIBRATION_IMAGES = 10_000
_FORMATS: dict[str, ModelFormat] = {".onnx": "onnx", ".pt2": "pt2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenImage:
    """An image with a known label: it must be classified as ``label`` with at least ``min_confidence`` (0 to 1)."""

    path: Path
    label: str
    min_confidence: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPackage:
    """A checked package. ``sha256`` (lower-case hex) is of ``model_path``; ``labels[i]`` names class i."""

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
    license: str | None
    signature: ModelSignature

    def images(self, *, first: Literal["calibration", "golden"]) -> list[Path]:
        """Return golden and calibration images, those of ``first`` first; an image that is both is listed twice."""
        golden = [one.path for one in self.golden]
        return [*golden, *self.calibration] if first == "golden" else [*self.calibration, *golden]


def load_package(directory: Path) -> ModelPackage:
    """Read and check the package in ``directory``: manifest, paths, sha256, labels, model against manifest.

    Raises:
        ModelRejected: anything that does not fit, with the two facts that disagree.
    """
    manifest = read_manifest(directory)
    root = directory.resolve()
    model_path = inside(root, manifest.file, what="file")
    model_format = _FORMATS.get(model_path.suffix)
    if model_format is None:
        raise ModelRejected(f"file {manifest.file!r} ends in {model_path.suffix!r}, but a model is .onnx or .pt2")
    spec = input_spec(manifest.input)
    output = OutputSpec(activation=manifest.output.activation)
    signature = _checked_signature(model_path, root, manifest, spec, output)
    labels = _labels(root, manifest, signature.classes)
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
        golden=_golden(root, manifest, labels),
        calibration=_calibration(root, manifest),
        license=manifest.license,
        signature=signature,
    )


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


def _checked_signature(
    path: Path, root: Path, manifest: Manifest, spec: InputSpec, output: OutputSpec
) -> ModelSignature:
    name = path.name
    if path.suffix == ".pt2":
        check_sha256(file_sha256(path), manifest.sha256, path=path)
        signature = pt2_signature(path, spec, name=name)
    else:
        model, found = read_onnx(path, root=root)
        check_sha256(found, manifest.sha256, path=path)
        check_model(model, name=name)
        signature = onnx_signature(model, spec, name=name)
        check_declared_activation(model, signature.output_name, output.activation, name=name)
    if signature.dtype == "uint8" and (spec.scale, set(spec.mean), set(spec.std)) != (1.0, {0.0}, {1.0}):
        raise ModelRejected(
            f"{name}: the model takes uint8, so it normalises its input itself, but the manifest says "
            f"scale {spec.scale:g}, mean {list(spec.mean)}, std {list(spec.std)}. Remove scale, mean and std",
            dtype="uint8",
            scale=spec.scale,
        )
    return signature


def _labels(root: Path, manifest: Manifest, classes: int) -> tuple[str, ...]:
    path = inside(root, manifest.labels.file, what="labels.file")
    name, offset = manifest.labels.file, int(manifest.labels.offset)
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


def _calibration(root: Path, manifest: Manifest) -> tuple[Path, ...]:
    if manifest.calibration is None:
        return ()
    folder = inside(root, manifest.calibration, what="calibration")
    if not folder.is_dir():
        raise ModelRejected(f"calibration {manifest.calibration!r} is a file, but a directory of images was expected")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not 0 < len(found) <= MAX_CALIBRATION_IMAGES:
        raise ModelRejected(
            f"calibration {manifest.calibration!r} holds {len(found)} images, but it may hold 1 to "
            f"{MAX_CALIBRATION_IMAGES}",
            images=len(found),
        )
    return tuple(inside(root, path.relative_to(root).as_posix(), what="calibration image") for path in found)
