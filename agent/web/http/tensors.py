"""The infer call of the Open Inference Protocol: from its bytes to images, and from scores to its bytes.

Source: Triton Inference Server, docs/protocol (README.md, extension_binary_data.md, extension_classification.md,
extension_schedule_policy.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import orjson

from agent.inference.decisions.classifications import top_binary, top_scores
from agent.web.descriptions import ENCODED, IMAGES, LABELS, SCORES
from agent.web.http.replies import Refusal
from agent.web.served_models import BadInput, ServedModel
from engines import Images, Scores, Task

_MAX_DIMENSION = 1 << 20
_MAX_ID = 256
_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True)
class WantedOutput:
    """One output that the client asks for; ``classification`` is its top-N, 0 for the tensor itself."""

    name: str
    is_binary: bool
    classification: int = 0


@dataclass(frozen=True, slots=True)
class InferCall:
    """What a client asks for: ``images`` at the model's size, or, where that is None, ``encoded`` ones."""

    id: str | None
    images: Images | None
    encoded: tuple[bytes, ...]
    outputs: tuple[WantedOutput, ...]
    priority: int
    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input as it was sent: JSON ``data``, or raw bytes."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: object
    raw: memoryview | None


def parse_infer(body: bytes, json_length: int | None, model: ServedModel, *, max_json: int) -> InferCall:
    """The call in ``body``: JSON, of which the first ``json_length`` bytes are JSON if there is binary data behind.

    Raises:
        BadInput: it does not fit the protocol or the model.
        Refusal: 413, the JSON is too large; 501, it needs what this server does not have.
    """
    length = len(body) if json_length is None else json_length
    if length > len(body):
        raise BadInput(f"Inference-Header-Content-Length is {length}, but the body has {len(body)} bytes")
    if length > max_json:
        raise Refusal(
            413,
            f"the JSON of the request has {length} bytes, but the limit is {max_json}; send tensors as binary data, "
            "or raise serve.max_json_mib",
        )
    view = memoryview(body)
    document = _parsed(view[:length])
    parameters = _mapping(document.get("parameters", {}), "parameters")
    tensors, rest = [], view[length:]
    for entry in _list(document.get("inputs"), "inputs"):
        tensor, rest = _tensor(_mapping(entry, "inputs"), rest)
        tensors.append(tensor)
    if len(rest):
        raise BadInput(f"the body has {len(rest)} bytes more than its inputs name by binary_data_size")
    return infer_call(tensors, document.get("outputs"), parameters, model, call_id=document.get("id"))


def infer_call(
    tensors: Sequence[Tensor], outputs: object, parameters: Mapping[str, Any], model: ServedModel, *, call_id: object
) -> InferCall:
    """The call of a request's inputs, the outputs that it names, and its parameters.

    Raises:
        BadInput: it does not fit the protocol or the model.
        Refusal: 501, it needs what this server does not have.
    """
    _refuse_sequences(parameters)
    images, encoded = _inputs(tensors, model)
    return InferCall(
        id=_id(call_id),
        images=images,
        encoded=encoded,
        outputs=_outputs(outputs, parameters, model),
        priority=_whole(parameters.get("priority", 0), "priority"),
        timeout_s=_timeout_s(parameters),
    )


def infer_answer(call: InferCall, scores: Scores, model: ServedModel) -> tuple[bytes, int | None]:
    """The body of the answer, and the length of its JSON where binary data is behind it."""
    outputs: list[dict[str, object]] = []
    raw: list[bytes] = []
    for wanted in call.outputs:
        datatype, shape, values = output_values(wanted, scores, model)
        entry: dict[str, object] = {"name": wanted.name, "datatype": datatype, "shape": shape}
        if wanted.is_binary:
            data = raw_bytes(values)
            entry["parameters"] = {"binary_data_size": len(data)}
            raw.append(data)
        else:
            entry["data"] = values.ravel() if isinstance(values, np.ndarray) else values
        outputs.append(entry)
    document: dict[str, object] = {"model_name": model.name, "model_version": model.version, "outputs": outputs}
    if call.id is not None:
        document["id"] = call.id
    head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join((head, *raw)), len(head)) if raw else (head, None)


def label_of(row: Scores, model: ServedModel) -> str:
    """The label that one row of scores, ``(classes,)``, decides, as for a frame of a camera."""
    package = model.package
    if package.output.task is Task.BINARY:
        return top_binary(row, package.labels, package.output.thresholds[0], 1)[0][0].label
    return top_scores(row, package.labels, 1)[0][0].label


def _parsed(text: memoryview) -> Mapping[str, Any]:
    try:
        return _mapping(orjson.loads(text), "the body")
    except orjson.JSONDecodeError as exc:
        raise BadInput(f"failed to parse the request JSON buffer: {exc}") from exc


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadInput(f"{what} must be a JSON object, but it is {_kind(value)}")
    return value


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise BadInput(f"{what} must be a list with entries, but it is {'empty' if value == [] else _kind(value)}")
    return value


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "missing"}
    return names.get(type(value), "a number")


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise BadInput(f"{what} must be text, but it is {_kind(value)}")
    return value


def _whole(value: object, what: str, *, most: int = 2**63) -> int:
    if type(value) is not int or not 0 <= value <= most:
        given = value if type(value) in {int, float} else _kind(value)
        limit = f" and at most {most}" if isinstance(value, int | float) and value > most else ""
        raise BadInput(f"{what} must be a whole number of at least 0{limit}, but it is {given}")
    return value


def _id(value: object) -> str | None:
    if value is None:
        return None
    text = _text(value, "id")
    if len(text) > _MAX_ID:
        raise BadInput(f"id has {len(text)} characters, but the limit is {_MAX_ID}")
    return text


def _timeout_s(parameters: Mapping[str, Any]) -> float | None:
    """``timeout`` is in microseconds; 0 is none, as in the protocol."""
    timeout_us = _whole(parameters.get("timeout", 0), "timeout")
    return timeout_us / 1e6 if timeout_us else None


def _refuse_sequences(parameters: Mapping[str, Any]) -> None:
    given = [key for key in ("sequence_id", "sequence_start", "sequence_end") if parameters.get(key)]
    if given:
        raise BadInput(f"{given[0]} was given, but models of this server keep no state between requests; remove it")


def refuse_shared_memory(parameters: Mapping[str, Any]) -> None:
    """Refuse a tensor that is said to be in shared memory."""
    if "shared_memory_region" in parameters:
        raise Refusal(501, "shared memory is not supported; send binary data")


def _tensor(entry: Mapping[str, Any], rest: memoryview) -> tuple[Tensor, memoryview]:
    name, datatype = _text(entry.get("name"), "the name of an input"), _text(entry.get("datatype"), "datatype")
    shape = tuple(_whole(one, f"the shape of input '{name}'", most=_MAX_DIMENSION) for one in _shape(entry, name))
    parameters = _mapping(entry.get("parameters", {}), "parameters")
    refuse_shared_memory(parameters)
    if "binary_data_size" not in parameters:
        return Tensor(name, datatype, shape, entry.get("data"), None), rest
    if "data" in entry:
        raise BadInput(f"input '{name}' has both data and binary_data_size; give one of them")
    size = _whole(parameters["binary_data_size"], "binary_data_size")
    if size > len(rest):
        raise BadInput(f"input '{name}' has a binary_data_size of {size}, but {len(rest)} bytes are left in the body")
    return Tensor(name, datatype, shape, None, rest[:size]), rest[size:]


def _shape(entry: Mapping[str, Any], name: str) -> list[Any]:
    shape = entry.get("shape")
    if not isinstance(shape, list):
        raise BadInput(f"the shape of input '{name}' must be a list, but it is {_kind(shape)}")
    return shape


def _inputs(tensors: Sequence[Tensor], model: ServedModel) -> tuple[Images | None, tuple[bytes, ...]]:
    if len(tensors) != 1:
        raise BadInput(
            f"expected 1 inputs but got {len(tensors)} inputs for model '{model.name}': give `{IMAGES}` or `{ENCODED}`"
        )
    (tensor,) = tensors
    if tensor.name == IMAGES:
        return _images(tensor, model), ()
    if tensor.name == ENCODED:
        return None, _encoded(tensor, model)
    raise BadInput(
        f"unexpected inference input '{tensor.name}' for model '{model.name}': it has `{IMAGES}` and `{ENCODED}`"
    )


def _expect(tensor: Tensor, datatype: str, model: ServedModel) -> None:
    if tensor.datatype != datatype:
        raise BadInput(
            f"inference input '{tensor.name}' data-type is '{tensor.datatype}', but model '{model.name}' expects "
            f"'{datatype}'"
        )


def _images(tensor: Tensor, model: ServedModel) -> Images:
    _expect(tensor, "UINT8", model)
    height, width = model.input_size
    if len(tensor.shape) != 4 or tensor.shape[1:] != (height, width, 3):
        raise BadInput(
            f"unexpected shape for input '{IMAGES}' for model '{model.name}'. Expected [-1,{height},{width},3], got "
            f"[{','.join(map(str, tensor.shape))}]"
        )
    _check_batch(tensor.shape[0], model)
    wanted = tensor.shape[0] * height * width * 3
    values = _values(tensor, wanted) if tensor.raw is None else tensor.raw
    if len(values) != wanted:
        raise BadInput(
            f"input '{IMAGES}' has {len(values)} values, but its shape [{','.join(map(str, tensor.shape))}] needs "
            f"{wanted}"
        )
    return np.frombuffer(values, np.uint8).reshape(tensor.shape)


def _check_batch(size: int, model: ServedModel) -> None:
    """Before anything is made of that size."""
    if not 1 <= size <= model.max_batch:
        raise BadInput(
            f"inference request batch-size must be 1 to {model.max_batch} for '{model.name}', but it is {size}"
        )


def _values(tensor: Tensor, wanted: int) -> bytes:
    """JSON numbers, flat or nested as the shape says; `bytes` is the fastest way to check their range."""
    values: object = tensor.data
    if not isinstance(values, list):
        raise BadInput(f"the data of input '{tensor.name}' must be a list, but it is {_kind(values)}")
    for _ in tensor.shape[1:]:
        if not values or not isinstance(values[0], list):
            break
        if not all(isinstance(one, list) for one in values):
            raise BadInput(f"the data of input '{tensor.name}' mixes numbers and lists")
        values = list(chain.from_iterable(values))
    if len(values) == wanted and set(map(type, values)) != {int}:
        raise BadInput(f"the data of input '{tensor.name}' must be whole numbers of 0 to 255")
    try:
        return bytes(values)
    except (ValueError, TypeError) as exc:
        raise BadInput(f"the data of input '{tensor.name}' must be whole numbers of 0 to 255") from exc


def _encoded(tensor: Tensor, model: ServedModel) -> tuple[bytes, ...]:
    _expect(tensor, "BYTES", model)
    if tensor.shape not in {(count := tensor.shape[0] if tensor.shape else 0,), (count, 1)}:
        raise BadInput(
            f"unexpected shape for input '{ENCODED}' for model '{model.name}'. Expected [-1,1], got "
            f"[{','.join(map(str, tensor.shape))}]"
        )
    _check_batch(count, model)
    if tensor.raw is None:
        raise BadInput(
            f"input '{ENCODED}' was sent as JSON, which cannot hold images; send binary data, or use "
            f"POST /v1/models/{model.name}:classify"
        )
    elements = tuple(_elements(tensor.raw))
    if len(elements) != count:
        raise BadInput(f"input '{ENCODED}' has {len(elements)} images, but its shape says {count}")
    return elements


def _elements(raw: memoryview) -> list[bytes]:
    """BYTES tensors: each element behind its length, 4 bytes little-endian."""
    elements = []
    while len(raw):
        size = int.from_bytes(raw[:_LENGTH_BYTES], "little")
        if len(raw) < _LENGTH_BYTES or size > len(raw) - _LENGTH_BYTES:
            raise BadInput(f"an element of input '{ENCODED}' has {size} bytes by its length, but fewer are left")
        elements.append(bytes(raw[_LENGTH_BYTES : _LENGTH_BYTES + size]))
        raw = raw[_LENGTH_BYTES + size :]
    return elements


def _outputs(asked: object, parameters: Mapping[str, Any], model: ServedModel) -> tuple[WantedOutput, ...]:
    is_binary = parameters.get("binary_data_output", False) is True
    if asked is None or asked == []:
        return (WantedOutput(SCORES, is_binary), WantedOutput(LABELS, is_binary))
    wanted = tuple(_wanted(_mapping(one, "outputs"), is_binary, model) for one in _list(asked, "outputs"))
    names = [one.name for one in wanted]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadInput(f"the output {twice} is asked for twice, but it may be there once; ask for it once")
    return wanted


def _wanted(entry: Mapping[str, Any], is_binary: bool, model: ServedModel) -> WantedOutput:
    name = _text(entry.get("name"), "the name of an output")
    if name not in {SCORES, LABELS}:
        raise BadInput(f"unexpected inference output '{name}' for model '{model.name}': it has `{SCORES}`, `{LABELS}`")
    parameters = _mapping(entry.get("parameters", {}), "parameters")
    refuse_shared_memory(parameters)
    count = _whole(parameters.get("classification", 0), "classification")
    if count and name != SCORES:
        raise BadInput(f"classification was asked for output '{name}', but it is for `{SCORES}` only")
    return WantedOutput(name, parameters.get("binary_data", is_binary) is True, min(count, model.classes))


def output_values(
    wanted: WantedOutput, scores: Scores, model: ServedModel
) -> tuple[str, list[int], Scores | list[str]]:
    """Datatype, shape and values of one output."""
    if wanted.classification:
        count = wanted.classification
        return "BYTES", [len(scores), count], [text for row in scores for text in _classes(row, count, model)]
    if wanted.name == LABELS:
        return "BYTES", [len(scores), 1], [label_of(row, model) for row in scores]
    return "FP32", [len(scores), model.classes], np.ascontiguousarray(scores, np.float32)


def _classes(row: Scores, count: int, model: ServedModel) -> list[str]:
    """The best classes as `value:index:label`."""
    top, _ = top_scores(row, model.labels, count)
    return [f"{one.confidence:f}:{one.index}:{one.label}" for one in top]


def raw_bytes(values: Scores | list[str]) -> bytes:
    """Values as raw little-endian bytes; each text behind its length."""
    if isinstance(values, np.ndarray):
        return values.astype("<f4", copy=False).tobytes()
    texts = [text.encode() for text in values]
    return b"".join(len(text).to_bytes(_LENGTH_BYTES, "little") + text for text in texts)
