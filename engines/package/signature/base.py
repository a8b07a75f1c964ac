"""Checks a model's input and output against the manifest, for every file format."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engines.errors import ModelRejected
from engines.package.specs import InputDtype, InputSpec, Layout, ModelSignature

Shape = tuple["int | None", ...]
"""Dimensions; None where one is dynamic."""

_INPUT_DTYPES: dict[str, InputDtype] = {"float32": "float32", "float16": "float16", "uint8": "uint8"}
_OUTPUT_DTYPES = frozenset({"float32", "float16", "float64"})
_IMAGE_RANK = 4
_NAME_BATCH = "If another axis is the batch, set input.batch_axis (agent model import: --batch-axis N)"
_NAME_CLASSES = "If the classes are on another axis, set output.class_axis (agent model import: --class-axis N)"

MAX_FIXED_BATCH = 256
"""Largest fixed batch size of a model: every run computes all of it."""

MAX_FEATURES = 65_536
"""Longest embedding of an image. Usual ones have 128 to 4,096 values; more is a feature map that was not pooled."""


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """What a model states about an input or output; ``shape`` is None if it states none."""

    name: str
    dtype: str
    shape: Shape | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInput:
    """The image that a model takes, without a manifest; None where the file leaves a side or the channels open."""

    layout: Layout
    height: int | None
    width: int | None
    channels: int | None
    dtype: InputDtype


def shape_text(shape: Sequence[int | None] | None) -> str:
    """``1x3x224x224``; a dynamic dimension is ``?``."""
    return "unknown" if shape is None else "x".join("?" if d is None else str(d) for d in shape) or "scalar"


def _axes_text(shape: Sequence[int | None] | None) -> str:
    """``shape 5x? (axis 0: 5, axis 1: ?)``, for messages from which an axis is chosen."""
    axes = ", ".join(f"axis {place}: {'?' if dim is None else dim}" for place, dim in enumerate(shape or ()))
    return f"shape {shape_text(shape)}" + (f" ({axes})" if axes else "")


def the_input(inputs: Sequence[TensorFacts], *, name: str) -> TensorFacts:
    """Return the only input, whose type must be one that images can have.

    Raises:
        ModelRejected: several inputs or none, or another type.
    """
    if not inputs:
        raise ModelRejected(
            f"{name} has no input left, but one takes the image. Remove the image's input from input.constants (agent "
            "model import: --constant)"
        )
    source = _the_one(
        inputs,
        "inputs",
        "one takes the image. Give the others a value: input.constants in the manifest (agent model import: "
        "--constant NAME=VALUE)",
        name,
    )
    if source.dtype not in _INPUT_DTYPES:
        raise ModelRejected(
            f"{name}: input {source.name} takes {source.dtype}, but images can be given as "
            f"{', '.join(_INPUT_DTYPES)}. Export the model with one of those",
            input=source.name,
            dtype=source.dtype,
        )
    return source


def the_output(outputs: Sequence[TensorFacts], *, name: str) -> TensorFacts:
    """Return the only output, whose type must be one that scores can have.

    Raises:
        ModelRejected: several outputs or none, or another type.
    """
    target = _the_one(
        outputs,
        "outputs",
        "one holds the scores. Choose it: output.name in the manifest (agent model import: --output-name NAME)",
        name,
    )
    if target.dtype not in _OUTPUT_DTYPES:
        raise ModelRejected(
            f"{name}: output {target.name} is {target.dtype}, but scores are float32, float16 or float64. "
            f"{_advice(target)}",
            output=target.name,
            dtype=target.dtype,
        )
    return target


def layout_of(source: TensorFacts, spec: InputSpec, *, fallback: Layout, name: str) -> Layout:
    """Return the layout that fits ``spec``; ``fallback`` if both do.

    Raises:
        ModelRejected: not an image, or another size or channel count.
    """
    shape = image_rank(source, batch_axis=spec.batch_axis, name=name)
    wanted: dict[Layout, Shape] = {
        "NCHW": (spec.channels, spec.height, spec.width),
        "NHWC": (spec.height, spec.width, spec.channels),
    }
    fitting = [layout for layout, dims in wanted.items() if _fits(shape[1:], dims)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        # With dynamic dimensions both layouts can fit; then a stated channel count decides.
        known: list[Layout] = [layout for layout in fitting if shape[1 if layout == "NCHW" else 3] is not None]
        return known[0] if len(known) == 1 else fallback
    raise ModelRejected(
        f"{name}: input {source.name} has shape {shape_text(shape)}, but the manifest says width {spec.width}, height "
        f"{spec.height}, color {spec.color}, which is {shape_text((None, *wanted['NCHW']))} or "
        f"{shape_text((None, *wanted['NHWC']))}. {_misfit(shape, spec)}",
        shape=shape_text(shape),
        width=spec.width,
        height=spec.height,
        color=spec.color,
    )


def image_rank(source: TensorFacts, *, batch_axis: int | None, name: str) -> Shape:
    """Return the shape of an image input, 4 dimensions, with the batch first; one without a batch takes one image.

    ``batch_axis`` is as in the manifest.

    Raises:
        ModelRejected: it has neither 4 nor 3 dimensions, or no such axis.
    """
    if source.shape is not None and len(source.shape) == _IMAGE_RANK:
        place = batch_axis or 0
        return (source.shape[place], *source.shape[:place], *source.shape[place + 1 :])
    if source.shape is not None and len(source.shape) == _IMAGE_RANK - 1:
        if batch_axis is not None:
            raise ModelRejected(
                f"{name}: input {source.name} has shape {shape_text(source.shape)}, one image without a batch, but "
                f"input.batch_axis is {batch_axis}. Remove it (agent model import: --batch-axis)",
                input=source.name,
                batch_axis=batch_axis,
            )
        return (1, *source.shape)
    raise ModelRejected(
        f"{name}: input {source.name} has shape {shape_text(source.shape)}, but an image input has 4 dimensions "
        "(batch, channels, height, width or batch, height, width, channels), or 3 without the batch",
        input=source.name,
        shape=shape_text(source.shape),
    )


def image_input(source: TensorFacts, *, batch_axis: int | None, fallback: Layout, name: str) -> ImageInput:
    """Return what a model takes; ``fallback`` is the layout if the shape does not tell, ``batch_axis`` as above.

    Raises:
        ModelRejected: not an image, or channels neither first nor last.
    """
    _, a, b, c = image_rank(source, batch_axis=batch_axis, name=name)
    layout = fallback
    if a in {1, 3} and c not in {1, 3}:
        layout = "NCHW"
    elif c in {1, 3} and a not in {1, 3}:
        layout = "NHWC"
    elif a is not None or c is not None:
        raise ModelRejected(
            f"{name}: input {source.name} has {_axes_text(source.shape)}, but an image has 1 or 3 channels at one end "
            f"of it, and the batch is on axis {batch_axis or 0}. {_NAME_BATCH}",
            input=source.name,
            shape=shape_text(source.shape),
        )
    height, width, channels = (b, c, a) if layout == "NCHW" else (a, b, c)
    return ImageInput(layout=layout, height=height, width=width, channels=channels, dtype=_INPUT_DTYPES[source.dtype])


def signature_from(
    source: TensorFacts,
    target: TensorFacts,
    layout: Layout,
    spec: InputSpec,
    *,
    name: str,
    class_axis: int | None = None,
) -> ModelSignature:
    """Return the signature; ``spec`` fixes dynamic height, width and channels.

    ``class_axis``: the axis of the output that has the classes, None for the usual one.

    Raises:
        ModelRejected: the output is not one score per class.
    """
    batch = image_rank(source, batch_axis=spec.batch_axis, name=name)[0]
    if batch is not None and batch > MAX_FIXED_BATCH:
        raise ModelRejected(
            f"{name}: input {source.name} takes exactly {batch} images at once, but the limit is {MAX_FIXED_BATCH}. "
            "Export the model with a batch of 1 or a dynamic one",
            batch=batch,
        )
    return ModelSignature(
        input_name=source.name,
        output_name=target.name,
        layout=layout,
        dtype=_INPUT_DTYPES[source.dtype],
        batch=batch,
        height=spec.height,
        width=spec.width,
        channels=spec.channels,
        classes=_classes(target, batch, class_axis, name=name),
        output_shape=target.shape or (),
        class_axis=class_axis,
        has_batch_axis=len(source.shape or ()) == _IMAGE_RANK,
    )


def _classes(target: TensorFacts, batch: int | None, class_axis: int | None, *, name: str) -> int:
    """Return the class count of ``NxC``, ``NxCx1x1``, ``Nx1x1xC``, ``C`` for a batch of 1, or on the stated axis."""
    shape = target.shape
    if class_axis is not None:
        return _classes_on(class_axis, target, batch, name=name)
    if shape is not None and len(shape) > 1 and None not in (batch, shape[0]) and shape[0] != batch:
        raise ModelRejected(
            f"{name}: output {target.name} has {_axes_text(shape)}, but the batch is {batch}. {_NAME_CLASSES}"
            + (f". If {batch} is no batch, set input.batch_axis (--batch-axis N)" if batch != 1 else ""),
            output=target.name,
            shape=shape_text(shape),
        )
    if shape is None or None in shape[1:] or shape == (None,):
        raise ModelRejected(
            f"{name}: output {target.name} has {_axes_text(shape)}, but the classes are a known number on the last "
            f"axis. {_NAME_CLASSES}, or export the model with a fixed number",
            output=target.name,
            shape=shape_text(shape),
        )
    # A model for one image may leave out the batch dimension of its scores.
    rest = shape if len(shape) == 1 and batch == 1 else shape[1:]
    known = [dim for dim in rest if dim is not None]
    # A second dimension above 1 means boxes, a mask or a feature map.
    if known and sum(dim != 1 for dim in known) <= 1:
        return math.prod(known)
    raise ModelRejected(
        f"{name}: output {target.name} has shape {shape_text(shape)}, but a classifier's is batch x classes. "
        "Detection, segmentation and feature models cannot be served",
        output=target.name,
        shape=shape_text(shape),
    )


def _classes_on(axis: int, target: TensorFacts, batch: int | None, *, name: str) -> int:
    """Return the class count on ``axis``; the other axes are the batch's, or 1."""
    shape = target.shape or ()
    classes = shape[axis] if axis < len(shape) else None
    rest = [dim for place, dim in enumerate(shape) if place != axis and dim not in {None, 1, batch}]
    if classes is None or rest:
        raise ModelRejected(
            f"{name}: output {target.name} has {_axes_text(target.shape)}, but output.class_axis is {axis}, where a "
            "known number of classes is expected and batch or 1 elsewhere. Correct it (agent model import: "
            "--class-axis N)",
            output=target.name,
            class_axis=axis,
        )
    return classes


def embedding_length(value: TensorFacts, *, batch: int | None, name: str) -> int:
    """Return the length of the embedding ``value``: ``NxD``, with further dimensions of 1, or ``D`` for a batch of 1.

    Raises:
        ModelRejected: it is not one vector of floats per image.
    """
    shape, wanted = value.shape, "but an embedding is one vector of floats for each image: batch x values"
    is_float = value.dtype in _OUTPUT_DTYPES
    if shape is not None and is_float:
        has_batch = len(shape) > 1 or batch != 1
        rest = shape[1:] if has_batch else shape
        known = [dim for dim in rest if dim is not None and dim > 1]
        is_batch = not has_batch or None in {batch, shape[0]} or shape[0] == batch
        if rest and None not in rest and len(known) <= 1 and is_batch and math.prod(known) <= MAX_FEATURES:
            return math.prod(known)
    raise ModelRejected(
        f"{name}: output.features names {value.name} ({value.dtype} {shape_text(shape)}), {wanted}, at most "
        f"{MAX_FEATURES}. Name the tensor behind the pooling, or remove features",
        output=value.name,
        shape=shape_text(shape),
    )


def choices_text(values: Iterable[TensorFacts]) -> str:
    """``logits (float32 ?x1000), embedding (float32 ?x512)``, for messages."""
    return ", ".join(f"{value.name} ({value.dtype} {shape_text(value.shape)})" for value in values) or "none"


def _advice(target: TensorFacts) -> str:
    if target.dtype in {"uint8", "int8"}:
        return "Are these quantised scores? Export with float outputs (TFLite: inference_output_type float32)"
    return (
        "Export the model without its last ArgMax or TopK, or name the tensor before it: output.name in the manifest "
        "(agent model import: --output-name NAME)"
    )


def _the_one(values: Sequence[TensorFacts], what: str, wanted: str, name: str) -> TensorFacts:
    if len(values) == 1:
        return values[0]
    names = choices_text(values)
    raise ModelRejected(f"{name} has {len(values)} {what}: {names}, but {wanted}", found=names)


def _misfit(shape: Shape, spec: InputSpec) -> str:
    """Say which part of the manifest is probably wrong."""
    if shape[1] in {1, 3}:
        channels, height, width = shape[1:]
    elif shape[3] in {1, 3}:
        height, width, channels = shape[1:]
    else:
        return "Neither end of the shape is 1 or 3 channels: the model does not take one image"
    if channels != spec.channels:
        color = "gray" if channels == 1 else "rgb or bgr"
        return f"The model takes {channels} channels, but {spec.color} gives {spec.channels}: set color: {color}"
    return f"Set input.width: {width or spec.width} and input.height: {height or spec.height}"


def _fits(shape: Shape, wanted: Shape) -> bool:
    return all(have is None or have == want for have, want in zip(shape, wanted, strict=True))
