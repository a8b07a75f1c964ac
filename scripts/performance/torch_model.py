"""Converts a package of make-models into a package with a torch.export program.

python -m scripts.performance.torch_model PACKAGE FOLDER     needs PyTorch; knows the operators of those models only
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

from scripts.performance.make_models import write_model


def program_of(model: onnx.ModelProto) -> bytes:
    """Return the archive of the same computation, for any batch size.

    Raises:
        KeyError: a node that the made shapes do not have.
    """
    import torch

    weights = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in model.graph.initializer}
    nodes = [
        (
            node.op_type,
            list(node.input),
            node.output[0],
            {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute},
        )
        for node in model.graph.node
    ]

    class Replayed(torch.nn.Module):  # type: ignore[misc] # the library has no types here
        def __init__(self) -> None:
            super().__init__()
            for name, value in weights.items():
                self.register_buffer(name, value)

        def forward(self, image: Any) -> Any:
            values = {model.graph.input[0].name: image, **dict(self.named_buffers())}
            for kind, inputs, output, attributes in nodes:
                values[output] = _KINDS[kind](torch, [values[name] for name in inputs], attributes)
            return values[model.graph.output[0].name]

    shape = [2, *(one.dim_value for one in model.graph.input[0].type.tensor_type.shape.dim[1:])]
    batch = {"image": {0: torch.export.Dim("batch", min=1, max=64)}}
    program = torch.export.export(Replayed().eval(), (torch.zeros(shape),), dynamic_shapes=batch)
    archive = io.BytesIO()
    torch.export.save(program, archive)
    return archive.getvalue()


def _convolution(torch: Any, given: list[Any], attributes: dict[str, Any]) -> Any:
    stride, padding, groups = attributes["strides"], attributes["pads"][:2], attributes["group"]
    return torch.nn.functional.conv2d(*given, stride=tuple(stride), padding=tuple(padding), groups=groups)


def _pool(torch: Any, given: list[Any], attributes: dict[str, Any]) -> Any:
    size, stride, padding = attributes["kernel_shape"], attributes["strides"], attributes["pads"][:2]
    return torch.nn.functional.max_pool2d(given[0], tuple(size), tuple(stride), tuple(padding))


_KINDS: dict[str, Any] = {
    "Conv": _convolution,
    "MaxPool": _pool,
    "Relu": lambda torch, given, _: torch.relu(given[0]),
    "Clip": lambda torch, given, _: torch.nn.functional.relu6(given[0]),
    "Add": lambda _torch, given, _: given[0] + given[1],
    "GlobalAveragePool": lambda _torch, given, _: given[0].mean(dim=(2, 3), keepdim=True),
    "Flatten": lambda torch, given, _: torch.flatten(given[0], 1),
    "Gemm": lambda torch, given, _: torch.nn.functional.linear(given[0], given[1], given[2]),
}


def main() -> None:
    """Write the package and print its directory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    model = onnx.load(given.package / "model.onnx")
    name = f"{model.graph.name}-torch"
    print(write_model(program_of(model), "model.pt2", name, given.folder))


if __name__ == "__main__":
    main()
