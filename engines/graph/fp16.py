"""Converts an fp32 graph to one that computes in fp16 where that is safe; its input and output types stay.

The graph holds the precision, so every engine and every TensorRT version computes the same. What stays in fp32: the
preprocessing before the first layer, the activation after the last one, operators whose intermediate values exceed
fp16's range (65504), operators without an fp16 form, and layers with a weight that does not fit into fp16.
"""

from __future__ import annotations

from collections.abc import MutableSequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "LSTM", "GRU", "RNN")
"""Operators with trained weights that dominate the cost of a model."""

_TAIL = ("Softmax", "LogSoftmax", "Sigmoid", "Cast", "Reshape", "Flatten", "Squeeze", "Identity", "Exp", "Div", "Sub")
_KEPT_OPERATORS = frozenset(
    {
        # Intermediate values leave fp16's range.
        *("Pow", "Exp", "Log", "Sqrt", "Reciprocal", "CumSum", "LRN", "LpNormalization", "MeanVarianceNormalization"),
        *("ReduceSum", "ReduceSumSquare", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"),
        *("LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization"),
        # No fp16 form in some runtime, or inputs of mixed types.
        *("Resize", "Upsample", "Cast", "CastLike", "Range", "RoiAlign", "NonMaxSuppression", "TopK", "OneHot"),
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "RandomNormal", "RandomUniform", "Dropout"),
        *("If", "Loop", "Scan", "ConstantOfShape", "EyeLike", "GridSample", "STFT", "DFT", "Det", "Bernoulli"),
    }
)
_MAX = float(np.finfo(np.float16).max)


def half_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of ``model`` that computes in fp16."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constants_to_initializers(copy.graph)
    types = _element_types(copy)
    return _Converter(copy, types).convert()


def constants_to_initializers(graph: onnx.GraphProto) -> None:
    """Replace every Constant node that holds a tensor or numbers by an initializer."""
    remaining = []
    for node in graph.node:
        array = _constant_value(node) if node.op_type == "Constant" else None
        if array is None:
            remaining.append(node)
        else:
            graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
    del graph.node[:]
    graph.node.extend(remaining)


def edge_nodes(graph: onnx.GraphProto) -> frozenset[int]:
    """Return the positions of the nodes before the first layers and of the activation after the last one."""
    return _head(graph) | _tail(graph)


def _head(graph: onnx.GraphProto) -> frozenset[int]:
    """Nodes between the graph's input and the first layer: cast, colour order, scale, mean, layout."""
    before = {value.name for value in graph.input}
    constants = {tensor.name for tensor in graph.initializer}
    found = set()
    for position, node in enumerate(graph.node):
        read = [name for name in node.input if name and name not in constants]
        if node.op_type not in LAYERS and read and all(name in before for name in read):
            found.add(position)
            before.update(node.output)
    return frozenset(found)


def _tail(graph: onnx.GraphProto) -> frozenset[int]:
    """The cheap nodes at the graph's output."""
    producers = {name: position for position, node in enumerate(graph.node) for name in node.output}
    found = set()
    waiting = [value.name for value in graph.output]
    while waiting:
        position = producers.get(waiting.pop())
        if position is None or position in found or graph.node[position].op_type not in _TAIL:
            continue
        found.add(position)
        waiting.extend(graph.node[position].input)
    return frozenset(found)


def _constant_value(node: onnx.NodeProto) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None:
    for attribute in node.attribute:
        if attribute.name == "value":
            return numpy_helper.to_array(attribute.t)
        if attribute.name in ("value_float", "value_floats"):
            return np.array(helper.get_attribute_value(attribute), np.float32)
        if attribute.name in ("value_int", "value_ints"):
            return np.array(helper.get_attribute_value(attribute), np.int64)
    return None


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.HasField("tensor_type"):
            types[value.name] = value.type.tensor_type.elem_type
    return types


class _Converter:
    """One conversion: walks the nodes in order and casts where fp32 and fp16 meet."""

    def __init__(self, model: onnx.ModelProto, types: dict[str, int]) -> None:
        self._model = model
        self._graph = model.graph
        self._types = types
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._half: set[str] = set()  # tensors that were fp32 and are fp16 now
        self._casts: dict[tuple[str, int], str] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._new_weights: list[onnx.TensorProto] = []

    def convert(self) -> onnx.ModelProto:
        edges = edge_nodes(self._graph)
        for position, node in enumerate(self._graph.node):
            is_half = position not in edges and self._can_be_half(node)
            wanted = TensorProto.FLOAT16 if is_half else TensorProto.FLOAT
            for index, name in enumerate(node.input):
                if self._types.get(name) == TensorProto.FLOAT:
                    node.input[index] = self._as(name, wanted)
            self._nodes.append(node)
            if is_half:
                self._half.update(name for name in node.output if self._types.get(name) == TensorProto.FLOAT)
        self._restore_outputs()
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        self._graph.initializer.extend(self._new_weights)
        self._drop_unused()
        return self._model

    def _can_be_half(self, node: onnx.NodeProto) -> bool:
        if node.domain not in ("", "ai.onnx") or node.op_type in _KEPT_OPERATORS:
            return False
        names = [name for name in (*node.input, *node.output) if name]
        # Shape inference does not know this operator: in fp16 its types might no longer fit together.
        if any(name not in self._types for name in names):
            return False
        floats = [name for name in node.input if self._types.get(name) == TensorProto.FLOAT]
        return bool(floats) and all(self._fits(name) for name in floats if name in self._weights)

    def _fits(self, name: str) -> bool:
        values = numpy_helper.to_array(self._weights[name])
        return values.size == 0 or bool(np.abs(values).max() <= _MAX)

    def _as(self, name: str, wanted: int) -> str:
        """Return the tensor's name in the wanted type; the first time add a cast, or convert the weight."""
        is_half = name in self._half
        if is_half == (wanted == TensorProto.FLOAT16):
            return name
        key = (name, wanted)
        if key not in self._casts:
            made = f"{name}__{'half' if wanted == TensorProto.FLOAT16 else 'float'}"
            self._casts[key] = made
            if name in self._weights:
                values = numpy_helper.to_array(self._weights[name]).astype(np.float16)
                self._new_weights.append(numpy_helper.from_array(values, made))
            else:
                self._nodes.append(helper.make_node("Cast", [name], [made], name=f"cast_{made}", to=wanted))
        return self._casts[key]

    def _restore_outputs(self) -> None:
        for name in (value.name for value in self._graph.output):
            if name not in self._half:
                continue
            # The output keeps its name and its type, so the fp16 tensor gets another name and a cast back.
            inner = f"{name}__inner"
            for node in self._nodes:
                _rename(node.input, name, inner)
                _rename(node.output, name, inner)
            self._nodes.append(helper.make_node("Cast", [inner], [name], name=f"cast_{name}", to=TensorProto.FLOAT))

    def _drop_unused(self) -> None:
        used = {name for node in self._graph.node for name in _read_names(node)}
        used.update(value.name for value in self._graph.output)
        weights = [tensor for tensor in self._graph.initializer if tensor.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(weights)
        del self._graph.value_info[:]


def _rename(names: MutableSequence[str], old: str, new: str) -> None:
    for index, name in enumerate(names):
        if name == old:
            names[index] = new


def _read_names(node: onnx.NodeProto) -> set[str]:
    """Every outer tensor that a node reads, including in its subgraphs."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
            for inner in graph.node:
                names |= _read_names(inner)
    return names
