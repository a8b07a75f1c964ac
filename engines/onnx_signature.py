"""What an ONNX model itself says: input, layout, dtype, batch and classes, held against the manifest."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from engines.errors import ModelRejected
from engines.specs import InputDtype, InputSpec, Layout, ModelSignature

Shape = tuple["int | None", ...]

_INPUT_DTYPES: dict[int, InputDtype] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.UINT8: "uint8",
}
_OUTPUT_DTYPES = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})
_IMAGE_RANK = 4


def data_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs that must be fed; up to IR version 3 initializers are listed as inputs too."""
    fixed = {tensor.name for tensor in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
    return [value for value in graph.input if value.name not in fixed]


def shape_of(value: onnx.ValueInfoProto) -> Shape | None:
    """The shape with None for dynamic dimensions; None where the model does not say."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    dims = tensor.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in dims)


def shape_text(shape: Sequence[int | None] | None) -> str:
    """``1x3x224x224``; a dynamic dimension is ``?``."""
    return "unknown" if shape is None else "x".join("?" if d is None else str(d) for d in shape) or "scalar"


def onnx_signature(model: onnx.ModelProto, spec: InputSpec, *, name: str) -> ModelSignature:
    """What the model says, checked against ``spec``. Dynamic height, width and channels are fixed from ``spec``.

    Raises:
        ModelRejected: several inputs or outputs, no image input, another size or channel count than ``spec``, or an
            output that is not one score per class.
    """
    graph = model.graph
    source = _the_one(data_inputs(graph), "inputs", "an image classifier has one", name)
    target = _the_one(list(graph.output), "outputs", "a classifier has one, its scores", name)
    dtype = _input_dtype(source, name)
    shape = shape_of(source)
    if shape is None or len(shape) != _IMAGE_RANK:
        raise ModelRejected(
            f"{name}: input {source.name} has shape {shape_text(shape)}, an image input has 4 dimensions "
            "(batch, channels, height, width or batch, height, width, channels)",
            input=source.name,
            shape=shape_text(shape),
        )
    layout = _layout(graph, source.name, shape, spec, name)
    output_shape = _output_shape(model, source, target, layout, spec, name)
    return ModelSignature(
        input_name=source.name,
        output_name=target.name,
        layout=layout,
        dtype=dtype,
        batch=shape[0],
        height=spec.height,
        width=spec.width,
        channels=spec.channels,
        classes=classes_of(output_shape, shape[0], name=name, output=target.name),
        output_shape=output_shape,
    )


def image_shape(model: onnx.ModelProto, *, name: str) -> tuple[Layout, Shape]:
    """Layout and ``(height, width, channels)`` of the model's input, without a manifest.

    Raises:
        ModelRejected: no single image input, or the layout cannot be told.
    """
    source = _the_one(data_inputs(model.graph), "inputs", "an image classifier has one", name)
    shape = shape_of(source)
    if shape is not None and len(shape) == _IMAGE_RANK:
        _, a, b, c = shape
        if a in {1, 3} and c not in {1, 3}:
            return "NCHW", (b, c, a)
        if c in {1, 3} and a not in {1, 3}:
            return "NHWC", (a, b, c)
        if a is None and c is None:
            layout = _layout_by_use(model.graph, source.name)
            return layout, (b, None, None) if layout == "NCHW" else (None, b, None)
    raise ModelRejected(
        f"{name}: input {source.name} has shape {shape_text(shape)}, an image input has 4 dimensions of which one is "
        "1 or 3 channels",
        input=source.name,
        shape=shape_text(shape),
    )


def _the_one(values: Sequence[onnx.ValueInfoProto], what: str, wanted: str, name: str) -> onnx.ValueInfoProto:
    if len(values) == 1:
        return values[0]
    names = ", ".join(f"{value.name} ({shape_text(shape_of(value))})" for value in values) or "none"
    raise ModelRejected(f"{name} has {len(values)} {what}: {names}; {wanted}. Export the model with one", found=names)


def _input_dtype(source: onnx.ValueInfoProto, name: str) -> InputDtype:
    element = source.type.tensor_type.elem_type
    if element in _INPUT_DTYPES:
        return _INPUT_DTYPES[element]
    raise ModelRejected(
        f"{name}: input {source.name} takes {_dtype_name(element)}, images can be given as "
        f"{', '.join(_INPUT_DTYPES.values())}. Export the model with one of those",
        input=source.name,
        dtype=_dtype_name(element),
    )


def _dtype_name(element: int) -> str:
    try:
        return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element)).name)
    except (KeyError, TypeError):
        return "no tensor"


def _layout(graph: onnx.GraphProto, source: str, shape: Shape, spec: InputSpec, name: str) -> Layout:
    wanted: dict[Layout, Shape] = {
        "NCHW": (spec.channels, spec.height, spec.width),
        "NHWC": (spec.height, spec.width, spec.channels),
    }
    fitting = [layout for layout, dims in wanted.items() if _fits(shape[1:], dims)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        known: list[Layout] = [layout for layout in fitting if shape[1 if layout == "NCHW" else 3] is not None]
        return known[0] if len(known) == 1 else _layout_by_use(graph, source)
    raise ModelRejected(
        f"{name}: input {source} has shape {shape_text(shape)}, the manifest says width {spec.width}, height "
        f"{spec.height}, color {spec.color}, which is {shape_text((None, *wanted['NCHW']))} or "
        f"{shape_text((None, *wanted['NHWC']))}. {_misfit(shape, spec)}",
        shape=shape_text(shape),
        width=spec.width,
        height=spec.height,
        color=spec.color,
    )


def _misfit(shape: Shape, spec: InputSpec) -> str:
    """Which part of the manifest is probably wrong."""
    if shape[1] in {1, 3}:
        channels, height, width = shape[1:]
    elif shape[3] in {1, 3}:
        height, width, channels = shape[1:]
    else:
        return "Neither end of the shape is 1 or 3 channels: the model does not take one image"
    if channels != spec.channels:
        color = "gray" if channels == 1 else "rgb or bgr"
        return f"The model takes {channels} channels, {spec.color} gives {spec.channels}: set color: {color}"
    return f"Set input.width: {width} and input.height: {height}"


def _fits(shape: Shape, wanted: Shape) -> bool:
    return all(have is None or have == want for have, want in zip(shape, wanted, strict=True))


def _layout_by_use(graph: onnx.GraphProto, source: str) -> Layout:
    """For shapes that do not tell: a model that first moves its last axis forward was fed NHWC."""
    for node in graph.node:
        if source in node.input and node.op_type == "Transpose":
            perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), [])
            if perm == [0, 3, 1, 2]:
                return "NHWC"
    return "NCHW"


def _output_shape(
    model: onnx.ModelProto, source: onnx.ValueInfoProto, target: onnx.ValueInfoProto, layout: Layout, spec: InputSpec,
    name: str,
) -> Shape:  # fmt: skip
    element = target.type.tensor_type.elem_type
    if element not in _OUTPUT_DTYPES:
        raise ModelRejected(
            f"{name}: output {target.name} is {_dtype_name(element)}, scores are float32, float16 or float64. "
            "Export the model without its last ArgMax or TopK",
            output=target.name,
            dtype=_dtype_name(element),
        )
    shape = shape_of(target)
    if shape is None or None in shape[1:]:
        shape = _inferred_output_shape(model, source.name, target.name, layout, spec) or shape
    if shape is None or None in shape[1:]:
        raise ModelRejected(
            f"{name}: output {target.name} has shape {shape_text(shape)}, which does not tell the number of classes. "
            "Export the model with a fixed number of classes",
            output=target.name,
            shape=shape_text(shape),
        )
    return shape


def _inferred_output_shape(
    model: onnx.ModelProto, source: str, target: str, layout: Layout, spec: InputSpec
) -> Shape | None:
    """The output's shape once the input is fixed to one picture of the manifest's size, by shape inference."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    pixels = (spec.channels, spec.height, spec.width) if layout == "NCHW" else (spec.height, spec.width, spec.channels)
    for value in fixed.graph.input:
        if value.name == source:
            set_shape(value, (value_batch(value), *pixels))
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    del fixed.graph.value_info[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError):
        return None
    return next((shape_of(value) for value in inferred.graph.output if value.name == target), None)


def value_batch(value: onnx.ValueInfoProto) -> int | str:
    """The batch dimension of an input: a number, or a symbol where it is dynamic."""
    shape = shape_of(value)
    return shape[0] if shape and shape[0] is not None else "batch"


def set_shape(value: onnx.ValueInfoProto, dims: Sequence[int | str]) -> None:
    """Give ``value`` the shape ``dims``; text is a symbol."""
    tensor = value.type.tensor_type
    tensor.ClearField("shape")
    tensor.shape.SetInParent()
    for dim in dims:
        entry = tensor.shape.dim.add()
        if isinstance(dim, str):
            entry.dim_param = dim
        else:
            entry.dim_value = dim


def classes_of(shape: Shape, batch: int | None, *, name: str, output: str) -> int:
    """The class count of an output of this shape: ``NxC``, ``NxCx1x1``, ``Nx1x1xC``, or ``C`` for a batch of 1.

    Raises:
        ModelRejected: the output is not one score per class.
    """
    rest = shape if len(shape) == 1 and batch == 1 else shape[1:]
    known = [dim for dim in rest if dim is not None]
    if rest and len(known) == len(rest) and sum(dim != 1 for dim in known) <= 1:
        return math.prod(known)
    raise ModelRejected(
        f"{name}: output {output} has shape {shape_text(shape)}, a classifier's is batch x classes. "
        "Detection, segmentation and feature models cannot be served",
        output=output,
        shape=shape_text(shape),
    )
