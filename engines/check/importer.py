"""Writes a model package from an ONNX file, its labels and the name of its preprocessing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import onnx

from engines.check.package_check import PackageCheck, check_package, measure_raw_scores
from engines.errors import EngineUnavailable, GoldenMismatch, ModelRejected
from engines.package.activation import RawScores, guess_activation, last_operator
from engines.package.images import IMAGE_SUFFIXES, read_image
from engines.package.load import load_package
from engines.package.manifest import MANIFEST_NAME, NAME_PATTERN, VERSION_PATTERN
from engines.package.model_file import check_model, file_sha256, read_onnx
from engines.package.onnx_signature import data_inputs, image_shape
from engines.package.signature import shape_text
from engines.package.specs import Activation, Color, Interpolation, ResizeMode

PresetName = Literal["imagenet", "tf", "caffe", "raw01", "raw255"]

# Ratio of the shorter side to the crop, as in the training of ImageNet models.
_CROP_RATIO = 256 / 224


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Preprocessing as in a manifest; ``mean`` and ``std`` have one entry if all channels share it."""

    color: Color
    resize: ResizeMode
    interpolation: Interpolation
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


# Source: torchvision.transforms, whose Resize of a PIL image has antialias (imagenet),
# keras.applications.imagenet_utils.preprocess_input mode "tf" after tf.image.resize, which has none (tf),
# BVLC Caffe models, mean pixel 104 117 123 in BGR, resized by OpenCV (caffe).
PRESETS: dict[PresetName, Preset] = {
    "imagenet": Preset(
        color="rgb",
        resize="shorter_side",
        interpolation="linear_antialias",
        scale=1 / 255,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    "tf": Preset(color="rgb", resize="stretch", interpolation="linear", scale=1 / 127.5, mean=(1.0,), std=(1.0,)),
    "caffe": Preset(
        color="bgr", resize="shorter_side", interpolation="linear", scale=1.0, mean=(104.0, 117.0, 123.0), std=(1.0,)
    ),
    "raw01": Preset(color="rgb", resize="stretch", interpolation="linear", scale=1 / 255, mean=(0.0,), std=(1.0,)),
    "raw255": Preset(color="rgb", resize="stretch", interpolation="linear", scale=1.0, mean=(0.0,), std=(1.0,)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """What to import. None means: use the model, its file name or the preset.

    ``size`` is width and height in pixels, for models with a dynamic input size. ``activation`` None runs the model to
    find out. ``out`` is the directory in which the package directory is created.
    """

    model: Path
    labels: Path
    out: Path
    preset: PresetName
    name: str | None = None
    version: str = "1.0.0"
    size: tuple[int, int] | None = None
    color: Color | None = None
    resize: ResizeMode | None = None
    resize_to: int | None = None
    interpolation: Interpolation | None = None
    activation: Activation | None = None
    offset: int = 0
    golden: Sequence[tuple[Path, str]] = ()
    calibration: Path | None = None
    license: str | None = None
    force: bool = False


def import_model(request: ImportRequest) -> PackageCheck:
    """Write the package directory ``<name>-<version>`` into ``request.out``, and return its package check.

    Nothing is written unless all checks pass, golden images included.

    Raises:
        ModelRejected: the model, its labels or the request do not fit, or the package already exists.
        GoldenMismatch: a golden image is not classified as expected.
        ImageRejected: a golden or calibration image cannot be read.
        EngineUnavailable: ONNX Runtime is not installed.
    """
    name = request.name or _name_from(request.model)
    _check_name(name, request.version)
    target = request.out / f"{name}-{request.version}"
    if os.path.lexists(target) and not request.force:
        raise ModelRejected(
            f"{target} already exists. Give another --version or --name, or --force to replace it", path=str(target)
        )
    with _staging(request.out, target.name) as stage:
        model = _copy_model(request, stage)
        manifest = _manifest(request, model, name, stage)
        _write(stage, manifest)
        if request.activation is None:
            manifest["output"] = {"activation": _activation(stage, model)}
            _write(stage, manifest)
        check = check_package(load_package(stage))
        for wrong in check.golden.wrong:
            raise GoldenMismatch(
                f"{wrong.path.name}: expected {wrong.expected!r}, got {wrong.got!r} with {wrong.confidence:.3f}. "
                f"Is preset {request.preset} what the model was trained with? Nothing was written",
                image=wrong.path.name,
                expected=wrong.expected,
                got=wrong.got,
                confidence=wrong.confidence,
            )
        _put_in_place(stage, target)
    return replace(check, package=load_package(target))


def _name_from(model: Path) -> str:
    stem = model.resolve().parent.name if model.stem.lower() == "model" else model.stem
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")[:64] or "model"


def _check_name(name: str, version: str) -> None:
    for what, value, pattern in (("name", name, NAME_PATTERN), ("version", version, VERSION_PATTERN)):
        if not re.match(pattern.replace("$", r"\Z"), value):
            raise ModelRejected(f"{what} {value!r} does not match {pattern}. Give another --{what}", value=value)


def _copy_model(request: ImportRequest, stage: Path) -> onnx.ModelProto:
    """Copy the model into one file: unchanged, or with its external data inside."""
    if request.model.suffix != ".onnx":
        raise ModelRejected(
            f"{request.model} ends in {request.model.suffix!r}, but only .onnx is imported. Export the model to ONNX; "
            "a package of a .pt2 file is written by hand, see docs/models.md",
            path=str(request.model),
        )
    model, digest = read_onnx(request.model.resolve(), root=request.model.resolve().parent)
    check_model(model, name=str(request.model))
    shutil.copyfile(request.model, stage / "model.onnx")
    if hashlib.sha256((stage / "model.onnx").read_bytes()).hexdigest() != digest:
        (stage / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    return model


def _manifest(request: ImportRequest, model: onnx.ModelProto, name: str, stage: Path) -> dict[str, object]:
    labels = f"labels{request.labels.suffix.lower() if request.labels.suffix.lower() == '.json' else '.txt'}"
    _copy(request.labels, stage / labels, what="labels")
    manifest: dict[str, object] = {
        "name": name,
        "version": request.version,
        "file": "model.onnx",
        "sha256": file_sha256(stage / "model.onnx"),
        "input": _input(request, model),
        "output": {"activation": request.activation or "none"},
        "labels": {"file": labels, "offset": request.offset},
    }
    if request.golden:
        manifest["golden"] = _copy_golden(request.golden, stage / "golden")
    if request.calibration is not None:
        _copy_calibration(request.calibration, stage / "calibration")
        manifest["calibration"] = "calibration"
    if request.license:
        manifest["license"] = request.license
    return manifest


def _input(request: ImportRequest, model: onnx.ModelProto) -> dict[str, object]:
    _, (height, width, channels) = image_shape(model, name=request.model.name)
    asked_width, asked_height = request.size or (None, None)
    width, height = width or asked_width, height or asked_height
    if width is None or height is None or (request.size and request.size != (width, height)):
        found = shape_text((height, width))
        raise ModelRejected(
            f"{request.model.name}: the model's input is {found} (height x width), but --size is "
            f"{'not given' if request.size is None else f'{request.size[0]}x{request.size[1]}'}. "
            + ("Give --size WIDTHxHEIGHT" if "?" in found else "Remove --size"),
            shape=found,
        )
    preset = PRESETS[request.preset]
    color = request.color or ("gray" if channels == 1 else preset.color)
    count = 1 if color == "gray" else 3
    if channels not in {None, count}:
        raise ModelRejected(
            f"{request.model.name}: the model takes {channels} channel(s), but --color {color} gives {count}. "
            + ("Remove --color" if channels == 1 else "Give --color rgb or bgr"),
            channels=channels,
            color=color,
        )
    if count < max(len(preset.mean), len(preset.std)):
        raise ModelRejected(
            f"{request.model.name} takes 1 channel, but preset {request.preset} has values for 3. Take raw01, raw255, "
            "tf",
            preset=request.preset,
            channels=1,
        )
    is_identity = (preset.scale, {*preset.mean}, {*preset.std}) == (1.0, {0.0}, {1.0})
    if data_inputs(model.graph)[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8 and not is_identity:
        raise ModelRejected(
            f"{request.model.name} takes uint8, so it normalises its input itself; preset {request.preset} would "
            "do it again. Give --preset raw255, and --color and --resize where its own do not fit",
            preset=request.preset,
            dtype="uint8",
        )
    resize = request.resize or preset.resize
    resize_to = request.resize_to
    if resize_to is not None:
        _check_resize_to(resize_to, resize, width, height)
    section: dict[str, object] = {"width": width, "height": height, "color": color, "resize": resize}
    if resize == "shorter_side":
        section["resize_to"] = resize_to or round(max(width, height) * _CROP_RATIO)
    section["interpolation"] = request.interpolation or preset.interpolation
    section["scale"] = preset.scale
    section["mean"] = list(preset.mean if len(preset.mean) == count else preset.mean * count)
    section["std"] = list(preset.std if len(preset.std) == count else preset.std * count)
    return section


def _check_resize_to(resize_to: int, resize: ResizeMode, width: int, height: int) -> None:
    if resize != "shorter_side":
        raise ModelRejected(
            f"--resize-to {resize_to} needs --resize shorter_side, but resize is {resize}. Give --resize "
            "shorter_side, or remove --resize-to",
            resize=resize,
        )
    if resize_to < max(width, height):
        raise ModelRejected(
            f"--resize-to {resize_to} is less than the crop of {width}x{height}, the model's input. Give at least "
            f"{max(width, height)}",
            resize_to=resize_to,
        )


def _activation(stage: Path, model: onnx.ModelProto) -> Activation:
    """Find the missing activation by running the model; if it cannot be run, by its last operator."""
    last = last_operator(model, model.graph.output[0].name)
    if last == "LogSoftmax":
        return "softmax"
    package = load_package(stage)
    raw: RawScores | None
    try:
        raw, last = measure_raw_scores(package)
    except EngineUnavailable:
        raw = None
    return guess_activation(raw, last, classes=package.signature.classes)


def _copy(source: Path, target: Path, *, what: str) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as exc:
        raise ModelRejected(f"{what} {source} cannot be copied: {exc.strerror or exc}", path=str(source)) from exc


def _copy_image(source: Path, target: Path, *, what: str) -> None:
    """Copy an image; it is read first, so that an error names the user's file and not the copy."""
    read_image(source)
    _copy(source, target, what=what)


def _copy_golden(golden: Sequence[tuple[Path, str]], folder: Path) -> list[dict[str, object]]:
    folder.mkdir()
    items: list[dict[str, object]] = []
    for place, (image, label) in enumerate(golden, 1):
        name = f"{place:02d}_{re.sub(r'[^A-Za-z0-9._-]+', '_', image.name)}"
        _copy_image(image, folder / name, what="golden image")
        items.append({"image": f"golden/{name}", "label": label})
    return items


def _copy_calibration(source: Path, folder: Path) -> None:
    if not source.is_dir():
        raise ModelRejected(
            f"calibration {source} is not a directory. Give --calibration a directory of images", path=str(source)
        )
    images = [path for path in sorted(source.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    if not images:
        raise ModelRejected(f"calibration {source} holds no images. Give it 50 or more", path=str(source))
    folder.mkdir()
    for place, image in enumerate(images, 1):
        _copy_image(image, folder / f"{place:05d}{image.suffix.lower()}", what="calibration image")


def _write(stage: Path, manifest: dict[str, object]) -> None:
    (stage / MANIFEST_NAME).write_text(manifest_text(manifest), encoding="utf-8")


def manifest_text(manifest: dict[str, object]) -> str:
    """Write YAML that the strict reader accepts: strings are quoted as in JSON."""
    lines: list[str] = []
    for key, value in manifest.items():
        if isinstance(value, dict):
            lines.append(f"{key}:")
            lines += [f"  {inner}: {json.dumps(item, ensure_ascii=False)}" for inner, item in value.items()]
        elif isinstance(value, list):
            lines.append(f"{key}:")
            lines += [f"  - {json.dumps(item, ensure_ascii=False)}" for item in value]
        else:
            lines.append(f"{key}: {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


@contextmanager
def _staging(out: Path, name: str) -> Iterator[Path]:
    """A directory beside the target, deleted afterwards unless it was put in place."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        # In the target's own file system, so that putting it in place is one rename.
        holder = Path(tempfile.mkdtemp(dir=out, prefix=".import-"))
    except OSError as exc:
        raise ModelRejected(f"{out} cannot be written: {exc.strerror or exc}", path=str(out)) from exc
    try:
        stage = holder / name
        stage.mkdir()
        yield stage
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def _put_in_place(stage: Path, target: Path) -> None:
    """Move the finished directory to its place; the old one is deleted with the staging directory."""
    if os.path.lexists(target):
        target.rename(stage.with_name("replaced"))
    stage.rename(target)
