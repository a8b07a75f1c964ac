"""The messages of `ModelInfer`: from a request to an infer call, and from scores to a response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.web.http.tensors import InferCall, Tensor, infer_call, output_values, raw_bytes, refuse_shared_memory
from agent.web.served_models import BadInput, ServedModel
from engines import Scores, protocol_message

_LENGTH_BYTES = 4


def call_from_request(request: Any, model: ServedModel) -> InferCall:
    """What a `ModelInferRequest` asks for.

    Raises:
        BadInput: it does not fit the protocol or the model.
        Refusal: it needs what this server does not have.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise BadInput(f"the request has {len(request.inputs)} inputs, but {len(raw)} raw_input_contents")
    tensors = [_tensor(one, raw[place] if raw else None) for place, one in enumerate(request.inputs)]
    outputs = [{"name": one.name, "parameters": _parameters(one.parameters)} for one in request.outputs]
    return infer_call(tensors, outputs, _parameters(request.parameters), model, call_id=request.id)


def response_from_scores(call: InferCall, scores: Scores, model: ServedModel) -> Any:
    """The `ModelInferResponse` with the outputs that ``call`` wants, as raw bytes."""
    response = protocol_message("ModelInferResponse")(
        model_name=model.name, model_version=model.version, id=call.id or ""
    )
    for wanted in call.outputs:
        datatype, shape, values = output_values(wanted, scores, model)
        response.outputs.add(name=wanted.name, datatype=datatype, shape=shape)
        response.raw_output_contents.append(raw_bytes(values))
    return response


def _tensor(one: Any, raw: bytes | None) -> Tensor:
    refuse_shared_memory(_parameters(one.parameters))
    if any(not 0 <= size < 2**31 for size in one.shape):
        raise BadInput(f"the shape of input '{one.name}' must have whole numbers of at least 0, not {list(one.shape)}")
    if raw is not None and one.HasField("contents"):
        raise BadInput(f"input '{one.name}' has both contents and raw_input_contents; give one of them")
    content = _typed(one) if raw is None else raw
    return Tensor(one.name, one.datatype, tuple(one.shape), None, memoryview(content))


def _typed(one: Any) -> bytes:
    """The typed values of an input as raw bytes."""
    if one.datatype == "BYTES":
        return b"".join(len(text).to_bytes(_LENGTH_BYTES, "little") + text for text in one.contents.bytes_contents)
    try:
        return bytes(one.contents.uint_contents)
    except ValueError as exc:
        raise BadInput(f"the contents of input '{one.name}' must be whole numbers of 0 to 255") from exc


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    if not given:  # nearly always
        return {}
    return {
        key: getattr(value, kind) for key, value in given.items() if (kind := value.WhichOneof("parameter_choice"))
    }
