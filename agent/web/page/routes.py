"""All calls below `/page`: the page's files, its stream of messages, images, logins and commands."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from agent.config.sections.serve import ServeConfig
from agent.mqtt.base import Received
from agent.runtime.logs import get_logger
from agent.web.http.replies import ClientGone, Refusal, Scope
from agent.web.http.routes import json_response
from agent.web.page.access import COOKIE, SESSION_S, Access
from agent.web.page.feed import encoded
from agent.web.page.files import page_files
from agent.web.page.images import WIDTHS, Images
from agent.web.page.sources import PageSources
from agent.web.served_models import NotReady
from agent.web.tokens import Gate, Unauthorized

log = get_logger(__name__)

ROOT = "/page"
_API = f"{ROOT}/api"
_PERIOD_S = 1.0
"""Between two parts of the stream."""
_KEEP_ALIVE_S = 15.0
_LOOK_S = 0.25
_MAX_BODY = 8192
_REPLY_S = 90.0
"""Longer than any command takes: a self-test and a benchmark of several models."""
_NEEDED = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_REPORT_TYPES = {".html": "text/html; charset=utf-8", ".json": "application/json", ".md": "text/plain; charset=utf-8"}
_UNCACHED = {"cache-control": "no-store"}

Endpoint = Callable[[Request], Awaitable[Response]]


class PageRoutes:
    """The page of one server. ``is_secure``: the server itself speaks TLS."""

    def __init__(self, sources: PageSources, config: ServeConfig, access: Access, *, is_secure: bool) -> None:
        self._sources = sources
        self._config = config
        self._access = access
        self._is_secure = is_secure
        self._files = page_files()
        self._images = Images(sources.newest_frame)
        self._is_closed = False
        self._successor: str | None = None
        self._streams = 0
        self._part: tuple[int, int, bytes] | None = None
        """The last encoded part of the stream, from and up to a version: viewers share it."""

    def close(self, successor: str | None = None) -> None:
        """End the streams of all viewers soon. ``successor`` says where the page is from now on. Any thread."""
        self._successor = successor
        self._is_closed = True

    def routes(self) -> list[BaseRoute]:
        """All of them."""
        calls: list[BaseRoute] = [
            Route("/", self._to_page, methods=["GET"]),
            Route(ROOT, self._to_page, methods=["GET"]),
            Route(f"{ROOT}/", self._file, methods=["GET"]),
            Route(f"{ROOT}/static/{{name}}", self._file, methods=["GET"]),
            Route(f"{_API}/login", self._log_in, methods=["POST"]),
            Route(f"{_API}/logout", self._log_out, methods=["POST"]),
        ]
        seen: list[tuple[str, Endpoint]] = [
            ("events", self._events),
            ("cameras/{name}/frame.jpg", self._frame),
            ("cameras/{name}/explain", self._explain),
            ("heat", self._heat),
            ("reports", self._reports),
            ("reports/{name}", self._report),
        ]
        calls += [Route(f"{_API}/{path}", self._admitted(call), methods=["GET"]) for path, call in seen]
        changing: list[tuple[str, Endpoint]] = [("command", self._command), ("bundle", self._bundle)]
        return [*calls, *(Route(f"{_API}/{path}", self._admitted(call), methods=["POST"]) for path, call in changing)]

    def _admitted(self, endpoint: Endpoint) -> Endpoint:
        async def call(request: Request) -> Response:
            request.state.client = self._access.admit(request.scope)
            return await endpoint(request)

        return call

    async def _to_page(self, _: Request) -> Response:
        return Response(status_code=307, headers={"location": f"{ROOT}/", **_UNCACHED})

    async def _file(self, request: Request) -> Response:
        file = self._files.get(request.path_params.get("name", "index.html"))
        if file is None:
            raise Refusal(404, "the page has no such file; load it again")
        headers = {**_NEEDED, "etag": file.tag, "cache-control": "no-cache", "vary": "accept-encoding"}
        if request.headers.get("if-none-match") == file.tag:
            return Response(status_code=304, headers=headers)
        headers["content-type"] = file.content_type
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(file.packed, headers={**headers, "content-encoding": "gzip"})
        return Response(file.content, headers=headers)

    async def _log_in(self, request: Request) -> Response:
        body = _object(await _body(request))
        token = body.get("token")
        if not isinstance(token, str):
            raise Refusal(400, 'the body must be {"token": "..."}; send the token of this client')
        try:
            cookie, client = self._access.log_in(token)
        except Unauthorized:
            log.warning("page.login_failed", address=_address(request))
            raise
        log.info("page.logged_in", client=client, address=_address(request))
        response = json_response({"client": client})
        # A proxy that ends TLS says so; others who send the header only restrict their own cookie.
        is_secure = self._is_secure or request.headers.get("x-forwarded-proto") == "https"
        response.set_cookie(
            COOKIE,
            cookie,
            max_age=int(SESSION_S),
            path=ROOT,
            httponly=True,
            samesite="strict",
            secure=is_secure,
        )
        return response

    async def _log_out(self, request: Request) -> Response:
        self._access.admit(request.scope)
        self._access.require_csrf(request.scope)
        self._access.log_out(request.scope)
        response = Response(status_code=204)
        response.delete_cookie(COOKIE, path=ROOT)
        return response

    async def _answer_to(self, verb: str, reply: asyncio.Future[bytes]) -> bytes:
        until_s = time.monotonic() + _REPLY_S
        while not reply.done():
            if self._is_closed:
                return self._last_answer_to(verb)
            if time.monotonic() > until_s:
                raise NotReady(f"the command {verb} has not been answered within {_REPLY_S:.0f} s; see the log")
            await asyncio.wait((reply,), timeout=_LOOK_S)
        return reply.result()

    def _last_answer_to(self, verb: str) -> bytes:
        """What is answered while the reload that ends this server is still under way."""
        if self._successor is None:
            raise NotReady(f"this server ended before {verb} was answered; load the page again to see what holds")
        if verb != "reload":
            text = f"before {verb} was answered, a reload changed `serve`; its reply goes to the broker"
            raise NotReady(f"{text}; {self._successor}")
        text = f"the new configuration is in force and changes `serve`; {self._successor}"
        return orjson.dumps({"verb": verb, "outcome": "done", "reason": None, "text": text, "details": {}})

    async def _events(self, _: Request) -> Response:
        # Programs, and probes of their health, need connections too.
        if self._streams >= max(1, self._config.max_connections // 2):
            text = "half of serve.max_connections are viewers of this page already; close some, or raise it"
            raise Refusal(503, text, headers={"retry-after": "10"})
        return _Stream(self._stream())

    async def _stream(self) -> AsyncIterator[bytes]:
        """Server-sent events: what is kept, then each second what has changed."""
        yield b"retry: 1000\nevent: hello\ndata: " + orjson.dumps(self._hello()) + b"\n\n"
        self._streams += 1
        try:
            async for part in self._changes():
                yield part
        finally:
            self._streams -= 1

    async def _changes(self) -> AsyncIterator[bytes]:
        version, quiet_s = 0, 0.0
        while not self._is_closed:
            if self._sources.feed.version != version:
                version, text = self._encoded_since(version)
                yield b"event: part\ndata: " + text + b"\n\n"
                quiet_s = 0.0
            elif quiet_s >= _KEEP_ALIVE_S:
                yield b": nothing has changed\n\n"
                quiet_s = 0.0
            # All viewers at the same moments, so that they share the encoded part.
            wait_s = _PERIOD_S - time.monotonic() % _PERIOD_S
            quiet_s += wait_s
            while wait_s > 0 and not self._is_closed:
                await asyncio.sleep(min(wait_s, _LOOK_S))
                wait_s -= _LOOK_S
        if self._successor is not None:
            yield b"event: end\ndata: " + orjson.dumps({"text": self._successor}) + b"\n\n"

    def _encoded_since(self, version: int) -> tuple[int, bytes]:
        if self._part is None or self._part[0] != version or self._part[1] != self._sources.feed.version:
            part = self._sources.feed.since(version)
            self._part = (version, part.version, encoded(part))
        return self._part[1], self._part[2]

    def _hello(self) -> dict[str, Any]:
        topics, config = self._sources.topics, self._config
        return {
            "device": topics.device,
            "agent": self._sources.agent,
            "csrf": self._access.csrf,
            "may": {"images": config.page_images, "commands": [*self._verbs], "bundle": config.control},
            "widths": WIDTHS,
        }

    @property
    def _verbs(self) -> tuple[str, ...]:
        return tuple(self._sources.verbs) if self._config.control else ()

    async def _frame(self, request: Request) -> Response:
        if not self._config.page_images:
            raise Refusal(403, "this page shows no images, because serve.page_images is false")
        name, width = request.path_params["name"], request.query_params.get("width", "640")
        if width not in map(str, WIDTHS):
            raise Refusal(400, f"width is {width[:20]!r}, but must be one of {', '.join(map(str, WIDTHS))}")
        try:
            tag = self._images.tag(name, int(width))
            if tag is not None and request.headers.get("if-none-match") == tag:
                return Response(status_code=304, headers={"etag": tag, "cache-control": "no-cache"})
            frame = await run_in_threadpool(self._images.newest, name, int(width))
        except KeyError:
            raise _unknown_camera(name) from None
        if frame is None:
            return Response(status_code=204, headers=_UNCACHED)
        headers = {"etag": frame.tag, "x-captured-at": frame.captured_at, "cache-control": "no-cache", **_NEEDED}
        return Response(frame.content, media_type="image/jpeg", headers=headers)

    async def _explain(self, request: Request) -> Response:
        name = request.path_params["name"]
        try:
            return json_response(await run_in_threadpool(self._sources.explain, name))
        except KeyError:
            raise _unknown_camera(name) from None

    async def _heat(self, _: Request) -> Response:
        return json_response({"minutes": await run_in_threadpool(self._sources.heat)})

    async def _reports(self, _: Request) -> Response:
        folder = self._sources.reports_dir()

        def listed() -> list[dict[str, Any]]:
            with suppress(OSError):
                files = [path for path in folder.iterdir() if _is_report(path)]
                stats = sorted(((path.stat(), path.name) for path in files), key=lambda one: -one[0].st_mtime)
                return [{"name": name, "bytes": stat.st_size, "at": round(stat.st_mtime)} for stat, name in stats]
            return []

        return json_response({"reports": await run_in_threadpool(listed)})

    async def _report(self, request: Request) -> Response:
        # The name has no separator, and links are refused: nothing outside the folder can be read.
        path = self._sources.reports_dir() / request.path_params["name"]
        try:
            content = await run_in_threadpool(lambda: path.read_bytes() if _is_report(path) else None)
        except (OSError, ValueError) as exc:  # ValueError: a NUL in the name
            raise Refusal(404, f"the report cannot be read: {exc}") from None
        if content is None:
            raise Refusal(404, "there is no such report")
        headers = {**_NEEDED, **_UNCACHED, "content-security-policy": _REPORT_POLICY}
        return Response(content, headers={**headers, "content-type": _REPORT_TYPES[path.suffix]})

    async def _bundle(self, request: Request) -> Response:
        """A support bundle. A request that changes nothing, but costs: so it needs what a command needs."""
        self._access.require_csrf(request.scope)
        if not self._config.control:
            raise Refusal(403, "this page makes no support bundle, because serve.control is false")
        log.info("page.bundle_requested", client=request.state.client, address=_address(request))
        content = await run_in_threadpool(self._sources.bundle)
        headers = {**_UNCACHED, "content-disposition": 'attachment; filename="agent-bundle.tar.gz"'}
        return Response(content, media_type="application/gzip", headers=headers)

    async def _command(self, request: Request) -> Response:
        """Carry out a command as if it had come by MQTT, and answer with its reply."""
        self._access.require_csrf(request.scope)
        body = _object(await _body(request))
        verb = body.pop("verb", None)
        if not isinstance(verb, str):
            raise Refusal(400, 'the body has no verb; send, for example, {"verb": "selftest"}')
        if "keep" in body:
            raise Refusal(400, "keep is not taken from a page: what it changes holds until the agent restarts")
        if verb not in self._verbs:
            allowed = ", ".join(self._verbs) or "none, because serve.control is false or mqtt.commands allows none"
            raise Refusal(403, f"the command {verb[:40]!r} is not allowed here; allowed: {allowed}")
        key = f"page-{secrets.token_hex(8)}"
        loop, feed = asyncio.get_running_loop(), self._sources.feed
        reply: asyncio.Future[bytes] = loop.create_future()

        def answer(payload: bytes) -> None:
            if not reply.done():
                reply.set_result(payload)

        def on_reply(payload: bytes) -> None:
            with suppress(RuntimeError):  # the server has stopped meanwhile
                loop.call_soon_threadsafe(answer, payload)

        feed.expect(key, on_reply)
        try:
            payload = orjson.dumps({**body, "id": key})
            sender = f"the page, client {request.state.client}, from {_address(request)}"
            message = Received(self._sources.topics.command(verb), payload, 1, retain=False, sender=sender)
            if not self._sources.receive(message):
                text = "more commands than mqtt.commands.max_per_minute allows were sent; try again later"
                raise Refusal(429, text, headers={"retry-after": "10"})
            content = await self._answer_to(verb, reply)
        finally:
            feed.forget(key)
        return Response(content, media_type="application/json", headers=_UNCACHED)


def make_page(sources: PageSources, config: ServeConfig, gate: Gate, *, is_secure: bool) -> PageRoutes:
    """The page for ``config``, whose tokens ``gate`` knows."""
    return PageRoutes(sources, config, Access(gate), is_secure=is_secure)


class _Stream(Response):
    """A response that lasts until the client or the server ends it."""

    def __init__(self, parts: AsyncIterator[bytes]) -> None:
        self._parts = parts
        self.background = None

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:  # noqa: ARG002 - as ASGI has it
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            async for part in self._parts:
                if gone.done():
                    return
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except asyncio.CancelledError:  # by uvicorn, when it stops: nothing can be answered any more
            raise ClientGone from None
        finally:
            gone.cancel()


async def _until_gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _is_report(path: Path) -> bool:
    return path.suffix in _REPORT_TYPES and not path.name.startswith(".") and not path.is_symlink() and path.is_file()


def _unknown_camera(name: str) -> Refusal:
    return Refusal(404, f"no camera {name[:100]!r} runs; the page's list has those that do")


def _address(request: Request) -> str:
    """Of the client, or of the proxy before it."""
    return "unknown" if request.client is None else request.client.host


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY:
            raise Refusal(413, f"the body is larger than {_MAX_BODY} bytes; send less")
    return body


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise Refusal(400, f"the body is no JSON: {exc}") from None
    if not isinstance(value, dict):
        raise Refusal(400, "the body must be a JSON object")
    return value
