"""What in an ONNX graph changes its answers without an error: nodes in training mode, and int8 that it already has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx
from onnx import numpy_helper

from engines.errors import ModelRejected
from engines.package.model_file import opset_of, subgraphs

_STATES_TRAINING = 14
"""From this opset on BatchNormalization states training_mode; before, its further outputs are those of training."""

_QUANTISED = ("QLinear", "QuantizeLinear", "DequantizeLinear", "Integer", "DynamicQuantize")
_QUANTISED_WHOLE = frozenset({"QGemm", "QAttention", "MatMulNBits"})


def check_inference_mode(model: onnx.ModelProto, *, name: str) -> None:
    """Refuse a graph that computes as in training.

    A BatchNormalization in training mode takes mean and variance from the images of one call, so the scores of an
    image depend on the others; a Dropout in training mode makes them random. TensorRT takes neither.

    Raises:
        ModelRejected: with the node.
    """
    opset = opset_of(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in _nodes(model.graph):
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
        if node.domain in {"", "ai.onnx"} and _is_training(node, opset, constants):
            raise ModelRejected(
                f"{name}: {node.op_type} {node.name or node.output[0]!r} is in training mode, so the scores of an "
                "image depend on chance or on the others in its batch, but a served model computes as in inference. "
                "Export it again after model.eval()",
                node=node.name,
            )


def quantised_operators(model: onnx.ModelProto) -> int:
    """Return how many operators compute or convert to whole numbers; 0 for a model that is not quantised."""
    kinds = Counter(node.op_type for node in _nodes(model.graph))
    return sum(
        count for kind, count in kinds.items() if kind in _QUANTISED_WHOLE or any(part in kind for part in _QUANTISED)
    )


def _is_training(node: onnx.NodeProto, opset: int, constants: dict[str, onnx.TensorProto]) -> bool:
    if node.op_type == "BatchNormalization":
        if opset >= _STATES_TRAINING:
            return any(one.name == "training_mode" and one.i for one in node.attribute)
        return sum(1 for output in node.output if output) > 1
    if node.op_type == "Dropout" and len(node.input) > 2:
        mode = constants.get(node.input[2])
        return mode is not None and bool(numpy_helper.to_array(mode).any())
    return False


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from _nodes(inner)
