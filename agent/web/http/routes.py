"""The calls of the Open Inference Protocol beside infer, with Triton's extensions.

Trace, shared memory and log settings answer 501: this server has none of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from agent.web.descriptions import (
    NO_LOG_SETTINGS,
    NO_SHARED_MEMORY,
    NO_TRACE,
    index_entry,
    model_config,
    model_metadata,
    server_metadata,
    statistics_of,
)
from agent.web.http.bodies import Bodies
from agent.web.http.infer import answered
from agent.web.http.replies import Refusal
from agent.web.served_models import VERSION, BadInput, RequestRefused, ServedModels, UnknownModel
from agent.web.work import WorkThreads

_NOT_READY = 400
"""As Triton answers; clients look at 200 or not."""
_UNSUPPORTED = {
    "trace/setting": NO_TRACE,
    "models/{name}/trace/setting": NO_TRACE,
    "logging": NO_LOG_SETTINGS,
    "systemsharedmemory/{rest:path}": NO_SHARED_MEMORY,
    "cudasharedmemory/{rest:path}": NO_SHARED_MEMORY,
}


class ProtocolRoutes:
    """Answers the calls; loading and unloading run on ``work``."""

    def __init__(self, models: ServedModels, bodies: Bodies, work: WorkThreads) -> None:
        self._models = models
        self._bodies = bodies
        self._work = work

    def routes(self) -> list[BaseRoute]:
        """All of them, below `/v2`."""
        table: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
            ("GET", "", self._server),
            ("GET", "/health/live", self._live),
            ("GET", "/health/ready", self._ready),
            ("GET", "/models/stats", self._all_statistics),
            ("POST", "/repository/index", self._index),
            ("POST", "/repository/models/{name}/load", self._load),
            ("POST", "/repository/models/{name}/unload", self._unload),
        ]
        for path in ("/models/{name}", "/models/{name}/versions/{version}"):
            table += [
                ("GET", path, self._model),
                ("GET", f"{path}/ready", self._model_ready),
                ("GET", f"{path}/config", self._config),
                ("GET", f"{path}/stats", self._statistics),
            ]
        known: list[BaseRoute] = [Route(f"/v2{path}", call, methods=[method]) for method, path, call in table]
        missing: list[BaseRoute] = [
            Route(f"/v2/{path}", _unsupported(what), methods=["GET", "POST"]) for path, what in _UNSUPPORTED.items()
        ]
        return [*missing, *known]

    async def _live(self, _: Request) -> Response:
        return Response()

    async def _ready(self, _: Request) -> Response:
        return Response(status_code=200 if self._models.is_ready else _NOT_READY)

    async def _server(self, _: Request) -> Response:
        return json_response(server_metadata())

    async def _model(self, request: Request) -> Response:
        return json_response(model_metadata(self._models.get(*_name_and_version(request))))

    async def _model_ready(self, request: Request) -> Response:
        try:
            is_ready = self._models.get(*_name_and_version(request)).is_ready
        except RequestRefused:
            is_ready = False
        return Response(status_code=200 if is_ready else _NOT_READY)

    async def _config(self, request: Request) -> Response:
        return json_response(model_config(self._models.get(*_name_and_version(request))))

    async def _statistics(self, request: Request) -> Response:
        try:
            name = self._models.check(*_name_and_version(request))
        except UnknownModel as exc:  # for statistics alone Triton answers 400
            raise BadInput(exc.message) from exc
        return json_response({"model_stats": [self._of_one(name)]})

    async def _all_statistics(self, _: Request) -> Response:
        return json_response({"model_stats": [self._of_one(name) for name in self._models.names]})

    def _of_one(self, name: str) -> dict[str, Any]:
        return statistics_of(name, VERSION, self._models.statistics(name))

    async def _index(self, request: Request) -> Response:
        is_only_ready = (await self._json(request)).get("ready", False)
        if not isinstance(is_only_ready, bool):
            raise BadInput('ready must be true or false; send, for example, {"ready": true}')
        entries = [one for one in self._models.index() if one.state == "READY" or not is_only_ready]
        return json_response([index_entry(one) for one in entries])

    async def _load(self, request: Request) -> Response:
        if (await self._json(request)).get("parameters"):
            raise Refusal(501, "a model cannot be loaded with parameters; change the configuration file instead")
        return await self._changed(request, self._models.load)

    async def _unload(self, request: Request) -> Response:
        await self._json(request)  # unload_dependents: no model here depends on another one
        return await self._changed(request, self._models.unload)

    async def _changed(self, request: Request, change: Callable[[str], None]) -> Response:
        name = request.path_params["name"]
        await answered(self._work.submit(lambda: change(name)), request.receive)
        return Response()

    async def _json(self, request: Request) -> dict[str, Any]:
        """The body, a JSON object or nothing."""
        body = await self._bodies.read(request.scope, request.receive)
        self._bodies.release(body)
        try:
            value = orjson.loads(body) if body.strip() else {}
        except orjson.JSONDecodeError as exc:
            raise BadInput(f"failed to parse the request JSON buffer: {exc}") from exc
        if not isinstance(value, dict):
            raise BadInput("the body must be a JSON object; send {}")
        return value


def json_response(value: object) -> Response:
    """``value`` as JSON."""
    return Response(orjson.dumps(value), media_type="application/json")


def _name_and_version(request: Request) -> tuple[str, str]:
    return request.path_params["name"], request.path_params.get("version", "")


def _unsupported(text: str) -> Callable[[Request], Awaitable[Response]]:
    async def refuse(_: Request) -> Response:
        raise Refusal(501, text)

    return refuse
