"""The nodes before and after a model: from uint8 BGR images to its input, from its output to probabilities.

Only operators with one meaning from opset 7 on. The cast comes first, because TensorRT accepts uint8 only into a cast,
and has no uint8 inside a network. Source: TensorRT developer guide, "Types and Precision"; NVIDIA/TensorRT issue 3985.
The arithmetic is per plane (NCHW): ONNX Runtime's CPU provider takes 0.1 ms for 224x224, and 1.2 ms in NHWC.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from engines.base import FEATURES_NAME, INPUT_NAME, OUTPUT_NAME
from engines.package.model_file import subgraphs
from engines.package.specs import Activation, InputSpec, ModelSignature

PREFIX = "serving/"
"""What the names of all added nodes and tensors begin with, but for the input's and the output's."""

# OpenCV's own weights for 8 bits, B G R. Fractions of 2**15, so that float32 and even TF32 sums are exact.
# Source: opencv/modules/imgproc/src/color.hpp (B2Y, G2Y, R2Y with gray_shift 15).
GRAY_BGR = (3735 / 32768, 19235 / 32768, 9798 / 32768)

_ELEMENT = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}
_AXES_AS_INPUT = 13  # from this opset on ReduceSum takes its axes as an input
_MATRIX_RANK = 2
# What only moves values takes any type.
_MOVING = frozenset({"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice", "Gather"})


class Chain:
    """A chain of nodes: each reads the output of the one before."""

    def __init__(self, value: str, *, opset: int) -> None:
        self.value = value
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def add(self, op: str, *constants: npt.NDArray[np.generic], label: str, **attributes: Any) -> None:
        """Append a node; ``constants`` are its further inputs."""
        inputs = [self.value]
        for place, constant in enumerate(constants):
            inputs.append(f"{PREFIX}{label}.{place}")
            self.initializers.append(numpy_helper.from_array(constant, inputs[-1]))
        self.value = PREFIX + label
        self.nodes.append(helper.make_node(op, inputs, [self.value], name=self.value, **attributes))

    def end(self, name: str) -> None:
        """Rename the last value to ``name``."""
        if self.nodes:
            self.nodes[-1].output[0] = name
        else:
            self.nodes.append(helper.make_node("Identity", [self.value], [name], name=PREFIX + "identity"))
        self.value = name


def input_chain(
    spec: InputSpec, signature: ModelSignature, target: str, *, opset: int, takes_float: bool = False
) -> Chain:
    """Return the nodes from ``images``, uint8 ``(N, H, W, 3)`` BGR, to the model's input ``target``.

    ``takes_float``: see there; a uint8 model then gets its whole numbers in float32.
    """
    chain = Chain(INPUT_NAME, opset=opset)
    chain.add("Cast", label="cast", to=TensorProto.FLOAT)
    chain.add("Transpose", label="planes", perm=[0, 3, 1, 2])
    if spec.color == "rgb":
        chain.add("Gather", np.array([2, 1, 0], np.int64), label="color", axis=1)
    elif spec.color == "gray":
        _add_gray(chain)
    if signature.dtype != "uint8":
        _add_normalisation(chain, spec)
    if signature.layout == "NHWC":
        chain.add("Transpose", label="layout", perm=[0, 2, 3, 1])
    if signature.dtype != "float32" and not (signature.dtype == "uint8" and takes_float):
        chain.add("Cast", label="dtype", to=_ELEMENT[signature.dtype])
    if not signature.has_batch_axis:
        pixels = (signature.channels, signature.height, signature.width)
        sides = pixels if signature.layout == "NCHW" else (*pixels[1:], pixels[0])
        chain.add("Reshape", np.array(sides, np.int64), label="image")
    chain.end(target)
    return chain


def takes_float(graph: onnx.GraphProto, name: str) -> bool:
    """Whether a model's uint8 input ``name`` is cast before anything computes with it.

    Such a model gives the same scores for the same whole numbers in float32, and needs no uint8 inside.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for value in set(node.input):
            readers.setdefault(value, []).append(node)
    # A subgraph may read a value by name as well: then nothing is known about it.
    if any(True for node in graph.node for _ in subgraphs(node)):
        return False
    waiting, outputs = [name], {value.name for value in graph.output}
    while waiting:
        value = waiting.pop()
        if value in outputs:
            return False
        for node in readers.get(value, []):
            if node.op_type in _MOVING and list(node.input).count(value) == 1 and node.input[0] == value:
                waiting += node.output
            elif node.op_type != "Cast" or any(one.i == TensorProto.UINT8 for one in node.attribute):
                return False
    return True


def output_chain(
    value: str, signature: ModelSignature, activation: Activation, *, opset: int, is_float32: bool
) -> Chain:
    """Return the nodes from the model's output to ``scores``, float32 ``(N, classes)`` probabilities."""
    chain = Chain(value, opset=opset)
    if not is_float32:
        chain.add("Cast", label="float32", to=TensorProto.FLOAT)
    rank = len(signature.output_shape)
    if signature.class_axis is not None:
        axes = [axis for axis in range(rank) if axis != signature.class_axis]
        chain.add("Transpose", label="classes", perm=[*axes, signature.class_axis])
        chain.add("Reshape", np.array([-1, signature.classes], np.int64), label="rows")
    elif rank < _MATRIX_RANK:
        chain.add("Reshape", np.array([1, -1], np.int64), label="batch")
    elif rank > _MATRIX_RANK:
        chain.add("Flatten", label="flatten", axis=1)
    if activation == "softmax":
        chain.add("Softmax", label="softmax", axis=1)
    elif activation == "sigmoid":
        chain.add("Sigmoid", label="sigmoid")
    chain.end(OUTPUT_NAME)
    return chain


def features_chain(value: onnx.ValueInfoProto, length: int, *, opset: int) -> Chain:
    """Return the nodes from the model's tensor ``value`` to the embeddings, float32 ``(N, length)``."""
    chain = Chain(value.name, opset=opset)
    if value.type.tensor_type.elem_type != TensorProto.FLOAT:
        chain.add("Cast", label="features.float32", to=TensorProto.FLOAT)
    chain.add("Reshape", np.array([-1, length], np.int64), label="features.rows")
    chain.end(FEATURES_NAME)
    return chain


def _add_gray(chain: Chain) -> None:
    """Convert to gray as an 8-bit gray image has it: weighted and rounded to integers."""
    chain.add("Mul", np.array(GRAY_BGR, np.float32).reshape(3, 1, 1), label="weights")
    if chain.opset >= _AXES_AS_INPUT:
        chain.add("ReduceSum", np.array([1], np.int64), label="gray", keepdims=1)
    else:
        chain.add("ReduceSum", label="gray", axes=[1], keepdims=1)
    chain.add("Add", np.array(0.5, np.float32), label="half")
    chain.add("Floor", label="round")


def _add_normalisation(chain: Chain, spec: InputSpec) -> None:
    """``(v * scale - mean) / std`` as one product and one sum."""
    std = np.asarray(spec.std, np.float64)
    factor = _plane_constant(spec.scale / std)
    shift = _plane_constant(-np.asarray(spec.mean, np.float64) / std)
    if np.any(factor != 1):
        chain.add("Mul", factor, label="factor")
    if np.any(shift != 0):
        chain.add("Add", shift, label="shift")


def _plane_constant(values: Sequence[float] | npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    return np.asarray(values, np.float32).reshape(-1, 1, 1)
