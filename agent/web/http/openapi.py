"""The OpenAPI document of the HTTP face, and a page made from it: no script, and nothing from other servers."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

import agent
from agent.web.http.routes import json_response
from agent.web.served_models import VERSION, ServedModels

_ERRORS = {
    "400": "The request does not fit the protocol or the model.",
    "401": "The token is missing or unknown.",
    "403": "The call comes from a web page of another site.",
    "404": "There is no such model or version.",
    "408": "The request did not arrive in time.",
    "413": "The body is too large.",
    "415": "The body is of a kind that this call does not take.",
    "429": "Too many requests; `Retry-After` says when to come back.",
    "500": "The engine failed.",
    "501": "This server does not have what the call needs.",
    "503": "The model is not ready, or no engine was free in time.",
}
_SECURITY = (
    "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def documentation_routes(models: ServedModels, *, needs_tokens: bool) -> list[BaseRoute]:
    """`/openapi.json`, and the same to read at `/docs`, and at `/` where the page for people does not take it."""

    async def document(_: Request) -> Response:
        return json_response(openapi_document(models.names, needs_tokens=needs_tokens))

    async def page(_: Request) -> Response:
        text = _page(openapi_document(models.names, needs_tokens=needs_tokens), models.names)
        return Response(text, media_type="text/html", headers={"content-security-policy": _SECURITY})

    paths = {"/openapi.json": document, "/docs": page, "/": page}
    return [Route(path, call, methods=["GET"]) for path, call in paths.items()]


def openapi_document(names: Sequence[str], *, needs_tokens: bool) -> dict[str, Any]:
    """OpenAPI 3.1 of a server with these models; ``needs_tokens``: all calls but those of health need one."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Edge inference agent",
            "version": agent.__version__,
            "summary": "Classifies images with the models of this device.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {**_rest_paths(), **_protocol_paths()},
        "components": {
            "schemas": _schemas(),
            "parameters": {"name": _parameter("name", names), "version": _parameter("version", (VERSION,))},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}] if needs_tokens else [],
    }


def _rest_paths() -> dict[str, Any]:
    image = {"type": "string", "format": "binary"}
    form = {
        "type": "object",
        "properties": {"image": {"type": "array", "items": image, "minItems": 1}},
        "required": ["image"],
    }
    top_k = {"type": "integer", "minimum": 1, "maximum": 100, "default": 3}
    classify = _call(
        "Classify an image, or the images of a form",
        "Classification",
        parameters=[
            _ref("name"),
            {"name": "top_k", "in": "query", "description": "Labels per image.", "schema": top_k},
        ],
        content={"image/*": {"schema": image}, "multipart/form-data": {"schema": form}},
    )
    return {
        "/v1/models": {"get": _call("The models that can be used", "Models")},
        "/v1/models/{name}:classify": {"post": classify},
    }


def _protocol_paths() -> dict[str, Any]:
    paths: dict[str, Any] = {
        "/v2": {"get": _call("The server: name, version, extensions", "Server")},
        "/v2/health/live": {"get": {**_call("Whether the server runs"), "security": []}},
        "/v2/health/ready": {"get": {**_call("Whether all models are ready"), "security": []}},
        "/v2/models/stats": {"get": _call("Counts and durations of all models", "Statistics")},
        "/v2/repository/index": {
            "post": _call("All models and their state", "Index", content=_json("IndexRequest"), is_required=False)
        },
    }
    for action in ("load", "unload"):
        text = f"{action.capitalize()} a model; needs `serve.allow_load`"
        call = _call(text, parameters=[_ref("name")], content=_json("Empty"), is_required=False)
        paths[f"/v2/repository/models/{{name}}/{action}"] = {"post": call}
    for path, names in (
        ("/v2/models/{name}", ["name"]),
        ("/v2/models/{name}/versions/{version}", ["name", "version"]),
    ):
        given = [_ref(name) for name in names]
        paths[path] = {"get": _call("Inputs and outputs of a model", "Model", parameters=given)}
        paths[f"{path}/ready"] = {"get": _call("Whether the model is ready", parameters=given)}
        paths[f"{path}/config"] = {"get": _call("Configuration of a model, with its engine", "Any", parameters=given)}
        paths[f"{path}/stats"] = {"get": _call("Counts and durations of a model", "Statistics", parameters=given)}
        infer = _call(
            "Scores of images: JSON, or JSON and binary data (`Inference-Header-Content-Length`)",
            "Answer",
            parameters=given,
            content=_json("Infer"),
        )
        paths[f"{path}/infer"] = {"post": infer}
    return paths


def _call(
    summary: str,
    schema: str | None = None,
    *,
    parameters: list[dict[str, Any]] | None = None,
    content: dict[str, Any] | None = None,
    is_required: bool = True,
) -> dict[str, Any]:
    success: dict[str, Any] = {"description": "Success."}
    if schema is not None:
        success["content"] = _json(schema)
    errors = {status: {"description": text, "content": _json("Error")} for status, text in _ERRORS.items()}
    if schema is None:
        errors["400"] = {"description": "Not ready, or the request does not fit the protocol."}
    call: dict[str, Any] = {"summary": summary, "responses": {"200": success, **errors}}
    if parameters:
        call["parameters"] = parameters
    if content is not None:
        call["requestBody"] = {"content": content, "required": is_required}
    return call


def _parameter(name: str, values: Sequence[str]) -> dict[str, Any]:
    # An enum must not be empty; without a model there is no call that fits.
    schema = {"type": "string", "enum": [*values]} if values else {"type": "string"}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _ref(parameter: str) -> dict[str, Any]:
    return {"$ref": f"#/components/parameters/{parameter}"}


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _record(required: str, **properties: object) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required.split()}


def _list_of(items: object) -> dict[str, Any]:
    return {"type": "array", "items": items}


_TEXT, _NUMBER, _WHOLE, _YES_NO = ({"type": kind} for kind in ("string", "number", "integer", "boolean"))
_TENSOR = {"name": _TEXT, "datatype": _TEXT, "shape": _list_of(_WHOLE)}
_DATA = {"type": "array"}


def _schemas() -> dict[str, Any]:
    return {
        "Any": {"type": "object"},
        "Empty": {"type": "object"},
        "Error": _record("error", error=_TEXT),
        **_rest_schemas(),
        **_description_schemas(),
        **_infer_schemas(),
    }


def _rest_schemas() -> dict[str, Any]:
    label = _record("label confidence is_detected", label=_TEXT, confidence=_NUMBER, is_detected=_YES_NO)
    model = _record(
        "name version labels",
        name=_TEXT,
        package=_TEXT,
        version=_TEXT,
        is_ready=_YES_NO,
        labels=_list_of(_TEXT),
        width=_WHOLE,
        height=_WHOLE,
        max_batch=_WHOLE,
    )
    classification = _record(
        "model package version results",
        model=_TEXT,
        package=_TEXT,
        version=_TEXT,
        engine={"type": ["string", "null"]},
        precision={"type": ["string", "null"]},
        is_degraded=_YES_NO,
        results=_list_of(_record("labels", labels=_list_of(label))),
        queue_ms=_NUMBER,
        infer_ms=_NUMBER,
    )
    return {"Models": _record("models", models=_list_of(model)), "Classification": classification}


def _description_schemas() -> dict[str, Any]:
    tensors = _list_of(_record("name datatype shape", **_TENSOR))
    model = {"name": _TEXT, "versions": _list_of(_TEXT), "platform": _TEXT, "inputs": tensors, "outputs": tensors}
    return {
        "Server": _record("name version extensions", name=_TEXT, version=_TEXT, extensions=_list_of(_TEXT)),
        "Model": _record("name versions platform inputs outputs", **model),
        "Statistics": _record("model_stats", model_stats=_list_of({"type": "object"})),
        "IndexRequest": _record("", ready=_YES_NO),
        "Index": _list_of(_record("name state", name=_TEXT, version=_TEXT, state=_TEXT, reason=_TEXT)),
    }


def _infer_schemas() -> dict[str, Any]:
    tensors = _list_of(_record("name datatype shape", **_TENSOR, data=_DATA))
    wanted = _list_of(_record("name", name=_TEXT, parameters={"type": "object"}))
    inputs = {**tensors, "minItems": 1, "maxItems": 1}
    return {
        "Infer": _record("inputs", id=_TEXT, inputs=inputs, outputs=wanted, parameters={"type": "object"}),
        "Answer": _record(
            "model_name model_version outputs", id=_TEXT, model_name=_TEXT, model_version=_TEXT, outputs=tensors
        ),
    }


def _page(document: dict[str, Any], names: tuple[str, ...]) -> str:
    rows = "".join(
        f"<tr><td><code>{method.upper()} {html.escape(path)}</code></td><td>{html.escape(call['summary'])}</td></tr>"
        for path, calls in document["paths"].items()
        for method, call in calls.items()
    )
    model = names[0] if names else "MODEL"
    example = f"curl --data-binary @image.jpg http://THIS-SERVER/v1/models/{model}:classify"
    title = html.escape(f"{document['info']['title']} {document['info']['version']}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        "<style>body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "td{padding:.2rem 1rem .2rem 0;vertical-align:top}pre{background:#eee;color:#111;padding:.5rem}</style>"
        f"<h1>{title}</h1><p>Models: {html.escape(', '.join(names) or 'none')}</p><pre>{html.escape(example)}</pre>"
        f'<table>{rows}</table><p>Machine-readable: <a href="/openapi.json">openapi.json</a></p></html>'
    )
