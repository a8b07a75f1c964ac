"""The signature of an ONNX model (input, layout, dtype, batch, classes), checked against the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx

from engines.errors import ModelRejected
from engines.package.signature.base import (
    Shape,
    TensorFacts,
    image_rank,
    layout_of,
    shape_text,
    signature_from,
    the_input,
    the_output,
)
from engines.package.specs import InputSpec, Layout, ModelSignature


def data_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs to feed; up to IR version 3 initializers are listed as inputs too."""
    fixed = {tensor.name for tensor in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
    return [value for value in graph.input if value.name not in fixed]


def shape_of(value: onnx.ValueInfoProto) -> Shape | None:
    """Return the shape, with None for dynamic dimensions; None if the model does not state one."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    # Some exporters write 0 or -1 for a dynamic dimension.
    dims = tensor.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in dims)


def set_shape(value: onnx.ValueInfoProto, dims: Sequence[int | str]) -> None:
    """Set the shape of ``value`` to ``dims``; a string is a symbolic dimension."""
    tensor = value.type.tensor_type
    tensor.ClearField("shape")
    tensor.shape.SetInParent()
    for dim in dims:
        entry = tensor.shape.dim.add()
        if isinstance(dim, str):
            entry.dim_param = dim
        else:
            entry.dim_value = dim


def onnx_signature(model: onnx.ModelProto, spec: InputSpec, *, name: str) -> ModelSignature:
    """Return the model's signature, checked against ``spec``, which also fixes dynamic height, width and channels.

    Raises:
        ModelRejected: several inputs or outputs, no image input, another size or channel count than ``spec``, or an
            output that is not one score per class.
    """
    graph = model.graph
    source = the_input([_facts(value) for value in data_inputs(graph)], name=name)
    target = the_output([_facts(value) for value in graph.output], name=name)
    layout = layout_of(source, spec, fallback=_layout_by_use(graph, source.name), name=name)
    if target.shape is None or None in target.shape[1:]:
        inferred = _inferred_output_shape(model, source, target.name, layout, spec)
        target = replace(target, shape=inferred or target.shape)
    return signature_from(source, target, layout, spec, name=name)


def image_shape(model: onnx.ModelProto, *, name: str) -> tuple[Layout, Shape]:
    """Return layout and ``(height, width, channels)`` of the model's input, without a manifest.

    Raises:
        ModelRejected: no single image input, or the layout is ambiguous.
    """
    source = the_input([_facts(value) for value in data_inputs(model.graph)], name=name)
    _, a, b, c = image_rank(source, name=name)
    if a in {1, 3} and c not in {1, 3}:
        return "NCHW", (b, c, a)
    if c in {1, 3} and a not in {1, 3}:
        return "NHWC", (a, b, c)
    if a is None and c is None:
        layout = _layout_by_use(model.graph, source.name)
        return layout, (b, None, None) if layout == "NCHW" else (None, b, None)
    raise ModelRejected(
        f"{name}: input {source.name} has shape {shape_text(source.shape)}, but an image input has 1 or 3 channels at "
        "one end of it",
        input=source.name,
        shape=shape_text(source.shape),
    )


def _facts(value: onnx.ValueInfoProto) -> TensorFacts:
    return TensorFacts(value.name, _dtype_name(value.type.tensor_type.elem_type), shape_of(value))


def _dtype_name(element: int) -> str:
    try:
        return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element)).name)
    except (KeyError, TypeError):
        return "no tensor"


def _layout_by_use(graph: onnx.GraphProto, source: str) -> Layout:
    """Decide an ambiguous layout: a model that first moves its last axis forward takes NHWC."""
    for node in graph.node:
        if source in node.input and node.op_type == "Transpose":
            perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), [])
            # Converters from TensorFlow insert this: its images are NHWC, and ONNX convolutions compute in NCHW.
            if perm == [0, 3, 1, 2]:
                return "NHWC"
    return "NCHW"


def _inferred_output_shape(
    model: onnx.ModelProto, source: TensorFacts, target: str, layout: Layout, spec: InputSpec
) -> Shape | None:
    """Infer the output's shape from an input of the manifest's size."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    pixels = (spec.channels, spec.height, spec.width) if layout == "NCHW" else (spec.height, spec.width, spec.channels)
    batch = source.shape[0] if source.shape and source.shape[0] is not None else "batch"
    for value in fixed.graph.input:
        if value.name == source.name:
            set_shape(value, (batch, *pixels))
    # Stated shapes belong to the exported input size and would contradict the one set above.
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    del fixed.graph.value_info[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError):
        return None
    return next((shape_of(value) for value in inferred.graph.output if value.name == target), None)
