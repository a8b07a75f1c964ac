"""Reduces an ONNX model to one image input and one output of scores, as the manifest chooses.

``output.name`` chooses the scores among several outputs, or names a tensor inside the graph. ``input.constants`` gives
a value to each further input. ``output.features`` keeps an embedding as a second output where one is asked for. What
then leads to no output is dropped. Two kinds of output are read before their last
node, where the same scores are floats: ZipMap's list of maps, and the whole numbers of QuantizeLinear.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from engines.errors import ModelRejected
from engines.package.model_file import subgraphs
from engines.package.signature.base import choices_text
from engines.package.signature.onnx import data_inputs, facts_of, shape_of
from engines.package.specs import Constants

_PACKED = frozenset({"ZipMap", "QuantizeLinear"})


def select(
    model: onnx.ModelProto, *, output: str | None, constants: Constants, name: str, features: str | None = None
) -> None:
    """Reduce ``model`` in place; ``output`` None keeps the only output, or the only one beside ``features``.

    ``features`` becomes the second output. ``name`` is the file's for messages.

    Raises:
        ModelRejected: there is no such input or tensor, or a constant does not fit its input.
    """
    graph = model.graph
    inputs = {value.name: value for value in data_inputs(graph)}
    for place, values in constants:
        if place not in inputs:
            raise ModelRejected(
                f"{name} has no input {place!r} for input.constants, but "
                f"{choices_text(map(facts_of, inputs.values()))}. Correct the name",
                input=place,
            )
        _fix_input(graph, inputs[place], values, name=name)
    others = [value.name for value in graph.output if value.name != features]
    if output is None and not others and features is not None:
        raise ModelRejected(
            f"{name} has the only output {features!r}, but output.features takes it as the embedding, so no scores "
            "are left. Export the model with both, or remove features",
            output=features,
        )
    asked = ("output.features", "--features", features)
    embedding = [] if features is None else [_value_info(model, features, asked=asked, name=name)]
    if output is None and len(others) != 1:
        return  # the caller's check of the signature names the outputs
    wanted = _unpacked(graph, others[0] if output is None else output)
    if [value.name for value in graph.output] != [wanted, *(value.name for value in embedding)]:
        scores = _value_info(model, wanted, asked=("output.name", "--output-name", output), name=name)
        del graph.output[:]
        graph.output.extend([scores, *embedding])
        _drop_unread(graph)


def _fix_input(graph: onnx.GraphProto, source: onnx.ValueInfoProto, values: tuple[float, ...], *, name: str) -> None:
    """Replace the input ``source`` by an initializer; a single value fills the whole input."""
    place = source.name
    # A dynamic dimension is the batch or a size that one value fits.
    shape = tuple(dim or 1 for dim in shape_of(source) or ())
    count = math.prod(shape)
    if len(values) not in {1, count}:
        raise ModelRejected(
            f"{name}: input {place} holds {count} values, but its constant has {len(values)}. Give 1 or {count}",
            input=place,
        )
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(source.type.tensor_type.elem_type)
        fixed = np.asarray(values, np.float64).astype(dtype)
    except (KeyError, TypeError, ValueError) as exc:
        raise ModelRejected(
            f"{name}: input {place} is no tensor of numbers, but a constant is one. Export the model without it",
            input=place,
        ) from exc
    if not np.array_equal(fixed.astype(np.float64), np.asarray(values)) and np.issubdtype(dtype, np.integer):
        raise ModelRejected(
            f"{name}: input {place} takes {dtype}, but its constant is {', '.join(map(str, values))}. Give values of "
            "that type",
            input=place,
        )
    graph.initializer.append(numpy_helper.from_array(np.array(np.broadcast_to(fixed, (count,)).reshape(shape)), place))
    kept = [value for value in graph.input if value.name != place]
    del graph.input[:]
    graph.input.extend(kept)


def _unpacked(graph: onnx.GraphProto, output: str) -> str:
    """The tensor that holds the scores as floats: ``output``, or what its last node packs."""
    maker = _maker(graph, output)
    return str(maker.input[0]) if maker is not None and maker.op_type in _PACKED else output


def _maker(graph: onnx.GraphProto, tensor: str) -> onnx.NodeProto | None:
    return next((node for node in graph.node if tensor in node.output), None)


def _value_info(
    model: onnx.ModelProto, wanted: str, *, asked: tuple[str, str, str | None], name: str
) -> onnx.ValueInfoProto:
    """Type and shape of a tensor of the graph; ``asked``: the manifest's key, the option, and the name given there.

    Raises:
        ModelRejected: there is none of that name, or nothing is known about it.
    """
    graph, (key, option, given) = model.graph, asked
    for node in graph.node:
        if node.op_type == "ZipMap" and wanted in node.input:
            # Shape inference does not know the operators before it; its own labels count the classes.
            classes = max(len(one.ints) or len(one.strings) for one in node.attribute)
            return onnx.helper.make_tensor_value_info(wanted, onnx.TensorProto.FLOAT, ["batch", classes])
    known = [*graph.output, *(_inferred(model).value_info if _maker(graph, wanted) is not None else ())]
    found = next((value for value in known if value.name == wanted), None)
    if found is not None:
        stated = onnx.ValueInfoProto()
        stated.CopyFrom(found)
        return stated
    if _maker(graph, wanted) is not None:
        raise ModelRejected(
            f"{name}: {key} is {given or wanted!r}, but type and shape of that tensor cannot be inferred. Name "
            "one of the outputs, or export the model with it as an output",
            output=wanted,
        )
    raise ModelRejected(
        f"{name} has no output {wanted!r}, but {choices_text(map(facts_of, graph.output))}. Correct the name "
        f"({key}; agent model import: {option})",
        output=wanted,
    )


def _inferred(model: onnx.ModelProto) -> onnx.GraphProto:
    try:
        return onnx.shape_inference.infer_shapes(model).graph
    except (onnx.shape_inference.InferenceError, ValueError):
        return model.graph


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Drop the nodes and constants that no output depends on; nodes are in order, so one pass backwards finds them."""
    needed = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed.update(_read_by(node))
    constants = [tensor for tensor in graph.initializer if tensor.name in needed]
    for field, values in (("node", reversed(kept)), ("initializer", constants)):
        copies = list(values)
        graph.ClearField(field)
        getattr(graph, field).extend(copies)


def _read_by(node: onnx.NodeProto) -> Iterator[str]:
    """Every tensor that a node reads; its subgraphs read outer tensors by name."""
    yield from node.input
    for inner in subgraphs(node):
        yield from (value.name for value in inner.output)
        for one in inner.node:
            yield from _read_by(one)
