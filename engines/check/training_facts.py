"""What a model's files say of its training: labels, size, normalisation, resizing, task. Nothing is guessed.

Sources read: the metadata of an ONNX file (as Ultralytics, Azure Custom Vision and PaddlePaddle write it), a Hugging
Face folder (``config.json`` and ``preprocessor_config.json``), timm's ``pretrained_cfg`` in a ``config.json``, an
Ultralytics ``data.yaml``, and Keras' ``class_indices.json``. What a file leaves open stays None and has to be given.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import cast

from engines.errors import ModelRejected
from engines.package.specs import Activation, Color, Interpolation, ResizeMode
from engines.package.strict_yaml import StrictYamlError, load_strict
from engines.store.files import read_regular

_MAX_BYTES = 16 << 20

# Source: Pillow, Image.Resampling. Lanczos, box and Hamming have no counterpart here.
_PILLOW_FILTERS: dict[int, Interpolation] = {0: "nearest", 2: "linear_antialias", 3: "cubic_antialias"}
_FILTER_NAMES: dict[str, Interpolation] = {
    "nearest": "nearest", "bilinear": "linear_antialias", "bicubic": "cubic_antialias",
}  # fmt: skip
_TASKS = {"single_label_classification": False, "multi_label_classification": True}
_LABELS_ALONE = frozenset({"data.yaml", "class_indices.json"})
_LABEL_KEYS = frozenset({"names", "character", "id2label", "label_names"})
_MIN_CROP = 0.01
_MAX_DIGITS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFacts:
    """What is known; None is unknown. ``size`` is (width, height). ``sources`` says for each field where it stands.

    ``mean`` and ``std`` are per channel, or one value for all. ``multi_label`` is None unless a file states the task.
    """

    labels: tuple[str, ...] | None = None
    size: tuple[int, int] | None = None
    color: Color | None = None
    resize: ResizeMode | None = None
    resize_to: int | None = None
    interpolation: Interpolation | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    activation: Activation | None = None
    multi_label: bool | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_preprocessing(self) -> bool:
        """Whether color, resize, interpolation, scale, mean and std are all known: no preset is needed."""
        return None not in (self.color, self.resize, self.interpolation, self.scale, self.mean, self.std)


def facts_from_metadata(metadata: Mapping[str, str], *, name: str, has_labels: bool = False) -> TrainingFacts:
    """The facts in an ONNX file's ``metadata_props``; ``name`` is the file's name for messages.

    With ``has_labels`` the user gives the labels, and those of the metadata are not read.

    Raises:
        ModelRejected: they state another task than classification, or contradict each other.
    """
    if has_labels:  # emptied, not removed: the keys tell whose metadata it is
        metadata = {key: "" if key in _LABEL_KEYS else value for key, value in metadata.items()}
    found = TrainingFacts()
    for read in (_ultralytics, _custom_vision, _paddle):
        found = joined(found, read(metadata, name))
    return found


def facts_from_folder(folder: Path, *, has_labels: bool = False) -> TrainingFacts:
    """The facts in the files of a training framework in ``folder``.

    With ``has_labels`` the user gives the labels: those of the files, and files with nothing else, are not read.

    Raises:
        ModelRejected: a file cannot be read, states another task than classification, or contradicts another.
    """
    readers: dict[str, Callable[[Path, Mapping[str, object]], TrainingFacts]] = {
        "config.json": _model_config,
        "preprocessor_config.json": _preprocessor,
        "data.yaml": _data_yaml,
        "class_indices.json": _class_indices,
    }
    found = TrainingFacts()
    for name, read in readers.items():
        path = folder / name
        if path.is_file() and not (has_labels and name in _LABELS_ALONE):
            document = _document(path)
            found = joined(found, read(path, _without_labels(document) if has_labels else document))
    return found


def _without_labels(document: Mapping[str, object]) -> Mapping[str, object]:
    return {key: value for key, value in document.items() if key not in _LABEL_KEYS}


def joined(first: TrainingFacts, second: TrainingFacts) -> TrainingFacts:
    """Both together.

    Raises:
        ModelRejected: they disagree; the message has both values and where they stand.
    """
    changes: dict[str, object] = {}
    for name in (one.name for one in fields(TrainingFacts) if one.name != "sources"):
        ours, theirs = getattr(first, name), getattr(second, name)
        if theirs is None:
            continue
        if ours is not None and ours != theirs:
            option = f"--{name.replace('_', '-')}"
            raise ModelRejected(
                f"{first.sources[name]} says {name} {_short(ours)}, but {second.sources[name]} says {_short(theirs)}. "
                f"Correct one of them, or import the ONNX file alone and give {option}",
                field=name,
            )
        changes[name] = theirs
    return replace(first, sources={**first.sources, **second.sources}, **changes)  # type: ignore[arg-type] # the fields of the same class


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _with_source(source: str, **known: object) -> TrainingFacts:
    stated = {name: value for name, value in known.items() if value is not None}
    return TrainingFacts(**stated, sources=dict.fromkeys(stated, source))  # type: ignore[arg-type] # the caller names fields of the class


def _ultralytics(metadata: Mapping[str, str], name: str) -> TrainingFacts:
    """Source: ultralytics/engine/exporter.py (metadata) and data/augment.py (classify_transforms)."""
    if "names" not in metadata or "task" not in metadata:
        return TrainingFacts()
    if metadata["task"] != "classify":
        raise ModelRejected(
            f"{name} was exported by Ultralytics for the task {metadata['task']!r}, but this agent classifies whole "
            "images. Export a model of the task classify (yolo11n-cls and so on)",
            task=metadata["task"],
        )
    names = metadata["names"]
    size = _literal(metadata.get("imgsz"))
    sides = tuple(size) if isinstance(size, list | tuple) and len(size) == 2 else None
    is_square = sides is not None and sides[0] == sides[1] and isinstance(sides[0], int)
    return _with_source(
        f"metadata of {name} (Ultralytics)",
        labels=_names(_literal(names), where=f"{name}: names in the metadata") if names else None,
        size=(sides[1], sides[0]) if sides is not None else None,
        color="rgb",
        resize="shorter_side",
        resize_to=sides[0] if sides is not None and is_square else None,
        interpolation="linear_antialias",
        scale=1 / 255,
        mean=(0.0,),
        std=(1.0,),
    )


def _custom_vision(metadata: Mapping[str, str], name: str) -> TrainingFacts:
    """Source: ONNX, docs/MetadataProps.md (image category definition)."""
    colors: dict[str, Color] = {"Bgr8": "bgr", "Rgb8": "rgb", "Gray8": "gray"}
    ranges = {"NominalRange_0_255": 1.0, "Normalized_0_1": 1 / 255}
    scale = ranges.get(metadata.get("Image.NominalPixelRange", ""))
    return _with_source(
        f"metadata of {name} (Image.*)",
        color=colors.get(metadata.get("Image.BitmapPixelFormat", "")),
        scale=scale,
        mean=None if scale is None else (0.0,),
        std=None if scale is None else (1.0,),
    )


def _paddle(metadata: Mapping[str, str], name: str) -> TrainingFacts:
    """PaddlePaddle's ``character``: one label a line."""
    text = metadata.get("character")
    labels = tuple(line.strip() for line in text.splitlines() if line.strip()) if text else None
    return _with_source(f"metadata of {name} (character)", labels=labels)


def _model_config(path: Path, config: Mapping[str, object]) -> TrainingFacts:
    """``config.json`` of transformers, or of timm."""
    timm = config.get("pretrained_cfg")
    if isinstance(timm, dict):
        return _timm(path, config, timm)
    kinds = config.get("architectures")
    if isinstance(kinds, list) and kinds and not any("ImageClassification" in str(kind) for kind in kinds):
        raise ModelRejected(
            f"{path} is of {', '.join(map(str, kinds))}, but this agent classifies images. Take a model whose "
            "architecture ends in ForImageClassification",
            path=str(path),
        )
    problem = config.get("problem_type")
    if problem is not None and str(problem) not in _TASKS:
        raise ModelRejected(
            f"{path} has problem_type {problem!r:.60}, but this agent classifies images: {' or '.join(_TASKS)}. "
            "Take a classifier, or import the ONNX file alone if the entry is wrong",
            path=str(path),
        )
    multi_label = None if problem is None else _TASKS[str(problem)]
    activation: Activation | None = None if multi_label is None else "sigmoid" if multi_label else "softmax"
    labels = config.get("id2label")
    return _with_source(
        path.name,
        labels=None if labels is None else _names(labels, where=f"{path}: id2label"),
        multi_label=multi_label,
        activation=activation,
    )


def _timm(path: Path, config: Mapping[str, object], cfg: Mapping[str, object]) -> TrainingFacts:
    """Source: timm/data/config.py (resolve_data_config) and transforms_factory.py (transforms_imagenet_eval)."""
    shape = cfg.get("input_size")
    size = _sides({"height": shape[1], "width": shape[2]}) if isinstance(shape, list) and len(shape) == 3 else None
    crop = _crop_share(cfg.get("crop_pct"))
    named = cfg.get("crop_mode", "center")
    mode: ResizeMode | None = "shorter_side" if named == "center" else None
    if named == "squash" and crop == 1:  # below 1 a crop follows; border fills its bars with the mean
        mode = "stretch"
    resize_to = None
    if mode == "shorter_side" and size is not None and size[0] == size[1] and crop is not None:
        resize_to = math.floor(size[0] / crop)
    names = config.get("label_names")
    return _with_source(
        f"{path.name} (timm)",
        labels=None if names is None else _names(names, where=f"{path}: label_names"),
        size=size,
        color="rgb",
        resize=mode,
        resize_to=resize_to,
        interpolation=_FILTER_NAMES.get(str(cfg.get("interpolation"))),
        scale=1 / 255,
        mean=_floats(cfg.get("mean")),
        std=_floats(cfg.get("std")),
    )


def _preprocessor(path: Path, config: Mapping[str, object]) -> TrainingFacts:
    """Source: transformers, image_processing_utils.py and the image processors of the models named below."""
    resize, resize_to, size = _preprocessor_size(config)
    scale = _number(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0
    mean, std = _preprocessor_range(config, scale)
    resample = config.get("resample")
    return _with_source(
        path.name,
        size=size,
        color="bgr" if config.get("do_flip_channel_order") else "rgb",  # MobileViT
        resize=resize,
        resize_to=resize_to,
        interpolation=_PILLOW_FILTERS.get(resample) if isinstance(resample, int) else None,
        scale=scale,
        mean=mean,
        std=std,
    )


def _preprocessor_range(
    config: Mapping[str, object], scale: float | None
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and standard deviation after ``scale``, with the two further steps of EfficientNet."""
    given = _floats(config.get("image_std"))
    mean, std = (_floats(config.get("image_mean")), given) if config.get("do_normalize", True) else ((0.0,), (1.0,))
    if config.get("rescale_offset") and config.get("do_rescale", True) and mean is not None:
        # Here 127.5 is subtracted before the scale is applied.
        mean = None if scale is None else tuple(one + 127.5 * scale for one in mean)
    if config.get("include_top") and std is not None:
        # What is normalised is divided by the standard deviation again.
        std = None if given is None else tuple(one * two for one, two in zip(std * len(given), given, strict=False))
        mean = mean if mean != (0.0,) or std is None else mean * len(std)
    return mean, std


def _preprocessor_size(config: Mapping[str, object]) -> tuple[ResizeMode | None, int | None, tuple[int, int] | None]:
    """How to resize, the shorter side, and the model's (width, height); None where the file is not clear."""
    if not config.get("do_resize", True):
        return None, None, None
    given = config.get("size")
    share = _crop_share(config.get("crop_pct"))
    kind = str(config.get("image_processor_type", config.get("feature_extractor_type")))
    crop = _sides(config.get("crop_size")) if config.get("do_center_crop") else None
    edge = given.get("shortest_edge") if isinstance(given, dict) else None
    if isinstance(given, int) and (crop is not None or share is not None):
        edge = given
    sides = _sides(given)
    if sides is not None and share is not None and kind.startswith("PoolFormer"):
        edge, sides = sides[0] if sides[0] == sides[1] else None, None
    if isinstance(edge, int):
        if crop is None:
            return _convnext_size(edge, share) if share is not None else (None, None, None)
        return "shorter_side", _shorter_side(kind, edge, share), crop
    if sides is not None and crop in (None, sides):
        return "stretch", None, sides
    return None, None, None


def _shorter_side(kind: str, edge: int, share: float | None) -> int:
    """The shorter side before a centre crop: LeViT and PoolFormer enlarge the edge that their file states."""
    if kind.startswith("Levit"):
        return int(edge * (256 / 224))
    return int(edge / share) if share is not None and kind.startswith("PoolFormer") else edge


def _convnext_size(edge: int, share: float) -> tuple[ResizeMode, int | None, tuple[int, int]]:
    """ConvNeXT: below 384 pixels the shorter side becomes edge / crop_pct; from there on it stretches."""
    if edge >= 384:
        return "stretch", None, (edge, edge)
    return "shorter_side", int(edge / share), (edge, edge)


def _sides(value: object) -> tuple[int, int] | None:
    """(width, height) of ``{"height": .., "width": ..}`` or of one number."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, dict) and isinstance(value.get("width"), int) and isinstance(value.get("height"), int):
        return value["width"], value["height"]
    return None


def _data_yaml(path: Path, document: Mapping[str, object]) -> TrainingFacts:
    names = document.get("names")
    return _with_source(path.name, labels=None if names is None else _names(names, where=f"{path}: names"))


def _class_indices(path: Path, document: Mapping[str, object]) -> TrainingFacts:
    names: dict[object, str] = {}
    for label, number in document.items():
        if not isinstance(number, int) or isinstance(number, bool):
            raise ModelRejected(
                f"{path}: the class {label!r:.60} must have a whole number, but has {number!r:.60}. Correct the "
                "file, or give --labels",
                path=str(path),
            )
        if number in names:
            raise ModelRejected(
                f"{path}: {names[number]!r:.60} and {label!r:.60} are two classes, but both have the number "
                f"{number}. Correct the file, or give --labels",
                path=str(path),
            )
        names[number] = label
    return _with_source(path.name, labels=_names(names, where=str(path)))


def _names(value: object, *, where: str) -> tuple[str, ...]:
    """Labels in the order of their numbers, from a list or a map whose keys are 0 to n - 1."""
    if isinstance(value, list | tuple) and value and all(isinstance(one, str) for one in value):
        return tuple(cast("list[str]", list(value)))
    if isinstance(value, dict) and value:
        keys = {key: str(key) for key in value}
        numbered = {
            int(text): value[key] for key, text in keys.items() if text.isdecimal() and len(text) <= _MAX_DIGITS
        }
        if sorted(numbered) == list(range(len(value))) and all(isinstance(name, str) for name in numbered.values()):
            return tuple(str(numbered[place]) for place in range(len(numbered)))
    raise ModelRejected(
        f"{where} must be a list of names, or a map whose keys run from 0 without a gap, but is {value!r:.80}. "
        "Give --labels",
        where=where,
    )


def _floats(value: object) -> tuple[float, ...] | None:
    numbers = [_number(one) for one in (value if isinstance(value, list | tuple) else [value])]
    known = tuple(one for one in numbers if one is not None)
    return known if known and len(known) == len(numbers) else None


def _number(value: object) -> float | None:
    """A finite number; None for anything else, such as NaN, which Python's json reads."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _crop_share(value: object) -> float | None:
    """The side of the crop divided by the side that it is taken from."""
    share = _number(value)
    return share if share is not None and _MIN_CROP <= share <= 1 else None


def _literal(text: str | None) -> object:
    """A Python literal, as Ultralytics writes lists and maps; None if it is none."""
    try:
        return None if text is None else ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _document(path: Path) -> Mapping[str, object]:
    try:
        text = read_regular(path, max_bytes=_MAX_BYTES).decode("utf-8-sig")
        is_yaml = path.suffix == ".yaml"
        document = load_strict(text, name=str(path)).data if is_yaml else json.loads(text, object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError, StrictYamlError) as exc:
        raise ModelRejected(f"{path} cannot be read: {exc}. Correct it, or move it away", path=str(path)) from exc
    if not isinstance(document, dict):
        raise ModelRejected(f"{path} must hold keys and values, but holds {document!r:.60}", path=str(path))
    return document


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The pairs of a JSON object as a dict, which alone would silently drop a repeated key."""
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:60]!r} is there twice")
        found[key] = value
    return found
