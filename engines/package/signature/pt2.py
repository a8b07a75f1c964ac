"""The signature of a torch.export archive (.pt2), read without torch and without unpickling.

Source: torch/export/pt2_archive/constants.py (models/<name>.json in a zip); torch/_export/serde/schema.py (dtype
numbers, graph signature); torch/utils/_pytree.py (treespec_dumps). Archives of torch before 2.8 hold
serialized_exported_program.json with the same content.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.errors import ModelRejected
from engines.package.signature.base import (
    ImageInput,
    Shape,
    TensorFacts,
    choices_text,
    image_input,
    layout_of,
    signature_from,
    the_input,
    the_output,
)
from engines.package.specs import Constants, InputSpec, ModelSignature

_PROGRAM = re.compile(r"(?:[^/]+/)?(?:models/[^/]+\.json|serialized_exported_program\.json)\Z")
_MAX_PROGRAM_BYTES = 256 << 20
_DTYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
           12: "bool", 13: "bfloat16"}  # fmt: skip

_OPERATION = re.compile(r"torch\.ops\.aten\.(?P<name>\w+)")
_ENDS = {
    "softmax": "Softmax", "_softmax": "Softmax", "special_softmax": "Softmax", "sigmoid": "Sigmoid",
    "hardsigmoid": "HardSigmoid", "log_softmax": "LogSoftmax", "_log_softmax": "LogSoftmax",
    "linear": "Gemm", "addmm": "Gemm", "mm": "MatMul", "matmul": "MatMul", "conv2d": "Conv", "mean": "AveragePool",
}  # fmt: skip
"""Operations as ONNX names them, which ``engines.package.activation`` knows."""
_MOVING = frozenset({"view", "reshape", "flatten", "squeeze", "unsqueeze", "to", "_to_copy", "clone", "alias", "slice",
                     "clamp", "permute", "transpose", "contiguous", "detach", "dropout"})  # fmt: skip
_PLAIN = ("builtins.", "collections.")
_MODES = frozenset({"training", "train"})
_MAX_STEPS = 64


@dataclass(frozen=True, slots=True)
class Program:
    """What the archive says of its program.

    ``inputs`` are those that a caller gives, images and constants alike, in the order of the call; ``outputs`` are the
    leaves of what it returns. A dict's outputs have the names of its keys.
    """

    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    nodes: tuple[Mapping[str, Any], ...]
    tensors: tuple[str, ...]
    """The name of each output inside the graph."""
    containers: Mapping[str, tuple[str, ...] | None]
    """The types that hold what it returns, such as ``builtins.dict``; a named tuple's with its fields."""


def read_program(path: Path, *, name: str) -> Program:
    """Return what the archive at ``path`` says; ``name`` is the file's for messages.

    Raises:
        ModelRejected: not such an archive, damaged, or a program in training mode.
    """
    document = _document(path, name)
    try:
        program = _program_from(document)
        _check_plain_inputs(document["graph_module"], name)
        _check_inference_mode(document, program, name)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as exc:
        raise ModelRejected(
            f"{name}: the program in the archive is not written as torch.export does ({type(exc).__name__}: {exc}). "
            "Export it with torch 2.6 or later",
            path=str(path),
        ) from exc
    return program


def pt2_signature(
    program: Program,
    spec: InputSpec,
    *,
    name: str,
    output: str | None = None,
    constants: Constants = (),
    class_axis: int | None = None,
) -> ModelSignature:
    """Return the signature of ``program``, checked against ``spec``; ``output`` and ``constants`` as in the manifest.

    Raises:
        ModelRejected: a model that does not fit; see ``onnx_signature``.
    """
    source = the_input(_without(program.inputs, constants, name), name=name)
    target = the_output(_chosen(program.outputs, output, name), name=name)
    layout = layout_of(source, spec, fallback="NCHW", name=name)
    return signature_from(source, target, layout, spec, name=name, class_axis=class_axis)


def pt2_image_input(
    program: Program, *, output: str | None, constants: Constants, batch_axis: int | None = None, name: str
) -> tuple[ImageInput, str]:
    """Return what the program takes, without a manifest, and the name of its output.

    Raises:
        ModelRejected: no single image input and output of scores.
    """
    source = the_input(_without(program.inputs, constants, name), name=name)
    target = the_output(_chosen(program.outputs, output, name), name=name)
    return image_input(source, batch_axis=batch_axis, fallback="NCHW", name=name), target.name


def last_operation(program: Program, output: str) -> str:
    """Return the operation that decides what ``output`` is, as ONNX names it; see ``activation.last_operator``."""
    value = next(
        (tensor for one, tensor in zip(program.outputs, program.tensors, strict=True) if one.name == output), output
    )
    makers = {made: node for node in program.nodes for made in _made_by(node)}
    for _ in range(_MAX_STEPS):
        node = makers.get(value)
        operation = _operation(node) if node is not None else ""
        if node is None or operation not in _MOVING:
            return _ENDS.get(operation, operation)
        value = next((_tensor(one["arg"]) for one in node["inputs"] if _tensor(one["arg"])), "")
    return ""


def _without(inputs: Sequence[TensorFacts], constants: Constants, name: str) -> list[TensorFacts]:
    given = {key for key, _ in constants}
    unknown = sorted(given - {one.name for one in inputs})
    if unknown:
        raise ModelRejected(
            f"{name} has no input {unknown[0]!r} for input.constants, but {choices_text(inputs)}. Correct the name",
            input=unknown[0],
        )
    return [one for one in inputs if one.name not in given]


def _chosen(outputs: Sequence[TensorFacts], wanted: str | None, name: str) -> list[TensorFacts]:
    found = [one for one in outputs if wanted in {None, one.name}]
    if not found:
        raise ModelRejected(
            f"{name} has no output {wanted!r}, but {choices_text(outputs)}. Correct the name (output.name; agent "
            "model import: --output-name)",
            output=wanted,
        )
    return found


def _document(path: Path, name: str) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            found = [entry for entry in archive.infolist() if _PROGRAM.match(entry.filename)]
            if len(found) != 1:
                names = ", ".join(entry.filename for entry in found) or "none"
                raise ModelRejected(f"{name} is a zip archive with {len(found)} programs ({names}), but "
                                    "torch.export.save writes one")  # fmt: skip
            # ZipFile reads no more than this announced size, so a zip bomb is limited too.
            if found[0].file_size > _MAX_PROGRAM_BYTES:
                raise ModelRejected(
                    f"{name}: its program has {found[0].file_size} bytes, but the limit is {_MAX_PROGRAM_BYTES}"
                )
            return json.loads(archive.read(found[0]))
    # NotImplementedError: unknown compression. RuntimeError: encrypted.
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError) as exc:
        raise ModelRejected(
            f"{name} is not a whole torch.export archive: {exc}. Copy it again", path=str(path)
        ) from exc


def _program_from(document: Any) -> Program:
    module = document["graph_module"]
    known = module["graph"]["tensor_values"]
    signature = module["signature"]
    inputs = [_facts(each["user_input"]["arg"], known) for each in signature["input_specs"] if "user_input" in each]
    outputs = [
        _facts(each["user_output"]["arg"], known) for each in signature["output_specs"] if "user_output" in each
    ]
    tensors = tuple(one.name for one in outputs)
    names = _output_names(module, len(outputs)) or tensors
    named = tuple(TensorFacts(name, one.dtype, one.shape) for name, one in zip(names, outputs, strict=True))
    nodes = tuple(module["graph"].get("nodes", ()))
    return Program(tuple(inputs), named, nodes, tensors, _containers(module))


def _facts(argument: Any, known: Any) -> TensorFacts:
    if "as_tensor" not in argument:
        kind = next(iter(argument))
        return TensorFacts(kind.removeprefix("as_"), "no tensor", None)
    name = str(argument["as_tensor"]["name"])
    value = known[name]
    shape: Shape = tuple(size.get("as_int") for size in value["sizes"])
    return TensorFacts(name, _DTYPES.get(value["dtype"], f"dtype {value['dtype']}"), shape)


def _output_names(module: Any, count: int) -> tuple[str, ...] | None:
    """The keys of a returned dict or fields of another type; None if it returns neither, or one with more inside."""
    tree = _tree(module, "out_spec")
    if len(tree.get("children_spec") or ()) != count:
        return None
    keys = _keys(tree.get("context"), _named_tuples(module))
    if isinstance(keys, list) and len(keys) == count and all(isinstance(key, str) for key in keys):
        return tuple(keys)
    return None


def _keys(context: Any, named_tuples: Mapping[str, tuple[str, ...]]) -> Any:
    """The names of a container's values, as its type states them."""
    if not isinstance(context, str):
        return context.get("dict_context") if isinstance(context, dict) else context
    if context in named_tuples:
        return [*named_tuples[context]]
    try:
        keys = json.loads(context)
    except ValueError:  # a type with a way of its own
        return None
    # A dataclass states the fields that have a value, and those that are None.
    return keys[0] if isinstance(keys, list) and keys and isinstance(keys[0], list) else keys


def _named_tuples(module: Any) -> dict[str, tuple[str, ...]]:
    stated = module.get("treespec_namedtuple_fields") or {}
    return {str(name): tuple(map(str, each["field_names"])) for name, each in stated.items()}


def _containers(module: Any) -> dict[str, tuple[str, ...] | None]:
    return {**dict.fromkeys(_types(_tree(module, "out_spec"))), **_named_tuples(module)}


def _types(tree: Mapping[str, Any]) -> list[str]:
    """The types of a tree that hold others, each once."""
    found, waiting = [], [tree]
    while waiting:
        each = waiting.pop()
        found += [str(each["type"])] if each.get("type") else []
        waiting += each.get("children_spec") or ()
    return sorted(set(found))


def _tree(module: Any, which: str) -> dict[str, Any]:
    """The tree of what the program takes or returns; empty if the archive does not say."""
    calls = module.get("module_call_graph") or [{}]
    text = (calls[0].get("signature") or {}).get(which)
    spec = json.loads(text) if isinstance(text, str) else None
    tree = spec[1] if isinstance(spec, list) and len(spec) > 1 else None
    return tree if isinstance(tree, dict) else {}


def _check_plain_inputs(module: Any, name: str) -> None:
    """Refuse a program that takes a type of a library: the image is given as a tensor, in plain containers at most."""
    other = [kind for kind in _types(_tree(module, "in_spec")) if not kind.startswith(_PLAIN)]
    if other:
        raise ModelRejected(
            f"{name} takes its input inside a {other[0]}, but an image is given as a tensor, by position or keyword. "
            "Export a program that takes the tensor itself",
            type=other[0],
        )


def _check_inference_mode(document: Any, program: Program, name: str) -> None:
    """Refuse a program that computes as in training: its answers depend on the batch, or on chance."""
    changed = [each for each in document["graph_module"]["signature"]["output_specs"] if "buffer_mutation" in each]
    for node in program.nodes:
        is_training = any(one["name"] in _MODES and one["arg"].get("as_bool") is True for one in node["inputs"])
        if is_training or changed:
            what = _operation(node) if is_training else changed[0]["buffer_mutation"]["buffer_name"]
            fact = f"{what} is in training mode" if is_training else f"a run changes its buffer {what}"
            raise ModelRejected(
                f"{name}: {fact}, so the scores of an image depend on chance or on the others in its batch, but a "
                "served model computes as in inference. Export it again after model.eval()",
                node=what,
            )


def _operation(node: Mapping[str, Any]) -> str:
    match = _OPERATION.match(str(node["target"]))
    return match["name"] if match else str(node["target"])


def _made_by(node: Mapping[str, Any]) -> list[str]:
    return [name for each in node.get("outputs", ()) if (name := _tensor(each))]


def _tensor(argument: Any) -> str:
    return str(argument["as_tensor"]["name"]) if isinstance(argument, dict) and "as_tensor" in argument else ""
