"""Checks a model's input and output against the manifest, for every file format."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from engines.errors import ModelRejected
from engines.package.specs import InputDtype, InputSpec, Layout, ModelSignature

Shape = tuple["int | None", ...]
"""Dimensions; None where one is dynamic."""

_INPUT_DTYPES: dict[str, InputDtype] = {"float32": "float32", "float16": "float16", "uint8": "uint8"}
_OUTPUT_DTYPES = frozenset({"float32", "float16", "float64"})
_IMAGE_RANK = 4

MAX_FIXED_BATCH = 256
"""Largest fixed batch size of a model: every run computes all of it."""


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """What a model states about an input or output; ``shape`` is None if it states none."""

    name: str
    dtype: str
    shape: Shape | None


def shape_text(shape: Sequence[int | None] | None) -> str:
    """``1x3x224x224``; a dynamic dimension is ``?``."""
    return "unknown" if shape is None else "x".join("?" if d is None else str(d) for d in shape) or "scalar"


def the_input(inputs: Sequence[TensorFacts], *, name: str) -> TensorFacts:
    """Return the only input, whose type must be one that images can have.

    Raises:
        ModelRejected: several inputs or none, or another type.
    """
    source = _the_one(inputs, "inputs", "an image classifier has one", name)
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
    target = _the_one(outputs, "outputs", "a classifier has one, its scores", name)
    if target.dtype not in _OUTPUT_DTYPES:
        raise ModelRejected(
            f"{name}: output {target.name} is {target.dtype}, but scores are float32, float16 or float64. "
            "Export the model without its last ArgMax or TopK",
            output=target.name,
            dtype=target.dtype,
        )
    return target


def layout_of(source: TensorFacts, spec: InputSpec, *, fallback: Layout, name: str) -> Layout:
    """Return the layout that fits ``spec``; ``fallback`` if both do.

    Raises:
        ModelRejected: not an image, or another size or channel count.
    """
    shape = image_rank(source, name=name)
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


def image_rank(source: TensorFacts, *, name: str) -> Shape:
    """Return the shape of an image input.

    Raises:
        ModelRejected: it does not have 4 dimensions.
    """
    if source.shape is None or len(source.shape) != _IMAGE_RANK:
        raise ModelRejected(
            f"{name}: input {source.name} has shape {shape_text(source.shape)}, but an image input has 4 dimensions "
            "(batch, channels, height, width or batch, height, width, channels)",
            input=source.name,
            shape=shape_text(source.shape),
        )
    return source.shape


def signature_from(
    source: TensorFacts, target: TensorFacts, layout: Layout, spec: InputSpec, *, name: str
) -> ModelSignature:
    """Return the signature; ``spec`` fixes dynamic height, width and channels.

    Raises:
        ModelRejected: the output is not one score per class.
    """
    batch = image_rank(source, name=name)[0]
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
        classes=_classes(target, batch, name=name),
        output_shape=target.shape or (),
    )


def _classes(target: TensorFacts, batch: int | None, *, name: str) -> int:
    """Return the class count of ``NxC``, ``NxCx1x1``, ``Nx1x1xC``, or ``C`` for a batch of 1."""
    shape = target.shape
    if shape is None or None in shape[1:] or shape == (None,):
        raise ModelRejected(
            f"{name}: output {target.name} has shape {shape_text(shape)}, so the number of classes is unknown. "
            "Export the model with a fixed number of classes",
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


def _the_one(values: Sequence[TensorFacts], what: str, wanted: str, name: str) -> TensorFacts:
    if len(values) == 1:
        return values[0]
    names = ", ".join(f"{value.name} ({shape_text(value.shape)})" for value in values) or "none"
    raise ModelRejected(f"{name} has {len(values)} {what}: {names}; {wanted}. Export the model with one", found=names)


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
