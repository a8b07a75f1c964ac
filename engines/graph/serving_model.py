"""Builds the fp32 serving graph: the package's model with its preprocessing and its missing activation inside."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto, helper, version_converter

from engines.base import FEATURES_NAME, INPUT_NAME, OUTPUT_NAME
from engines.errors import ModelRejected
from engines.graph.batch_dimension import fix_batch, free_batch
from engines.graph.preprocessing import PREFIX, features_chain, input_chain, output_chain, takes_float
from engines.package.load import ModelPackage, check_sha256
from engines.package.model_file import check_model, opset_of, read_onnx, subgraphs
from engines.package.signature.onnx import data_inputs, set_shape, shape_of
from engines.package.signature.selection import select

MIN_OPSET = 7
# From IR 4 on initializers may be constants. IR 11 and later only added types that no classifier here uses, and older
# runtimes reject the version number.
_IR_VERSIONS = (4, 10)


def parsed(content: bytes) -> onnx.ModelProto:
    """The serving graph ``content``, which this program has written."""
    return onnx.load_model_from_string(content)


def max_batch_of(model: onnx.ModelProto) -> int | None:
    """Return the batch size that a serving graph is fixed to, None if it is dynamic."""
    shape = shape_of(model.graph.input[0])
    return shape[0] if shape else None


def build_serving_model(package: ModelPackage) -> onnx.ModelProto:
    """Build the fp32 serving graph of ``package`` in memory.

    Raises:
        ModelRejected: the model cannot be served.
    """
    if package.format != "onnx":
        raise ModelRejected(
            f"{package.title} is a torch.export program, but a serving graph is made from ONNX. "
            "Use engine: torch, or export the model to ONNX",
            format=package.format,
        )
    model, found = read_onnx(package.model_path, root=package.directory, max_bytes=package.max_file_bytes)
    check_sha256(found, package.sha256, path=package.model_path)
    name = package.title
    features = package.output.features if package.gives_features else None
    select(model, output=package.output.name, constants=package.input.constants, name=name, features=features)
    model = _with_known_opset(model, name=name)
    _make_room(model)
    _fuse(model, package)
    check_model(model, name=f"serving graph of {name}")
    signature = package.signature
    # Without a batch dimension at one end a run is of one image only.
    has_batch = signature.has_batch_axis and len(signature.output_shape) > 1
    free = free_batch(model, package) if has_batch else None
    return free if free is not None else fix_batch(model, package)


def _with_known_opset(model: onnx.ModelProto, *, name: str) -> onnx.ModelProto:
    """Raise ``model`` to the oldest opset that runtimes still accept."""
    opset = opset_of(model)
    if opset < MIN_OPSET:
        try:
            model = version_converter.convert_version(model, MIN_OPSET)
        except (RuntimeError, ValueError, onnx.checker.ValidationError) as exc:
            raise ModelRejected(
                f"{name} has opset {opset}, but runtimes take {MIN_OPSET} and later, and it cannot be raised: {exc}. "
                "Export the model again",
                opset=opset,
            ) from exc
    model.ir_version = min(max(model.ir_version, _IR_VERSIONS[0]), _IR_VERSIONS[1])
    return model


def _make_room(model: onnx.ModelProto) -> None:
    """Drop initializers from the inputs; rename tensors that clash with ours."""
    feeds = data_inputs(model.graph)
    del model.graph.input[:]
    model.graph.input.extend(feeds)
    _rename(model.graph, _Renaming())


class _Renaming(dict[str, str]):
    """Maps names that the serving graph needs itself to free ones."""

    def __missing__(self, name: str) -> str:
        return f"model/{name}" if name in {INPUT_NAME, OUTPUT_NAME} or name.startswith(PREFIX) else name


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename tensors in ``graph`` and its subgraphs (names are unique across both)."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = names[value.name]
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    for sparse in graph.sparse_initializer:
        sparse.values.name = names[sparse.values.name]
    for annotation in graph.quantization_annotation:
        annotation.tensor_name = names[annotation.tensor_name]
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = names[name]
        for place, name in enumerate(node.output):
            node.output[place] = names[name]
        for inner in subgraphs(node):
            _rename(inner, names)


def _fuse(model: onnx.ModelProto, package: ModelPackage) -> None:
    """Add the nodes before and after the model; its batch dimension stays as it is."""
    graph, signature, opset = model.graph, package.signature, opset_of(model)
    source, target = graph.input[0], graph.output[0]
    before = input_chain(
        package.input, signature, source.name, opset=opset, takes_float=takes_float(graph, source.name)
    )
    behind = output_chain(
        target.name,
        signature,
        package.output.activation,
        opset=opset,
        is_float32=target.type.tensor_type.elem_type == TensorProto.FLOAT,
    )
    chains = [behind, *(features_chain(value, signature.features, opset=opset) for value in graph.output[1:])]
    nodes = [*before.nodes, *graph.node, *(node for chain in chains for node in chain.nodes)]
    graph.ClearField("node")
    graph.node.extend(nodes)
    graph.initializer.extend([*before.initializers, *(one for chain in chains for one in chain.initializers)])
    batch = signature.batch if signature.batch is not None else "batch"
    images = helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, [])
    set_shape(images, (batch, signature.height, signature.width, 3))
    scores = helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, [])
    set_shape(scores, (batch, signature.classes))
    outputs = [scores]
    if package.gives_features:
        outputs.append(helper.make_tensor_value_info(FEATURES_NAME, TensorProto.FLOAT, []))
        set_shape(outputs[1], (batch, signature.features))
    for field, values in (("input", [images]), ("output", outputs)):
        graph.ClearField(field)
        getattr(graph, field).extend(values)
    # The shapes in it are for the model's own batch size and dynamic sides.
    graph.ClearField("value_info")
    graph.doc_string = f"{package.name} {package.version}"
    helper.set_model_props(model, {"model": package.name, "version": package.version, "sha256": package.sha256})
