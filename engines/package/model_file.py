"""ONNX models: parsed, bounded in size, hashed with their external data, which lies inside the package."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message
from onnx.external_data_helper import uses_external_data

from engines.errors import ModelRejected
from engines.package.external_data import read_external_data
from engines.package.manifest import inside
from engines.package.model_bytes import DEFAULT_MAX_BYTES, read_model_bytes

MAX_NODES = 100_000
"""Maximum number of nodes, including subgraphs and each call of a local function."""
MAX_FUNCTIONS = 1000
STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training", "com.microsoft"})

_REASON_CHARACTERS = 400


def parse_onnx(data: bytes, *, name: str) -> onnx.ModelProto:
    """Parse the model in ``data``, without its external data.

    Raises:
        ModelRejected: not ONNX, truncated, empty, newer than the onnx library, or with operators of unknown domains.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as exc:
        raise ModelRejected(
            f"{name} is not an ONNX model, or its end is missing: {len(data)} bytes do not parse. Copy it again",
            path=name,
            size=len(data),
        ) from exc
    # Protobuf parses many byte strings as a message with unknown fields only.
    if not model.graph.node or not model.graph.output:
        raise ModelRejected(f"{name}: {len(data)} bytes parse, but there is no graph in them. Is it ONNX?", path=name)
    _check_size(model, name=name)
    _check_text(model, name=name)
    newest = onnx.defs.onnx_opset_version()
    opset = opset_of(model)
    if opset > newest:
        raise ModelRejected(
            f"{name} needs opset {opset}, but the installed onnx {onnx.__version__} knows up to {newest}. "
            f"Export it with opset {newest} or lower, or update onnx",
            path=name,
            opset=opset,
        )
    # Local functions may have a domain of their own: runtimes replace them by their bodies.
    foreign = sorted({node.domain for node in _all_nodes(model.graph)} - STANDARD_DOMAINS - _own_domains(model))
    if foreign:
        raise ModelRejected(
            f"{name} has operators of domain {', '.join(foreign)}, but only ONNX's own can be served. Export without "
            "them",
            path=name,
            domains=foreign,
        )
    return model


def _check_size(model: onnx.ModelProto, *, name: str) -> None:
    """Refuse a model that explodes when functions are expanded: a few that call each other make millions of nodes.

    Raises:
        ModelRejected: too many nodes or functions, or recursive functions.
    """
    if len(model.functions) > MAX_FUNCTIONS:
        raise ModelRejected(
            f"{name} has {len(model.functions)} local functions, but the limit is {MAX_FUNCTIONS}. Export it without "
            "them",
            path=name,
        )
    bodies = {(one.domain, one.name): _calls(one) for one in model.functions}
    sizes = dict.fromkeys(bodies, 1)
    # Sizes settle after as many rounds as functions can be nested, unless functions call themselves.
    for _ in range(len(bodies) + 2):
        grown = {one: _size(calls, sizes) for one, calls in bodies.items()}
        if grown == sizes:
            break
        sizes = grown
        if max(sizes.values()) > MAX_NODES:
            break
    else:
        raise ModelRejected(f"{name} has local functions that call themselves, but ONNX allows none. Export it again")
    nodes = _size(_calls(model.graph), sizes)
    if nodes > MAX_NODES:
        raise ModelRejected(f"{name} has {nodes} nodes, but the limit is {MAX_NODES}. Use a smaller model", path=name)


def _check_text(model: onnx.ModelProto, *, name: str) -> None:
    """Refuse names that are not UTF-8: protobuf gives them as bytes, which no reader expects.

    Raises:
        ModelRejected: with the field.
    """
    pending: list[Message] = [model]
    while pending:
        for field, value in pending.pop().ListFields():
            if field.type not in {field.TYPE_STRING, field.TYPE_MESSAGE}:
                continue
            for one in (value,) if isinstance(value, str | bytes | Message) else value:
                if isinstance(one, bytes):
                    raise ModelRejected(f"{name}: a text in {field.full_name} is not UTF-8, but ONNX allows no other")
                if isinstance(one, Message):
                    pending.append(one)


def _calls(body: onnx.GraphProto | onnx.FunctionProto) -> Counter[tuple[str, str]]:
    return Counter((node.domain, node.op_type) for node in _all_nodes(body))


def _size(calls: Counter[tuple[str, str]], sizes: dict[tuple[str, str], int]) -> int:
    return sum(count * sizes.get(call, 1) for call, count in calls.items())


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators that the model uses."""
    return max((int(entry.version) for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), default=1)


def read_onnx(path: Path, *, root: Path, max_bytes: int = DEFAULT_MAX_BYTES) -> tuple[onnx.ModelProto, str]:
    """Return the model at ``path`` with its external data loaded, and the sha256 of all its bytes.

    The sha256 is of the file; if the model keeps tensors in other files, of the file followed by those in the order of
    their names.

    Raises:
        ModelRejected: see ``read_model_bytes`` and ``parse_onnx``; external data outside ``root``, or more than
            ``max_bytes`` with it.
    """
    data = read_model_bytes(path, max_bytes=max_bytes)
    model = parse_onnx(data, name=str(path))
    digest = hashlib.sha256(data)
    base = path.parent.resolve().relative_to(root.resolve()).as_posix()

    def find(location: str) -> Path:
        relative = location if base == "." else f"{base}/{location}"
        return inside(root, relative, what=f"external data of {path.name}")

    read_external_data(
        [tensor for tensor in _all_tensors(model) if uses_external_data(tensor)],
        find=find,
        digest=digest,
        allowed_bytes=max_bytes - len(data),
        size_before=len(data),
        name=str(path),
    )
    return model, digest.hexdigest()


def file_sha256(path: Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> str:
    """Return the sha256 that a manifest must state for the model at ``path``, in lower-case hex.

    Raises:
        ModelRejected: the file cannot be read or is not a model.
    """
    if path.suffix.lower() == ".onnx":
        return read_onnx(path, root=path.parent, max_bytes=max_bytes)[1]
    return hashlib.sha256(read_model_bytes(path, max_bytes=max_bytes)).hexdigest()


def check_model(model: onnx.ModelProto, *, name: str) -> None:
    """Run the onnx library's checker.

    Raises:
        ModelRejected: with the library's reason.
    """
    try:
        if not all(value.type.tensor_type.HasField("shape") for value in model.graph.output):
            # Runtimes accept an output without a shape, the checker does not.
            model = onnx.shape_inference.infer_shapes(model)
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as exc:
        # The checker names the node some lines further down.
        reason = " ".join(str(exc).split())[:_REASON_CHARACTERS].rstrip(".")
        raise ModelRejected(f"{name} is not a valid ONNX model: {reason}. Export it again", path=name) from exc


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs inside a node (If, Loop, Scan)."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _all_nodes(body: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    pending: list[onnx.GraphProto | onnx.FunctionProto] = [body]
    while pending:
        for node in pending.pop().node:
            yield node
            pending.extend(subgraphs(node))


def _all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    pending = [model.graph]
    while pending:
        graph = pending.pop()
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            pending.extend(subgraphs(node))
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors


def _own_domains(model: onnx.ModelProto) -> set[str]:
    return {function.domain for function in model.functions}
