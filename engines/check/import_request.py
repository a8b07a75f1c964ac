"""What to import, and how an image becomes the model's input: options, presets, and what the model's files say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engines.check.training_facts import TrainingFacts
from engines.errors import ModelRejected
from engines.package.signature.base import ImageInput, shape_text
from engines.package.specs import Activation, Color, Constants, Interpolation, ResizeMode

PresetName = Literal["imagenet", "tf", "caffe", "raw01", "raw255"]
TaskName = Literal["single_label", "multi_label", "binary"]

# Ratio of the shorter side to the crop, as in the training of ImageNet models.
_CROP_RATIO = 256 / 224
_CAMERA_PX = (1920, 1080)
# A square crop of 224 from 256 keeps 43 % of a camera's frame.
_MIN_KEPT = 0.3


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
    """What to import. None means: use the preset, else what the model and its files say.

    ``model`` is an ONNX or .pt2 file, a folder of Hugging Face or timm, or ``timm:NAME`` with ``checkpoint``. ``mean``
    and ``std`` have one value per channel, or one for all. ``size`` is width and height in pixels, for models with a
    dynamic size. ``activation`` None runs the model to find out. ``positive`` is the label that the one score of a
    binary model speaks for. ``output_name``, ``class_axis``, ``features``, ``batch_axis`` and ``constants`` are as in
    the manifest.
    ``out`` is the directory in which the package directory is created. ``max_file_mib`` limits the model with its
    external data.
    """

    model: Path
    out: Path
    labels: Path | None = None
    preset: PresetName | None = None
    name: str | None = None
    version: str = "1.0.0"
    size: tuple[int, int] | None = None
    color: Color | None = None
    resize: ResizeMode | None = None
    resize_to: int | None = None
    interpolation: Interpolation | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    activation: Activation | None = None
    task: TaskName | None = None
    positive: str | None = None
    output_name: str | None = None
    class_axis: int | None = None
    batch_axis: int | None = None
    features: str | None = None
    constants: Constants = ()
    checkpoint: Path | None = None
    max_file_mib: int = 512
    offset: int = 0
    golden: Sequence[tuple[Path, str]] = ()
    calibration: Path | None = None
    evaluation: Path | None = None
    license: str | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class _Preprocessing:
    """The values of the section ``input`` that the model file does not fix."""

    color: Color
    resize: ResizeMode
    interpolation: Interpolation
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


def input_section(request: ImportRequest, facts: TrainingFacts, takes: ImageInput) -> dict[str, object]:
    """The section ``input`` of the manifest. An option counts before the preset, the preset before the files.

    Raises:
        ModelRejected: something is not known, or does not fit the model.
    """
    name = request.model.name
    channels = takes.channels
    width, height = _size(request, facts, takes.width, takes.height)
    given = _preprocessing(request, facts, channels)
    count = 1 if given.color == "gray" else 3
    if channels not in {None, count}:
        raise ModelRejected(
            f"{name}: the model takes {channels} channel(s), but --color {given.color} gives {count}. "
            + ("Remove --color" if channels == 1 else "Give --color rgb or bgr"),
            channels=channels,
            color=given.color,
        )
    for what, values in (("mean", given.mean), ("std", given.std)):
        if len(values) not in {1, count}:
            raise ModelRejected(
                f"{name} takes {count} channel(s), but {what} has {len(values)} values{_of_preset(request)}. "
                + ("Take raw01, raw255, tf, or give " if request.preset else "Give ")
                + f"--{what} with {count}",
                channels=count,
            )
    _check_uint8(request, given, takes)
    section: dict[str, object] = {"width": width, "height": height, "color": given.color, "resize": given.resize}
    if given.resize == "shorter_side":
        section["resize_to"] = _resize_to(request, facts, width, height)
    elif request.resize_to is not None:
        raise ModelRejected(
            f"--resize-to {request.resize_to} needs --resize shorter_side, but resize is {given.resize}. Give "
            "--resize shorter_side, or remove --resize-to",
            resize=given.resize,
        )
    section["interpolation"] = given.interpolation
    section["scale"] = given.scale
    section["mean"] = list(given.mean if len(given.mean) == count else given.mean * count)
    section["std"] = list(given.std if len(given.std) == count else given.std * count)
    if request.constants:
        section["constants"] = {key: list(values) for key, values in request.constants}
    if request.batch_axis is not None:
        section["batch_axis"] = request.batch_axis
    return section


def crop_warning(section: Mapping[str, object]) -> str | None:
    """Whether the centre crop leaves little of a camera's frame, as on an input that is far from square."""
    width, height, to = section["width"], section["height"], section.get("resize_to")
    if not (isinstance(width, int) and isinstance(height, int) and isinstance(to, int)):
        return None
    wide, high = _CAMERA_PX
    kept = (width / (to * max(1, wide / high))) * (height / (to * max(1, high / wide)))
    if kept >= _MIN_KEPT:
        return None
    return (
        f"resize shorter_side to {to} and the crop of {width}x{height} keep {kept:.0%} of a {wide}x{high} frame, but "
        "a camera's object may be anywhere in it. If the training did not crop, give --resize stretch or letterbox"
    )


def contradictions(request: ImportRequest, facts: TrainingFacts) -> list[str]:
    """Where the preset says something else than the model's files: one of the two is wrong."""
    if request.preset is None:
        return []
    preset = PRESETS[request.preset]
    return [
        f"preset {request.preset} says {name} {_shown(ours)}, but {facts.sources[name]} says {_shown(theirs)}; the "
        f"preset was used. Leave --preset out to use the file, or give --{name}"
        for name in ("color", "resize", "interpolation", "scale", "mean", "std")
        if getattr(request, name) is None
        and (theirs := getattr(facts, name)) is not None
        and not _is_same(ours := getattr(preset, name), theirs)
    ]


def _is_same(first: object, second: object) -> bool:
    if isinstance(first, tuple) and isinstance(second, tuple):
        longer = max(len(first), len(second))
        first, second = (one * longer if len(one) == 1 else one for one in (first, second))
        return len(first) == len(second) and all(abs(a - b) < 1e-6 for a, b in zip(first, second, strict=True))
    if isinstance(first, float) and isinstance(second, float):
        return abs(first - second) < 1e-6
    return first == second


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(_shown(one) for one in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _of_preset(request: ImportRequest) -> str:
    return f" in preset {request.preset}" if request.preset else ""


def _size(request: ImportRequest, facts: TrainingFacts, width: int | None, height: int | None) -> tuple[int, int]:
    """Width and height: the model's own, and where it leaves them open the option or the files."""
    asked = request.size or facts.size or (None, None)
    found = shape_text((height, width))
    if (
        request.size is None
        and facts.size is not None
        and None not in (width, height)
        and facts.size != (width, height)
    ):
        raise ModelRejected(
            f"{request.model.name}: the model's input is {found} (height x width), but {facts.sources['size']} says "
            f"{shape_text((facts.size[1], facts.size[0]))}. Correct that file, or give --size {width}x{height} if the "
            "model is right",
            shape=found,
        )
    width, height = width or asked[0], height or asked[1]
    if width is None or height is None or (request.size and request.size != (width, height)):
        raise ModelRejected(
            f"{request.model.name}: the model's input is {found} (height x width), but --size is "
            f"{'not given' if request.size is None else f'{request.size[0]}x{request.size[1]}'}. "
            + ("Give --size WIDTHxHEIGHT" if "?" in found else "Remove --size"),
            shape=found,
        )
    return width, height


def _preprocessing(request: ImportRequest, facts: TrainingFacts, channels: int | None) -> _Preprocessing:
    preset = None if request.preset is None else PRESETS[request.preset]

    def known(name: str) -> object:
        given = getattr(request, name)
        if given is not None:
            return given
        if name == "color" and channels == 1:
            return "gray"
        return getattr(facts if preset is None else preset, name)

    names = ("color", "resize", "interpolation", "scale", "mean", "std")
    found = {name: known(name) for name in names}
    unknown = [f"--{name}" for name in names if found[name] is None]
    if unknown:
        stated = ", ".join(sorted({source for field, source in facts.sources.items() if field in names}))
        raise ModelRejected(
            f"{request.model.name}: nothing says how its images were prepared in training: "
            f"{', '.join(unknown)} {'is' if len(unknown) == 1 else 'are'} not known"
            + (f" (the rest is in {stated})" if stated else "")
            + ". Give them, or a --preset: wrong preprocessing lowers accuracy without an error",
            unknown=unknown,
        )
    return _Preprocessing(**found)  # type: ignore[arg-type] # the fields have these types in all three


def _check_uint8(request: ImportRequest, given: _Preprocessing, takes: ImageInput) -> None:
    is_identity = (given.scale, {*given.mean}, {*given.std}) == (1.0, {0.0}, {1.0})
    if takes.dtype == "uint8" and not is_identity:
        raise ModelRejected(
            f"{request.model.name} takes uint8, so it normalises its input, but the preprocessing"
            f"{_of_preset(request)} would do it again. Give --preset raw255, and --color and --resize where its own "
            "do not fit",
            preset=request.preset,
            dtype="uint8",
        )


def _resize_to(request: ImportRequest, facts: TrainingFacts, width: int, height: int) -> int:
    resize_to, stated = request.resize_to, "--resize-to"
    if resize_to is None and request.preset is None and request.resize is None:
        resize_to, stated = facts.resize_to, f"{facts.sources.get('resize_to')} says resize_to"
        if resize_to is None:
            raise ModelRejected(
                f"{request.model.name}: {facts.sources['resize']} says resize shorter_side, but not to how many "
                "pixels. Give --resize-to",
                unknown=["--resize-to"],
            )
    if resize_to is None:
        return round(max(width, height) * _CROP_RATIO)
    if resize_to < max(width, height):
        raise ModelRejected(
            f"{stated} {resize_to}, but the crop is {width}x{height}, the model's input. Give --resize-to of at "
            f"least {max(width, height)}",
            resize_to=resize_to,
        )
    return resize_to
