"""Plain REST for people without a client of the protocol: an image in, its labels out."""

from __future__ import annotations

import logging
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from agent.inference.decisions.classifications import top_binary, top_scores
from agent.web.http.forms import files_of_form
from agent.web.http.infer import Inference
from agent.web.http.replies import Refusal
from agent.web.http.routes import json_response
from agent.web.served_models import Answer, BadInput, ServedModel
from engines import Scores, Task

MAX_TOP_K = 100
_TOP_K = "top_k"
_DEFAULT_TOP_K = 3
_FORM = "multipart/form-data"
_FIELD = "image"


class RestRoutes:
    """`GET /v1/models` and `POST /v1/models/M:classify`."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        # It warns of each damaged form; the client gets the reason, and the log would be the client's to fill.
        logging.getLogger("python_multipart").setLevel(logging.ERROR)

    def routes(self) -> list[BaseRoute]:
        """All of them."""
        return [
            Route("/v1/models", self._models, methods=["GET"]),
            Route("/v1/models/{name}:classify", self._classify, methods=["POST"]),
        ]

    async def _models(self, _: Request) -> Response:
        models = self._inference.models
        return json_response(
            {"models": [_described(models.get(one.name)) for one in models.index() if one.state != "UNAVAILABLE"]}
        )

    async def _classify(self, request: Request) -> Response:
        model = self._inference.models.get(request.path_params["name"])
        top_k = _top_k(request)
        body = await self._inference.bodies.read(request.scope, request.receive)
        try:
            encoded = _images_of(body, request.headers.get("content-type", ""), model)
            images = await self._inference.decoded(encoded, model, request.receive)
            answer = await self._inference.scores(images, model, request.receive)
        finally:
            self._inference.bodies.release(body)
        return json_response(_labelled(answer, model, top_k))


def _top_k(request: Request) -> int:
    names = [name for name, _ in request.query_params.multi_items()]
    if names not in ([], [_TOP_K]):
        raise BadInput(
            f"the query of the address has {', '.join(names)[:100]!r}, but it may have {_TOP_K} alone, once; send, "
            "for example, ?top_k=3"
        )
    given = request.query_params.get(_TOP_K, str(_DEFAULT_TOP_K))
    if not given.isascii() or not given.isdigit() or len(given) > 3 or not 1 <= int(given) <= MAX_TOP_K:
        raise BadInput(f"top_k must be a whole number of 1 to {MAX_TOP_K}; send, for example, ?top_k=3")
    return int(given)


def _images_of(body: bytes, content_type: str, model: ServedModel) -> list[bytes]:
    """The encoded images of a body: the body itself, or every file of a form's field `image`."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        raise Refusal(
            415, "the body is JSON, but this call takes an image; send its bytes, such as with --data-binary"
        )
    images = files_of_form(body, content_type, _FIELD) if kind == _FORM else [body]
    if not images:
        raise BadInput(
            f"the form has no file in a field `{_FIELD}`; send one there, such as with: curl -F {_FIELD}=@image.jpg"
        )
    if len(images) > model.max_batch:
        raise BadInput(
            f"the form has {len(images)} files in its field `{_FIELD}`, but model {model.name} takes 1 to "
            f"{model.max_batch}; send fewer in a request"
        )
    return images


def _described(model: ServedModel) -> dict[str, Any]:
    height, width = model.input_size
    return {
        "name": model.name,
        "package": model.package.name,
        "version": model.package.version,
        "is_ready": model.is_ready,
        "width": width,
        "height": height,
        "max_batch": model.max_batch,
        "labels": list(model.labels),
    }


def _labelled(answer: Answer, model: ServedModel, top_k: int) -> dict[str, Any]:
    loaded, times = model.loaded, answer.times
    return {
        "model": model.name,
        "package": model.package.name,
        "version": model.package.version,
        "engine": None if loaded is None else loaded.info.name,
        "precision": None if loaded is None else loaded.info.precision,
        "is_degraded": loaded is not None and loaded.info.degraded is not None,
        "results": [{"labels": _labels(row, model, top_k)} for row in answer.scores],
        "queue_ms": times.queue_ns / 1e6,
        "infer_ms": times.compute_infer_ns / 1e6,
    }


def _labels(row: Scores, model: ServedModel, top_k: int) -> list[dict[str, Any]]:
    """The best labels of one image. ``is_detected``: it is the answer, or one of them with a multi-label model."""
    output, labels = model.package.output, model.labels
    if output.task is Task.BINARY:
        top, _ = top_binary(row, labels, output.thresholds[0], top_k)
    else:
        top, _ = top_scores(row, labels, top_k)
    is_multi = output.task is Task.MULTI_LABEL
    return [
        {
            "label": one.label,
            "confidence": one.confidence,
            "is_detected": one.confidence >= output.thresholds[one.index] if is_multi else place == 0,
        }
        for place, one in enumerate(top)
    ]
