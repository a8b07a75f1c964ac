"""The signature of an ONNX model (input, layout, dtype, batch, classes), checked against the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx

from engines.package.signature.base import (
    ImageInput,
    Shape,
    TensorFacts,
    embedding_length,
    image_input,
    image_rank,
    layout_of,
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


def onnx_signature(
    model: onnx.ModelProto,
    spec: InputSpec,
    *,
    name: str,
    class_axis: int | None = None,
    features: str | None = None,
) -> ModelSignature:
    """Return the model's signature, checked against ``spec``, which also fixes dynamic height, width and channels.

    ``features``: the output with the embedding, see ``select``.

    Raises:
        ModelRejected: several inputs or outputs, no image input, another size or channel count than ``spec``, an
            output that is not one score per class, or an embedding that is not one vector per image.
    """
    graph = model.graph
    source = the_input([facts_of(value) for value in data_inputs(graph)], name=name)
    outputs = [facts_of(value) for value in graph.output]
    target = the_output([one for one in outputs if one.name != features], name=name)
    layout = layout_of(source, spec, fallback=_layout_by_use(graph, source.name), name=name)

    def known(output: TensorFacts) -> TensorFacts:
        if output.shape is not None and None not in output.shape[1:]:
            return output
        return replace(output, shape=_inferred_output_shape(model, source, output.name, layout, spec) or output.shape)

    signature = signature_from(source, known(target), layout, spec, name=name, class_axis=class_axis)
    embedding = next((known(one) for one in outputs if one.name == features), None)
    if embedding is None:
        return signature
    return replace(signature, features=embedding_length(embedding, batch=signature.batch, name=name))


def onnx_image_input(model: onnx.ModelProto, *, name: str, features: str | None = None) -> ImageInput:
    """Return what the model takes, without a manifest; ``features``: the output with the embedding, see ``select``.

    Raises:
        ModelRejected: no single image input and output of scores, or the layout is ambiguous.
    """
    source = the_input([facts_of(value) for value in data_inputs(model.graph)], name=name)
    the_output([facts_of(value) for value in model.graph.output if value.name != features], name=name)
    return image_input(source, fallback=_layout_by_use(model.graph, source.name), name=name)


def facts_of(value: onnx.ValueInfoProto) -> TensorFacts:
    """Return name, type and shape of an input or output."""
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
    first = image_rank(source, name=target)[0]
    batch = "batch" if first is None else first
    for value in fixed.graph.input:
        if value.name == source.name:
            set_shape(value, pixels if len(source.shape or ()) == len(pixels) else (batch, *pixels))
    # Stated shapes belong to the exported input size and would contradict the one set above.
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    del fixed.graph.value_info[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError):
        return None
    return next((shape_of(value) for value in inferred.graph.output if value.name == target), None)
