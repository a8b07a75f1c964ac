"""The OpenAPI document of the HTTP face, and a page made from it: no script, and nothing from other servers."""

from __future__ import annotations

import html
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

import agent
from agent.web.http.routes import json_response
from agent.web.served_models import ServedModels

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


def documentation_routes(models: ServedModels) -> list[BaseRoute]:
    """`/openapi.json` and the page at `/`."""

    async def document(_: Request) -> Response:
        return json_response(openapi_document())

    async def page(_: Request) -> Response:
        text = _page(openapi_document(), models.names)
        return Response(text, media_type="text/html", headers={"content-security-policy": _SECURITY})

    return [Route("/openapi.json", document, methods=["GET"]), Route("/", page, methods=["GET"])]


def openapi_document() -> dict[str, Any]:
    """OpenAPI 3.1."""
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
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _rest_paths() -> dict[str, Any]:
    image = {"type": "string", "format": "binary"}
    form = {"type": "object", "properties": {"image": {"type": "array", "items": image}}, "required": ["image"]}
    top_k = {"type": "integer", "minimum": 1, "maximum": 100, "default": 3}
    classify = _call(
        "Classify an image, or the images of a form",
        "Classification",
        parameters=[
            _parameter("name"),
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
        "/v2/health/live": {"get": _call("Whether the server runs")},
        "/v2/health/ready": {"get": _call("Whether all models are ready")},
        "/v2/models/stats": {"get": _call("Counts and durations of all models", "Statistics")},
        "/v2/repository/index": {"post": _call("All models and their state", "Index", content=_json("IndexRequest"))},
    }
    for action in ("load", "unload"):
        text = f"{action.capitalize()} a model; needs `serve.allow_load`"
        call = _call(text, parameters=[_parameter("name")], content=_json("Empty"))
        paths[f"/v2/repository/models/{{name}}/{action}"] = {"post": call}
    for path, names in (
        ("/v2/models/{name}", ["name"]),
        ("/v2/models/{name}/versions/{version}", ["name", "version"]),
    ):
        given = [_parameter(name) for name in names]
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
        call["requestBody"] = {"content": content, "required": True}
    return call


def _parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _record(required: str, **properties: object) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required.split()}


def _list_of(items: object) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _schemas() -> dict[str, Any]:
    text, number, whole, yes_no = ({"type": kind} for kind in ("string", "number", "integer", "boolean"))
    tensor = {"name": text, "datatype": text, "shape": _list_of(whole)}
    label = _record("label confidence is_detected", label=text, confidence=number, is_detected=yes_no)
    model = {"name": text, "package": text, "version": text, "is_ready": yes_no, "labels": _list_of(text)}
    size = {"width": whole, "height": whole, "max_batch": whole}
    return {
        "Any": {"type": "object"},
        "Empty": {"type": "object"},
        "Error": _record("error", error=text),
        "IndexRequest": _record("", ready=yes_no),
        "Models": _record("models", models=_list_of(_record("name version labels", **model, **size))),
        "Classification": _record(
            "model package version results",
            model=text,
            package=text,
            version=text,
            engine={"type": ["string", "null"]},
            precision={"type": ["string", "null"]},
            is_degraded=yes_no,
            results=_list_of(_record("labels", labels=_list_of(label))),
            queue_ms=number,
            infer_ms=number,
        ),
        "Server": _record("name version extensions", name=text, version=text, extensions=_list_of(text)),
        "Model": _record(
            "name versions platform inputs outputs",
            name=text,
            versions=_list_of(text),
            platform=text,
            inputs=_list_of(_record("name datatype shape", **tensor)),
            outputs=_list_of(_record("name datatype shape", **tensor)),
        ),
        "Statistics": _record("model_stats", model_stats=_list_of({"type": "object"})),
        "Index": _list_of(_record("name state", name=text, version=text, state=text, reason=text)),
        "Infer": _record(
            "inputs",
            id=text,
            inputs=_list_of(_record("name datatype shape", **tensor, data={"type": "array"})),
            outputs=_list_of(_record("name", name=text, parameters={"type": "object"})),
            parameters={"type": "object"},
        ),
        "Answer": _record(
            "model_name model_version outputs",
            id=text,
            model_name=text,
            model_version=text,
            outputs=_list_of(_record("name datatype shape", **tensor, data={"type": "array"})),
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
