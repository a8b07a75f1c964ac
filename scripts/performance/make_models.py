"""Makes packages of well-known architectures with random weights, only for measuring speed."""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

_SIDE = 224
_CLASSES = 1000
_OPSET = 17
_IMAGES = 24
# Expansion, channels, blocks, stride. Source: Sandler et al., MobileNetV2, table 2.
_MOBILENET = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
# Channels, stride of the first block. Source: He et al., Deep Residual Learning, table 1.
_RESNET = ((64, 1), (128, 2), (256, 2), (512, 2))
_BLOCKS_18, _BLOCKS_34 = (2, 2, 2, 2), (3, 4, 6, 3)


@dataclass(slots=True)
class Graph:
    """A graph that grows layer by layer; batch normalisation counts as folded into the convolutions."""

    random: np.random.Generator
    classes: int = _CLASSES
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def convolution(
        self, source: str, channels: tuple[int, int], *, kernel: int, stride: int = 1, groups: int = 1
    ) -> str:
        """Add a convolution; ``channels`` are input and output channels."""
        fan_in = channels[0] // groups * kernel * kernel
        shape = (channels[1], channels[0] // groups, kernel, kernel)
        weight = self._weight(self.random.normal(0, math.sqrt(2 / fan_in), shape))
        bias = self._weight(self.random.normal(0, 0.05, channels[1]))
        return self.node(
            "Conv",
            [source, weight, bias],
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2] * 4,
            group=groups,
        )

    def clip6(self, source: str) -> str:
        """Add ReLU6."""
        low, high = self._weight(np.float32(0)), self._weight(np.float32(6))
        return self.node("Clip", [source, low, high])

    def classify(self, source: str, channels: int) -> str:
        """Add the mean over the image and a score for each class."""
        pooled = self.node("Flatten", [self.node("GlobalAveragePool", [source])])
        weight = self._weight(self.random.normal(0, math.sqrt(1 / channels), (self.classes, channels)))
        return self.node("Gemm", [pooled, weight, self._weight(np.zeros(self.classes))], transB=1)

    def node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        """Add one node; return the name of its output."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def finish(self, output: str, name: str) -> onnx.ModelProto:
        """Return the model, with a dynamic batch dimension."""
        self.nodes[-1].output[0] = "logits"
        if self.nodes[-1].name != output:
            raise ValueError(f"{output} is not the last node")
        images = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, _SIDE, _SIDE])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", self.classes])
        graph = helper.make_graph(self.nodes, name, [images], [logits], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
        onnx.checker.check_model(model)
        return model

    def _weight(self, values: npt.ArrayLike) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name


def mobilenet() -> onnx.ModelProto:
    """The architecture of MobileNetV2, width 1.0."""
    # With most seeds the best two classes of some images are so close that int8 swaps them and is refused.
    graph = Graph(np.random.default_rng(3))
    at = graph.clip6(graph.convolution("input", (3, 32), kernel=3, stride=2))
    channels = 32
    for expansion, wanted, blocks, first_stride in _MOBILENET:
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            at = _inverted_residual(graph, at, (channels, wanted), expansion, stride)
            channels = wanted
    at = graph.clip6(graph.convolution(at, (channels, 1280), kernel=1))
    return graph.finish(graph.classify(at, 1280), "mobilenet")


def resnet(blocks: Sequence[int] = _BLOCKS_18) -> onnx.ModelProto:
    """The architecture of ResNet-18, or of another ResNet of basic ``blocks``."""
    graph = Graph(np.random.default_rng(18))
    at = graph.node("Relu", [graph.convolution("input", (3, 64), kernel=7, stride=2)])
    at = graph.node("MaxPool", [at], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for (wanted, first_stride), count in zip(_RESNET, blocks, strict=True):
        for stride in (first_stride, *[1] * (count - 1)):
            at = _basic_block(graph, at, (channels, wanted), stride)
            channels = wanted
    return graph.finish(graph.classify(at, 512), "resnet")


def resnet34() -> onnx.ModelProto:
    """The architecture of ResNet-34."""
    return resnet(_BLOCKS_34)


def small_classifier(classes: int) -> onnx.ModelProto:
    """Two convolutions and a score for each of ``classes``."""
    graph = Graph(np.random.default_rng(5), classes)
    at = graph.node("Relu", [graph.convolution("input", (3, 16), kernel=7, stride=4)])
    at = graph.node("Relu", [graph.convolution(at, (16, 64), kernel=3, stride=2)])
    return graph.finish(graph.classify(at, 64), "small")


MODELS: Mapping[str, Callable[[], onnx.ModelProto]] = MappingProxyType(
    {"mobilenet": mobilenet, "resnet": resnet, "resnet34": resnet34}
)


def _inverted_residual(graph: Graph, source: str, channels: tuple[int, int], expansion: int, stride: int) -> str:
    inner = channels[0] * expansion
    at = source
    if expansion > 1:
        at = graph.clip6(graph.convolution(at, (channels[0], inner), kernel=1))
    at = graph.clip6(graph.convolution(at, (inner, inner), kernel=3, stride=stride, groups=inner))
    at = graph.convolution(at, (inner, channels[1]), kernel=1)
    return graph.node("Add", [source, at]) if stride == 1 and channels[0] == channels[1] else at


def _basic_block(graph: Graph, source: str, channels: tuple[int, int], stride: int) -> str:
    at = graph.node("Relu", [graph.convolution(source, channels, kernel=3, stride=stride)])
    at = graph.convolution(at, (channels[1], channels[1]), kernel=3)
    if stride > 1 or channels[0] != channels[1]:
        source = graph.convolution(source, channels, kernel=1, stride=stride)
    return graph.node("Relu", [graph.node("Add", [source, at])])


def write_package(model: onnx.ModelProto, name: str, folder: Path, *, classes: int = _CLASSES) -> Path:
    """Write a package with synthetic calibration images below ``folder``; return its directory."""
    return write_model(model.SerializeToString(), "model.onnx", name, folder, classes=classes)


def write_model(data: bytes, file: str, name: str, folder: Path, *, classes: int = _CLASSES) -> Path:
    """The same for the bytes of a model in any format; ``file`` is its name in the package."""
    package = folder / f"{name}-1.0.0"
    (package / "calibration").mkdir(parents=True, exist_ok=True)
    (package / file).write_bytes(data)
    (package / "labels.txt").write_text("".join(f"class {n}\n" for n in range(classes)), encoding="utf-8")
    for number in range(_IMAGES):
        cv2.imwrite(str(package / "calibration" / f"{number:02}.png"), _image(number))
    (package / "model.yaml").write_text(
        f"# Random weights: only for measuring speed. Made by scripts/performance/make-models.\n"
        f"name: {name}\nversion: 1.0.0\nfile: {file}\nsha256: {hashlib.sha256(data).hexdigest()}\n"
        f"input:\n  width: {_SIDE}\n  height: {_SIDE}\n  color: rgb\n  resize: stretch\n  interpolation: linear\n"
        "  scale: 0.00392156862745098\n  mean: [0.485, 0.456, 0.406]\n  std: [0.229, 0.224, 0.225]\n"
        "output:\n  activation: softmax\nlabels: {file: labels.txt}\ncalibration: calibration/\nlicense: Apache-2.0\n",
        encoding="utf-8",
    )
    return package


def _image(number: int) -> npt.NDArray[np.uint8]:
    """Blurred noise on a gradient, so that no layer sees constant input."""
    random = np.random.default_rng(100 + number)
    noise = cv2.GaussianBlur(random.uniform(0, 255, (_SIDE, _SIDE, 3)).astype(np.float32), (0, 0), 1 + number % 7)
    slope = np.linspace(-1, 1, _SIDE, dtype=np.float32)[:, None, None] * random.uniform(-90, 90, 3).astype(np.float32)
    stretched = (noise - noise.mean()) / (noise.std() + 1e-6) * 45 + 128 + slope
    image: npt.NDArray[np.uint8] = np.clip(stretched, 0, 255).astype(np.uint8)
    return image


def main() -> None:
    """Write the requested packages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=sorted(MODELS))
    given = parser.parse_args()
    for name, make in MODELS.items():
        if given.only in (None, name):
            print(write_package(make(), name, given.folder))


if __name__ == "__main__":
    main()
