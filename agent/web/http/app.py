"""The ASGI application: admits a call, finds its route, and turns every refusal into an answer."""

from __future__ import annotations

import asyncio
import ipaddress
import re

from starlette.routing import BaseRoute, Match

from agent.web.http.infer import Inference
from agent.web.http.metrics import metrics_route
from agent.web.http.openapi import documentation_routes
from agent.web.http.replies import ClientGone, Receive, Refusal, Scope, Send, header, reply_error
from agent.web.http.rest import RestRoutes
from agent.web.http.routes import ProtocolRoutes
from agent.web.metrics.exposition import Metrics
from agent.web.page.routes import ROOT as PAGE_ROOT
from agent.web.page.routes import PageRoutes
from agent.web.served_models import NotReady, RequestRefused
from agent.web.tokens import Gate
from agent.web.work import WorkThreads

_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer\Z")
_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(?::[0-9]*)?\Z")
_OPEN = frozenset({"/v2/health/live", "/v2/health/ready"})
"""Answered without a token: probes of a service manager or a balancer. They tell nothing but yes or no."""


class HttpApp:
    """One server's application. ``load_work`` loads models, apart from the threads that decode images."""

    def __init__(
        self,
        inference: Inference,
        gate: Gate,
        load_work: WorkThreads,
        metrics: Metrics | None,
        page: PageRoutes | None = None,
    ) -> None:
        self._inference = inference
        self._gate = gate
        self._page = page
        self._routes: list[BaseRoute] = [
            *([] if page is None else page.routes()),  # before the documentation, which is at / too
            *ProtocolRoutes(inference.models, inference.bodies, load_work).routes(),
            *RestRoutes(inference).routes(),
            *documentation_routes(inference.models, needs_tokens=gate.needs_tokens),
            *([] if metrics is None else [metrics_route(metrics)]),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        try:
            self._admit(scope)
            await self._answer(scope, receive, send)
        except RequestRefused as exc:
            await reply_error(send, exc)
        except asyncio.CancelledError:  # by uvicorn alone, when it stops; the task ends with this answer
            await reply_error(send, NotReady("the server stops; try again later"))
        except ClientGone:
            return

    def _admit(self, scope: Scope) -> None:
        if scope["path"] in _OPEN:
            return
        _refuse_foreign_page(scope)
        if not self._gate.needs_tokens:
            _refuse_foreign_name(scope)
        if self._page is not None and (scope["path"] == "/" or scope["path"].startswith(f"{PAGE_ROOT}/")):
            return  # its routes admit by a session too
        self._gate.admit(header(scope, b"authorization"))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _INFER.match(scope["path"])
        if found is not None and scope["method"] == "POST":
            await self._inference.infer(scope, receive, send, name=found[1], version=found[2] or "")
            return
        allowed: set[str] = {"POST"} if found is not None else set()
        for route in self._routes:
            match, child = route.matches(scope)
            if match is Match.FULL:
                scope.update(child)
                await route.handle(scope, receive, send)
                return
            if match is Match.PARTIAL:
                allowed |= getattr(route, "methods", None) or set()
        if allowed:
            names = ", ".join(sorted(allowed))
            raise Refusal(405, f"{scope['method']} is not allowed here; use {names}", headers={"allow": names})
        raise Refusal(404, "there is no such address; /openapi.json lists what there is")


def _refuse_foreign_page(scope: Scope) -> None:
    """A web page of another site must not use a browser on this machine to reach this server."""
    origin = header(scope, b"origin")
    if origin is None:
        return
    if origin.partition("://")[2].lower() != (header(scope, b"host") or "").lower():
        raise Refusal(403, f"a page of {origin[:200]} may not call this server; call it from a program")


def _refuse_foreign_name(scope: Scope) -> None:
    """Without tokens a name other than localhost may be one that a web site points at this machine (DNS rebinding)."""
    given = header(scope, b"host") or "localhost"
    host = given if (found := _HOST.match(given)) is None else found[1]
    if host.lower() == "localhost":
        return
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        raise Refusal(
            403,
            f"the request is for host {host[:100]!r}, but without tokens this server answers to localhost and "
            "addresses only; use one of them, or give serve.tokens_file",
        ) from None
